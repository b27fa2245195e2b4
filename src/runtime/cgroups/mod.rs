//! Control groups of containers: where they are, their limits, and everything that is done to all processes of a
//! container at once. v1, v2 and hybrid hosts; by ourselves or through systemd.

mod devices;
mod freezer;
mod fs;
mod host;
mod limits;
mod oom;
mod place;
mod plan;
mod stats;
mod systemd;

pub use host::Version;
#[cfg(feature = "testing")]
pub use limits::plan_all;
pub use limits::v2_files;
pub use oom::OomWatch;
pub use stats::Stats;

use crate::error::{Error, ErrorKind, Result};
use crate::platform::read_only;
use crate::runtime::rootfs::CgroupMount;
use crate::undo::Undo;
use host::{Mount, join, mounts};
use place::{Place, place, sub_paths};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;
use systemd::{Property, Unit, properties_of_annotations};

/// Number of SIGKILL.
const SIGKILL: i32 = 9;

/// Who manages cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// We do, in the file system.
    #[default]
    Cgroupfs,
    /// systemd does, over D-Bus.
    Systemd,
    /// Nobody: the container stays in our cgroup.
    Disabled,
}

/// The cgroups of a container; kept in its state record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    driver: Driver,
    /// The container's own directories; v1 first. Empty when it stays where we are.
    places: Vec<Place>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<Unit>,
    /// Made without privileges: what is not permitted is done without.
    #[serde(default)]
    rootless: bool,
}

impl Cgroup {
    /// Decides where the cgroups of a new container are. Nothing is made yet.
    ///
    /// An absolute `path` starts at the root of each hierarchy; a relative one, or the id if there is none, where we are
    /// (v1) or beside that (v2, whose cgroups with processes cannot have children with controllers), as with runc.
    pub fn locate(
        driver: Driver,
        path: Option<&Path>,
        id: &str,
        rootless: bool,
        annotations: Option<&HashMap<String, String>>,
    ) -> Result<Self> {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        match driver {
            Driver::Disabled => Ok(Self { driver, places: Vec::new(), unit: None, rootless }),
            Driver::Systemd => {
                let wanted = annotations.map(properties_of_annotations).transpose()?.unwrap_or_default();
                Self::locate_unit(path, id, rootless, wanted)
            }
            Driver::Cgroupfs => {
                let mounts = mounts()?;
                let unified_only = mounts.iter().all(|mount| mount.version == Version::V2);
                let places = mounts.into_iter().map(|mount| place(mount, path, id, unified_only)).collect();
                Ok(Self { driver, places, unit: None, rootless })
            }
        }
    }

    /// Fails where systemd cannot manage cgroups.
    pub fn check_systemd() -> Result<()> {
        if libcgroups::systemd::booted() {
            return Ok(());
        }
        crate::bail!(NotSupported, "systemd not running on this host, cannot use systemd cgroups manager")
    }

    /// `wanted` are properties of the unit that the caller asks for.
    fn locate_unit(path: Option<&Path>, id: &str, rootless: bool, wanted: Vec<Property>) -> Result<Self> {
        Self::check_systemd()?;
        let mounts = mounts()?;
        if rootless && mounts.iter().any(|mount| mount.version == Version::V1) {
            crate::bail!(NotSupported, "cgroup v2 is needed for the systemd cgroups manager of a user");
        }
        let path = path.map(|path| path.to_string_lossy().into_owned());
        let unit = Unit::new(path.as_deref(), id, !rootless, wanted)?;
        let base = unit.base()?;
        let place = |mount: Mount| {
            let directory = unit.directory(&mount.point, &base)?;
            Ok(Place {
                version: mount.version,
                controllers: mount.controllers,
                mount: mount.point,
                directory,
            })
        };
        let places = mounts.into_iter().map(place).collect::<Result<_>>()?;
        Ok(Self { driver: Driver::Systemd, places, unit: Some(unit), rootless })
    }

    /// True if the container has cgroups of its own, so that its processes can be told from others.
    pub fn is_tracked(&self) -> bool {
        !self.places.is_empty()
    }

