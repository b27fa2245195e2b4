//! `vminit`: the first process of a microVM of magikrun. It mounts, sets up the network, makes the containers of the
//! specification, reaps, forwards signals, answers the host on a vsock port, and ends the virtual machine with the exit code of
//! its container.
//!
//! One thread and one poll loop, see [`guest`]. With `--listen` it is the first process of a pid namespace instead, and
//! its control socket a unix socket: so that it can be tested without a virtual machine.

mod boot;
mod cgroup;
mod channel;
mod child;
mod children;
mod connection;
mod console;
mod container;
mod failure;
mod ffi;
mod guest;
mod held;
mod identity;
mod life;
mod log;
mod member;
mod mounts;
mod netlink;
mod network;
mod options;
mod ports;
mod processes;
mod program;
mod pump;
mod requests;
mod rootfs;
mod running;
mod stdio;
mod telling;

use failure::{Context as _, Result};
use guest::Guest;
use options::Options;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use vm_protocol::spec::PodSpec;

/// Signals that are passed on to the containers, and that of children.
const SIGNALS: [i32; 9] = [
    libc::SIGCHLD,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGPWR,
];

/// Exit code when not even the control socket can be had.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let options = match options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("vminit {}, protocol {}", env!("CARGO_PKG_VERSION"), vm_protocol::VERSION);
            println!("commit: {}", env!("MAGIKRUN_COMMIT"));
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("vminit: {message}");
            return ExitCode::from(OWN_FAILURE);
        }
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty());
    let code = run(&options).unwrap_or_else(|failure| {
        eprintln!("vminit: {}", failure.message);
        OWN_FAILURE
    });
    if options.listen.is_none() && rustix::process::getpid().is_init() {
        end_machine(root.ok(), code);
    }
    ExitCode::from(code)
}

/// Ends the virtual machine. Returns only when that fails: the kernel panics then, and ends it too.
fn end_machine(root: Option<OwnedFd>, code: u8) {
    if let Some(root) = root
        && let Err(e) = ffi::report_exit_status(&root, vm_protocol::exit_status(code))
    {
        eprintln!("vminit: cannot report exit code {code}: {}", failure::text(&e));
    }
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
}

fn run(options: &Options) -> Result<u8> {
    let signals = ffi::signal_descriptor(&SIGNALS).context(|| "cannot take signals")?;
    if rustix::process::getpid().is_init() {
        boot::mount_base()?;
    }
    if options.listen.is_none() {
        boot::end_with_the_kernel();
    }
    let listener = match &options.listen {
        Some(path) => listen_unix(path)?,
        None => ffi::listen_vsock(vm_protocol::PORT).context(|| "cannot listen on vsock")?,
    };
    if options.listen.is_none() {
        // The host asks for more when its console says something.
        eprintln!("vminit: it listens on port {}", vm_protocol::PORT);
    }
    let machine = ports::Machine::open(options.listen.is_none())?;
    let mut guest = Guest::new(signals, listener, console::Console::new(machine)?);
    match set_up(&options.spec) {
        Ok(spec) => guest.fill(spec),
        Err(failure) => guest.fail(failure),
    }
    Ok(guest.serve())
}

fn set_up(path: &Path) -> Result<PodSpec> {
    let spec = boot::read_spec(path)?;
    boot::set_up(&spec)?;
    network::set_up(spec.network.as_ref())?;
    Ok(spec)
}

fn listen_unix(path: &Path) -> Result<OwnedFd> {
    let cannot = || format!("cannot listen on '{}'", path.display());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).context(cannot)?;
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = SocketAddrUnix::new(path).and_then(|address| rustix::net::bind(&socket, &address));
    rustix::process::umask(before);
    bound.context(cannot)?;
    rustix::net::listen(&socket, 128).context(cannot)?;
    Ok(socket)
}
