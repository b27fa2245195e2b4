//! Cgroups that systemd manages: a transient scope, or slice, for each container.

mod annotation;
mod bus;
mod property;

pub use annotation::properties as properties_of_annotations;
pub use property::Property;

use super::host::{Version, join};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::procfs;
use bus::Bus;
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
    /// The system's manager, or the user's.
    system: bool,
    /// What the caller wants of it; needed only when it is made.
    #[serde(skip)]
    wanted: Vec<Property>,
}

impl Unit {
    /// The unit for a `cgroupsPath`, which may be missing.
    pub fn new(path: Option<&str>, id: &str, system: bool, wanted: Vec<Property>) -> Result<Self> {
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
        Ok(Self { path, id: id.to_owned(), system, wanted })
    }

    /// The slice that it is in, and its name.
    fn names(&self) -> (&str, String) {
        let mut parts = self.path.splitn(3, ':').map(str::trim);
        let slice = parts.next().unwrap_or_default();
        let (prefix, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let unit = match (name.ends_with(".slice"), prefix) {
            (true, _) => name.to_owned(),
            (false, "") => format!("{name}.scope"),
            (false, prefix) => format!("{prefix}-{name}.scope"),
        };
        (slice, unit)
    }

    /// The cgroup of the manager, below which that of the unit is.
    pub fn base(&self) -> Result<PathBuf> {
        if self.system { Ok(PathBuf::from("/")) } else { Bus::connect(false)?.control_group() }
    }

    /// Its directory in a hierarchy mounted at `mount`.
    pub fn directory(&self, mount: &Path, base: &Path) -> Result<PathBuf> {
        let (slice, unit) = self.names();
        Ok(join(mount, base).join(expand_slice(slice)?).join(unit))
    }

    /// True for a slice, which is made without processes.
    pub fn is_slice(&self) -> bool {
        self.path.trim_end().ends_with(".slice")
    }

    /// Makes the unit, with this process in it if it is a scope.
    pub fn start(&self, pid: Option<i32>, version: Version) -> Result<()> {
        let (slice, unit) = self.names();
        let mut properties = property::of_unit(&self.id, slice, &unit, pid, version)?;
        properties.retain(|property| self.wanted.iter().all(|wanted| wanted.name != property.name));
        properties.extend(self.wanted.iter().cloned());
        Bus::connect(self.system)?.start(&unit, &properties)
    }

    /// Moves a further process in, where the kernel lets only the user's manager. 0 is this process, by the number that `/proc` has for it.
    pub fn attach(&self, pid: i32) -> Result<()> {
        let pid = if pid == 0 { procfs::own_pid()? } else { pid };
        Bus::connect(self.system)?.attach(&self.names().1, pid)
    }

    /// True if the manager is the user's.
    pub fn is_of_user(&self) -> bool {
        !self.system
    }

    /// Sets the properties of the unit, so that a reload of systemd does not take the limits back.
    pub fn apply(&self, resources: &LinuxResources, version: Version) -> Result<()> {
        let properties = property::of_resources(resources, version)?;
        if properties.is_empty() {
            return Ok(());
        }
        Bus::connect(self.system)?.set(&self.names().1, &properties)
    }

    /// Stops the unit.
    pub fn stop(&self) -> Result<()> {
        Bus::connect(self.system)?.stop(&self.names().1)
    }
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
        let unit = Unit::new(path, "id", system, Vec::new()).unwrap();
        let base = if system { "/" } else { "/user.slice/user-1000.slice/user@1000.service" };
        unit.directory(Path::new("/c"), Path::new(base)).unwrap().display().to_string()
    }

    #[test]
    fn a_unit_has_the_directory_that_systemd_gives_it() {
        assert_eq!(directory(None, true), "/c/system.slice/magikrun-id.scope");
        assert_eq!(directory(Some("a-b.slice:libpod:x"), true), "/c/a.slice/a-b.slice/libpod-x.scope");
        assert_eq!(directory(Some("-.slice::x"), true), "/c/x.scope");
        assert_eq!(directory(Some("a.slice::a-b.slice"), true), "/c/a.slice/a-b.slice");
        let user = "/c/user.slice/user-1000.slice/user@1000.service";
        assert_eq!(directory(Some(":docker:x"), false), format!("{user}/user.slice/docker-x.scope"));
    }

    #[test]
    fn other_paths_are_refused_in_the_words_of_runc() {
        let e = Unit::new(Some("/a/b"), "id", true, Vec::new()).unwrap_err();
        assert!(e.message().starts_with("expected cgroupsPath to be of format \"slice:prefix:name\""), "{e}");
        assert!(expand_slice("a--b.slice").is_err());
    }
}
