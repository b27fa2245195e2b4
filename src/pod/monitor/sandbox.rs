//! The sandbox of a pod: the infra container in its namespaces, and what connects it.

use super::Monitor;
use crate::error::{Context as _, Result};
use crate::infra::message::{FromInfra, ToInfra};
use crate::infra::wire::Wire;
use crate::infra::{self, InfraEvent, PodInfo};
use crate::limits::CONTAINER_START_TIMEOUT;
use crate::passt::{self, Forward};
use crate::platform::sys::clone::{Child, CloneArgs, clone3};
use crate::platform::sys::mount::{MountAttr, mount_setattr};
use crate::pod::plan::{Network, PodPlan};
use crate::pod::process::execute;
use crate::runtime::cgroups::Cgroup;
use crate::runtime::foreground::Foreground;
use crate::runtime::native::{network, sysctl};
use crate::runtime::process_id::ProcessId;
use crate::undo::Undo;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use rustix::process::{Gid, Uid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::convert::Infallible;
use std::fs::File;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// User and group id of the infra container: nobody, who owns nothing.
const NOBODY: u32 = 65534;

/// Where the extensions' directory is mounted in the infra container: the way to the directory itself is barred to nobody.
const STATE_MOUNT: &str = "/mnt";

/// Name of the infra container's cgroup below that of the pod; it is in no name of a container.
const CGROUP: &str = "@infra";

/// The infra container and pasta.
pub(super) struct Sandbox {
    infra: Child,
    pub(super) wire: Wire,
    pub(super) ready: bool,
    pasta: Option<passt::Pasta>,
    cgroup: Cgroup,
    stopping: bool,
}

impl Sandbox {
    pub(super) fn tell(&self, event: &InfraEvent) {
        let _ = self.wire.send(&ToInfra::Event(event.clone()));
    }

    pub(super) fn send(&self, message: &ToInfra) -> Result<()> {
        self.wire.send(message)
    }

    /// What of the sandbox has ended with this process, if that is a fault.
    pub(super) fn ended(&mut self, pid: i32) -> Option<&'static str> {
        let what = if pid == self.infra.pid {
            self.ready = false;
            "the infra container"
        } else if self.pasta.as_ref().is_some_and(|pasta| pasta.pid == pid) {
            self.pasta = None;
            "pasta, which connects the pod's network,"
        } else {
            return None;
        };
        (!self.stopping).then_some(what)
    }

    /// From now on the end of its processes is no fault.
    pub(super) fn begin_stop(&mut self) {
        self.stopping = true;
        self.ready = true;
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.infra.pid)
    }
}

