//! `magikrun pod validate`

use super::run::read_manifest;
use crate::cli::list::Format;
use crate::cli::print;
use crate::error::Result;
use crate::pod::manifest::{Level, examine};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Manifest, YAML or JSON; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Form of what is found
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// `magikrun pod validate`: 0 if the manifest would be accepted, else 1.
pub fn run(args: &Args) -> Result<u8> {
    let (_, findings) = examine(&read_manifest(&args.file)?)?;
    match args.format {
        Format::Json => print(&serde_json::to_string(&findings.all)?)?,
        Format::Table => {
            for finding in &findings.all {
                let level = if finding.level == Level::Error { "error" } else { "warning" };
                print(&format!("{level}: {finding}"))?;
            }
        }
    }
    Ok(u8::from(findings.has_errors()))
}
