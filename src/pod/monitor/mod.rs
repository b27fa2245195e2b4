//! The monitor of a pod: a process in the host's namespaces that makes the pod or nothing at all, and looks after it.
//!
//! It is the parent of the infra container and of all containers. One thread, one loop: [`Monitor::turn`] waits for whatever
//! happens next and deals with it; what takes several steps (making the pod, stopping it) waits by taking turns.

mod around;
mod build;
mod clients;
mod guest;
mod guest_input;
mod jobs;
mod logs;
mod members;
mod modules;
mod names;
mod network;
mod said;
mod sandbox;
mod shares;
mod sources;
mod stop;
mod streams;
mod suspicion;
mod tracker;
mod turn;
mod viewers;
mod volumes;

use crate::error::{Error, ErrorKind, Result};
use crate::infra::InfraEvent;
use crate::infra::wire::Wire;
use crate::pod::clean;
use crate::pod::plan::config::Facts;
use crate::pod::plan::{PodPlan, PortPlan, Role};
use crate::pod::record::{PodPhase, PodRecord, PodStatus};
use crate::pod::store::{EVENTS, PodStore, containers};
use crate::runtime::cgroups::Driver;
use crate::runtime::foreground::Foreground;
use crate::runtime::krun::engine::Libkrun;
use crate::runtime::options::Host;
use crate::runtime::state::now;
use crate::storage::config::{Timeouts, VmLimits, WasmLimits};
use crate::storage::state_root::StateDir;
use around::Around;
use clients::Clients;
use jobs::Jobs;
use members::Member;
use sandbox::Sandbox;
use serde::{Deserialize, Serialize};
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

/// First argument of the process, which tells it from an ordinary call of the program.
pub const PROCESS_NAME: &str = "magikrun-pod";

/// Largest list of events that is kept, in bytes; later ones are left out.
const MAX_EVENTS: u64 = 1 << 20;

/// What the monitor is to do, from the process that makes the pod.
#[derive(Debug, Serialize, Deserialize)]
pub struct Orders {
    /// The pod.
    pub plan: PodPlan,
    /// Its record.
    pub record: PodRecord,
    /// State root of containers, below which pods are.
    pub root: PathBuf,
    /// Directory for what belongs on a disk.
    pub data: PathBuf,
    /// Who manages cgroups.
    pub driver: Driver,
    /// Without privileges over the host.
    pub rootless: bool,
    /// What WebAssembly modules may use at most, as the operator says.
    pub wasm: WasmLimits,
    /// How long things may take, as the operator says.
    pub timeouts: Timeouts,
    /// What microVMs may do at most, as the operator says.
    pub vm: VmLimits,
}

/// From the monitor to the process that makes the pod.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// Everything runs; only the commit is missing.
    Ready,
    /// It is in its place, and waits for the others of its group.
    Placed,
    /// The pod is there.
    Committed,
    /// Nothing is left of it.
    Failed {
        /// Category.
        kind: ErrorKind,
        /// Message with causes.
        message: String,
    },
}

/// To the monitor: commit; and a second time, that the whole group is there. If the process that makes the pod goes before, the
/// pod goes too.
#[derive(Debug, Serialize, Deserialize)]
pub struct Commit;

/// The state of the monitor.
struct Monitor<'a> {
    orders: &'a Orders,
    /// All pods.
    store: &'a PodStore,
    /// The host as the pod's containers see it.
    host: Host,
    foreground: &'a Foreground,
    /// The process that makes the pod, until the commit.
    maker: Option<Wire>,
    /// It has said that the pod is to be there.
    commit: bool,
    /// Whether the pod is there is for others to decide: see [`Monitor::join`].
    promised: bool,
    dir: StateDir,
    sandbox: Option<Sandbox>,
    around: Around,
    facts: Facts,
    /// Ports of the host that lead to the pod: those of its plan, and of extensions.
    ports_wanted: Vec<PortPlan>,
    /// The pod's addresses on a network of plugins.
    addresses: Vec<IpAddr>,
    /// The host's mount namespace, while this process has one of the pod's own.
    host_mounts: Option<OwnedFd>,
    /// Descriptors that the containers' mounts are made by.
    opened: Vec<OwnedFd>,
    members: Vec<Member>,
    jobs: Jobs,
    clients: Clients,
    status: PodStatus,
    events: std::fs::File,
    /// Why the pod must end, if it must.
    fault: Option<Error>,
    /// A container has ended that the pod cannot be without.
    over: bool,
    /// Until when the containers have time, once the pod is being stopped.
    stop_at: Option<Instant>,
    /// When the pod's time is over.
    deadline: Option<Instant>,
}

/// Runs the monitor with its descriptors: the stream to the process that makes the pod, the orders, and the pod's lock.
pub fn main(descriptors: Vec<OwnedFd>, libkrun: Libkrun) -> u8 {
    let mut all = descriptors.into_iter();
    let (Some(maker), Some(orders), Some(_lock)) = (all.next(), all.next(), all.next()) else { return 1 };
    let maker = Wire::from(maker);
    let Ok(sender) = maker.sender() else { return 1 };
    match run(maker, orders, libkrun) {
        Ok(()) => 0,
        Err(e) => {
            let _ = sender.send(&Report::Failed { kind: e.kind(), message: e.message().to_owned() });
            1
        }
    }
}

