//! A container in the microVM of its pod. On the host it is a process that stands for the one in the guest: its standard streams,
//! signals, window size and exit code are those of the other.
//!
//! It is made as any other container, with its mounts, cgroup and hooks. Its root is then mounted in the view of the machine, and its
//! program is started in the guest over a connection with which it lives: the end of one is that of the other.

use super::place::Place;
use super::volumes::Volumes;
use super::{DIRECTORY, SOCKET, monitor_spec, pod, shared_pids};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::raw::make_raw;
use crate::platform::stdio;
use crate::platform::sys::random;
use crate::runtime::container::{Container as Opened, Status};
use crate::runtime::foreground::Foreground;
use crate::runtime::native::channel::{Channel, Message};
use crate::runtime::options::{CreateOptions, Host};
use crate::runtime::process_id::ProcessId;
use crate::runtime::record::Backend;
use crate::runtime::wasm::view::{Procfs, View};
use crate::storage::state_root::StateDir;
use crate::vm::Guest;
use crate::vm::memory::MemoryEvents;
use crate::vm::session::{Session, terminal_size};
use oci_spec::runtime::Spec;
use rustix::mount::OpenTreeFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;
use vm_protocol::spec::Container;

/// Exit code of a container whose virtual machine has ended under it: it was killed.
const KILLED: i32 = 137;

/// The microVM that a container is in, for its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// Id of the container whose machine it is.
    pub sandbox: String,
    /// First process of that, the supervisor.
    pub supervisor: ProcessId,
    /// Directory in the machine's view where the root is mounted.
    pub directory: String,
}

impl Membership {
    /// Takes the root out of the machine.
    pub fn end(&self) -> Result<()> {
        match Place::open(self.supervisor)? {
            Some(place) => place.remove(&self.directory),
            None => Ok(()),
        }
    }
}

/// A container that is to be in the machine of its pod.
#[derive(Debug)]
pub struct Member {
    /// Which machine that is.
    pub membership: Membership,
    container: Container,
    start_timeout: Duration,
    place: Place,
    volumes: Volumes,
    control: OwnedFd,
    memory: Option<MemoryEvents>,
    procfs: Procfs,
}

impl Member {
    /// Decides about a container of the pod with this sandbox; none if that is no microVM. `spec` becomes the configuration of the
    /// process that stands for it.
    pub fn prepare(
        host: &Host,
        options: &CreateOptions,
        spec: &mut Spec,
        sandbox: &str,
    ) -> Result<Option<Self>> {
        let opened = match Opened::open(host, sandbox) {
            Err(e) if e.kind() == ErrorKind::ContainerNotFound => return Ok(None),
            opened => opened?,
        };
        if opened.record.backend != Backend::Krun {
            return Ok(None);
        }
        let ended =
            || Error::new(ErrorKind::InvalidState, format!("the microVM of pod '{sandbox}' does not run"));
        let (Status::Running, Some(supervisor)) = (opened.status()?, opened.record.init) else {
            return Err(ended());
        };
        if options.no_pivot {
            crate::bail!(
                NotSupported,
                "cannot share a microVM with --no-pivot: paths would lead out of the root"
            );
        }
        let directory = random::unique_id().context(|| "cannot name a directory")?.to_string();
        let mut container = pod::member(spec, &options.id, &directory)?;
        container.pid_namespace = shared_pids::joined(host, spec, &opened)?;
        let volumes = Volumes::of(spec, opened.dir.fd())?;
        monitor_spec::change_member(spec)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let control = rustix::mount::open_tree(opened.dir.fd(), DIRECTORY, flags)
            .context(|| format!("cannot reach the microVM of pod '{sandbox}'"))?;
        Ok(Some(Self {
            membership: Membership { sandbox: sandbox.to_owned(), supervisor, directory },
            container,
            start_timeout: Duration::from_secs(host.vm.start_timeout),
            place: Place::open(supervisor)?.ok_or_else(ended)?,
            volumes,
            control,
            memory: None,
            procfs: Procfs::open()?,
        }))
    }

    /// Makes the file that says when a process of it is killed for want of memory.
    pub fn set_directory(&mut self, dir: &StateDir) -> Result<()> {
        self.memory = Some(MemoryEvents::create(dir)?);
        Ok(())
    }

    /// In the container's root, while this process may still mount.
    pub fn in_root(&mut self) -> Result<()> {
        let tree = View::tree(&self.procfs, Some(pod::PLACE))?;
        self.place.add(&self.membership.directory, &tree)?;
        // Before what the guest mounts of its own kernel, which may be below.
        let volumes = self.volumes.share(&self.procfs, &self.place)?;
        self.container.mounts.splice(0..0, volumes);
        Ok(())
    }

    /// The descriptors that are needed until the end.
    pub fn descriptors(&self) -> Vec<RawFd> {
        self.memory.iter().map(AsRawFd::as_raw_fd).chain([self.control.as_raw_fd()]).collect()
    }

    /// Starts the program in the guest, and stands for it until its end; `starter` hears when it runs. Returns only when that fails.
    pub fn execute(&mut self, starter: &Channel) -> Result<Infallible> {
        let process = &mut self.container.process;
        if process.terminal {
            make_raw(rustix::stdio::stdin())?;
            process.size = terminal_size();
        }
        let signals = Foreground::new(false)?;
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets).context(|| "cannot drop capabilities")?;
        let guest = Guest::at(format!("/proc/self/fd/{}/{SOCKET}", self.control.as_raw_fd()));
        let started = guest.run(self.container.clone(), self.start_timeout).map_err(|e| {
            let kind = if e.kind() == ErrorKind::System { ErrorKind::StartFailed } else { e.kind() };
            e.wrap("cannot start the container in the microVM of its pod").with_kind(kind)
        })?;
        starter.send(&Message::Ready)?;
        let _ = nix::unistd::close(starter.raw());
        let mut session = Session::new(started, true);
        session.set_memory(self.memory.take());
        let code = session.run(signals.signals()).map_or_else(
            |e| {
                stdio::tell(format_args!("magikrun: {e}"));
                KILLED
            },
            i32::from,
        );
        std::process::exit(code)
    }
}
