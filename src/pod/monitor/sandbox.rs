//! The sandbox of a pod: the infra container in its namespaces, and what connects it.

use super::Monitor;
use crate::error::{Context as _, Result};
use crate::infra::message::{FromInfra, ToInfra};
use crate::infra::wire::Wire;
use crate::infra::{self, InfraEvent, PodInfo};
use crate::passt;
use crate::platform::sys::clone::{Child, CloneArgs, clone3};
use crate::platform::sys::mount::{MountAttr, mount_setattr};
use crate::platform::userns::{Gate, has_id};
use crate::pod::plan::users::Users;
use crate::pod::plan::{Network, PodPlan};
use crate::pod::process::Program;
use crate::runtime::cgroups::Cgroup;
use crate::runtime::foreground::Foreground;
use crate::runtime::native::launch::kill_and_reap;
use crate::runtime::native::{network, sysctl};
use crate::runtime::process_id::ProcessId;
use crate::undo::Undo;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space,
    move_into_thread_name_spaces,
};
use std::convert::Infallible;
use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// User and group id of the infra container: nobody, who owns nothing.
const NOBODY: u32 = 65534;

/// A directory that every host has and everybody can reach; in a mount namespace of the pod's own something can be mounted over it.
pub(super) const REACHABLE: &str = "/mnt";

/// Where the extensions' directory is mounted in the infra container: the way to the directory itself is barred to nobody.
const STATE_MOUNT: &str = REACHABLE;

/// Name of the infra container's cgroup below that of the pod; it is in no name of a container.
const CGROUP: &str = "_infra";

/// The infra container and pasta.
pub(super) struct Sandbox {
    infra: Child,
    pub(super) wire: Wire,
    pub(super) ready: bool,
    pub(super) pasta: Option<passt::Pasta>,
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

    /// Moves a process that connects the pod to the infra container's cgroup.
    pub(super) fn join(&self, pid: i32) -> Result<()> {
        self.cgroup.attach_exec(pid, self.infra.pid, &[])
    }

    pub(super) fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.infra.pid)
    }
}