    /// Refuses cgroups that exist already and have processes, or are frozen: they are somebody else's.
    pub fn check_unused(&self) -> Result<()> {
        let there = self.places.iter().filter(|place| self.unit.is_none() && place.directory.exists());
        there.into_iter().try_for_each(Place::check_unused)
    }

    /// Makes the directories. A cgroup that has processes already, or is frozen, is refused.
    pub fn create(&mut self, undo: &mut Undo<'_>) -> Result<()> {
        if let Some(unit) = &self.unit {
            // A scope is made with a process in it.
            if unit.is_slice() {
                unit.start(None, self.version())?;
                self.undo_attach(undo);
                self.complete()?;
            }
            return Ok(());
        }
        let mut kept = Vec::new();
        for place in std::mem::take(&mut self.places) {
            match place.create() {
                Ok(made) => {
                    tracing::debug!("cgroup '{}'", place.directory.display());
                    if made {
                        let directory = place.directory.clone();
                        undo.push("remove the cgroup", move || fs::remove(&directory));
                    } else {
                        place.check_unused()?;
                    }
                    kept.push(place);
                }
                Err(e) if self.rootless && not_permitted(&e) => tracing::debug!("without a cgroup: {e}"),
                Err(e) => return Err(e),
            }
        }
        self.places = kept;
        Ok(())
    }

    /// The directory for `CLONE_INTO_CGROUP`, where one is all there is.
    pub fn clone_into(&self) -> Result<Option<OwnedFd>> {
        match (&self.unit, self.places.as_slice()) {
            (None, [place]) if place.version == Version::V2 => fs::open_dir(&place.directory).map(Some),
            _ => Ok(None),
        }
    }

    /// [`Cgroup::clone_into`] for a further process: none where the container has moved its own processes to cgroups
    /// below, for then the kernel takes no process in the one above.
    pub fn clone_into_for_exec(&self) -> Result<Option<OwnedFd>> {
        if self.unit.as_ref().is_some_and(Unit::is_of_user) {
            return Ok(None);
        }
        let divided = |place: &Place| {
            fs::read(&place.directory.join("cgroup.subtree_control")).is_ok_and(|text| !text.is_empty())
        };
        if self.places.iter().any(divided) {
            return Ok(None);
        }
        match self.places.as_slice() {
            [place] if place.version == Version::V2 => fs::open_dir(&place.directory).map(Some),
            _ => Ok(None),
        }
    }

    /// The file that holds the memory limit, open in a way that can be handed to the container; none if there is none, or not
    /// yet.
    pub fn memory_limit(&self) -> Option<File> {
        self.places.iter().find_map(|place| {
            let name = match place.version {
                Version::V1 if place.has("memory") => "memory.limit_in_bytes",
                Version::V1 => return None,
                Version::V2 => "memory.max",
            };
            read_only::open(&place.directory.join(name)).ok()
        })
    }

    /// Moves the container's first process in; 0 is this process.
    pub fn attach(&self, pid: i32) -> Result<()> {
        let add = |place: &Place| fs::add(&place.directory, pid);
        let Some(unit) = self.unit.as_ref().filter(|unit| !unit.is_slice()) else {
            return self.places.iter().try_for_each(add);
        };
        unit.start(Some(pid), self.version())?;
        let joined = self
            .complete()
            .and_then(|()| self.places.iter().filter(|p| !p.is_of_systemd()).try_for_each(add));
        if joined.is_err() {
            let _ = self.remove();
        }
        joined
    }

    /// True if a process with full privileges can join by itself, as process 0 of [`Cgroup::attach`]. On v1 the kernel may take
    /// milliseconds to move a process, while which another one does something else.
    pub fn can_be_joined(&self) -> bool {
        !self.rootless && self.unit.as_ref().is_none_or(Unit::is_slice)
    }

