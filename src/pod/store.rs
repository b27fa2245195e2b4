//! Where pods are on disk, and how they get their names.
//!
//! A pod's directory is `ID~` while it is made or removed, and `ID` from its commit on: see [`StateRoot`]. Its monitor holds
//! its lock as long as it lives, so a free lock tells that nobody looks after the pod. A name is a link to an id, made under
//! a lock of its own; a link to a pod that does not exist means nothing.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::pod::attachment;
use crate::pod::clean;
use crate::pod::plan::users::IdRange;
use crate::pod::record::{ContainerState, PodPhase, PodRecord, PodStatus};
use crate::runtime::options::{Host, Member};
use crate::storage::lock::Lock;
use crate::storage::state_root::{StateDir, StateRoot};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Directory of pods in the state root. No id of a container, and nothing half-made, begins so.
const PODS: &str = "~pods";
/// Name of the socket of a pod's monitor in the pod's directory.
pub const SOCKET: &str = "monitor.sock";
/// Name of the list of a pod's events in the pod's directory.
pub const EVENTS: &str = "events.jsonl";

/// All pods of a state root.
#[derive(Debug)]
pub struct PodStore {
    directory: PathBuf,
    data: PathBuf,
    pods: StateRoot,
}

/// An existing pod.
#[derive(Debug)]
pub struct Pod {
    /// Its directory.
    pub dir: StateDir,
    /// Its record.
    pub record: PodRecord,
}

impl PodStore {
    /// The pods of a host's state root, with `data` as the directory for what belongs on a disk.
    pub fn new(host: &Host, data: &Path) -> Self {
        let directory = host.root.path().join(PODS);
        let pods = StateRoot::new(directory.join("pods"));
        Self { directory, data: data.to_owned(), pods }
    }

    /// The state root of the pods' own directories.
    pub fn pods(&self) -> &StateRoot {
        &self.pods
    }

    /// Directory of what lives as long as a pod's containers.
    pub fn running(&self, id: &str) -> PathBuf {
        self.directory.join("running").join(id)
    }

    /// Directory of what lives as long as a pod and belongs on a disk.
    pub fn data(&self, id: &str) -> PathBuf {
        self.data.join("pods").join(id)
    }

