//! Paths of the container, resolved inside its root file system to descriptors.
//!
//! The image, and a running container that shares a volume, can put symbolic links anywhere and exchange them at any
//! moment (CVE-2019-16884, CVE-2021-30465). So no path is handed to the kernel twice: [`locate`] turns it into a
//! descriptor once, and everything else (creating, mounting, asking) goes by that descriptor.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

/// Most symbolic links in one path: the kernel's `MAXSYMLINKS`.
const MAX_LINKS: usize = 40;

/// Mode of directories that are made as mount points, as in runc.
const DIR_MODE: Mode = Mode::from_raw_mode(0o755);

/// Descriptors that only name a file: nothing is opened for reading, so devices and fifos do nothing.
pub(super) const NAME_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Where a path leads inside a root: the deepest thing that exists, and the names that are missing below it.
#[derive(Debug)]
pub(super) struct Spot {
    fd: OwnedFd,
    path: PathBuf,
    missing: Vec<OsString>,
}

/// Resolves `path` inside `root`; symbolic links, absolute ones and `..` too, never leave it.
pub(super) fn locate(root: BorrowedFd<'_>, path: &Path) -> Result<Spot, Errno> {
    let dots = path.components().any(|c| c == Component::ParentDir);
    if !dots {
        // Nearly always nothing is missing and nothing is a link: one system call, and the path as
        // written is the path as resolved.
        let clean = clean(path);
        if let Ok(fd) = open_plain(root, &clean) {
            return Ok(Spot { fd, path: clean, missing: Vec::new() });
        }
    }
    Walk { root, stack: Vec::new(), missing: Vec::new() }.run(path)
}

/// Opens `path` inside `root`, which must have no symbolic link anywhere.
fn open_plain(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    openat2(
        root,
        relative,
        NAME_ONLY,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// `path` made absolute, without `.`, `..` and doubled slashes, by its text alone.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// What kind of file a descriptor is open on.
pub(super) fn file_type(fd: impl AsFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode))
}

impl Spot {
    /// The resolved path, absolute, as seen from inside the root.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor, if the whole path exists.
    pub(super) fn existing(&self) -> Option<BorrowedFd<'_>> {
        self.missing.is_empty().then(|| self.fd.as_fd())
    }

    /// The descriptor; directories that are missing are made.
    pub(super) fn or_create_dir(self) -> Result<OwnedFd, Errno> {
        make_dirs(self.fd, &self.missing)
    }

    /// The descriptor; when missing, an empty file is made, and the directories above it.
    pub(super) fn or_create_file(self) -> Result<OwnedFd, Errno> {
        let Some((name, dirs)) = self.missing.split_last() else { return Ok(self.fd) };
        let dir = make_dirs(self.fd, dirs)?;
        create_file(dir.as_fd(), name, DIR_MODE)
    }
}

/// Makes an empty file, or opens the one that is there; a symbolic link is refused (`ELOOP`).
pub(super) fn create_file(dir: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, name, flags, mode) {
        Err(Errno::EXIST) => {
            let fd = openat(dir, name, NAME_ONLY | OFlags::NOFOLLOW, Mode::empty())?;
            if file_type(&fd)? == FileType::Symlink { Err(Errno::LOOP) } else { Ok(fd) }
        }
        other => other,
    }
}

fn make_dirs(mut dir: OwnedFd, names: &[OsString]) -> Result<OwnedFd, Errno> {
    for name in names {
        match mkdirat(&dir, name, DIR_MODE) {
            // Somebody was faster: a directory is as good as ours, anything else fails to open below.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        dir = openat(&dir, name, NAME_ONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(dir)
}

/// The walk in user space: one component at a time, each opened without following it. `..` returns to the descriptor
/// that was passed before, so no rename can lead outside.
struct Walk<'a> {
    root: BorrowedFd<'a>,
    stack: Vec<(OwnedFd, OsString)>,
    missing: Vec<OsString>,
}

impl Walk<'_> {
    fn run(mut self, path: &Path) -> Result<Spot, Errno> {
        let mut todo = Vec::new();
        push_components(&mut todo, path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                if self.missing.pop().is_none() {
                    self.stack.pop();
                }
            } else if !self.missing.is_empty() {
                self.missing.push(name);
            } else if let Some(target) = self.enter(name)? {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                if target.is_absolute() {
                    self.stack.clear();
                }
                push_components(&mut todo, &target);
            }
        }
        self.finish()
    }

    /// Goes one component down; a symbolic link returns its target instead.
    fn enter(&mut self, name: OsString) -> Result<Option<PathBuf>, Errno> {
        let here = self.stack.last().map_or(self.root, |(fd, _)| fd.as_fd());
        let fd = match openat(here, &name, NAME_ONLY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                self.missing.push(name);
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        if file_type(&fd)? == FileType::Symlink {
            let target = readlinkat(&fd, "", Vec::new())?;
            return Ok(Some(PathBuf::from(OsString::from_vec(target.into_bytes()))));
        }
        self.stack.push((fd, name));
        Ok(None)
    }

    fn finish(mut self) -> Result<Spot, Errno> {
        let mut path = PathBuf::from("/");
        path.extend(self.stack.iter().map(|(_, name)| name));
        path.extend(&self.missing);
        let fd = match self.stack.pop() {
            Some((fd, _)) => fd,
            None => fcntl_dupfd_cloexec(self.root, 0)?,
        };
        Ok(Spot { fd, path, missing: self.missing })
    }
}

/// Pushes the components of `path` so that the first is popped first.
fn push_components(todo: &mut Vec<OsString>, path: &Path) {
    let parts = path.as_os_str().as_bytes().split(|b| *b == b'/');
    todo.extend(parts.rev().filter(|p| !p.is_empty() && *p != b".").map(|p| OsStr::from_bytes(p).to_owned()));
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
