//! Published attacks on container runtimes, replayed against this one. `docs/cve.md` names the test of each.
#[path = "../common/mod.rs"]
mod common;

mod descriptors;
mod devices;
mod document;
mod engine;
mod links;
mod privileges;
mod proc;
mod race;
mod rootless;
mod tracing;

use serde_json::{Value, json};

/// All capabilities that a careless caller might give.
const MANY: [&str; 8] = [
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_MKNOD",
    "CAP_CHOWN",
    "CAP_FOWNER",
    "CAP_SETUID",
];

/// Gives the process of a configuration these capabilities, in the three sets that count for root.
fn give(config: &mut Value, capabilities: &[&str]) {
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(capabilities);
    }
}

/// Takes out the mounts at these destinations, so that what the image has there is seen.
fn without_mounts(config: &mut Value, destinations: &[&str]) {
    let mounts = config["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|mount| {
        let at = mount["destination"].as_str().expect("a destination");
        !destinations.iter().any(|gone| at == *gone || at.starts_with(&format!("{gone}/")))
    });
}
