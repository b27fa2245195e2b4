//! mount(2), for what the calls by descriptor cannot do: option strings longer than fsconfig(2) takes, remounts, and kernels
//! before 5.12. It knows only paths, so it gets `/proc/self/fd/N` of a descriptor, on a verified procfs.

use super::attach::NewFs;
use crate::runtime::procfs;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{StatVfsMountFlags as Vfs, fstatvfs};
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags as Attr, MountFlags, MountPropagationFlags, mount, mount_change, mount_remount,
};
use std::ffi::CString;

/// Mounts a file system over what `at` is open on. `at` stays open on what is below.
pub(super) fn mount_fs(fs: &NewFs<'_>, at: BorrowedFd<'_>) -> Result<(), Errno> {
    let data = CString::new(fs.data.join(",")).map_err(|_| Errno::INVAL)?;
    let flags = attr_flags(fs.attr) | super_flags(fs.flags);
    mount(fs.source, path(at)?, fs.kind, flags, data.as_c_str())
}

/// Remounts the file system whose mount `at` is open on, with its superblock's flags and options.
pub(super) fn remount_fs(fs: &NewFs<'_>, at: BorrowedFd<'_>) -> Result<(), Errno> {
    mount_remount(path(at)?, attr_flags(fs.attr) | super_flags(fs.flags), fs.data.join(","))
}

/// Changes attributes of an attached mount; its other attributes stay.
pub(super) fn change(mount: BorrowedFd<'_>, set: Attr, clear: Attr) -> Result<(), Errno> {
    let mut flags = attr_flags(set);
    let has = fstatvfs(mount)?.f_flag;
    for (vfs, attr, flag) in KEPT {
        if has.contains(*vfs) && !clear.contains(*attr) {
            flags |= *flag;
        }
    }
    if set.intersects(Attr::MOUNT_ATTR__ATIME) {
        flags = (flags - ATIME) | (attr_flags(set) & ATIME);
    }
    mount_remount(path(mount)?, flags | MountFlags::BIND, "")
}

/// Changes the propagation type of an attached mount.
pub(super) fn propagate(
    mount: BorrowedFd<'_>,
    kind: MountPropagationFlags,
    recursive: bool,
) -> Result<(), Errno> {
    let rec = if recursive { MountPropagationFlags::REC } else { MountPropagationFlags::empty() };
    mount_change(path(mount)?, kind | rec)
}

const ATIME: MountFlags = MountFlags::NOATIME.union(MountFlags::RELATIME).union(MountFlags::STRICTATIME);

/// Attributes of a mount that a remount would drop if it did not repeat them.
const KEPT: &[(Vfs, Attr, MountFlags)] = &[
    (Vfs::RDONLY, Attr::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
    (Vfs::NOSUID, Attr::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
    (Vfs::NODEV, Attr::MOUNT_ATTR_NODEV, MountFlags::NODEV),
    (Vfs::NOEXEC, Attr::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
    (Vfs::NOATIME, Attr::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
    (Vfs::NODIRATIME, Attr::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
    (Vfs::RELATIME, Attr::MOUNT_ATTR__ATIME, MountFlags::RELATIME),
];

fn attr_flags(attr: Attr) -> MountFlags {
    let pairs = [
        (Attr::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (Attr::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (Attr::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (Attr::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
        (Attr::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
        (Attr::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
        (Attr::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
        (Attr::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    ];
    pairs.iter().filter(|(a, _)| attr.contains(*a)).map(|(_, flag)| *flag).collect()
}

/// Flags of linux/mount.h that rustix does not name: `MS_POSIXACL` and `MS_I_VERSION`.
const POSIXACL: MountFlags = MountFlags::from_bits_retain(1 << 16);
const I_VERSION: MountFlags = MountFlags::from_bits_retain(1 << 23);

fn super_flags(names: &[&'static str]) -> MountFlags {
    let flag = |name: &&'static str| match *name {
        "acl" => POSIXACL,
        "dirsync" => MountFlags::DIRSYNC,
        "iversion" => I_VERSION,
        "lazytime" => MountFlags::LAZYTIME,
        "mand" => MountFlags::PERMIT_MANDATORY_FILE_LOCKING,
        "silent" => MountFlags::SILENT,
        "sync" => MountFlags::SYNCHRONOUS,
        _ => MountFlags::empty(),
    };
    names.iter().map(flag).collect()
}

fn path(fd: impl AsFd) -> Result<String, Errno> {
    procfs::path_of(fd).map_err(|e| e.errno().map_or(Errno::NOSYS, Errno::from_raw_os_error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_and_superblock_flags_become_the_flags_of_mount() {
        let attr = Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NODEV;
        assert_eq!(attr_flags(attr), MountFlags::RDONLY | MountFlags::NODEV);
        assert_eq!(attr_flags(Attr::MOUNT_ATTR_RELATIME), MountFlags::empty());
        assert_eq!(super_flags(&["sync", "iversion"]), MountFlags::SYNCHRONOUS | I_VERSION);
    }
}
