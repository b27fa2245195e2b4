//! The directory that a layer becomes. A path is resolved once, by openat2(2) below the root, and what follows is done to
//! descriptors or to one name in an open directory, without following a link there.

use super::archive::{Entry, Kind};
use super::names::{MAX_DEPTH, too_deep};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::opaque::OPAQUE;
use crate::storage::tree::{open_directory as open_child, remove_at as remove};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    fchmod, fchown, fsetxattr, futimens, linkat, lsetxattr, mkdirat, mknodat, openat, openat2, statat,
    symlinkat, utimensat,
};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Links are followed inside of the layer and nowhere else. The kernel follows at most 40 and finds cycles by that.
const INSIDE: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
/// Mode of directories that the archive does not mention.
const IMPLICIT_MODE: Mode = Mode::from_raw_mode(0o755);

/// A layer's directory that is being filled.
pub(super) struct Tree {
    root: OwnedFd,
    rootless: bool,
    /// The directory that was used last: entries come in order.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Directories whose times are set when nothing is written to them any more.
    times: Vec<(Vec<u8>, Timespec)>,
    skipped_devices: u64,
}

impl Tree {
    pub(super) fn new(root: OwnedFd, rootless: bool) -> Self {
        Self { root, rootless, last: None, times: Vec::new(), skipped_devices: 0 }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn skipped_devices(&self) -> u64 {
        self.skipped_devices
    }

    /// Opens the directory that an entry is in, and makes what is missing of it.
    fn parent(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let directory = match self.open_directory(path) {
                Err(Errno::NOENT) => self.make_directories(path)?,
                directory => directory.map_err(|e| explain(e, path))?,
            };
            self.last = Some((path.to_vec(), directory));
        }
        Ok(self.last.as_ref().map_or(self.root.as_fd(), |(_, directory)| directory.as_fd()))
    }

