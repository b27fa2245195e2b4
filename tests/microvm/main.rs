//! MicroVMs, on a kernel that can run them: the emulated machine of `make microvm`. They do not run with the other tests.
//!
//! A guest takes five seconds of processor time to boot there, so a test looks at as much as it can of one guest.

#[path = "../common/mod.rs"]
mod common;

mod failures;
mod hostile;
mod life;
mod processes;

use common::{Bundle, Runtime};
use serde_json::json;

/// A bundle that runs `script` in a microVM.
fn microvm(runtime: &Runtime, script: &str) -> Bundle {
    let mut bundle = runtime.shell(script);
    bundle.edit(|config| {
        config["annotations"] = json!({"run.oci.handler": "krun", "krun.ram_mib": "128", "krun.cpus": "1"});
    });
    bundle
}