    /// Makes the directories of controllers of v1 that systemd does not use itself, and leaves out.
    fn complete(&self) -> Result<()> {
        let mut rest = self.places.iter().filter(|place| !place.is_of_systemd());
        rest.try_for_each(|place| place.create().map(drop))
    }

    /// Pushes what a launch that fails after [`Cgroup::attach`] must undo.
    pub fn undo_attach(&self, undo: &mut Undo<'_>) {
        if self.unit.is_some() {
            let cgroup = self.clone();
            undo.push("stop the systemd unit", move || cgroup.remove());
        }
    }

    /// The version whose limits count.
    fn version(&self) -> Version {
        if self.places.iter().any(|place| place.version == Version::V1) { Version::V1 } else { Version::V2 }
    }

    /// Moves a further process in: to the sub-cgroups given as `[CONTROLLER,...:]PATH`, if there are any. `pid` 0 is this process.
    pub fn attach_exec(&self, pid: i32, init: i32, sub_cgroups: &[String]) -> Result<()> {
        let paths = sub_paths(sub_cgroups)?;
        for place in &self.places {
            let sub = paths.iter().find(|sub| match (&sub.controllers, place.version) {
                (None, _) => true,
                (Some(names), Version::V1) => names.iter().any(|name| place.has(name)),
                (Some(_), Version::V2) => false,
            });
            let moved = match sub {
                Some(sub) => fs::add(&join(&place.directory, &sub.path), pid),
                None => fs::add(&place.directory, pid),
            };
            let errno = moved.as_ref().err().and_then(Error::errno);
            match (errno, &self.unit) {
                // The container has divided its cgroup: its first process shows where processes may be.
                (Some(libc::EBUSY), _) if sub.is_none() && place.version == Version::V2 => {
                    fs::add(&place.of_process(init)?, pid)?;
                }
                // The kernel lets a user move processes only within what the user's manager was given.
                (Some(libc::EACCES | libc::EPERM), Some(unit)) if sub.is_none() && unit.is_of_user() => {
                    unit.attach(pid)?;
                }
                _ => moved?,
            }
        }
        Ok(())
    }

    /// The directory in the v2 hierarchy, if there is one.
    pub fn v2_directory(&self) -> Option<&Path> {
        self.v2().map(|place| place.directory.as_path())
    }

    fn v2(&self) -> Option<&Place> {
        self.places.iter().find(|place| place.version == Version::V2)
    }

