//! Reading `config.json`: size, syntax, and what the specification allows.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::limits::MAX_CONFIG_SIZE;
use oci_spec::runtime::Spec;
use serde::de::DeserializeOwned;
use std::io::Read as _;
use std::path::Path;

/// Reads a JSON file of at most [`MAX_CONFIG_SIZE`] bytes into memory.
pub fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("open {}", path.display());
    let file = std::fs::File::open(path).or_kind(ErrorKind::InvalidBundle, cannot)?;
    let mut data = Vec::new();
    file.take(MAX_CONFIG_SIZE + 1)
        .read_to_end(&mut data)
        .or_kind(ErrorKind::InvalidBundle, || format!("read {}", path.display()))?;
    if data.len() as u64 > MAX_CONFIG_SIZE {
        crate::bail!(InvalidBundle, "'{}' is larger than {MAX_CONFIG_SIZE} bytes", path.display());
    }
    Ok(data)
}

/// Parses JSON; an error names the path of the faulty value, as in `process.user.uid`.
pub fn parse_json<T: DeserializeOwned>(data: &[u8], what: &str) -> Result<T> {
    // The plain parser is twice as fast; the one that tracks paths runs only to explain a failure.
    serde_json::from_slice(data).or_else(|_| {
        let mut parser = serde_json::Deserializer::from_slice(data);
        serde_path_to_error::deserialize(&mut parser).map_err(|e| {
            let path = e.path().to_string();
            let at = if path == "." { String::new() } else { format!(" at {path}") };
            Error::new(ErrorKind::InvalidBundle, format!("cannot parse '{what}'{at}: {}", e.into_inner()))
        })
    })
}

/// Reads and parses the configuration of a bundle.
pub fn load(path: &Path) -> Result<(Spec, Vec<u8>)> {
    let data = read_limited(path).map_err(|e| match e.errno() {
        Some(libc::ENOENT) => Error::from_parts(
            ErrorKind::InvalidBundle,
            format!("JSON specification file {} not found", path.display()),
            e.errno(),
        ),
        _ => e,
    })?;
    let spec = parse_json(&data, &path.display().to_string())?;
    Ok((spec, data))
}
