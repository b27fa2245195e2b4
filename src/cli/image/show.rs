//! `magikrun image inspect`

use super::super::print;
use crate::error::Result;
use crate::image::ImageService;
use serde_json::json;

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Name of an image, or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// `magikrun image inspect`
pub fn inspect(service: &ImageService, args: &InspectArgs) -> Result<()> {
    let image = service.inspect(&args.image)?;
    let layers: Vec<_> = image
        .layers()
        .iter()
        .map(|layer| json!({"diffId": layer.diff_id.to_string(), "path": layer.path}))
        .collect();
    let record = image.record();
    let all = json!({
        "name": record.name,
        "id": record.id.to_string(),
        "target": record.target.to_string(),
        "digest": record.manifest.to_string(),
        "platform": record.platform,
        "pulled": record.pulled,
        "size": image.unpacked_size(service.storage())?,
        "config": image.config(),
        "manifest": image.manifest(),
        "layers": layers,
    });
    print(&serde_json::to_string_pretty(&all)?)
}