    /// Directory of claims, which outlive pods.
    pub fn claims(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// Reserves a new pod's id: a directory that nobody sees yet, and its lock. At most `max_pods` exist at once.
    pub fn reserve(&self, id: &str, max_pods: usize) -> Result<(StateDir, Lock)> {
        self.pods.reserve(id, max_pods, |_| Ok(())).map_err(|e| match e.kind() {
            ErrorKind::TooManyContainers => Error::new(
                ErrorKind::NotSupported,
                format!(
                    "{max_pods} pods exist already, which is the limit (delete pods, or raise limits.max_pods in the configuration)"
                ),
            ),
            _ => e,
        })
    }

    /// Directory of the groups of pods that are being made.
    pub fn groups(&self) -> PathBuf {
        self.directory.join("groups")
    }

    /// True if all pods of a group are there.
    pub fn is_committed(&self, group: &str) -> bool {
        self.groups().join(group).exists()
    }

    fn names(&self) -> PathBuf {
        self.directory.join("names")
    }

    /// Waits for the lock that names are given under.
    pub fn lock_names(&self) -> Result<File> {
        let names = self.names();
        let cannot = || format!("cannot lock '{}'", names.display());
        std::fs::create_dir_all(&names).or_kind(ErrorKind::Storage, cannot)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let lock = rustix::fs::open(names.join("lock~"), flags, Mode::RUSR | Mode::WUSR)
            .or_kind(ErrorKind::Storage, cannot)?;
        rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
            .or_kind(ErrorKind::Storage, cannot)?;
        Ok(lock.into())
    }

    /// Gives a pod its name. Fails when another pod that exists, or is just being made, has it.
    pub fn take_name(&self, host: &Host, namespace: &str, name: &str, id: &str) -> Result<()> {
        let link = self.names().join(name_key(namespace, name));
        let exists = || Error::new(ErrorKind::PodExists, "a pod with this name exists already");
        loop {
            let lock = self.lock_names()?;
            if let Ok(other) = std::fs::read_link(&link) {
                let other = other.to_string_lossy().into_owned();
                if self.is_there(&other)? {
                    return Err(exists());
                }
                if self.pods.open(&other).is_ok() || self.pods.open_leftover(&other)?.is_some() {
                    // What an interrupted command left is removed with its name, which takes the lock.
                    drop(lock);
                    if !clean::leftover(self, host, &other)? {
                        return Err(exists());
                    }
                    continue;
                }
                std::fs::remove_file(&link)
                    .or_kind(ErrorKind::Storage, || "cannot remove the name of a pod that is gone")?;
            }
            return std::os::unix::fs::symlink(id, &link)
                .or_kind(ErrorKind::Storage, || "cannot take the pod's name");
        }
    }

    /// Gives a name back, if it leads to this pod.
    pub fn drop_name(&self, namespace: &str, name: &str, id: &str) -> Result<()> {
        let link = self.names().join(name_key(namespace, name));
        let _lock = self.lock_names()?;
        match std::fs::read_link(&link) {
            Ok(target) if target == Path::new(id) => {
                std::fs::remove_file(&link).or_kind(ErrorKind::Storage, || "cannot give the pod's name back")
            }
            _ => Ok(()),
        }
    }

    /// The ids of the host that pods have for their own, those too that are just being made or removed.
    pub fn ranges(&self) -> Result<Vec<IdRange>> {
        let mut ranges = Vec::new();
        for id in self.pods.ids()? {
            if let Ok(dir) = self.pods.open(&id) {
                ranges.extend(PodRecord::load(&dir)?.and_then(|record| record.ids));
            }
        }
        for id in self.pods.half_made_ids()? {
            if let Some(dir) = self.pods.open_leftover(&id)? {
                ranges.extend(PodRecord::load(&dir)?.and_then(|record| record.ids));
            }
        }
        Ok(ranges)
    }

    /// Opens a pod by its id, its name (in the namespace `default`), or `NAMESPACE/NAME`.
    pub fn open(&self, pod: &str) -> Result<Pod> {
        let not_found = || Error::new(ErrorKind::PodNotFound, format!("pod '{pod}' does not exist"));
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        let valid =
            |text: &str| !text.is_empty() && !text.contains(['/', '~', '\0']) && text != "." && text != "..";
        if !valid(namespace) || !valid(name) {
            return Err(not_found());
        }
        let id = match std::fs::read_link(self.names().join(name_key(namespace, name))) {
            Ok(id) => id.to_string_lossy().into_owned(),
            Err(_) => name.to_owned(),
        };
        self.open_id(&id)?.ok_or_else(not_found)
    }

    /// True if there is a pod with this id.
    pub fn is_there(&self, id: &str) -> Result<bool> {
        Ok(self.open_id(id)?.is_some())
    }

    fn open_id(&self, id: &str) -> Result<Option<Pod>> {
        let dir = match self.pods.open(id) {
            Ok(dir) => dir,
            Err(e) if matches!(e.kind(), ErrorKind::ContainerNotFound | ErrorKind::InvalidContainerId) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let Some(record) = PodRecord::load(&dir)? else { return Ok(None) };
        let Some(group) = &record.group else { return Ok(Some(Pod { dir, record })) };
        if self.is_committed(group) {
            return Ok(Some(Pod { dir, record }));
        }
        // The record forgets a group before its file goes: it is read again.
        let record = PodRecord::load(&dir)?.filter(|record| record.group.is_none());
        Ok(record.map(|record| Pod { dir, record }))
    }

    /// Takes a pod out of its place whose group was not committed, and that nobody looks after any more.
    pub fn retract_uncommitted(&self, id: &str) -> Result<()> {
        let Ok(mut dir) = self.pods.open(id) else { return Ok(()) };
        let Some(_lock) = dir.try_lock()? else { return Ok(()) };
        if dir.is_in_place() && !self.is_there(id)? { dir.retract(&self.pods, id) } else { Ok(()) }
    }

    /// All pods, oldest first; their ids are ordered by time.
    pub fn all(&self) -> Result<Vec<Pod>> {
        let mut pods = Vec::new();
        for id in self.pods.ids()? {
            match self.open_id(&id) {
                Ok(pod) => pods.extend(pod),
                Err(e) => tracing::error!("load pod {id}: {e}"),
            }
        }
        Ok(pods)
    }
}

/// File name of a pod's name: neither part has an underscore.
fn name_key(namespace: &str, name: &str) -> String {
    format!("{namespace}_{name}")
}

impl Pod {
    /// Where a container runs, as [`PodRecord::place`] has it, if it does: a container around several tells nothing of each.
    pub fn place(&self, host: &Host, container: &str) -> Result<(String, Option<Member>)> {
        if self.record.wasm {
            let status = self.status(host)?;
            let found = status.containers.iter().find(|status| status.name == container);
            if found.is_none_or(|found| found.state != ContainerState::Running) {
                crate::bail!(
                    InvalidState,
                    "container '{container}' of pod '{}' does not run",
                    self.record.name
                );
            }
        }
        Ok(self.record.place(container))
    }

    /// The state root of the pod's own containers.
    pub fn containers(&self, host: &Host) -> Host {
        containers(&self.record, host)
    }

    /// Asks the plugins of the pod's network whether all is as they made it; nothing happens on other networks.
    pub fn check_network(&self) -> Result<()> {
        attachment::load(&self.record.running)?.map_or(Ok(()), |attachment| attachment.check())
    }

    /// The pod's lock, if nobody looks after it any more.
    pub fn unattended(&self) -> Result<Option<Lock>> {
        self.dir.try_lock()
    }

    /// The status. A pod that should run but has no monitor any more has failed: what is left of it is ended first.
    pub fn status(&self, host: &Host) -> Result<PodStatus> {
        let status = PodStatus::load(&self.dir)?;
        if status.phase.is_final() {
            return Ok(status);
        }
        let Some(_lock) = self.unattended()? else { return Ok(status) };
        // It may have ended in good order meanwhile.
        let mut status = PodStatus::load(&self.dir)?;
        if !status.phase.is_final() && self.dir.is_in_place() {
            clean::end(host, &self.record)?;
            status.phase = PodPhase::Failed;
            status.reason = Some("the monitor of the pod was killed".to_owned());
            status.finished = Some(crate::runtime::state::now());
            for container in &mut status.containers {
                container.state = ContainerState::Exited;
                container.ready = false;
            }
            status.save(&self.dir)?;
        }
        Ok(status)
    }
}

/// The host as the containers of a pod see it: with a state root of their own.
pub fn containers(record: &PodRecord, host: &Host) -> Host {
    let mut own = Host::with_defaults(record.running.join("containers"), host.cgroup_driver, host.rootless);
    own.max_containers = crate::limits::MAX_POD_CONTAINERS * 2;
    (own.wasm, own.vm) = (host.wasm.clone(), host.vm.clone());
    own.libkrun = host.libkrun;
    own
}
