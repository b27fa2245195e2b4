//! What the mounts of containers mount: volumes, and paths below them.

use super::Monitor;
use crate::error::{Context as _, Error, Result};
use crate::pod::plan::config::{environment, source_key, sub_path};
use crate::pod::plan::{Propagation, VolumeKind};
use crate::runtime::rootfs::unescape;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

impl Monitor<'_> {
    /// Finds out what each mount of a container mounts. A path below a volume is opened without leaving the volume, and mounted
    /// by its descriptor: a container that has the volume could change the path meanwhile.
    pub(super) fn resolve_sources(&mut self) -> Result<()> {
        for member in &self.members {
            let env = environment(&member.plan, &self.facts);
            for mount in &member.plan.mounts {
                let sub = sub_path(mount.sub_path.as_ref(), &env);
                let key = source_key(mount, &sub);
                let Some(volume) = self.orders.plan.volumes.iter().find(|volume| volume.name == mount.volume)
                else {
                    continue;
                };
                if self.facts.sources.contains_key(&key) || matches!(volume.source, VolumeKind::Image { .. })
                {
                    continue;
                }
                let path = self.place(volume);
                let shared = mount.propagation == Propagation::Both;
                let path = if shared { self.share(&volume.name, &path)? } else { path };
                let source = if sub.is_empty() {
                    path.display().to_string()
                } else {
                    let opened = open_below(&path, &sub).context(|| {
                        format!(
                            "cannot find subPath '{sub}' in volume '{}' of container '{}'",
                            volume.name, member.plan.name
                        )
                    })?;
                    let source = format!("/proc/self/fd/{}", opened.as_raw_fd());
                    self.opened.push(opened);
                    source
                };
                self.facts.sources.insert(key, source);
            }
        }
        Ok(())
    }

    /// A copy of what is mounted at a path of the host, in the pod's mount namespace, that passes on what is mounted below it. What
    /// is seen there otherwise only follows the host.
    fn share(&self, volume: &str, path: &Path) -> Result<PathBuf> {
        let cannot = || format!("cannot share the mounts of volume '{volume}' with the host");
        let at = self.orders.record.running.join("shared").join(volume);
        if at.exists() {
            return Ok(at);
        }
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = self.on_host_mounts(|| open_tree(CWD, path, flags).context(cannot))?;
        std::fs::create_dir_all(&at).context(cannot)?;
        move_mount(&tree, "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context(cannot)?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").context(cannot)?;
        if !is_shared(&mounts, &at) {
            crate::bail!(
                InvalidManifest,
                "{}: '{}' is not on a shared mount (see mount --make-shared)",
                cannot(),
                path.display()
            );
        }
        Ok(at)
    }
}

/// True if the mount at a path is in a group of peers: proc(5), `/proc/PID/mountinfo`.
fn is_shared(mounts: &str, at: &Path) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(4);
        fields.next().is_some_and(|point| unescape(point) == at)
            && fields.skip(1).take_while(|field| *field != "-").any(|field| field.starts_with("shared:"))
    })
}

/// Opens a path below a directory without leaving it; what is missing is made, as directories.
fn open_below(directory: &Path, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| openat2(&root, path, flags, Mode::empty(), resolve);
    match open(Path::new(path)) {
        Err(Errno::NOENT) => {}
        opened => return Ok(opened?),
    }
    let ancestors: Vec<&Path> = Path::new(path).ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
    for ancestor in ancestors.into_iter().rev() {
        if open(ancestor).is_err_and(|e| e == Errno::NOENT) {
            let parent = ancestor.parent().filter(|p| !p.as_os_str().is_empty());
            let parent = parent.map_or_else(|| root.try_clone().map_err(Error::from), |p| Ok(open(p)?))?;
            if let Some(name) = ancestor.file_name() {
                mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
            }
        }
    }
    Ok(open(Path::new(path))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_shared_if_it_has_peers() {
        let mounts = "36 35 98:0 / /a\\040b rw,noatime shared:1 master:2 - ext3 /dev/root rw\n\
                      37 35 98:0 / /c rw,noatime master:2 - ext3 shared:1 rw\n";
        assert!(is_shared(mounts, Path::new("/a b")));
        assert!(!is_shared(mounts, Path::new("/c")) && !is_shared(mounts, Path::new("/a")));
    }

    #[test]
    fn a_path_below_a_volume_never_leaves_it_and_is_made_when_missing() {
        let tmp = tempfile::tempdir().unwrap();
        let volume = tmp.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("..", volume.join("up")).unwrap();
        std::os::unix::fs::symlink("a", volume.join("inside")).unwrap();
        open_below(&volume, "a/b/c").unwrap();
        assert!(volume.join("a/b/c").is_dir());
        open_below(&volume, "inside/b/d").unwrap();
        assert!(volume.join("a/b/d").is_dir());
        for path in ["out", "out/passwd", "up/x", "a/../../x"] {
            assert!(open_below(&volume, path).is_err(), "{path}");
        }
        assert!(!tmp.path().join("x").exists());
    }
}
