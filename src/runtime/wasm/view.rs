//! The file system as a module sees it: that of its container without procfs, sysfs and their like.
//!
//! A path into procfs would be a way out of the sandbox: through `/proc/self/mem` a program can change its own engine. So a
//! module gets a directory of a further mount namespace, a copy of the container's in which these file systems are covered.
//! The process itself stays in the container's namespace, which later processes join.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::security;
use crate::runtime::procfs;
use rustix::fs::{CWD, Mode, OFlags, open, openat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_change, mount_remount, open_tree,
};
use rustix::process::{chroot, fchdir};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::CStr;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// Types of file systems that show the kernel or other processes.
const KERNEL: [&str; 17] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "mqueue",
    "devpts",
    "debugfs",
    "tracefs",
    "securityfs",
    "configfs",
    "bpf",
    "fusectl",
    "pstore",
    "efivarfs",
    "binfmt_misc",
    "selinuxfs",
    "nsfs",
];

/// Whether a type of file systems shows the kernel or other processes: a module must not see it.
pub fn shows_kernel(kind: &str) -> bool {
    KERNEL.contains(&kind)
}

/// Options of a place for mount points: one for each of as many containers as a state root may have, and no files.
const PLACE: &CStr = c"size=4k,nr_inodes=1100,mode=755";

/// The host's procfs, opened while it can still be seen.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

/// The view of a module.
#[derive(Debug)]
pub struct View {
    /// Its root directory.
    pub root: OwnedFd,
    /// The namespace that `root` is in: its mounts are there as long as somebody holds it.
    pub namespace: OwnedFd,
}

impl Procfs {
    /// Opens `/proc`; before the container's root is entered.
    pub fn open() -> Result<Self> {
        procfs::open_verified().map(Self)
    }

    fn file(&self, path: &str) -> Result<OwnedFd> {
        openat(&self.0, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .context(|| format!("cannot open '/proc/{path}'"))
    }

    /// Opens a file of this process once more, with other flags.
    pub fn reopen(&self, fd: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        openat(&self.0, format!("self/fd/{}", fd.as_raw_fd()), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// What is mounted for this process.
    pub fn mountinfo(&self) -> Result<String> {
        let mut text = String::new();
        std::fs::File::from(self.file("self/mountinfo")?)
            .read_to_string(&mut text)
            .context(|| "cannot read mountinfo")?;
        Ok(text)
    }
}

impl View {
    /// Makes the view of the root that this process is in. The directory `place` is hidden too: whoever enters the view's namespace can
    /// make mount points there. It needs the privilege to mount in the container's namespace.
    pub fn open(procfs: &Procfs, place: Option<&str>) -> Result<Self> {
        within(procfs, place, || Ok(Self { root: directory("/")?, namespace: procfs.file("self/ns/mnt")? }))
    }

    /// The same, as a tree of detached mounts that can be mounted elsewhere.
    pub fn tree(procfs: &Procfs, place: Option<&str>) -> Result<OwnedFd> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        within(procfs, place, || open_tree(CWD, "/", flags).context(|| "cannot copy the mounts of the view"))
    }
}

/// Does something in a copy of this process's mount namespace in which is covered what a view has not got.
fn within<T>(procfs: &Procfs, place: Option<&str>, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = procfs.file("self/ns/mnt")?;
    let root = directory("/")?;
    security::unshare(libc::CLONE_NEWNS as u64).context(|| "cannot make a mount namespace")?;
    let done = cover_all(procfs, place).and_then(|()| act());
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Mount))
        .context(|| "cannot return to the mount namespace of the container")?;
    // Joining a namespace leads to its root, which is not ours where that was entered by chroot(2).
    fchdir(&root).and_then(|()| chroot(".")).context(|| "cannot return to the root of the container")?;
    done
}

fn cover_all(procfs: &Procfs, place: Option<&str>) -> Result<()> {
    // Before anything is mounted: it must not appear elsewhere.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context(|| "cannot keep the mounts of the view apart")?;
    for path in kernel_mounts(&procfs.mountinfo()?) {
        cover(&path).context(|| format!("cannot hide '{}'", path.display()))?;
    }
    place.map_or(Ok(()), |path| make_place(path).context(|| format!("cannot hide '{path}'")))
}

fn directory(path: &str) -> Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("cannot open '{path}'"))
}

/// Mounts an empty directory over a directory, and an empty file over a file.
fn cover(path: &Path) -> Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if path.is_dir() {
        return Ok(mount("tmpfs", path, "tmpfs", flags, Some(c"size=4k,nr_inodes=1,mode=555"))?);
    }
    match rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(e) => Err(Error::from(e).with_kind(ErrorKind::CreateFailed)),
    }
}

/// Mounts an empty directory with room for mount points over a directory. The mount is read-only, and the file system is not.
fn make_place(path: &str) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", path, "tmpfs", flags, Some(PLACE))?;
    Ok(mount_remount(path, flags | MountFlags::BIND | MountFlags::RDONLY, c"")?)
}

/// The outermost mount points of file systems that a module must not see.
pub fn kernel_mounts(mountinfo: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, fs)) = line.split_once(" - ") else { continue };
        let Some(point) = mount.split(' ').nth(4).map(crate::runtime::rootfs::unescape) else { continue };
        let kind = fs.split(' ').next().unwrap_or_default();
        if shows_kernel(kind) && !found.iter().any(|above| point.starts_with(above)) {
            found.push(point);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_the_kernel_is_found_wherever_it_is_mounted() {
        let mountinfo = "\
23 1 0:21 / / rw - overlay overlay rw
24 23 0:22 / /proc rw - proc proc rw
25 24 0:22 /sys /proc/sys ro - proc proc rw
26 24 0:30 /null /proc/kcore rw - tmpfs tmpfs rw
27 23 0:23 / /sys ro - sysfs sysfs rw
28 27 0:24 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw
29 23 0:25 / /dev rw - tmpfs tmpfs rw
30 29 0:26 / /dev/pts rw - devpts devpts rw
31 23 8:1 / /data rw shared:5 - ext4 /dev/sda1 rw
32 31 0:4 / /data/a\\040b/proc rw - proc proc rw
";
        let found = kernel_mounts(mountinfo);
        let expected = ["/proc", "/sys", "/dev/pts", "/data/a b/proc"];
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
