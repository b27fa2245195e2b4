//! JSON files of bundles and pods.

use crate::error::{Context as _, ErrorKind, Result};
use serde_json::Value;
use std::path::Path;

/// Reads a JSON file that this program has written.
pub fn read_json(path: &Path) -> Result<Value> {
    let cannot = || format!("cannot read '{}'", path.display());
    let data = std::fs::read(path).or_kind(ErrorKind::Storage, cannot)?;
    serde_json::from_slice(&data).or_kind(ErrorKind::Storage, cannot)
}

/// Writes a JSON file.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    let cannot = || format!("cannot write '{}'", path.display());
    std::fs::write(path, value.to_string()).or_kind(ErrorKind::Storage, cannot)
}