impl Monitor<'_> {
    /// Makes the infra container in the pod's namespaces, and connects them.
    pub(super) fn make_sandbox(&mut self) -> Result<()> {
        let plan = self.plan();
        let mut cgroup = Cgroup::locate(
            self.host.cgroup_driver,
            Some(&cgroup_path(&plan.cgroup, self.host.rootless)),
            &plan.id,
            self.host.rootless,
            None,
        )?;
        let mut undo = Undo::new();
        cgroup.create(&mut undo)?;
        // The pod is removed as a whole.
        undo.commit();
        let (wire, theirs) = Wire::pair()?;
        let state = infra::state_directory(&self.orders.record.data);
        make_state_directory(&state)?;
        let infra = launch(plan, &cgroup, theirs, &state, self.foreground)?;
        if cgroup.clone_into()?.is_none() {
            cgroup.attach(infra.pid)?;
        }
        self.status.infra = Some(ProcessId::of(&infra)?);
        let pod = info(plan);
        wire.send(&ToInfra::Start {
            pod,
            extensions: plan.extensions.clone(),
            state_directory: PathBuf::from(STATE_MOUNT),
        })?;
        let sandbox = Sandbox { infra, wire, ready: false, pasta: None, cgroup, stopping: false };
        self.ports_wanted = plan.ports.clone();
        self.sandbox = Some(sandbox);
        self.wait_until("the start of the infra container", Some(CONTAINER_START_TIMEOUT), |monitor| {
            monitor.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready)
        })?;
        self.connect()?;
        self.note_facts()
    }

    pub(super) fn set_ready(&mut self, ready: bool) {
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.ready = ready;
        }
    }

    /// Forgets a stream whose other end is gone.
    pub(super) fn retire_wire(&mut self) {
        if let (Some(sandbox), Ok((ours, theirs))) = (&mut self.sandbox, Wire::pair()) {
            // Nothing will ever come over this one: its other end stays open and silent.
            std::mem::forget(theirs);
            sandbox.wire = ours;
        }
    }

    /// An extension asks for a port.
    pub(super) fn grant_port(&mut self, extension: &str, udp: bool, host_port: u16, container_port: u16) {
        let Some(sandbox) = &self.sandbox else { return };
        let network = &self.plan().network;
        let taken = |p: &crate::pod::plan::PortPlan| p.host_port == host_port && p.udp == udp;
        let refused = match network {
            Network::Host => None,
            Network::Pasta if self.ports_wanted.iter().any(taken) => {
                Some("the pod has this port already".to_owned())
            }
            Network::Pasta => None,
            _ => Some("the pod's network is not connected: it needs --network pasta".to_owned()),
        };
        let granted = refused.is_none();
        let _ = sandbox.send(&ToInfra::Port(refused));
        if granted && *network == Network::Pasta {
            let port = crate::pod::plan::PortPlan { host_ip: None, host_port, container_port, udp };
            self.ports_wanted.push(port);
        }
        tracing::debug!("extension {extension} asked for port {host_port}: {granted}");
    }

    fn connect(&mut self) -> Result<()> {
        if self.plan().network != Network::Pasta {
            return Ok(());
        }
        let forwards: Vec<Forward> = self
            .ports_wanted
            .iter()
            .map(|port| Forward {
                host_ip: port.host_ip.clone(),
                host_port: port.host_port,
                inner_port: port.container_port,
                udp: port.udp,
            })
            .collect();
        let Some(sandbox) = &mut self.sandbox else { return Ok(()) };
        let namespace =
            File::open(sandbox.path("net")).context(|| "cannot open the pod's network namespace")?;
        let pasta = passt::start(namespace.as_fd(), &self.orders.record.running, &forwards)?;
        sandbox.cgroup.attach(pasta.pid)?;
        sandbox.pasta = Some(pasta);
        Ok(())
    }

    /// Notes what of the sandbox the containers' configurations need.
    fn note_facts(&mut self) -> Result<()> {
        let plan = self.plan();
        let Some(sandbox) = &self.sandbox else { return Ok(()) };
        let host_ip = own_address().map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string());
        let pod_ip = match &plan.network {
            Network::Host | Network::Pasta => host_ip.clone(),
            Network::None => "127.0.0.1".to_owned(),
            Network::Path(path) => {
                inside(path, own_address)?.map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string())
            }
        };
        let mut namespaces = vec![("uts", sandbox.path("uts"))];
        if plan.network != Network::Host {
            namespaces.push(("network", sandbox.path("net")));
        }
        if !plan.host_ipc {
            namespaces.push(("ipc", sandbox.path("ipc")));
        }
        if plan.share_pid {
            namespaces.push(("pid", sandbox.path("pid")));
        }
        self.facts.namespaces = namespaces;
        (self.facts.pod_ip, self.facts.host_ip) = (pod_ip.clone(), host_ip.clone());
        (self.status.pod_ip, self.status.host_ip) = (pod_ip, host_ip);
        Ok(())
    }
}

/// The pod's cgroup as the runtime takes it: without privileges it is below our own.
fn cgroup_path(pod: &str, rootless: bool) -> PathBuf {
    let path = format!("{pod}/{CGROUP}");
    PathBuf::from(if rootless { path.trim_start_matches('/') } else { &path })
}

fn info(plan: &PodPlan) -> PodInfo {
    PodInfo {
        id: plan.id.clone(),
        name: plan.metadata.name.clone(),
        namespace: plan.metadata.namespace().to_owned(),
        labels: plan.metadata.labels.clone(),
        annotations: plan.metadata.annotations.clone(),
        containers: plan.containers.iter().map(|c| c.name.clone()).collect(),
    }
}

fn make_state_directory(path: &Path) -> Result<()> {
    let cannot = || format!("cannot make '{}'", path.display());
    std::fs::create_dir_all(path).context(cannot)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).context(cannot)?;
    }
    Ok(())
}

/// The address from which this network reaches others; nothing is sent.
fn own_address() -> Option<IpAddr> {
    // Addresses for documentation (RFC 5737, RFC 3849): any other would do.
    let via = |bind: &str, to: &str| {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
    };
    via("0.0.0.0:0", "203.0.113.1:9").or_else(|| via("[::]:0", "[2001:db8::1]:9"))
}

/// Runs `job` in another network namespace. This process must have no other thread.
fn inside<T>(path: &Path, job: impl FnOnce() -> T) -> Result<T> {
    let cannot = || format!("cannot enter the network namespace '{}'", path.display());
    let enter = |file: &File| move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
    let own = File::open("/proc/self/ns/net").context(cannot)?;
    enter(&File::open(path).context(cannot)?).context(cannot)?;
    let done = job();
    enter(&own).context(cannot)?;
    Ok(done)
}

