//! `magikrun image inspect` and `history`

use super::super::print;
use super::list::human_size;
use crate::cli::list::{Format, table};
use crate::error::Result;
use crate::image::ImageService;
use serde_json::json;

/// Characters of a step that are shown.
const WIDTH: usize = 80;

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Name of an image, or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// Arguments of `history`.
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// Name of an image, or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// `magikrun image history`: the latest step first, as docker shows it.
pub fn history(service: &ImageService, args: &HistoryArgs) -> Result<()> {
    let image = service.inspect(&args.image)?;
    let steps = image.config().history().clone().unwrap_or_default();
    if args.format == Format::Json {
        return print(&serde_json::to_string(&steps)?);
    }
    let mut layers = image.layers().iter();
    let mut rows = Vec::new();
    for step in &steps {
        let layer = if step.empty_layer().unwrap_or(false) { None } else { layers.next() };
        let size = match layer {
            Some(layer) => human_size(service.storage().layer_description(&layer.diff_id)?.size),
            None => "0 B".to_owned(),
        };
        let by: String = step
            .created_by()
            .iter()
            .flat_map(|by| by.chars())
            .take(WIDTH)
            .flat_map(char::escape_debug)
            .collect();
        rows.push(vec![step.created().clone().unwrap_or_default(), size, by]);
    }
    rows.reverse();
    print(table(&["CREATED", "SIZE", "CREATED BY"], rows)?.trim_end())
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
