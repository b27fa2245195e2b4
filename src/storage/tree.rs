//! Directories with everything in them.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::userns::IdMappings;
use crate::platform::worker;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, openat, unlinkat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Removes a directory with everything in it, also what belongs to ids that are lent to this user; one that is not there is
/// no error.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match remove_here(path) {
        // As root of a user namespace that has those ids.
        Err(_) if !rustix::process::geteuid().is_root() => {
            worker::run(Some(&IdMappings::of_user()), || remove_here(path))
        }
        removed => removed,
    };
    removed.or_kind(ErrorKind::Storage, || format!("cannot remove '{}'", path.display()))
}

fn remove_here(path: &Path) -> Result<()> {
    let name = path.file_name().ok_or_else(|| Error::from_errno(libc::EINVAL))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(()),
        parent => remove_at(parent?.as_fd(), name.as_encoded_bytes()),
    }
}

/// A directory on the way to the one that is being emptied.
struct Level {
    name: Vec<u8>,
    /// Device and inode of the directory above it.
    above: (u64, u64),
    /// Directories in it that are still there.
    left: Vec<Vec<u8>>,
}

/// Removes a name in an open directory, with everything below it; one that is not there is no error.
///
/// No link is followed. It takes two descriptors, however deep the tree is, since a layer of an image may be as deep as it
/// likes. Nobody may move directories of the tree meanwhile: that is found, and ends it.
pub fn remove_at(at: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let mut current = open_directory(at, name)?;
    let mut levels = vec![Level { name: name.to_vec(), above: identity(at)?, left: unlink_all(&current)? }];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.left.pop() {
            let above = identity(&current)?;
            current = open_directory(&current, &name)?;
            let left = unlink_all(&current)?;
            levels.push(Level { name, above, left });
            continue;
        }
        let (name, expected) = (std::mem::take(&mut level.name), level.above);
        levels.pop();
        let above = open_directory(&current, b"..")?;
        if identity(&above)? != expected {
            crate::bail!(Storage, "a directory was moved while it was removed");
        }
        unlinkat(&above, name, AtFlags::REMOVEDIR)?;
        current = above;
    }
    Ok(())
}

/// Removes everything in a directory that is none itself. Answers the names of those that are.
fn unlink_all(directory: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if matches!(name.as_slice(), b"." | b"..") {
            continue;
        }
        match unlinkat(directory, name.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => directories.push(name),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(directories)
}

fn identity(fd: impl AsFd) -> Result<(u64, u64)> {
    let stat = fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Opens a directory in another, to be read. A link is not followed.
pub fn open_directory(at: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_removed_however_deep_it_is_and_links_are_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let (outside, top) = (tmp.path().join("outside"), tmp.path().join("top"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::write(top.join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, top.join("a/b/link")).unwrap();
        // More levels than a process may have descriptors.
        let mut current = open_directory(rustix::fs::CWD, top.as_os_str().as_encoded_bytes()).unwrap();
        for _ in 0..25_000 {
            rustix::fs::mkdirat(&current, "d", Mode::RWXU).unwrap();
            current = open_directory(&current, b"d").unwrap();
        }
        remove(&top).unwrap();
        assert!(!top.exists());
        assert!(outside.join("kept").exists());
        remove(&top).unwrap();
        remove(&outside.join("kept")).unwrap();
        remove(&tmp.path().join("nothing/below")).unwrap();
    }
}