    fn open_directory(&self, path: &[u8]) -> std::result::Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |how| openat2(&self.root, path, flags, Mode::empty(), how);
        match open(INSIDE | ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => open(INSIDE).and_then(|directory| {
                // By way of links it can be deeper than its name is long.
                rustix::process::fchdir(&directory)?;
                let depth = rustix::process::getcwd(Vec::new())?
                    .to_bytes()
                    .split(|byte| *byte == b'/')
                    .skip(1)
                    .count();
                if depth > MAX_DEPTH { Err(Errno::NAMETOOLONG) } else { Ok(directory) }
            }),
            opened => opened,
        }
    }

    fn make_directories(&self, path: &[u8]) -> Result<OwnedFd> {
        let mut current = self.root.try_clone().map_err(Error::from)?;
        let mut done = 0;
        for name in path.split(|b| *b == b'/') {
            done += name.len() + usize::from(done > 0);
            let so_far = &path[..done];
            current = match self.open_directory(so_far) {
                Err(Errno::NOENT) => {
                    // A link that leads to nothing is there and cannot be entered.
                    mkdirat(&current, name, IMPLICIT_MODE).map_err(|e| explain(e, so_far))?;
                    self.open_directory(so_far)
                }
                opened => opened,
            }
            .map_err(|e| explain(e, so_far))?;
        }
        Ok(current)
    }

    /// Calls `make` until the name is free: what an earlier entry put there is removed.
    fn replace<T>(
        &mut self,
        parent: &[u8],
        name: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        let at = self.parent(parent)?;
        match make(at) {
            Err(Errno::EXIST) => {
                remove(at, name)?;
                // What was removed may be on the path of the directory that is kept open.
                let made = make(at).map_err(Error::from);
                self.last = None;
                made
            }
            made => made.map_err(Error::from),
        }
    }

    pub(super) fn create_file(&mut self, parent: &[u8], name: &[u8]) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.replace(parent, name, |at| openat(at, name, flags, Mode::RUSR | Mode::WUSR)).map(File::from)
    }

    /// Gives a file that is written its owner, mode, attributes and time, in the order in which none undoes another.
    pub(super) fn finish_file(&self, file: &File, entry: &Entry) -> Result<()> {
        self.open_metadata(file.as_fd(), entry)?;
        futimens(file, &times(entry)).context(|| "cannot set its time")
    }

    fn open_metadata(&self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        let owner = fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
        self.owned(owner)?;
        fchmod(fd, Mode::from_raw_mode(entry.mode)).context(|| "cannot set its mode")?;
        for (name, value) in &entry.xattrs {
            self.attribute(name, |name| fsetxattr(fd, name, value, XattrFlags::empty()))?;
        }
        Ok(())
    }

    /// Without privileges ids that are not mapped stay root's.
    fn owned(&self, changed: std::result::Result<(), Errno>) -> Result<()> {
        match changed {
            Err(Errno::INVAL | Errno::PERM) if self.rootless => Ok(()),
            changed => changed.context(|| "cannot set its owner"),
        }
    }

    fn attribute(&self, name: &[u8], set: impl Fn(&[u8]) -> std::result::Result<(), Errno>) -> Result<()> {
        // Those of overlayfs decide what is seen of lower layers: an image must not bring its own.
        if name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.") {
            return Ok(());
        }
        match set(name) {
            // The file system has no such attributes, or this user may not set them.
            Err(Errno::OPNOTSUPP) => Ok(()),
            Err(Errno::PERM) if self.rootless || !name.starts_with(b"security.capability") => Ok(()),
            other => other.context(|| {
                format!(
                    "cannot set its extended attribute '{}'",
                    String::from_utf8_lossy(name).escape_default()
                )
            }),
        }
    }

    pub(super) fn directory(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<()> {
        let at = self.parent(parent)?;
        let kind = statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| (FileType::from_raw_mode(stat.st_mode), stat.st_rdev == 0));
        let hides = match kind {
            Ok((FileType::Directory, _)) => false,
            Ok((kind, no_device)) => {
                remove(at, name)?;
                mkdirat(at, name, IMPLICIT_MODE)?;
                self.last = None;
                kind == FileType::CharacterDevice && no_device
            }
            Err(Errno::NOENT) => {
                mkdirat(at, name, IMPLICIT_MODE)?;
                false
            }
            Err(e) => return Err(e.into()),
        };
        let fd = open_child(self.parent(parent)?, name)?;
        if hides {
            // The whiteout that was here hid a directory of lower layers; this one must go on hiding it.
            fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty()).context(opaque_failed)?;
        }
        self.open_metadata(fd.as_fd(), entry)?;
        self.times.push((joined(parent, name), time(entry)));
        Ok(())
    }

    /// The entry for the root itself.
    pub(super) fn root_metadata(&mut self, entry: &Entry) -> Result<()> {
        let fd = open_child(self.root.as_fd(), b".")?;
        self.open_metadata(fd.as_fd(), entry)?;
        self.times.push((b".".to_vec(), time(entry)));
        Ok(())
    }

    pub(super) fn symlink(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<()> {
        if entry.link.contains(&0) || entry.link.is_empty() {
            crate::bail!(PathTraversal, "the target of the symbolic link is empty or has a NUL byte");
        }
        self.replace(parent, name, |at| symlinkat(entry.link.as_slice(), at, name))?;
        self.name_metadata(parent, name, entry)
    }

    pub(super) fn node(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<()> {
        let kind = match entry.kind {
            Kind::Char => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        let mode = Mode::from_raw_mode(entry.mode);
        match self.replace(parent, name, |at| mknodat(at, name, kind, mode, device)) {
            Err(e) if self.rootless && e.errno() == Some(libc::EPERM) => {
                self.skipped_devices += 1;
                return Ok(());
            }
            made => made.context(|| "cannot make the device node")?,
        }
        self.name_metadata(parent, name, entry)
    }

    /// Owner, attributes and time of what cannot be opened.
    fn name_metadata(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        let at = self.parent(parent)?.try_clone_to_owned().map_err(Error::from)?;
        self.owned(chownat(&at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
        if !entry.xattrs.is_empty() {
            // There is no call with a directory; this process has one thread and no other use for its own.
            rustix::process::fchdir(&at).context(|| "cannot enter its directory")?;
            for (key, value) in &entry.xattrs {
                self.attribute(key, |key| lsetxattr(name, key, value, XattrFlags::empty()))?;
            }
        }
        utimensat(&at, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).context(|| "cannot set its time")
    }

    /// The target is resolved like any other parent; its last part is not followed.
    pub(super) fn hardlink(&mut self, from: &[u8], source: &[u8], parent: &[u8], name: &[u8]) -> Result<()> {
        let directory = if from.is_empty() {
            self.root.try_clone().map_err(Error::from)?
        } else {
            self.open_directory(from).map_err(|e| explain(e, from).wrap("its hard link"))?
        };
        let same = (from, source) == (parent, name);
        let made = if same {
            Ok(())
        } else {
            statat(&directory, source, AtFlags::SYMLINK_NOFOLLOW).map_err(Error::from).and_then(|stat| {
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    return Err(Error::new(ErrorKind::PathTraversal, "it leads to a directory"));
                }
                self.replace(parent, name, |at| linkat(&directory, source, at, name, AtFlags::empty()))
            })
        };
        made.context(|| {
            format!("cannot link to '{}'", String::from_utf8_lossy(&joined(from, source)).escape_default())
        })
    }

    /// Hides what lower layers have by this name.
    pub(super) fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<()> {
        let at = match self.parent(parent) {
            // Where a file has taken the place of a directory there is nothing left to be hidden; some tools write that down.
            Err(e) if e.errno() == Some(libc::ENOTDIR) => return Ok(()),
            at => at?,
        };
        match mknodat(at, name, FileType::CharacterDevice, Mode::empty(), 0) {
            // The layer itself has it: a directory must hide those below it, anything else does so anyway.
            Err(Errno::EXIST) => match open_child(at, name) {
                Ok(directory) => {
                    fsetxattr(&directory, OPAQUE, b"y", XattrFlags::empty()).context(opaque_failed)
                }
                Err(_) => Ok(()),
            },
            made => made.context(|| "cannot make the whiteout"),
        }
    }

    /// Hides what lower layers have in this directory.
    pub(super) fn opaque(&mut self, parent: &[u8]) -> Result<()> {
        if parent.is_empty() {
            let fd = open_child(self.root.as_fd(), b".")?;
            return fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty()).context(opaque_failed);
        }
        let fd = open_child(self.parent(parent)?, b".")?;
        fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty()).context(opaque_failed)
    }

    /// Sets what had to wait until everything was written.
    pub(super) fn finish(&mut self) -> Result<()> {
        for (path, time) in std::mem::take(&mut self.times).into_iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // A later entry may have replaced it.
            let Ok(fd) = openat2(&self.root, path, flags, Mode::empty(), INSIDE) else { continue };
            futimens(&fd, &Timestamps { last_access: time, last_modification: time })
                .context(|| "cannot set the time of a directory")?;
        }
        Ok(())
    }
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, name].join(&b'/') }
}

fn opaque_failed() -> &'static str {
    "cannot mark the directory as opaque (the file system must have user extended attributes)"
}

fn explain(e: Errno, path: &[u8]) -> Error {
    let path = String::from_utf8_lossy(path).escape_default().to_string();
    match e {
        Errno::LOOP => Error::from_parts(
            ErrorKind::PathTraversal,
            format!("'{path}' has more than 40 symbolic links on its way, or a cycle of them"),
            Some(e.raw_os_error()),
        ),
        Errno::EXIST | Errno::NOTDIR => Error::from_parts(
            ErrorKind::PathTraversal,
            format!("'{path}' is no directory, or a symbolic link that leads to none in this layer"),
            Some(e.raw_os_error()),
        ),
        Errno::NAMETOOLONG => too_deep(),
        e => Error::from(e).wrap(format!("cannot open '{path}'")),
    }
}

fn time(entry: &Entry) -> Timespec {
    Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() }
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps { last_access: time(entry), last_modification: time(entry) }
}

/// The directory that this process is in.
pub(super) fn current() -> Result<OwnedFd> {
    Ok(openat(CWD, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}
