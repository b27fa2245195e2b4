//! An existing container: its record and what state it is in.

use crate::error::{Error, ErrorKind, Result};
use crate::platform::parallel;
use crate::runtime::options::Host;
use crate::runtime::process_id::ProcessId;
use crate::runtime::record::{RECORD, Record};
use crate::runtime::state;
use crate::storage::lock::Lock;
use crate::storage::overview::Overview;
use crate::storage::state_root::{self, StateDir};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Name of the unix socket in the state directory on which a created container waits for `start`. It is removed by
/// `start`, so its presence tells a created container from a running one.
pub const START_SOCKET: &str = "start.sock";
/// Name of the copy of the configuration in the state directory.
pub const CONFIG: &str = "config.json";
/// Name of the compiled seccomp filter in the state directory.
pub const SECCOMP: &str = "seccomp.bpf";

/// The states of a container: those of the OCI runtime specification, and `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being created.
    Creating,
    /// It waits for `start`.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has exited.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// The state of a container as `state` prints it, with runc's names and order.
#[derive(Debug, Clone, Serialize)]
pub struct State {
    /// Version of the runtime specification that the configuration names.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// Container id.
    pub id: String,
    /// Pid of the first process in the host's namespace; 0 when stopped.
    pub pid: i32,
    /// Status.
    pub status: Status,
    /// Absolute path of the bundle.
    pub bundle: String,
    /// Absolute path of the root file system.
    pub rootfs: String,
    /// Creation time, RFC 3339 in UTC.
    pub created: String,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Name of the user who created it; empty when that is root.
    pub owner: String,
}

/// An existing container.
#[derive(Debug)]
pub struct Container {
    /// Its open state directory.
    pub dir: StateDir,
    /// Its record.
    pub record: Record,
}

impl Container {
    /// Opens the container `id`.
    ///
    /// Fails with [`ErrorKind::ContainerNotFound`] and runc's words when there is none.
    pub fn open(host: &Host, id: &str) -> Result<Self> {
        Self::of(host.root.open(id)?, id)
    }

    /// Opens the container `id` and waits until nobody else operates on it; nobody does until the lock is dropped.
    pub fn open_locked(host: &Host, id: &str) -> Result<(Self, Lock)> {
        let dir = host.root.open(id)?;
        let lock = dir.lock()?;
        Ok((Self::of(dir, id)?, lock))
    }

    fn of(dir: StateDir, id: &str) -> Result<Self> {
        match Record::load(&dir)? {
            Some(record) => Ok(Self { dir, record }),
            None if dir.is_in_place() => Err(no_record(id)),
            // Deleted since its directory was opened.
            None => Err(state_root::not_found()),
        }
    }

    /// The first process if it is alive (not even a zombie).
    pub fn live_init(&self) -> Option<ProcessId> {
        self.record.init.filter(|init| init.is_alive())
    }

    /// What state the container is in now.
    pub fn status(&self) -> Result<Status> {
        status(&self.record, || self.dir.has(START_SOCKET))
    }

    /// The state as `state` prints it.
    pub fn state(&self) -> Result<State> {
        Ok(state_of(&self.record, self.status()?))
    }
}

fn no_record(id: &str) -> Error {
    Error::new(ErrorKind::Storage, format!("container '{id}' has no state record"))
}

/// The states of all containers of the state root with the user ids of those who created them, sorted by id. One that
/// cannot be told is reported in the log and left out.
pub fn states(host: &Host) -> Result<Vec<(State, u32)>> {
    let Some(overview) = host.root.open_all()? else { return Ok(Vec::new()) };
    let of_all = parallel::map(overview.ids(), |id| state_in(&overview, id));
    let mut states = Vec::with_capacity(of_all.len());
    for (id, state) in overview.ids().iter().zip(of_all) {
        match state {
            Ok(state) => states.extend(state),
            Err(e) => tracing::error!("load container {id}: {e}"),
        }
    }
    Ok(states)
}

/// The state of one of many containers with the user id of who created it; `None` if it was deleted since they were listed.
fn state_in(overview: &Overview, id: &str) -> Result<Option<(State, u32)>> {
    let Some(data) = overview.read(id, RECORD)? else {
        // Deleted since, or damaged.
        return if overview.has(id, ".") { Err(no_record(id)) } else { Ok(None) };
    };
    let record = Record::parse(&data)?;
    let status = status(&record, || overview.has(id, START_SOCKET))?;
    Ok(Some((state_of(&record, status), record.owner)))
}

/// The status of a container by its record; `waits` tells whether it waits for its start.
///
/// Nothing is locked. What a container waits at is gone when it is started and when it is deleted, and before it is deleted
/// its process is dead: so the process is looked at again.
fn status(record: &Record, waits: impl FnOnce() -> bool) -> Result<Status> {
    let Some(init) = record.init else { return Ok(Status::Creating) };
    let Some(init) = init.find() else { return Ok(Status::Stopped) };
    if record.cgroup.is_frozen()? {
        return Ok(Status::Paused);
    }
    Ok(match waits() {
        true => Status::Created,
        false if init.is_alive() => Status::Running,
        false => Status::Stopped,
    })
}

fn state_of(record: &Record, status: Status) -> State {
    let pid = match (status, record.init) {
        (Status::Stopped, _) | (_, None) => 0,
        (_, Some(init)) => init.pid,
    };
    state::of(record, pid, status)
}
