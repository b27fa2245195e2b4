//! A container's directory in one hierarchy.

use super::fs;
use super::host::{Mount, Version, clean, join};
use crate::error::{Context as _, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A container's directory in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Interface.
    pub version: Version,
    /// v1: the controllers of the hierarchy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    /// Mount point of the hierarchy.
    pub mount: PathBuf,
    /// The directory.
    pub directory: PathBuf,
}

impl Place {
    /// True if this hierarchy has the v1 controller.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// True if systemd alone makes cgroups in this hierarchy: it has no controllers, or is v2.
    pub fn is_of_systemd(&self) -> bool {
        self.version == Version::V2 || self.has("name=systemd")
    }
}

/// Where a container's cgroup is in a hierarchy.
pub fn place(mount: Mount, path: Option<&Path>, id: &str, unified_only: bool) -> Place {
    let directory = match path {
        Some(path) if path.is_absolute() => join(&mount.point, path),
        relative => {
            let name = relative.unwrap_or(Path::new(id));
            // A cgroup with processes and children cannot have controllers, so ours is no place for them.
            let base = if unified_only { mount.own.parent().unwrap_or(&mount.own) } else { &mount.own };
            join(&join(&mount.point, base), &clean(name))
        }
    };
    Place { version: mount.version, controllers: mount.controllers, mount: mount.point, directory }
}

impl Place {
    /// Makes the directory, and its missing ancestors with all controllers on the way. Returns whether it was made now.
    pub fn create(&self) -> Result<bool> {
        let made = self.version == Version::V2 && std::fs::create_dir(&self.directory).is_ok();
        // Nearly always the ancestors have made all controllers available already: two files tell.
        if made && self.has_all_controllers() {
            return Ok(true);
        }
        let rest = fs::create(&self.mount, &self.directory, |directory| self.prepare(directory));
        if rest.is_err() && made {
            fs::try_remove(&self.directory);
        }
        rest.map(|made_now| made || made_now)
    }

    /// v2: whether everything that the hierarchy has is available in the directory.
    fn has_all_controllers(&self) -> bool {
        let read = |directory: &Path| fs::read(&directory.join("cgroup.controllers")).ok();
        let (Some(all), Some(here)) = (read(&self.mount), read(&self.directory)) else { return false };
        all.split(' ').all(|name| here.split(' ').any(|there| there == name))
    }

    /// Gives a new directory what its children need: processors and memory nodes on v1, controllers on v2.
    pub fn prepare(&self, directory: &Path) -> Result<()> {
        match self.version {
            Version::V1 if self.has("cpuset") => self.inherit_cpuset(directory),
            Version::V1 => Ok(()),
            Version::V2 => {
                self.enable_controllers(directory);
                Ok(())
            }
        }
    }

    fn inherit_cpuset(&self, directory: &Path) -> Result<()> {
        let (Some(parent), true) = (directory.parent(), directory != self.mount) else { return Ok(()) };
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let path = directory.join(file);
            if fs::read(&path)?.is_empty() {
                fs::write(&path, &fs::read(&parent.join(file))?)?;
            }
        }
        Ok(())
    }

    /// Makes all controllers of a directory available below it. One that cannot be is missed when it is needed.
    fn enable_controllers(&self, directory: &Path) {
        if directory == self.directory {
            return;
        }
        let read = |file: &str| fs::read(&directory.join(file)).unwrap_or_default();
        let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
        let missing: Vec<String> = available
            .split(' ')
            .filter(|name| !name.is_empty() && !enabled.split(' ').any(|there| there == *name))
            .map(|name| format!("+{name}"))
            .collect();
        let file = directory.join("cgroup.subtree_control");
        if missing.is_empty() || fs::write(&file, &missing.join(" ")).is_ok() {
            return;
        }
        for name in missing {
            let _ = fs::write(&file, &name);
        }
    }

    pub fn check_unused(&self) -> Result<()> {
        let processes = fs::processes(&self.directory)?.len();
        if processes > 0 {
            crate::bail!(CreateFailed, "container's cgroup is not empty: {processes} process(es) found");
        }
        let frozen = match self.version {
            Version::V1 if self.has("freezer") => {
                fs::read(&self.directory.join("freezer.state"))? != "THAWED"
            }
            Version::V1 => false,
            Version::V2 => fs::read(&self.directory.join("cgroup.freeze"))? == "1",
        };
        if frozen {
            crate::bail!(CreateFailed, "container's cgroup unexpectedly frozen");
        }
        Ok(())
    }

    /// The directory in which a process is.
    pub fn of_process(&self, pid: i32) -> Result<PathBuf> {
        let path = format!("/proc/{pid}/cgroup");
        let text = std::fs::read_to_string(&path).context(|| format!("cannot read '{path}'"))?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::"));
        let own =
            own.ok_or_else(|| Error::new(ErrorKind::System, format!("'{path}' has no line for cgroup v2")))?;
        Ok(join(&self.mount, Path::new(own)))
    }
}

/// A sub-cgroup of `exec --cgroup`.
#[derive(Debug, PartialEq, Eq)]
pub struct SubCgroup {
    /// Hierarchies that it is for; all, if none is named.
    pub controllers: Option<Vec<String>>,
    /// Below the container's own.
    pub path: PathBuf,
}

/// Reads the arguments of `exec --cgroup`, each `[CONTROLLER,...:]PATH`.
pub fn sub_paths(arguments: &[String]) -> Result<Vec<SubCgroup>> {
    arguments
        .iter()
        .map(|argument| {
            let (controllers, path) = match argument.split_once(':') {
                Some((names, path)) => (Some(names.split(',').map(str::to_owned).collect()), path),
                None => (None, argument.as_str()),
            };
            let path = Path::new(path);
            if path.components().any(|part| part == std::path::Component::ParentDir) {
                crate::bail!(Usage, "bad sub cgroup path: {argument}");
            }
            Ok(SubCgroup { controllers, path: clean(path) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(version: Version, controllers: &[&str], own: &str) -> Mount {
        let point = format!("/c/{}", controllers.join(","));
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Mount { version, controllers, point: point.into(), own: own.into() }
    }

    fn directory(mount: Mount, path: Option<&str>, unified_only: bool) -> PathBuf {
        place(mount, path.map(Path::new), "id", unified_only).directory
    }

    #[test]
    fn the_place_follows_the_rules_of_runc() {
        let memory = || mount(Version::V1, &["memory"], "/own");
        let unified = || mount(Version::V2, &[], "/a/own");
        assert_eq!(directory(memory(), Some("/x/y"), false), Path::new("/c/memory/x/y"));
        assert_eq!(directory(memory(), None, false), Path::new("/c/memory/own/id"));
        assert_eq!(directory(memory(), Some("../../x"), false), Path::new("/c/memory/own/x"));
        assert_eq!(directory(unified(), None, true), Path::new("/c/a/id"));
        assert_eq!(directory(unified(), Some("/x"), true), Path::new("/c/x"));
    }

    #[test]
    fn sub_cgroups_stay_inside() {
        let subs = sub_paths(&["cpu,memory:a".to_owned(), "/b".to_owned()]).unwrap();
        assert_eq!(subs[0].controllers.as_deref().unwrap(), ["cpu", "memory"]);
        assert_eq!((&subs[1].controllers, subs[1].path.as_path()), (&None, Path::new("/b")));
        assert!(sub_paths(&["../x".to_owned()]).is_err());
    }
}
