//! MicroVMs, on a kernel that can run them: the emulated machine of `make microvm`. They do not run with the other tests.
//!
//! A guest takes five seconds of processor time to boot there, so a test looks at as much as it can of one guest.

#[path = "../common/mod.rs"]
mod common;

mod attach;
mod disk;
mod failures;
mod figures;
mod hostile;
mod life;
mod network;
mod podman;
mod pods;
mod processes;
mod replace;
mod sharing;
mod system;
mod traces;

use common::{Bundle, Runtime};
use serde_json::json;
use std::path::{Path, PathBuf};

/// A bundle that runs `script` in a microVM.
fn microvm(runtime: &Runtime, script: &str) -> Bundle {
    let mut bundle = runtime.shell(script);
    bundle.edit(|config| {
        config["annotations"] = json!({"run.oci.handler": "krun", "krun.ram_mib": "128", "krun.cpus": "1"});
    });
    bundle
}

/// The children of a process: of a supervisor, those that make a machine.
fn children(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).expect("the children of the first process");
    text.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
}

/// Whether a process is passt, which executes the variant of itself that is the best for the processor.
fn is_passt(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("passt"))
}

/// A folder with the programs under test, and another first process of guests.
fn programs(runtime: &Runtime, init: &Path) -> PathBuf {
    let folder = runtime.path("programs");
    std::fs::create_dir(&folder).expect("a folder");
    let own = common::runtime_path();
    for name in ["magikrun", "magikrun-krun"] {
        std::fs::hard_link(own.with_file_name(name), folder.join(name)).expect("a link to a program");
    }
    std::fs::copy(init, folder.join("vminit")).expect("another first process");
    folder
}
