//! `magikrun image list`

use super::super::print;
use crate::cli::list::{Format, table};
use crate::error::Result;
use crate::image::{Image, ImageRecord, ImageService};
use serde::Serialize;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Print the ids only
    #[arg(short, long)]
    quiet: bool,
}

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(flatten)]
    record: ImageRecord,
    /// Bytes of its unpacked files; none if it is not whole.
    size: Option<u64>,
}

/// `magikrun image list`
pub fn run(service: &ImageService, args: &Args) -> Result<()> {
    let records = service.list()?;
    if args.quiet {
        let mut ids: Vec<String> = records.iter().map(|record| record.id.to_string()).collect();
        ids.dedup();
        return if ids.is_empty() { Ok(()) } else { print(&ids.join("\n")) };
    }
    let size = |record: &ImageRecord| {
        Image::load(service.storage(), record.clone())
            .and_then(|image| image.unpacked_size(service.storage()))
            .ok()
    };
    let lines: Vec<Line> = records.into_iter().map(|record| Line { size: size(&record), record }).collect();
    if args.format == Format::Json {
        return print(&serde_json::to_string(&lines)?);
    }
    let rows = lines.iter().map(|line| {
        let record = &line.record;
        let size = line.size.map_or_else(|| "incomplete".to_owned(), human_size);
        vec![
            record.name.clone(),
            record.id.hex()[..12].to_owned(),
            record.platform.clone(),
            size,
            record.pulled[..19.min(record.pulled.len())].to_owned(),
        ]
    });
    print(table(&["NAME", "ID", "PLATFORM", "SIZE", "PULLED"], rows)?.trim_end())
}

/// Bytes for people, in powers of 1000 as disks and registries count.
pub fn human_size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_300_000_000, "1.3 GB")] {
            assert_eq!(super::human_size(bytes), text);
        }
    }
}
