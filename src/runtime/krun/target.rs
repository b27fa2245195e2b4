//! From the first process of a container to a microVM: what `execve` is to a native one.
//!
//! Nothing is executed: the program with libkrun needs the host's loader and libraries, which are not in the container's root. What
//! goes on is a copy of the runtime, in the container, without the capabilities and descriptors that it does not need. No
//! program of the container ever runs beside it.

use super::disk::Disk;
use super::engine::{DiskConfig, Machine, MachineConfig};
use super::pod::PLACE;
use super::prepare::Vm;
use super::settings::Settings;
use super::supervisor::Supervisor;
use super::{DIRECTORY, SOCKET, network, on_disk};
use crate::error::{Context as _, Error, Result};
use crate::platform::raw::make_raw;
use crate::platform::sys::clone::Child;
use crate::runtime::native::channel::Channel;
use crate::runtime::wasm::view::{Procfs, View};
use crate::storage::config::VmLimits;
use crate::storage::state_root::StateDir;
use crate::vm::session::terminal_size;
use rustix::fs::{Gid, Mode, Uid};
use rustix::mount::OpenTreeFlags;
use std::convert::Infallible;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vm_protocol::spec::{Container, PodSpec, Stdio};

/// A microVM that a process is to become.
#[derive(Debug)]
pub struct Guest {
    settings: Settings,
    machine: Box<dyn Machine>,
    init: &'static [u8],
    spec: PodSpec,
    finds_program: bool,
    root_read_only: bool,
    limits: VmLimits,
    procfs: Procfs,
    outside: Option<network::Namespace>,
    view: Option<View>,
    disk: Option<Disk>,
    directory: Option<OwnedFd>,
    passt: Option<(Child, OwnedFd)>,
}

impl Guest {
    /// Makes ready what only the parent can reach.
    pub fn new(vm: Vm) -> Result<Self> {
        Ok(Self {
            finds_program: vm.runs_program && vm.settings.root_disk.is_none(),
            root_read_only: vm.spec.containers.iter().all(|container| container.read_only),
            settings: vm.settings,
            machine: vm.machine,
            init: vm.init,
            spec: vm.spec,
            limits: vm.limits,
            procfs: Procfs::open()?,
            outside: network::Namespace::current(),
            view: None,
            disk: None,
            directory: None,
            passt: None,
        })
    }

    /// Whether it runs a program of the container's own root.
    pub fn finds_program(&self) -> bool {
        self.finds_program
    }

    /// Makes the directory for the control socket. The monitor gets it as a mount of its own, out of which no path leads.
    pub fn set_directory(&mut self, dir: &StateDir, root: (u32, u32)) -> Result<()> {
        let cannot = || format!("cannot make the directory '{DIRECTORY}' of the microVM");
        rustix::fs::mkdirat(dir.fd(), DIRECTORY, Mode::from_raw_mode(0o700)).context(cannot)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let tree = rustix::mount::open_tree(dir.fd(), DIRECTORY, flags).context(cannot)?;
        let (uid, gid) = (Uid::from_raw(root.0), Gid::from_raw(root.1));
        rustix::fs::chownat(dir.fd(), DIRECTORY, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .context(cannot)?;
        self.directory = Some(tree);
        Ok(())
    }

    /// In the namespaces of the container, where the host's files can still be seen: starts its network, and finds its name.
    pub fn in_namespaces(&mut self) -> Result<()> {
        // Containers that share the namespace of a pod have no name of their own, and see that of the pod.
        let here = rustix::system::uname();
        self.spec.hostname.get_or_insert_with(|| here.nodename().to_string_lossy().into_owned());
        self.passt = network::start(&self.settings, self.outside)?;
        Ok(())
    }

    /// In the container's root, while this process may still mount.
    pub fn in_root(&mut self) -> Result<()> {
        if let Some(path) = &self.settings.root_disk {
            let reopen = |fd: &OwnedFd, flags| self.procfs.reopen(fd, flags);
            let disk = Disk::open(Path::new("/"), path, self.root_read_only, reopen)?;
            on_disk::describe(&mut self.spec, disk.kind, disk.read_only);
            self.disk = Some(disk);
        }
        self.view = Some(View::open(&self.procfs, Some(PLACE))?);
        Ok(())
    }

    /// The descriptors that are needed until the end.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let view = self.view.iter().flat_map(|view| [view.root.as_raw_fd(), view.namespace.as_raw_fd()]);
        let passt =
            self.passt.iter().flat_map(|(child, socket)| [child.pidfd.as_raw_fd(), socket.as_raw_fd()]);
        let disk = self.disk.iter().map(|disk| disk.file.as_raw_fd());
        view.chain(passt).chain(disk).chain(self.directory.iter().map(AsRawFd::as_raw_fd)).collect()
    }

    /// Becomes the supervisor of the machine, until its end; `starter` hears when its program runs. Returns only when that fails.
    pub fn execute(&mut self, starter: &Channel) -> Result<Infallible> {
        let terminal = self.prepare_terminal()?;
        let (Some(view), Some(directory)) = (&self.view, &self.directory) else {
            crate::bail!(StartFailed, "the microVM has no root");
        };
        raise_descriptor_limit();
        // What the guest's users make has the mode that they ask for.
        rustix::process::umask(Mode::empty());
        let (console, theirs) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(|| "cannot make a pipe")?;
        rustix::io::ioctl_fionbio(&console, true).context(|| "cannot set up a pipe")?;
        let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let (passt, socket) = self.passt.take().unzip();
        if passt.is_none() {
            self.spec.network = None;
        }
        let config = MachineConfig {
            settings: self.settings.clone(),
            init: self.init,
            // Never freed: the machine shows these bytes to the guest.
            spec: serde_json::to_vec(&self.spec)?.leak(),
            // As a directory: the last part of a path is not followed.
            rootfs: format!("{}/.", path(&view.root)),
            control: format!("{}/{SOCKET}", path(directory)),
            console: theirs.as_raw_fd(),
            passt: socket.as_ref().map(AsRawFd::as_raw_fd),
            disk: self.disk.as_ref().map(|disk| DiskConfig { path: disk.path(), read_only: disk.read_only }),
        };
        let supervisor = Supervisor {
            console: console.into(),
            control: PathBuf::from(&config.control),
            deadline: Instant::now() + Duration::from_secs(self.limits.start_timeout),
            patience: self.limits.answer(),
            terminal,
            passt,
        };
        let own = Channel::from(rustix::io::fcntl_dupfd_cloexec(starter.as_fd(), 3).map_err(Error::from)?);
        let _ = nix::unistd::close(starter.raw());
        let starter_of_monitor = own.raw();
        let machine = &self.machine;
        let code = supervisor.run(own, move || {
            let _ = nix::unistd::close(starter_of_monitor);
            machine.enter(&config)
        });
        std::process::exit(code)
    }
}

impl Guest {
    /// The program has a terminal of the guest, which does all that terminals do; ours passes everything on. Returns whether it is so.
    fn prepare_terminal(&mut self) -> Result<bool> {
        let on_console = |container: &&mut Container| container.stdio == Stdio::Console;
        let Some(container) = self.spec.containers.iter_mut().find(on_console) else { return Ok(false) };
        let process = &mut container.process;
        if process.terminal {
            make_raw(rustix::stdio::stdin())?;
            process.size = terminal_size();
        }
        Ok(process.terminal)
    }
}

/// Every file that the guest has open, and every one that its kernel remembers, is a descriptor of the monitor.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
}