/// Makes the infra container.
fn launch(
    plan: &PodPlan,
    cgroup: &Cgroup,
    wire: Wire,
    state: &Path,
    foreground: &Foreground,
) -> Result<Child> {
    let mut flags = libc::CLONE_NEWUTS | libc::CLONE_NEWNS;
    if matches!(plan.network, Network::None | Network::Pasta) {
        flags |= libc::CLONE_NEWNET;
    }
    if !plan.host_ipc {
        flags |= libc::CLONE_NEWIPC;
    }
    if plan.share_pid {
        flags |= libc::CLONE_NEWPID;
    }
    let kill = kill_file(cgroup)?;
    let clone_into = cgroup.clone_into()?;
    let args = CloneArgs {
        flags: flags as u64,
        cgroup: clone_into.as_ref().map(std::os::fd::AsFd::as_fd),
        sibling: false,
    };
    clone3(&args, || {
        let Err(e) = become_infra(plan, &wire, &kill, state, foreground);
        let _ = wire.send(&FromInfra::Failed(e.message().to_owned()));
        1
    })
    .context(|| "cannot make the infra container")
}

/// The file by which the whole pod can be killed at once, open for writing (Linux 5.14).
fn kill_file(cgroup: &Cgroup) -> Result<OwnedFd> {
    let parent = cgroup.v2_directory().and_then(|directory| directory.parent().map(Path::to_owned));
    let open = |path: &Path| File::options().write(true).open(path);
    let file = parent.map(|directory| open(&directory.join("cgroup.kill")));
    match file {
        Some(Ok(file)) => Ok(file.into()),
        _ => Ok(open(Path::new("/dev/null")).context(|| "cannot open '/dev/null'")?.into()),
    }
}

/// In the child: sets the namespaces up, gives all privileges away, and executes this program again.
fn become_infra(
    plan: &PodPlan,
    wire: &Wire,
    kill: &OwnedFd,
    state: &Path,
    foreground: &Foreground,
) -> Result<Infallible> {
    foreground.restore_in_child()?;
    rustix::process::setsid().context(|| "cannot make a session")?;
    match &plan.network {
        Network::None | Network::Pasta => network::loopback_up()?,
        Network::Path(path) => {
            let cannot = || format!("cannot enter the network namespace '{}'", path.display());
            let file = File::open(path).context(cannot)?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context(cannot)?;
        }
        Network::Host => {}
    }
    rustix::system::sethostname(plan.hostname.as_bytes())
        .context(|| format!("cannot set host name '{}'", plan.hostname))?;
    sysctl::apply(&plan.sysctls)?;
    confine(state)?;
    close_all_but(&[wire.as_fd().as_raw_fd(), kill.as_raw_fd()])?;
    execute(infra::PROCESS_NAME, &[wire, kill], &format!("pod:{}", plan.metadata.name))
}

/// Leaves nothing writable but the extensions' directory, and no privileges.
fn confine(state: &Path) -> Result<()> {
    let cannot = || "cannot make the infra container's file system read-only";
    let open =
        |path: &Path, flags| open_tree(rustix::fs::CWD, path, flags | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    rustix::mount::mount_bind(state, STATE_MOUNT).context(cannot)?;
    let root = open(Path::new("/"), OpenTreeFlags::empty()).context(cannot)?;
    let private = rustix::mount::MountPropagationFlags::PRIVATE;
    let attr =
        MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY, propagation: Some(private), ..MountAttr::NONE };
    mount_setattr(root.as_fd(), true, &attr).context(cannot)?;
    let writable = open(Path::new(STATE_MOUNT), OpenTreeFlags::empty()).context(cannot)?;
    let attr = MountAttr { clear: MountAttrFlags::MOUNT_ATTR_RDONLY, ..MountAttr::NONE };
    mount_setattr(writable.as_fd(), false, &attr).context(cannot)?;
    become_nobody()
}

fn become_nobody() -> Result<()> {
    let cannot = || "cannot give privileges away";
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_groups(&[]).context(cannot)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).context(cannot)?;
        // The kernel takes the capabilities away with the user id.
        rustix::thread::set_thread_res_uid(uid, uid, uid).context(cannot)?;
    }
    rustix::thread::set_no_new_privs(true).context(cannot)
}

fn close_all_but(needed: &[i32]) -> Result<()> {
    crate::runtime::native::init::close_foreign_descriptors(0, needed)
}
