//! Which namespaces a container makes and which it joins, and by what route its first process gets there.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::security::{namespace_type, unshare};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, LinuxTimeOffset};
use rustix::fs::{Mode, OFlags};
use rustix::thread::move_into_link_name_space;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// An open namespace to join.
#[derive(Debug)]
pub struct Join {
    /// What kind it is.
    pub kind: LinuxNamespaceType,
    /// The open namespace file.
    pub fd: OwnedFd,
    /// Where it was found, for messages.
    pub path: PathBuf,
}

/// Where the container's user namespace comes from.
#[derive(Debug)]
pub enum UserNamespace {
    /// It has none of its own.
    Inherited,
    /// A new one with these mappings.
    New {
        /// User ids.
        uids: Vec<LinuxIdMapping>,
        /// Group ids.
        gids: Vec<LinuxIdMapping>,
    },
    /// An existing one.
    Joined(Join),
}

/// How the container's first process is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// One clone3(2) with all namespaces; existing ones are joined by the child.
    Direct,
    /// By way of an intermediate process that first joins namespaces, sets up the time namespace, and then makes the child
    /// as its own sibling. Needed where a step must happen before the child exists but must not change ourselves.
    Intermediate {
        /// The intermediate process itself is made in the new user namespace, since we have no privileges outside it.
        in_user_namespace: bool,
    },
}

/// The namespaces of a container.
#[derive(Debug)]
pub struct Namespaces {
    /// `CLONE_NEW*` flags of the namespaces to make at the clone: without user, cgroup and time.
    pub new: u64,
    /// A new cgroup namespace; made by the child once it is in its cgroup, which becomes the namespace's root.
    pub new_cgroup: bool,
    /// A new time namespace.
    pub new_time: bool,
    /// Offsets of the new time namespace: lines for `/proc/self/timens_offsets`.
    pub time_offsets: String,
    /// User namespace.
    pub user: UserNamespace,
    /// Other namespaces to join, in the configuration's order.
    pub join: Vec<Join>,
    /// Our children are in another pid namespace than we, which the kernel lets only them divide further.
    pub children_elsewhere: bool,
}

fn flag(kind: LinuxNamespaceType) -> u64 {
    kind as u64
}

impl Namespaces {
    /// User and group id on the host of root in a user namespace that is made with these.
    pub fn root_ids(&self) -> (u32, u32) {
        let root = |mappings: &[LinuxIdMapping]| {
            mappings.iter().find(|mapping| mapping.container_id() == 0).map_or(0, LinuxIdMapping::host_id)
        };
        match &self.user {
            UserNamespace::New { uids, gids } => (root(uids), root(gids)),
            UserNamespace::Inherited | UserNamespace::Joined(_) => (0, 0),
        }
    }

    /// Reads the configuration and opens the namespaces to join.
    pub fn from_linux(linux: &Linux) -> Result<Self> {
        let mut plan = Self {
            new: 0,
            new_cgroup: false,
            new_time: false,
            time_offsets: String::new(),
            user: UserNamespace::Inherited,
            join: Vec::new(),
            children_elsewhere: children_elsewhere(),
        };
        for namespace in linux.namespaces().iter().flatten() {
            let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
            match (namespace.typ(), path) {
                (LinuxNamespaceType::User, None) => {
                    plan.user = UserNamespace::New {
                        uids: linux.uid_mappings().clone().unwrap_or_default(),
                        gids: linux.gid_mappings().clone().unwrap_or_default(),
                    };
                }
                (LinuxNamespaceType::Cgroup, None) => plan.new_cgroup = true,
                (LinuxNamespaceType::Time, None) => plan.new_time = true,
                (kind, None) => plan.new |= flag(kind),
                (kind, Some(path)) => {
                    let join = open(kind, path.clone())?;
                    match kind {
                        LinuxNamespaceType::User => plan.user = UserNamespace::Joined(join),
                        _ => plan.join.push(join),
                    }
                }
            }
        }
        if let Some(offsets) = linux.time_offsets()
            && plan.new_time
        {
            plan.time_offsets = time_offsets(offsets)?;
        }
        Ok(plan)
    }

    /// True if a namespace of this kind is made for the container.
    pub fn makes(&self, kind: LinuxNamespaceType) -> bool {
        match kind {
            LinuxNamespaceType::User => matches!(self.user, UserNamespace::New { .. }),
            LinuxNamespaceType::Cgroup => self.new_cgroup,
            LinuxNamespaceType::Time => self.new_time,
            kind => self.new & flag(kind) != 0,
        }
    }

    /// True if the container has a namespace of this kind apart from ours: made for it or joined.
    pub fn has(&self, kind: LinuxNamespaceType) -> bool {
        self.makes(kind)
            || match kind {
                LinuxNamespaceType::User => matches!(self.user, UserNamespace::Joined(_)),
                kind => self.join.iter().any(|join| join.kind == kind),
            }
    }

