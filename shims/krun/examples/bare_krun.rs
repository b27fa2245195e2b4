//! libkrun alone: this process becomes the machine that magikrun would make of the same parts, with nothing around it and nobody who
//! watches. What magikrun adds is measured against it.
//!
//! `bare_krun VMINIT SPEC ROOTFS CONTROL`: the guest's first process, its specification, the directory that it sees, and the path of
//! the control socket. The guest's console is standard error.

#[path = "../src/engine.rs"]
mod engine;
#[path = "../src/ffi.rs"]
mod ffi;

use magikrun::runtime::krun::engine::{Engine as _, MachineConfig};
use magikrun::runtime::krun::ports::Ports;
use magikrun::runtime::krun::settings::{Network, Settings};
use magikrun::{Error, ErrorKind, Result};
use std::convert::Infallible;

/// Memory of the guest, in MiB: that of the tests.
const RAM_MIB: u32 = 128;

fn main() {
    let Err(e) = run();
    eprintln!("bare_krun: {e}");
    std::process::exit(1);
}

fn run() -> Result<Infallible> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [init, spec, rootfs, control] = arguments.as_slice() else {
        return Err(Error::new(ErrorKind::Usage, "usage: bare_krun VMINIT SPEC ROOTFS CONTROL"));
    };
    let machine = engine::Engine.load()?;
    let settings = Settings {
        cpus: 1,
        ram_mib: RAM_MIB,
        network: Network::None,
        ports: Ports::default(),
        root_disk: None,
    };
    let config = MachineConfig {
        settings,
        init: std::fs::read(init)?.leak(),
        spec: std::fs::read(spec)?.leak(),
        rootfs: rootfs.clone(),
        control: control.clone(),
        console: 2,
        passt: None,
        disk: None,
    };
    Err(machine.enter(&config))
}
