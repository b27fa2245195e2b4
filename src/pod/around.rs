//! One container around all containers of a pod: each has its root below that of the one around them. Pure functions of their
//! configurations.

use crate::error::{Context as _, Result};
use oci_spec::runtime as oci;
use serde_json::{Value, json};
use std::path::Path;

/// Below the root of the container around them: the roots of the pod's containers.
pub const CONTAINERS: &str = "/containers";

/// Root of a container below that of the one around it.
pub fn root(container: &str) -> String {
    format!("{CONTAINERS}/{container}")
}

/// The mounts of a container, as the one around it has them: its root, and what of the others is `wanted`. `config` is its configuration
/// as one that nothing is around would have it, in `bundle`.
pub fn mounts(
    name: &str,
    bundle: &Path,
    config: &Value,
    wanted: impl Fn(&oci::Mount) -> Result<bool>,
) -> Result<Vec<Value>> {
    let root = root(name);
    let all = config["mounts"].as_array().cloned().unwrap_or_default();
    let mut mounts = Vec::new();
    if all.first().is_none_or(|mount| mount["destination"] != "/") {
        let own = bundle.join(config["root"]["path"].as_str().unwrap_or("rootfs"));
        mounts.push(bind(&root, &own.display().to_string(), "rw"));
    }
    for mut mount in all {
        let parsed: oci::Mount = serde_json::from_value(mount.clone())?;
        if wanted(&parsed).context(|| format!("container '{name}'"))? {
            let destination = mount["destination"].as_str().unwrap_or_default();
            mount["destination"] = json!(format!("{root}{destination}").trim_end_matches('/'));
            mounts.push(mount);
        }
    }
    Ok(mounts)
}

/// A bind mount.
pub fn bind(destination: &str, source: &str, access: &str) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]})
}
