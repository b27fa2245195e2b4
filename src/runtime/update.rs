//! Changing the limits of a container.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::runtime::container::{CONFIG, Container, Status};
use crate::runtime::krun;
use crate::runtime::options::Host;
use crate::runtime::record::Backend;
use crate::runtime::signal;
use crate::runtime::spec::parse_json;
use oci_spec::runtime::LinuxResources;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Name of the file in the state directory that holds the limits after the last change.
const RESOURCES: &str = "resources.json";
/// Where the kernel's resctrl file system is mounted.
const RESCTRL: &str = "/sys/fs/resctrl";

/// Applies `changes`, in the form of `linux.resources`, on top of the present limits. Values that are zero or empty leave
/// things as they are, for that is how containerd and docker write what they do not change.
pub fn update(host: &Host, id: &str, changes: &Value, schemata: &[&str]) -> Result<()> {
    let (container, _lock) = Container::open_locked(host, id)?;
    if matches!(container.status()?, Status::Stopped | Status::Creating) {
        return Err(signal::not_running());
    }
    let present = present(&container)?;
    let mut wanted = present.clone();
    merge(&mut wanted, changes);
    let shares = container.record.membership.is_some();
    if container.record.backend == Backend::Krun && !shares && wanted.get("memory") != present.get("memory") {
        // The guest has its memory for life: a lower limit would end the monitor, a higher one would give nothing.
        crate::bail!(
            NotSupported,
            "cannot update the memory of '{id}': a microVM keeps the memory that it was started with"
        );
    }
    if wanted != present {
        let cgroup = &container.record.cgroup;
        let in_guest = || if shares { update_in_guest(host, &container, &present, &wanted) } else { Ok(()) };
        cgroup.update(&limits(&wanted)?).and_then(|()| in_guest()).map_err(|e| {
            // Some of it may be set already. What held before was accepted once, so it is put back.
            match limits(&present).and_then(|before| cgroup.update(&before)) {
                Ok(()) => e,
                Err(again) => e.wrap(format!("cannot restore the former limits ({again}) after")),
            }
        })?;
        container.dir.write(RESOURCES, wanted.to_string().as_bytes())?;
    }
    if schemata.is_empty() { Ok(()) } else { write_schemata(&container, schemata) }
}

/// Changes the limits of a container in the microVM of its pod.
fn update_in_guest(host: &Host, container: &Container, present: &Value, wanted: &Value) -> Result<()> {
    let files = |resources| krun::pod::limits(&limits(resources)?);
    let wanted = files(wanted)?;
    // What concerns the host alone may change before there is a container in the guest.
    if wanted == files(present)? {
        return Ok(());
    }
    let krun::Inside { guest, name, .. } = &krun::inside(host, container)?;
    guest.limit(name, wanted, host.vm.answer())
}

fn present(container: &Container) -> Result<Value> {
    if let Some(data) = container.dir.read(RESOURCES)? {
        return parse_json(&data, RESOURCES);
    }
    let data = container.dir.read(CONFIG)?.unwrap_or_default();
    let mut config: Value = parse_json(&data, CONFIG)?;
    let resources = config.pointer_mut("/linux/resources").map(Value::take);
    Ok(resources.filter(Value::is_object).unwrap_or_else(|| Value::Object(serde_json::Map::new())))
}

/// Device rules are not part of an update: they hold as they are.
fn limits(resources: &Value) -> Result<LinuxResources> {
    let mut resources: LinuxResources = parse_json(resources.to_string().as_bytes(), "resources")?;
    resources.set_devices(None);
    Ok(resources)
}

fn merge(into: &mut Value, changes: &Value) {
    let (Value::Object(into), Value::Object(changes)) = (into, changes) else { return };
    for (name, change) in changes {
        match change {
            Value::Object(_) => {
                let below = into.entry(name.clone()).or_insert_with(|| Value::Object(serde_json::Map::new()));
                if below.is_null() {
                    *below = Value::Object(serde_json::Map::new());
                }
                merge(below, change);
            }
            change if means_nothing(name, change) => {}
            change => {
                into.insert(name.clone(), change.clone());
            }
        }
    }
}

fn means_nothing(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        // Zero is a value of these.
        Value::Number(number) => {
            number.as_i64() == Some(0) && !matches!(name, "idle" | "burst" | "swappiness")
        }
        _ => false,
    }
}

fn write_schemata(container: &Container, schemata: &[&str]) -> Result<()> {
    let record = &container.record;
    let group = record.intel_rdt.first().cloned().unwrap_or_else(|| Path::new(RESCTRL).join(&record.id));
    let file: PathBuf = group.join("schemata");
    if !file.exists() {
        return Err(Error::new(
            ErrorKind::NotSupported,
            "Intel RDT: the container has no resctrl group (is the resctrl file system mounted?)",
        ));
    }
    for line in schemata {
        std::fs::write(&file, format!("{line}\n")).context(|| format!("cannot write schema '{line}'"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_are_laid_over_and_zeros_change_nothing() {
        let mut all = json!({"cpu": {"quota": 5, "period": 10}, "memory": null});
        merge(
            &mut all,
            &json!({"cpu": {"quota": 7, "period": 0, "cpus": "", "idle": 0}, "memory": {"limit": 1}, "pids": {"limit": 0}}),
        );
        assert_eq!(
            all,
            json!({"cpu": {"quota": 7, "period": 10, "idle": 0}, "memory": {"limit": 1}, "pids": {}})
        );
    }
}
