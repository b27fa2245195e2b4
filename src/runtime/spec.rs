//! Reading `config.json`: size, syntax, and what the specification allows.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::limits::MAX_CONFIG_SIZE;
use oci_spec::runtime::{Capability, Process, Spec};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::Read as _;
use std::path::Path;

/// Bytes that are enough for the configuration of most containers. Without a capacity, reading begins with 32 bytes.
const USUAL_SIZE: usize = 16 << 10;

/// Reads a JSON file of at most [`MAX_CONFIG_SIZE`] bytes into memory.
pub fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("open {}", path.display());
    let file = std::fs::File::open(path).or_kind(ErrorKind::InvalidBundle, cannot)?;
    let mut data = Vec::with_capacity(USUAL_SIZE);
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
            // "." is the whole document, "?" a place that has no name, as where the text ends early.
            let at = if matches!(path.as_str(), "." | "?") { String::new() } else { format!(" at {path}") };
            Error::new(ErrorKind::InvalidBundle, format!("cannot parse '{what}'{at}: {}", e.into_inner()))
        })
    })
}

/// Name of the configuration in a bundle: the runtime specification, "Filesystem Bundle".
pub const CONFIG_NAME: &str = "config.json";

/// Parses a configuration as generously as runc reads it: see `mend`.
pub fn parse(data: &[u8], what: &str) -> Result<Spec> {
    parse_lenient(data, what, "/process")
}

/// Parses a process object, as [`parse`] does a configuration.
pub fn parse_process(data: &[u8], what: &str) -> Result<Process> {
    parse_lenient(data, what, "")
}

fn parse_lenient<T: DeserializeOwned>(data: &[u8], what: &str, process: &str) -> Result<T> {
    parse_json(data, what).or_else(|e| {
        let Ok(mut value) = serde_json::from_slice::<Value>(data) else { return Err(e) };
        mend(&mut value, process);
        parse_json(value.to_string().as_bytes(), what)
    })
}

/// Does to a document what runc's parser does without saying so, which callers have come to rely on: a member that is
/// null is as good as none, a process without a user is root's, and capabilities of the future are left out with a
/// warning.
fn mend(value: &mut Value, process: &str) {
    drop_nulls(value);
    if let Some(process) = value.pointer_mut(process).and_then(Value::as_object_mut) {
        process.entry("user").or_insert_with(|| Value::Object(serde_json::Map::new()));
        drop_unknown_capabilities(process.get_mut("capabilities"));
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Removes the names that are no capabilities from the five sets.
fn drop_unknown_capabilities(sets: Option<&mut Value>) {
    for set in sets.and_then(Value::as_object_mut).into_iter().flat_map(serde_json::Map::values_mut) {
        if let Some(names) = set.as_array_mut() {
            names.retain(|name| {
                let known = !name.is_string() || Capability::deserialize(name).is_ok();
                if !known {
                    tracing::warn!("ignoring unknown capability {name}");
                }
                known
            });
        }
    }
}

/// Reads and parses the configuration of a bundle.
pub fn load(path: &Path) -> Result<(Spec, Vec<u8>)> {
    let data = read_limited(path).map_err(|e| match e.errno() {
        Some(libc::ENOENT) => Error::from_parts(
            ErrorKind::InvalidBundle,
            format!(
                "JSON specification file {} not found ('magikrun spec' writes one; 'magikrun run --image IMAGE ID' needs none)",
                path.display()
            ),
            e.errno(),
        ),
        _ => e,
    })?;
    let spec = parse(&data, &path.display().to_string())?;
    Ok((spec, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_named_with_its_place() {
        let e = parse(
            br#"{"ociVersion": "1.0.0", "process": {"user": {"uid": "x"}, "cwd": "/"}}"#,
            "config.json",
        );
        assert!(e.unwrap_err().message().contains("at process.user.uid"), "the path is missing");
        let e = parse(b"{", "config.json").unwrap_err();
        assert!(e.message().starts_with("cannot parse 'config.json': EOF"), "{e}");
    }

    #[test]
    fn members_that_are_null_and_a_user_that_is_not_there_are_read_as_runc_reads_them() {
        let data = br#"{"ociVersion": "1.0.0", "mounts": null, "process": {"cwd": "/", "args": ["a", "b"],
            "env": null, "noNewPrivileges": null}, "linux": {"namespaces": [{"type": "pid", "path": null}]}}"#;
        let spec = parse(data, "config.json").unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!((process.user().uid(), process.args().as_ref().unwrap().len()), (0, 2));
        assert!(parse_process(br#"{"cwd": "/", "args": ["a"], "user": null}"#, "process.json").is_ok());
        let e = parse(br#"{"ociVersion": "1.0.0", "process": {"args": [null], "cwd": "/"}}"#, "config.json");
        assert!(e.unwrap_err().message().contains("at process.args[0]"));
    }

    #[test]
    fn capabilities_of_the_future_are_left_out() {
        let data = br#"{"ociVersion": "1.0.0", "process": {"user": {}, "cwd": "/",
            "capabilities": {"bounding": ["CAP_KILL", "CAP_FROM_THE_FUTURE"]}}}"#;
        let spec = parse(data, "config.json").unwrap();
        let process = spec.process().as_ref().unwrap();
        let bounding = process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap();
        assert_eq!(bounding.len(), 1);
    }
}