impl Monitor<'_> {
    /// Makes the infra container in the pod's namespaces, and connects them.
    pub(super) fn make_sandbox(&mut self) -> Result<()> {
        let plan = self.plan();
        let mut cgroup = Cgroup::locate(
            self.host.cgroup_driver,
            Some(Path::new(&plan.cgroup.path_of(CGROUP))),
            &plan.id,
            self.host.rootless,
            None,
        )?;
        let mut undo = Undo::new();
        cgroup.create(&mut undo)?;
        // The pod is removed as a whole.
        undo.commit();
        let (wire, theirs) = Wire::pair()?;
        let state = self.open_state_directory()?;
        let kill = kill_file(&cgroup);
        let enclosed = encloses(plan, kill.is_some());
        let infra = self.launch(&cgroup, theirs, &state, kill, enclosed)?;
        if !joins_itself(&cgroup, plan) && cgroup.clone_into()?.is_none() {
            cgroup.attach(infra.pid)?;
        }
        if enclosed {
            // From here on every child of this process is in the pid namespace of the infra container, and ends with it: there may be
            // no cgroup to find them by.
            move_into_thread_name_spaces(infra.pidfd.as_fd(), ThreadNameSpaceType::PROCESS_ID)
                .context(|| "cannot enter the pod's pid namespace")?;
        }
        self.status.infra = Some(ProcessId::of(&infra)?);
        let pod = info(plan);
        wire.send(&ToInfra::Start {
            pod,
            extensions: plan.extensions.clone(),
            state_directory: PathBuf::from(STATE_MOUNT),
            name_servers: plan.name_server.clone().unwrap_or_default(),
        })?;
        let sandbox = Sandbox { infra, wire, ready: false, pasta: None, cgroup, stopping: false };
        self.ports_wanted = plan.ports.clone();
        self.sandbox = Some(sandbox);
        if !has_network_at_once(self.plan()) {
            self.await_infra()?;
            self.connect()?;
        }
        self.note_facts()
    }

    /// Waits until the infra container has set up the pod's namespaces: before anything of a container runs.
    pub(super) fn await_infra(&mut self) -> Result<()> {
        let limit = self.orders.timeouts.start();
        self.wait_until("the start of the infra container", Some(limit), |monitor| {
            monitor.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready)
        })
    }

    /// Makes the extensions' directory, and opens it as a mount of its own: who the infra container is cannot reach it by its path.
    fn open_state_directory(&self) -> Result<OwnedFd> {
        let path = infra::state_directory(&self.orders.record.data);
        let cannot = || format!("cannot make '{}'", path.display());
        std::fs::create_dir_all(&path).context(cannot)?;
        let owner = self.orders.record.ids.map_or(NOBODY, |ids| ids.on_host(NOBODY));
        if has_id(owner) {
            std::os::unix::fs::chown(&path, Some(owner), Some(owner)).context(cannot)?;
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(rustix::fs::CWD, &path, flags).context(cannot)
    }

    /// Makes the infra container, with a user namespace of its own where the pod has ids of its own.
    fn launch(
        &self,
        cgroup: &Cgroup,
        wire: Wire,
        state: &OwnedFd,
        kill: Option<OwnedFd>,
        enclosed: bool,
    ) -> Result<Child> {
        let plan = self.plan();
        let null = || File::options().write(true).open("/dev/null").context(|| "cannot open '/dev/null'");
        let kill = kill.map_or_else(|| null().map(OwnedFd::from), Ok)?;
        let clone_into = cgroup.clone_into()?;
        let ids = self.orders.record.ids;
        let gate = ids.map(|_| Gate::new()).transpose()?;
        let args = CloneArgs {
            flags: namespaces(plan, enclosed) as u64,
            cgroup: clone_into.as_ref().map(AsFd::as_fd),
            sibling: false,
        };
        let infra = clone3(&args, || {
            let cgroup = (clone_into.is_none() && joins_itself(cgroup, plan)).then_some(cgroup);
            let Err(e) = become_infra(plan, cgroup, gate.as_ref(), &wire, &kill, state, self.foreground);
            let _ = wire.send(&FromInfra::Failed(e.message().to_owned()));
            1
        })
        .context(|| "cannot make the infra container")?;
        if let (Some(gate), Some(ids)) = (gate, ids) {
            gate.open(infra.pid, &ids.mappings()?, false).inspect_err(|_| kill_and_reap(&infra))?;
        }
        Ok(infra)
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

/// True if all processes of the pod are to be in the pid namespace of the infra container, which they end with: a user may have no cgroup,
/// and v1 has no file that kills one. What is not so then ends by the next command: a pod that sees the host's processes, and
/// ones with children that must see them, as plugins of CNI do, or a microVM.
fn encloses(plan: &PodPlan, can_kill: bool) -> bool {
    let possible = !plan.host_pid && !matches!(plan.network, Network::Cni(_)) && plan.vm.is_none();
    plan.users.is_of_user() || (!can_kill && possible)
}

/// True if the infra container joins its cgroup itself, where no clone puts it there: the containers are prepared meanwhile.
fn joins_itself(cgroup: &Cgroup, plan: &PodPlan) -> bool {
    cgroup.can_be_joined() && plan.users != Users::Own
}

/// True if the pod's network is complete with the namespace that the infra container is made in: neither does that enter another one,
/// nor may its extensions ask for ports that must be known when the network is connected.
fn has_network_at_once(plan: &PodPlan) -> bool {
    matches!(plan.network, Network::None | Network::Host)
}

/// The namespaces that are made for the pod: `CLONE_NEW*` flags.
fn namespaces(plan: &PodPlan, enclosed: bool) -> i32 {
    let own = [
        (plan.network.is_own(), libc::CLONE_NEWNET),
        (!plan.host_ipc, libc::CLONE_NEWIPC),
        (plan.share_pid || enclosed, libc::CLONE_NEWPID),
        (plan.users == Users::Own, libc::CLONE_NEWUSER),
    ];
    own.iter()
        .filter(|(wanted, _)| *wanted)
        .fold(libc::CLONE_NEWUTS | libc::CLONE_NEWNS, |all, (_, flag)| all | flag)
}

/// The file by which the whole pod can be killed at once, open for writing (Linux 5.14), if the host has cgroup v2.
fn kill_file(cgroup: &Cgroup) -> Option<OwnedFd> {
    let directory = cgroup.v2_directory()?.parent()?;
    File::options().write(true).open(directory.join("cgroup.kill")).ok().map(OwnedFd::from)
}

/// In the child: sets the namespaces up, gives all privileges away, and executes this program again.
fn become_infra(
    plan: &PodPlan,
    cgroup: Option<&Cgroup>,
    gate: Option<&Gate>,
    wire: &Wire,
    kill: &OwnedFd,
    state: &OwnedFd,
    foreground: &Foreground,
) -> Result<Infallible> {
    foreground.restore_in_child()?;
    gate.map_or(Ok(()), Gate::pass)?;
    cgroup.map_or(Ok(()), |cgroup| cgroup.attach(0))?;
    rustix::process::setsid().context(|| "cannot make a session")?;
    match &plan.network {
        Network::None | Network::Pasta | Network::Cni(_) => network::loopback_up()?,
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
    let names = plan.name_server.as_ref().map(|_| name_socket()).transpose()?;
    confine(state)?;
    let mut needed: Vec<&dyn AsFd> = vec![wire, kill];
    needed.extend(names.as_ref().map(|socket| socket as &dyn AsFd));
    let numbers: Vec<i32> = needed.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    crate::runtime::native::init::close_foreign_descriptors(0, &numbers)?;
    Program::this().execute(infra::PROCESS_NAME, &needed, &format!("pod:{}", plan.metadata.name))
}

/// Leaves nothing writable but the extensions' directory, and no privileges.
fn confine(state: &OwnedFd) -> Result<()> {
    let cannot = || "cannot make the infra container's file system read-only";
    let open =
        |path: &Path, flags| open_tree(rustix::fs::CWD, path, flags | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    move_mount(state, "", rustix::fs::CWD, STATE_MOUNT, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context(cannot)?;
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
    if rustix::process::geteuid().is_root() && has_id(NOBODY) {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_groups(&[]).context(cannot)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).context(cannot)?;
        // The kernel takes the capabilities away with the user id.
        rustix::thread::set_thread_res_uid(uid, uid, uid).context(cannot)?;
    }
    rustix::thread::set_no_new_privs(true).context(cannot)?;
    // Of the user of a namespace that has no nobody too; without new privileges execve(2) gives root none back.
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).context(cannot)
}

/// What the pod's name server listens on: a port that only root may have.
fn name_socket() -> Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).context(|| "cannot listen for questions for names")
}