fn run(maker: Wire, orders: OwnedFd, libkrun: Libkrun) -> Result<()> {
    let mut text = Vec::new();
    std::fs::File::from(orders).read_to_end(&mut text)?;
    let orders: Orders = serde_json::from_slice(&text)?;
    drop(text);
    let mut host = Host::with_defaults(&orders.root, orders.driver, orders.rootless);
    (host.wasm, host.vm) = (orders.wasm.clone(), orders.vm.clone());
    host.libkrun = libkrun;
    let store = PodStore::new(&host, &orders.data);
    let id = &orders.record.id;
    let dir = store.pods().open_leftover(id)?;
    let dir = dir.ok_or_else(|| Error::new(ErrorKind::Storage, "the pod's directory is gone"))?;
    let foreground = Foreground::new(true)?;
    let mut monitor = Monitor::new(&orders, &store, &host, &foreground, maker, dir)?;
    match monitor.make() {
        Ok(()) => {
            monitor.watch();
            monitor.finish(&host)
        }
        Err(e) => {
            monitor.give_up();
            match clean::remove(&store, &host, &orders.record, &monitor.dir) {
                Ok(()) => Err(e),
                Err(left) => Err(Error::from_parts(
                    e.kind(),
                    format!("{e} (and could not remove the pod: {left})"),
                    e.errno(),
                )),
            }
        }
    }
}

impl<'a> Monitor<'a> {
    fn new(
        orders: &'a Orders,
        store: &'a PodStore,
        host: &Host,
        foreground: &'a Foreground,
        maker: Wire,
        dir: StateDir,
    ) -> Result<Self> {
        let options = || {
            let mut options = std::fs::OpenOptions::new();
            options.create(true).append(true);
            options
        };
        let events = options().open(dir.path().join(EVENTS))?;
        let members = orders.plan.containers.iter().map(Member::new).collect::<Vec<_>>();
        let clients = Clients::listen(&dir)?;
        Ok(Self {
            orders,
            store,
            host: containers(&orders.record, host),
            foreground,
            maker: Some(maker),
            commit: false,
            promised: false,
            dir,
            sandbox: None,
            around: Around::default(),
            facts: Facts::default(),
            ports_wanted: Vec::new(),
            addresses: Vec::new(),
            host_mounts: None,
            opened: Vec::new(),
            members,
            jobs: Jobs::default(),
            clients,
            status: PodStatus::default(),
            events,
            fault: None,
            over: false,
            stop_at: None,
            deadline: None,
        })
    }

    fn plan(&self) -> &'a PodPlan {
        &self.orders.plan
    }

    /// After the commit: until the pod has to end.
    fn watch(&mut self) {
        while self.fault.is_none() && self.stop_at.is_none() && !self.is_over() {
            if let Err(e) = self.turn(None) {
                self.fault = Some(e);
            }
        }
    }

    /// True when every container that the pod is there for has ended.
    fn is_over(&self) -> bool {
        self.over || self.members.iter().filter(|m| m.plan.role == Role::App).all(|m| m.exit.is_some())
    }

    /// Ends what still runs, and leaves the pod's last status.
    fn finish(&mut self, host: &Host) -> Result<()> {
        let stopped = self.stop_at.is_some() && self.fault.is_none();
        self.stop();
        self.sandbox = None;
        self.opened.clear();
        self.leave_mounts();
        let ended = clean::end(host, &self.orders.record);
        self.status.phase = match (&self.fault, stopped) {
            (Some(_), _) => PodPhase::Failed,
            (None, true) => PodPhase::Stopped,
            (None, false) => PodPhase::Succeeded,
        };
        self.status.reason = self.fault.as_ref().map(|e| e.message().to_owned());
        self.status.finished = Some(now());
        self.status.infra = None;
        // Whoever sees that the pod has ended sees this event too.
        self.note(&serde_json::json!({"type": "podEnded", "phase": self.status.phase, "reason": self.status.reason}));
        self.save_status();
        self.clients.answer_stopped();
        self.clients.finish();
        ended
    }

    /// Writes the status; a full disk must not end the pod.
    fn save_status(&mut self) {
        self.status.containers = self.members.iter().map(Member::status).collect();
        if let Err(e) = self.status.save(&self.dir) {
            tracing::warn!("cannot write the status of the pod: {e}");
        }
    }

    /// Tells extensions and clients what has happened.
    fn event(&mut self, event: InfraEvent) {
        if let Some(sandbox) = &self.sandbox {
            sandbox.tell(&event);
        }
        if let Ok(value) = serde_json::to_value(&event) {
            self.note(&value);
        }
    }

    /// Adds to the list of events.
    fn note(&mut self, event: &serde_json::Value) {
        let mut line = serde_json::json!({"time": now()});
        if let (Some(all), Some(more)) = (line.as_object_mut(), event.as_object()) {
            all.extend(more.clone());
        }
        let text = format!("{line}\n");
        if self.events.metadata().is_ok_and(|m| m.len() + (text.len() as u64) < MAX_EVENTS) {
            let _ = self.events.write_all(text.as_bytes());
        }
    }
}
