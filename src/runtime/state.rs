//! The state of a container as hooks and seccomp agents read it, and the time that records hold.

use crate::runtime::container::{State, Status};
use crate::runtime::record::Record;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The present time in UTC, RFC 3339 with nanoseconds.
pub fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}

/// The state object of the runtime specification.
pub fn of(record: &Record, pid: i32, status: Status) -> State {
    State {
        oci_version: record.oci_version.clone(),
        id: record.id.clone(),
        pid,
        status,
        bundle: record.bundle.display().to_string(),
        rootfs: record.rootfs.display().to_string(),
        created: record.created.clone(),
        annotations: record.annotations.clone(),
        owner: String::new(),
    }
}

/// The JSON that hooks read on standard input: the state without what only `state` prints.
pub fn for_hooks(record: &Record, pid: i32, status: Status) -> Vec<u8> {
    let mut object = serde_json::json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": status,
        "bundle": record.bundle,
        "annotations": record.annotations,
    });
    if pid > 0 {
        object["pid"] = pid.into();
    }
    if record.annotations.is_empty()
        && let Some(map) = object.as_object_mut()
    {
        map.remove("annotations");
    }
    object.to_string().into_bytes()
}

/// [`for_hooks`], as a function that the child of a launch can keep.
pub fn hook_state(record: &Record) -> Box<dyn Fn(i32, Status) -> Vec<u8>> {
    let record = record.clone();
    Box::new(move |pid, status| for_hooks(&record, pid, status))
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_in_utc_with_a_z() {
        let now = super::now();
        assert!(now.ends_with('Z') && now.contains('T'), "{now}");
    }
}