    /// Decides how the first process is made. `privileged`: we may enter any namespace and write any id mapping.
    pub fn route(&self, privileged: bool) -> Route {
        let early_join = self.join.iter().any(|join| join.kind == LinuxNamespaceType::Pid);
        let before_child = early_join || self.new_time || self.children_elsewhere;
        match &self.user {
            UserNamespace::Inherited if before_child => Route::Intermediate { in_user_namespace: false },
            UserNamespace::Inherited => Route::Direct,
            UserNamespace::Joined(_) => Route::Intermediate { in_user_namespace: false },
            // What exists belongs to an outer user namespace: it must be joined before the new one is entered.
            UserNamespace::New { .. } if privileged && (before_child || !self.join.is_empty()) => {
                Route::Intermediate { in_user_namespace: false }
            }
            UserNamespace::New { .. } if !privileged && before_child => {
                Route::Intermediate { in_user_namespace: true }
            }
            UserNamespace::New { .. } => Route::Direct,
        }
    }

    /// Joins the existing namespaces, except that of users.
    pub fn enter(&self) -> Result<()> {
        self.join.iter().try_for_each(Join::enter)
    }

    /// Makes the new time namespace, for children of this process, and sets its clocks.
    pub fn make_time_namespace(&self) -> Result<()> {
        if !self.new_time {
            return Ok(());
        }
        unshare(flag(LinuxNamespaceType::Time)).context(|| "cannot make a time namespace")?;
        if !self.time_offsets.is_empty() {
            std::fs::write("/proc/self/timens_offsets", &self.time_offsets)
                .context(|| "cannot set the offsets of the time namespace")?;
        }
        Ok(())
    }
}

impl Join {
    /// Moves this process into the namespace (for a pid namespace: its future children).
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.fd.as_fd(), None)
            .context(|| format!("cannot join {} namespace '{}'", self.kind, self.path.display()))
    }
}

/// True if this process has chosen another pid namespace for its children: pid_namespaces(7).
pub fn children_elsewhere() -> bool {
    let read = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).ok();
    read("pid") != read("pid_for_children")
}

fn open(kind: LinuxNamespaceType, path: PathBuf) -> Result<Join> {
    let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .or_kind(ErrorKind::InvalidBundle, || format!("cannot open {kind} namespace '{}'", path.display()))?;
    match namespace_type(&fd) {
        Ok(found) if found == flag(kind) => Ok(Join { kind, fd, path }),
        _ => Err(Error::new(
            ErrorKind::InvalidBundle,
            format!("'{}' is not a {kind} namespace", path.display()),
        )),
    }
}

/// The lines of `/proc/PID/timens_offsets` (time_namespaces(7)): clock, seconds, nanoseconds.
fn time_offsets(offsets: &HashMap<String, LinuxTimeOffset>) -> Result<String> {
    let mut lines = String::new();
    for (clock, offset) in offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            crate::bail!(
                InvalidBundle,
                "linux.timeOffsets: clock '{clock}' has no offset in a time namespace"
            );
        }
        let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        lines.push_str(&format!("{clock} {secs} {nanos}\n"));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn plan(namespaces: Value) -> Namespaces {
        let linux: Linux = serde_json::from_value(json!({
            "namespaces": namespaces,
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
            "timeOffsets": {"monotonic": {"secs": 7, "nanosecs": 5}},
        }))
        .unwrap();
        Namespaces::from_linux(&linux).unwrap()
    }

    #[test]
    fn an_ordinary_container_is_made_by_one_clone() {
        let plan = plan(
            json!([{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}, {"type": "uts", "path": ""}]),
        );
        assert_eq!(plan.new, (libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUTS) as u64);
        assert!(plan.new_cgroup && plan.join.is_empty());
        assert_eq!(plan.route(true), Route::Direct);
    }

    #[test]
    fn what_must_happen_before_the_child_exists_takes_an_intermediate_process() {
        let this_pid = json!([{"type": "pid", "path": "/proc/self/ns/pid"}]);
        assert_eq!(plan(this_pid).route(true), Route::Intermediate { in_user_namespace: false });
        let time = plan(json!([{"type": "time"}]));
        assert_eq!(time.time_offsets, "monotonic 7 5\n");
        assert_eq!(time.route(true), Route::Intermediate { in_user_namespace: false });
        let user_time = json!([{"type": "user"}, {"type": "time"}]);
        assert_eq!(plan(user_time).route(false), Route::Intermediate { in_user_namespace: true });
        let user_net = json!([{"type": "user"}, {"type": "network", "path": "/proc/self/ns/net"}]);
        assert_eq!(plan(user_net.clone()).route(true), Route::Intermediate { in_user_namespace: false });
        assert_eq!(plan(user_net).route(false), Route::Direct);
    }

    #[test]
    fn a_namespace_of_another_kind_is_refused() {
        let linux: Linux =
            serde_json::from_value(json!({"namespaces": [{"type": "network", "path": "/proc/self/ns/uts"}]}))
                .unwrap();
        let e = Namespaces::from_linux(&linux).unwrap_err();
        assert_eq!(e.message(), "'/proc/self/ns/uts' is not a net namespace");
    }
}