    /// Sends a signal to every process. After SIGKILL it returns when they are gone.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        let Some(place) = self.primary() else { return Ok(()) };
        if signal == SIGKILL {
            if self.is_frozen()? {
                self.thaw()?;
            }
            return fs::kill_and_wait(&place.directory);
        }
        for pid in fs::processes(&place.directory)? {
            let target = rustix::process::Pid::from_raw(pid);
            let sent = target
                .ok_or(rustix::io::Errno::SRCH)
                .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()))
                .map_err(Error::from)
                .and_then(|pidfd| crate::platform::sys::signal::pidfd_send_signal(&pidfd, signal));
            match sent {
                Err(e) if e.errno() != Some(libc::ESRCH) => {
                    return Err(e.wrap(format!("cannot signal {pid}")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The hierarchy in which processes are counted and frozen.
    fn primary(&self) -> Option<&Place> {
        let freezer = self.places.iter().find(|place| place.has("freezer"));
        freezer.or_else(|| self.v2()).or_else(|| self.places.first())
    }

    /// Removes the directories. Processes that are left in them are killed.
    pub fn remove(&self) -> Result<()> {
        // Nearly always nothing is left, and nobody needs to be looked for.
        if self.unit.is_none() && self.places.iter().all(|place| fs::try_remove(&place.directory)) {
            return Ok(());
        }
        self.kill_all(SIGKILL)?;
        if let Some(unit) = &self.unit {
            unit.stop()?;
        }
        self.places.iter().try_for_each(|place| fs::remove(&place.directory))
    }

    /// True while the processes are, or are being, frozen.
    pub fn is_frozen(&self) -> Result<bool> {
        let Some(place) = self.primary() else { return Ok(false) };
        let state = match place.version {
            Version::V1 if place.has("freezer") => fs::read(&place.directory.join("freezer.state")),
            Version::V1 => return Ok(false),
            Version::V2 => fs::read(&place.directory.join("cgroup.freeze")),
        };
        match state {
            Ok(state) => Ok(matches!(state.as_str(), "FROZEN" | "FREEZING" | "1")),
            Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Freezes all processes, and returns when they are.
    pub fn freeze(&self) -> Result<()> {
        let place = self.freezer()?;
        let frozen = match place.version {
            Version::V1 => {
                let file = place.directory.join("freezer.state");
                fs::write(&file, "FROZEN")?;
                fs::wait_until("freezing the container", None, || {
                    // A process that forks while it is frozen can hold this up until asked again.
                    fs::write(&file, "FROZEN")?;
                    Ok(fs::read(&file)? == "FROZEN")
                })
            }
            Version::V2 => {
                fs::write(&place.directory.join("cgroup.freeze"), "1")?;
                let events = place.directory.join("cgroup.events");
                let begin = Instant::now();
                fs::wait_until("freezing the container", Some(&events), || {
                    freezer::is_frozen(&place.directory, begin)
                })
            }
        };
        if frozen.is_err() {
            let _ = self.thaw();
        }
        frozen
    }

    /// Lets frozen processes go on.
    pub fn thaw(&self) -> Result<()> {
        let place = self.freezer()?;
        match place.version {
            Version::V1 => fs::write(&place.directory.join("freezer.state"), "THAWED"),
            Version::V2 => fs::write(&place.directory.join("cgroup.freeze"), "0"),
        }
    }

    fn freezer(&self) -> Result<&Place> {
        self.primary().filter(|place| place.version == Version::V2 || place.has("freezer")).ok_or_else(|| {
            Error::new(ErrorKind::NotSupported, "the container has no cgroup that can be frozen")
        })
    }

    /// The directory whose processes can be frozen together, if there is one.
    pub fn freezer_directory(&self) -> Option<PathBuf> {
        self.freezer().ok().map(|place| place.directory.clone())
    }

    /// All processes, in the host's pid namespace.
    pub fn pids(&self) -> Result<Vec<i32>> {
        match self.primary() {
            Some(place) => fs::processes(&place.directory),
            None => Ok(Vec::new()),
        }
    }

    /// Usage and limits.
    pub fn stats(&self) -> Stats {
        stats::read(&self.places)
    }

    /// Watches for processes that are killed for want of memory.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        let v1 = self.places.iter().find(|place| place.has("memory"));
        match v1.or_else(|| self.v2()) {
            Some(place) => OomWatch::new(&place.directory, place.version),
            None => crate::bail!(NotSupported, "the container has no memory cgroup"),
        }
    }

    /// How often a process was killed for want of memory; 0 where that is not known.
    pub fn oom_kills(&self) -> u64 {
        let v1 = self.places.iter().find(|place| place.has("memory"));
        let Some(place) = v1.or_else(|| self.v2()) else { return 0 };
        let name = if place.version == Version::V1 { "memory.oom_control" } else { "memory.events" };
        let file = File::open(place.directory.join(name)).map_err(Error::from);
        file.and_then(|file| oom::oom_kills(&file)).unwrap_or(0)
    }

    /// What a mount of type `cgroup` in the container shows.
    pub fn mount_points(&self) -> Vec<CgroupMount> {
        let only = self.places.len() == 1;
        self.places
            .iter()
            .map(|place| {
                let base = place
                    .mount
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default();
                let name = if only && place.version == Version::V2 { String::new() } else { base };
                let links = place.controllers.iter().filter(|_| place.controllers.len() > 1);
                CgroupMount {
                    links: links.filter(|controller| **controller != name).cloned().collect(),
                    name,
                    directory: place.directory.clone(),
                    root: place.mount.clone(),
                }
            })
            .collect()
    }
}

fn not_permitted(e: &Error) -> bool {
    matches!(e.errno(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}
