//! `containerd-shim-magikrun-v2`: keeps the containers of magikrun for containerd.
//!
//! containerd executes it as `start` for each new container. That starts a server, or finds the one of the container's
//! pod, and prints its address; the server speaks the task API on it. It executes the `magikrun` program for every operation,
//! is the parent of the containers' processes, and moves their input and output.

mod bootstrap;
mod bundle;
mod cgroup;
mod cleanup;
mod console;
mod container;
mod error;
mod events;
mod ffi;
mod fields;
mod flags;
mod info;
mod logger;
mod metrics;
mod options;
mod process;
mod reaper;
mod relay;
mod rootfs;
mod rpc;
mod runtime;
mod sandbox;
mod serve;
mod service;
mod stdio;

use flags::{Action, Flags};
use std::process::ExitCode;

/// Name of the runtime in containerd's configuration.
const NAME: &str = "io.containerd.magikrun.v2";

fn main() -> ExitCode {
    ffi::close_inherited();
    let mut words = std::env::args_os().skip(1);
    let first = words.next().unwrap_or_default();
    if first == stdio::BECOME_LOGGER {
        return failure(&stdio::become_logger(words));
    }
    if first == sandbox::BECOME_SANDBOX {
        return sandbox::become_sandbox().map_or_else(|e| failure(&e), |()| ExitCode::SUCCESS);
    }
    if first == rootfs::BECOME_USER_NAMESPACE {
        rootfs::become_user_namespace();
        return ExitCode::SUCCESS;
    }
    let flags = match flags::parse(std::env::args_os()) {
        Ok(flags) => flags,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failure(&e),
    }
}

/// containerd shows standard error of `start` and `delete`; that of the server is its log.
fn failure(e: &error::Error) -> ExitCode {
    logger::line("error", &e.to_string());
    ExitCode::FAILURE
}

fn run(flags: &Flags) -> error::Result<()> {
    logger::init(flags.debug);
    if flags.version {
        return info::print_version();
    }
    if flags.info {
        return info::print_info();
    }
    match flags.action {
        Some(Action::Start) => bootstrap::start(flags),
        Some(Action::Delete) => cleanup::delete(flags),
        None => serve::serve(flags),
    }
}
