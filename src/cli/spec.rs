//! `magikrun spec`

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::runtime::spec::CONFIG_NAME;
use serde::Serialize as _;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

/// The configuration that it starts from; the same as that of runc, for the version of the specification implemented here.
const TEMPLATE: &str = include_str!("spec.json");

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to write config.json to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Write a configuration for a container without privileges
    #[arg(long)]
    rootless: bool,
}

/// `magikrun spec`
pub fn run(args: &Args) -> Result<()> {
    let path = args.bundle.join(CONFIG_NAME);
    let mut config: Value = serde_json::from_str(TEMPLATE)?;
    if args.rootless {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        make_rootless(&mut config, uid, gid);
    }
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::new(ErrorKind::Usage, format!("File {CONFIG_NAME} exists. Remove it first")));
        }
        file => file.context(|| format!("cannot create '{}'", path.display()))?,
    };
    file.write_all(&with_tabs(&config)?).context(|| format!("cannot write '{}'", path.display()))
}

fn with_tabs(config: &Value) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    config.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    text.push(b'\n');
    Ok(text)
}

/// Makes the configuration one that a user without privileges can run: in a user namespace that maps the user to root,
/// in the host's network, with the host's sysfs, and without limits.
fn make_rootless(config: &mut Value, uid: u32, gid: u32) {
    let linux = &mut config["linux"];
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
    if let Some(linux) = linux.as_object_mut() {
        linux.shift_remove("resources");
    }
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys",
                "type": "none",
                "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        } else if let Some(options) = mount["options"].as_array_mut() {
            // Groups other than one's own are not mapped.
            options.retain(|option| {
                !option.as_str().is_some_and(|o| o.starts_with("gid=") || o.starts_with("uid="))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::kernel_security::KernelSecurity;
    use crate::runtime::spec::parse;
    use crate::runtime::validate::validate;

    #[test]
    fn both_configurations_are_valid() {
        let mut config: Value = serde_json::from_str(TEMPLATE).unwrap();
        for rootless in [false, true] {
            if rootless {
                make_rootless(&mut config, 1000, 100);
            }
            let spec = parse(config.to_string().as_bytes(), "template").unwrap();
            validate(&spec, KernelSecurity::probe).unwrap();
        }
        assert!(config["linux"].get("resources").is_none());
        assert_eq!(config["linux"]["gidMappings"][0]["hostID"], 100);
    }
}
