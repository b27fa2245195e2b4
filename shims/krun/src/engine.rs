//! The engine: from the library's description of a machine to libkrun's calls.

use crate::ffi::{self, Context};
use magikrun::error::Context as _;
use magikrun::runtime::krun::engine::{self as runtime, Machine, MachineConfig, ROOTFS};
use magikrun::runtime::krun::settings::Network;
use magikrun::{Error, ErrorKind, Result};
use std::fs::OpenOptions;

/// The guest's kernel, as libkrun looks for it.
const KERNEL: &str = "libkrunfw.so.5";
/// Directories of the guest's root. Nothing can be made in it.
const DIRECTORIES: [&str; 8] =
    ["/dev", "/proc", "/sys", "/run", "/tmp", "/pod", "/containers", "/containers/main"];
/// The console device for standard streams is the second one: the first is the kernel's.
const STREAMS: [(&str, i32, i32); 3] =
    [("krun-stdin", 0, -1), ("krun-stdout", -1, 1), ("krun-stderr", -1, 2)];
/// Address of the network device: one that is locally administered. Each machine is alone in its network.
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x6d, 0x6b, 0x01];

/// libkrun.
#[derive(Debug)]
pub struct Engine;

#[derive(Debug)]
struct Vm(Context);

impl runtime::Engine for Engine {
    fn load(&self) -> Result<Box<dyn Machine>> {
        if !ffi::load(KERNEL) {
            return Err(Error::new(
                ErrorKind::RuntimeUnavailable,
                format!(
                    "cannot run a microVM: there is no guest kernel, '{KERNEL}' (Debian package libkrunfw5)"
                ),
            ));
        }
        Ok(Box::new(Vm(Context::new()?)))
    }
}

impl Machine for Vm {
    fn enter(&self, config: &MachineConfig) -> Error {
        match self.configure(config) {
            Ok(()) => self.0.enter(),
            Err(e) => e,
        }
    }
}

impl Vm {
    fn configure(&self, config: &MachineConfig) -> Result<()> {
        let context = &self.0;
        let console = format!("/proc/self/fd/{}", config.console);
        // What libkrun says is heard where the guest is, and not among the output of the program.
        let log = OpenOptions::new().write(true).open(&console).context(|| "cannot open the console")?;
        ffi::log_to(log.into())?;
        context.set_size(config.settings.cpus, config.settings.ram_mib)?;
        context.set_virtual_root(config.init, &[(vm_protocol::spec::PATH, config.spec)], &DIRECTORIES)?;
        context.share(ROOTFS, &config.rootfs)?;
        context.clear_environment()?;
        context.set_vsock(vm_protocol::PORT, &config.control, config.settings.network == Network::Tsi)?;
        context.set_console(&console)?;
        let streams = context.add_console()?;
        for (name, input, output) in STREAMS {
            context.add_port(streams, name, input, output)?;
        }
        if let Some(disk) = &config.disk {
            context.add_disk(&disk.path, disk.read_only)?;
        }
        match config.passt {
            Some(socket) => context.add_network(socket, MAC),
            None => Ok(()),
        }
    }
}
