//! Mounts by descriptor: made detached, finished while nobody can see them, attached last.

use super::classic;
use super::options::Options;
use super::resolve::file_type;
use crate::platform::sys::mount::{MountAttr, mount_setattr};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, fstatvfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags as Attr, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use std::path::Path;

/// Longest key or value that fsconfig(2) takes, without the final zero; longer ones need mount(2).
const MAX_FSCONFIG: usize = 255;

/// A file system to be mounted.
#[derive(Debug)]
pub(super) struct NewFs<'a> {
    /// Type, as in /proc/filesystems.
    pub(super) kind: &'a str,
    /// What is mounted; shown in mountinfo where it means nothing.
    pub(super) source: &'a str,
    /// Superblock flags by fsconfig(2) name.
    pub(super) flags: &'a [&'static str],
    /// `key=value` or `key`.
    pub(super) data: &'a [String],
    /// Attributes of the mount.
    pub(super) attr: Attr,
}

impl NewFs<'_> {
    /// Whether fsconfig(2) can take it: not when a value is too long or has escapes that only the file system's parser
    /// of mount(2) data undoes.
    pub(super) fn fits_fsconfig(&self) -> bool {
        self.source.len() <= MAX_FSCONFIG
            && self.data.iter().all(|d| {
                let (key, value) = d.split_once('=').unwrap_or((d, ""));
                key.len() <= MAX_FSCONFIG && value.len() <= MAX_FSCONFIG && !d.contains('\\')
            })
    }

    /// Makes the file system, detached.
    pub(super) fn create(&self) -> Result<OwnedFd, Errno> {
        let fs = fsopen(self.kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        if !self.source.is_empty() {
            fsconfig_set_string(fs.as_fd(), "source", self.source)?;
        }
        if self.attr.contains(Attr::MOUNT_ATTR_RDONLY) {
            fsconfig_set_flag(fs.as_fd(), "ro")?;
        }
        // "silent" only asks for fewer kernel messages and has no fsconfig key.
        for flag in self.flags.iter().filter(|f| **f != "silent") {
            fsconfig_set_flag(fs.as_fd(), *flag)?;
        }
        for data in self.data {
            match data.split_once('=') {
                Some((key, value)) => fsconfig_set_string(fs.as_fd(), key, value)?,
                None => fsconfig_set_flag(fs.as_fd(), data.as_str())?,
            }
        }
        fsconfig_create(fs.as_fd())?;
        fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, self.attr)
    }
}

/// A detached copy of the mount at `path`, from there on down; with `recursive` also of the mounts below.
pub(super) fn clone_path(path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    open_tree(CWD, path, tree_flags(recursive))
}

/// A detached copy of the mount that `fd` is open on, from there on down.
pub(super) fn clone_fd(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    open_tree(fd, "", tree_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)
}

fn tree_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// Attaches a detached mount over what `at` is open on; afterwards `tree` is open on the attached mount's root.
pub(super) fn attach(tree: BorrowedFd<'_>, at: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match move_mount(tree, "", at, "", flags) {
        // The kernel says EINVAL here and ENOTDIR in mount(2); callers look for the latter's words.
        Err(Errno::INVAL) if is_dir(tree)? != is_dir(at)? => Err(Errno::NOTDIR),
        other => other,
    }
}

fn is_dir(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(file_type(fd)? == FileType::Directory)
}

/// Sets and clears attributes of one mount.
pub(super) fn change(mount: BorrowedFd<'_>, set: Attr, clear: Attr) -> Result<(), Errno> {
    match mount_setattr(mount, false, &MountAttr { set, clear, ..MountAttr::NONE }) {
        Err(Errno::NOSYS) => classic::change(mount, set, clear),
        other => other,
    }
}

/// Sets the propagation type of a mount, with `recursive` also of those below.
pub(super) fn propagate(
    mount: BorrowedFd<'_>,
    kind: rustix::mount::MountPropagationFlags,
    recursive: bool,
) -> Result<(), Errno> {
    match mount_setattr(mount, recursive, &MountAttr { propagation: Some(kind), ..MountAttr::NONE }) {
        Err(Errno::NOSYS) => classic::propagate(mount, kind, recursive),
        other => other,
    }
}

/// Gives a detached bind mount the attributes and propagation of `options`, and attaches it.
///
/// The attributes come first, so that a read-only mount is never seen writable. Only kernels without mount_setattr(2)
/// need it the other way round, since mount(2) cannot change what is not attached.
pub(super) fn attach_bind(tree: BorrowedFd<'_>, at: BorrowedFd<'_>, options: &Options) -> Result<(), Errno> {
    let detached = mount_setattr(tree, false, &MountAttr::NONE) != Err(Errno::NOSYS);
    if !detached {
        attach(tree, at)?;
    }
    if options.changes_bind() {
        change_bind(tree, options)?;
    }
    finish(tree, options)?;
    if detached { attach(tree, at) } else { Ok(()) }
}

/// Applies the recursive attributes and the propagation of `options`.
pub(super) fn finish(mount: BorrowedFd<'_>, options: &Options) -> Result<(), Errno> {
    if options.has_recursive() {
        let attr = MountAttr { set: options.rec_set, clear: options.rec_clear, ..MountAttr::NONE };
        mount_setattr(mount, true, &attr)?;
    }
    for (kind, recursive) in &options.propagation {
        propagate(mount, *kind, *recursive)?;
    }
    Ok(())
}

fn change_bind(tree: BorrowedFd<'_>, options: &Options) -> Result<(), Errno> {
    let (set, clear) = options.bind_attr();
    match change(tree, set, clear) {
        Err(Errno::PERM) => {}
        other => return other,
    }
    // In a user namespace the source's attributes may be locked. They stay then, but what the
    // configuration clears by name must not be silently kept.
    if source_attr(tree)?.intersects(options.clear) {
        return Err(Errno::PERM);
    }
    let (set, clear) = options.locked_bind_attr();
    change(tree, set, clear)
}

/// The attributes that a mount has, without its access time policy.
pub(super) fn source_attr(mount: BorrowedFd<'_>) -> Result<Attr, Errno> {
    use rustix::fs::StatVfsMountFlags as Vfs;
    let has = fstatvfs(mount)?.f_flag;
    let pairs = [
        (Vfs::RDONLY, Attr::MOUNT_ATTR_RDONLY),
        (Vfs::NOSUID, Attr::MOUNT_ATTR_NOSUID),
        (Vfs::NODEV, Attr::MOUNT_ATTR_NODEV),
        (Vfs::NOEXEC, Attr::MOUNT_ATTR_NOEXEC),
        (Vfs::NODIRATIME, Attr::MOUNT_ATTR_NODIRATIME),
    ];
    Ok(pairs.iter().filter(|(vfs, _)| has.contains(*vfs)).map(|(_, attr)| *attr).collect())
}
