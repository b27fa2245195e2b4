//! A root file system as a copy: layers put one on the other without overlayfs.

use crate::error::{Context as _, ErrorKind, Result};
use crate::image::opaque::is_opaque;
use crate::image::store::Layer;
use crate::platform::userns::IdMappings;
use crate::platform::worker;
use crate::storage::tree::{open_directory, remove_at as remove};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fgetxattr, flistxattr, fsetxattr, fstat, ioctl_ficlone, linkat, mkdirat, mknodat, openat, readlinkat,
    statat, symlinkat, utimensat,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Bytes of an extended attribute, and of all their names: the kernel's most is 64 KiB each.
const MAX_ATTRIBUTE: usize = 64 << 10;

/// Copies the layers, the lowest first, into the empty directory `target`.
pub(super) fn layers(layers: &[Layer], target: &Path, mappings: Option<&IdMappings>) -> Result<()> {
    let paths: Vec<PathBuf> = layers.iter().map(|layer| layer.path.clone()).collect();
    let target = target.to_owned();
    worker::run(mappings, move || {
        rustix::process::umask(Mode::empty());
        let to = open_directory(rustix::fs::CWD, target.as_os_str().as_encoded_bytes())?;
        for path in &paths {
            let from = open_directory(rustix::fs::CWD, path.as_os_str().as_encoded_bytes())?;
            let mut copy = Copy { root: to.as_fd(), path: PathBuf::new(), links: HashMap::new() };
            copy.directory(from.as_fd(), to.as_fd()).or_kind(ErrorKind::BundleBuildFailed, || {
                format!("cannot copy layer '{}'", path.display())
            })?;
        }
        Ok(())
    })
}

struct Copy<'a> {
    root: BorrowedFd<'a>,
    /// The directory that is being copied, below the root.
    path: PathBuf,
    /// Where files with several names were put first, below the root, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copy<'_> {
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
        for entry in Dir::read_from(from)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if matches!(name.as_slice(), b"." | b"..") {
                continue;
            }
            self.entry(from, to, &name)
                .context(|| format!("'{}'", String::from_utf8_lossy(&name).escape_default()))?;
        }
        let stat = fstat(from)?;
        attributes(from, to)?;
        chownat(
            to,
            "",
            Some(Uid::from_raw(stat.st_uid)),
            Some(Gid::from_raw(stat.st_gid)),
            AtFlags::EMPTY_PATH,
        )?;
        fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
        Ok(rustix::fs::futimens(to, &times(&stat))?)
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.enter(from, to, name);
        }
        remove(to, name)?;
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            // A whiteout: what it hides is gone now.
            return Ok(());
        }
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino))
        {
            // On its way are directories of this layer alone, which nothing replaces.
            return Ok(linkat(self.root, first, to, name, AtFlags::empty())?);
        }
        match kind {
            FileType::RegularFile => file(from, to, name, &stat)?,
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?;
                symlinkat(target.as_c_str(), to, name)?;
                owner_and_time(to, name, &stat)?;
            }
            kind => {
                mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?;
                owner_and_time(to, name, &stat)?;
            }
        }
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), self.path.join(OsStr::from_bytes(name)));
        }
        Ok(())
    }

    fn enter(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let source = open_directory(from, name)?;
        let below = match statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(e.into()),
        };
        if below != Some(FileType::Directory) || is_opaque(&source)? {
            remove(to, name)?;
            mkdirat(to, name, Mode::RWXU)?;
        }
        self.path.push(OsStr::from_bytes(name));
        self.directory(source.as_fd(), open_directory(to, name)?.as_fd())?;
        self.path.pop();
        Ok(())
    }
}

fn file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<()> {
    let source: File =
        openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?.into();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target: File = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?.into();
    if ioctl_ficlone(&target, &source).is_err() {
        content(&source, &target, stat)?;
    }
    rustix::fs::fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(&target, Mode::from_raw_mode(stat.st_mode))?;
    attributes(source.as_fd(), target.as_fd())?;
    Ok(rustix::fs::futimens(&target, &times(stat))?)
}

/// Copies what has content; holes stay holes.
fn content(source: &File, target: &File, stat: &Stat) -> Result<()> {
    use rustix::fs::{SeekFrom, copy_file_range, seek};
    let mut at = 0u64;
    loop {
        at = match seek(source, SeekFrom::Data(at)) {
            Ok(at) => at,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = seek(source, SeekFrom::Hole(at))?;
        let (mut read, mut write) = (at, at);
        while read < end {
            let length = usize::try_from(end - read).unwrap_or(usize::MAX);
            match copy_file_range(source, Some(&mut read), target, Some(&mut write), length) {
                Ok(0) => crate::bail!(Storage, "the file became shorter while it was copied"),
                Ok(_) => {}
                // From one file system to another, or on one that has no such call.
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    by_memory(source, target, read, end)?;
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        at = end;
    }
    Ok(target.set_len(stat.st_size as u64)?)
}

/// Copies the bytes from `at` to `end`.
fn by_memory(source: &File, target: &File, mut at: u64, end: u64) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut buffer = vec![0u8; 128 << 10];
    while at < end {
        let most = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let length = source.read_at(&mut buffer[..most], at)?;
        if length == 0 {
            crate::bail!(Storage, "the file became shorter while it was copied");
        }
        target.write_all_at(&buffer[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut names = vec![0u8; MAX_ATTRIBUTE];
    let length = match flistxattr(from, &mut names) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        length => length?,
    };
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"user.overlay.") || name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0u8; MAX_ATTRIBUTE];
        let length = fgetxattr(from, name, &mut value)?;
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {}
            set => set?,
        }
    }
    Ok(())
}

fn owner_and_time(at: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(utimensat(at, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, tv_nsec: u64| Timespec { tv_sec, tv_nsec: tv_nsec as i64 };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
