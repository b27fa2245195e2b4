//! Cgroups that systemd manages: a transient scope for each container. The D-Bus talk is libcgroups'.

use super::host::join;
use crate::error::{Error, ErrorKind, Result};
use libcgroups::common::{CgroupManager as _, ControllerOpt};
use libcgroups::systemd::manager::{Manager, PROCESS_IN_CGROUP_TIMEOUT_DURATION};
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The unit of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `SLICE:PREFIX:NAME`.
    path: String,
    /// Container id.
    id: String,
    /// Mount point of cgroup v2.
    mount: PathBuf,
    /// The system's manager, or the user's.
    system: bool,
}

impl Unit {
    /// The unit for a `cgroupsPath`, which may be missing.
    pub fn new(path: Option<&str>, id: &str, mount: &Path, system: bool) -> Result<Self> {
        let default_slice = if system { "system.slice" } else { "user.slice" };
        let path = match path {
            None => format!("{default_slice}:magikrun:{id}"),
            Some(path) => match path.split(':').collect::<Vec<_>>()[..] {
                ["", prefix, name] => format!("{default_slice}:{prefix}:{name}"),
                [_, _, _] => path.to_owned(),
                _ => crate::bail!(
                    InvalidBundle,
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
                ),
            },
        };
        Ok(Self { path, id: id.to_owned(), mount: mount.to_owned(), system })
    }

    /// Its directory. `own` is our own cgroup: a user's manager lives below it.
    pub fn directory(&self, own: &Path) -> Result<PathBuf> {
        let mut parts = self.path.splitn(3, ':');
        let (slice, prefix, name) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let unit = match (name.ends_with(".slice"), prefix) {
            (true, _) => name.to_owned(),
            (false, "") => format!("{name}.scope"),
            (false, prefix) => format!("{prefix}-{name}.scope"),
        };
        let base = if self.system { PathBuf::from("/") } else { user_manager(own) };
        Ok(join(&self.mount, &base).join(expand_slice(slice)?).join(unit))
    }

    fn manager(&self) -> Result<Manager> {
        Manager::new(
            self.mount.clone(),
            PathBuf::from(&self.path),
            self.id.clone(),
            self.system,
            PROCESS_IN_CGROUP_TIMEOUT_DURATION,
        )
        .map_err(|e| error("cannot reach systemd over D-Bus", &e))
    }

    /// Starts the scope with this process in it, or adds it to the scope.
    pub fn add(&self, pid: i32) -> Result<()> {
        self.manager()?
            .add_task(nix_for_libraries::unistd::Pid::from_raw(pid))
            .map_err(|e| error(&format!("unable to start unit for {}", self.path), &e))
    }

    /// Sets the properties of the scope, so that a reload of systemd does not take the limits back.
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        let options =
            ControllerOpt { resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
        self.manager()?
            .apply(&options)
            .map_err(|e| error(&format!("cannot set the properties of unit {}", self.path), &e))
    }

    /// Stops the scope.
    pub fn stop(&self) -> Result<()> {
        self.manager()?.remove().map_err(|e| error(&format!("cannot stop unit {}", self.path), &e))
    }
}

fn error(what: &str, e: &impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::CreateFailed, format!("{what}: {e}"))
}

/// The cgroup of the user's service manager: ours up to and with `user@UID.service`.
fn user_manager(own: &Path) -> PathBuf {
    let mut path = PathBuf::from("/");
    for part in own.components().skip(1) {
        path.push(part);
        if part.as_os_str().to_string_lossy().starts_with("user@") {
            return path;
        }
    }
    own.to_owned()
}

/// systemd.slice(5): `a-b.slice` is `a.slice/a-b.slice`; `-.slice` is the root.
fn expand_slice(slice: &str) -> Result<PathBuf> {
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty() && !name.contains('/'));
    let name =
        name.ok_or_else(|| Error::new(ErrorKind::InvalidBundle, format!("invalid slice name: {slice}")))?;
    let mut path = PathBuf::new();
    if name == "-" {
        return Ok(path);
    }
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            crate::bail!(InvalidBundle, "invalid slice name: {slice}");
        }
        path.push(format!("{prefix}{part}.slice"));
        prefix.push_str(part);
        prefix.push('-');
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(path: Option<&str>, system: bool) -> String {
        let unit = Unit::new(path, "id", Path::new("/c"), system).unwrap();
        let own = "/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope";
        unit.directory(Path::new(own)).unwrap().display().to_string()
    }

    #[test]
    fn a_unit_has_the_directory_that_systemd_gives_it() {
        assert_eq!(directory(None, true), "/c/system.slice/magikrun-id.scope");
        assert_eq!(directory(Some("a-b.slice:libpod:x"), true), "/c/a.slice/a-b.slice/libpod-x.scope");
        assert_eq!(directory(Some("-.slice::x"), true), "/c/x.scope");
        let user = "/c/user.slice/user-1000.slice/user@1000.service";
        assert_eq!(directory(Some(":docker:x"), false), format!("{user}/user.slice/docker-x.scope"));
    }

    #[test]
    fn other_paths_are_refused_in_the_words_of_runc() {
        let e = Unit::new(Some("/a/b"), "id", Path::new("/c"), true).unwrap_err();
        assert!(e.message().starts_with("expected cgroupsPath to be of format \"slice:prefix:name\""), "{e}");
        assert!(expand_slice("a--b.slice").is_err());
    }
}
