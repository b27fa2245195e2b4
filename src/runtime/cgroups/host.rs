//! What cgroup hierarchies this host has mounted, and where we are in them.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::small_file;
use std::path::{Component, Path, PathBuf};

/// Version of a hierarchy's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// One or some controllers.
    V1,
    /// The unified hierarchy.
    V2,
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Version.
    pub version: Version,
    /// v1: its controllers, as in `cpu` and `name=systemd`.
    pub controllers: Vec<String>,
    /// Mount point.
    pub point: PathBuf,
    /// Our own cgroup in it, as a path below the mount point, absolute.
    pub own: PathBuf,
}

/// Finds the mounted hierarchies: v1 in mount order, then v2.
pub fn mounts() -> Result<Vec<Mount>> {
    let read = |path: &str| small_file::read(path).context(|| format!("cannot read '{path}'"));
    let mounts = parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
    if mounts.is_empty() {
        return Err(Error::new(
            ErrorKind::NotSupported,
            "no cgroup hierarchy is mounted (mount -t cgroup2 none /sys/fs/cgroup, or use --cgroup-manager disabled)",
        ));
    }
    Ok(mounts)
}

/// Parses proc(5) mountinfo and cgroups(7) `/proc/PID/cgroup`.
fn parse(mountinfo: &str, cgroup: &str) -> Vec<Mount> {
    let mut found: Vec<Mount> = Vec::new();
    for line in mountinfo.lines() {
        let Some((fields, fs)) = line.split_once(" - ") else { continue };
        let mut fs = fs.split(' ');
        let version = match fs.next() {
            Some("cgroup") => Version::V1,
            Some("cgroup2") => Version::V2,
            _ => continue,
        };
        let mut fields = fields.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
        let options = fs.nth(1).unwrap_or_default();
        let Some((controllers, path)) = own_line(cgroup, version, options) else { continue };
        let mount = Mount { version, controllers, point: point.into(), own: below(path, root) };
        let same = |other: &Mount| other.version == version && other.controllers == mount.controllers;
        // Of several mounts of one hierarchy the topmost in the usual place is meant; a later one hides it only when it
        // has the same place.
        match found.iter().position(same) {
            Some(at) if found[at].point == mount.point => found[at] = mount,
            Some(_) => {}
            None => found.push(mount),
        }
    }
    found.sort_by_key(|mount| mount.version == Version::V2);
    found
}

/// The line of `/proc/PID/cgroup` that belongs to a hierarchy with these superblock options.
fn own_line<'a>(cgroup: &'a str, version: Version, options: &str) -> Option<(Vec<String>, &'a str)> {
    let options: Vec<&str> = options.split(',').collect();
    cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        match version {
            Version::V2 => (number == "0" && names.is_empty()).then(|| (Vec::new(), path)),
            Version::V1 => {
                let names: Vec<String> = names.split(',').map(str::to_owned).collect();
                names.iter().all(|name| options.contains(&name.as_str())).then_some((names, path))
            }
        }
    })
}

/// `path` as seen below a mount whose root is `root`; what lies outside counts as the mount's root.
fn below(path: &str, root: &str) -> PathBuf {
    let inside = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    clean(inside)
}

/// Absolute, without `.` and with `..` resolved by text: a cgroup path never leaves its hierarchy.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// Joins an absolute cgroup path to a directory.
pub fn join(directory: &Path, path: &Path) -> PathBuf {
    let path = clean(path);
    let relative = path.strip_prefix("/").unwrap_or(&path);
    if relative.as_os_str().is_empty() { directory.to_owned() } else { directory.join(relative) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const OWN: &str = "5:cpu,cpuacct:/a\n4:memory:/docker/x/y\n9:name=systemd:/\n0::/u\n";

    #[test]
    fn a_hybrid_layout_is_understood() {
        let mounts = parse(HYBRID, OWN);
        let shown: Vec<_> = mounts
            .iter()
            .map(|m| (m.controllers.join(","), m.point.to_str().unwrap(), m.own.to_str().unwrap()))
            .collect();
        assert_eq!(
            shown,
            [
                ("cpu,cpuacct".to_owned(), "/sys/fs/cgroup/cpu,cpuacct", "/a"),
                ("memory".to_owned(), "/sys/fs/cgroup/memory", "/y"),
                ("name=systemd".to_owned(), "/sys/fs/cgroup/systemd", "/"),
                (String::new(), "/sys/fs/cgroup/unified", "/u"),
            ]
        );
        assert_eq!(mounts.last().unwrap().version, Version::V2);
    }

    #[test]
    fn a_cgroup_path_cannot_leave_its_hierarchy() {
        assert_eq!(join(Path::new("/m"), Path::new("/../../etc")), Path::new("/m/etc"));
        assert_eq!(join(Path::new("/m"), Path::new("/")), Path::new("/m"));
    }
}
