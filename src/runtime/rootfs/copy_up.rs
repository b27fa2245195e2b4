//! `tmpcopyup`: a tmpfs that starts with the content of the directory it covers.

use crate::error::{Context as _, Result};
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    mkdirat, mknodat, openat, readlinkat, statat, symlinkat, utimensat,
};
use std::ffi::CStr;
use std::fs::File;

/// Copies everything in `from` to the empty directory `to`: kinds, modes, owners and times. Links are copied and not
/// followed.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let readable = openat(from, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&readable)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_one(readable.as_fd(), to, name)
                .map_err(|e| e.wrap(format!("cannot copy '{}'", name.to_string_lossy())))?;
        }
    }
    Ok(())
}

fn copy_one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let kind = FileType::from_raw_mode(stat.st_mode);
    let no_follow = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match kind {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let source = openat(from, name, no_follow | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            let made = openat(to, name, no_follow | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            copy(source.as_fd(), made.as_fd())?;
            set_owner_and_mode(made.as_fd(), &stat, mode)?;
        }
        FileType::RegularFile => {
            // Not blocking: by now the name may lead to a fifo.
            let source = openat(from, name, no_follow | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
            let flags = no_follow | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let made = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            std::io::copy(&mut File::from(source), &mut File::from(made.try_clone()?))
                .context(|| "cannot copy its content")?;
            set_owner_and_mode(made.as_fd(), &stat, mode)?;
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new())?;
            symlinkat(&target, to, name)?;
            chown_name(to, name, &stat)?;
        }
        kind => {
            mknodat(to, name, kind, mode, stat.st_rdev)?;
            chown_name(to, name, &stat)?;
        }
    }
    Ok(utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn set_owner_and_mode(fd: BorrowedFd<'_>, stat: &Stat, mode: Mode) -> Result<()> {
    fchown(fd, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    // After the owner, since changing that clears the set-id bits.
    Ok(fchmod(fd, mode)?)
}

fn chown_name(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |secs: i64, nanos: u64| Timespec { tv_sec: secs, tv_nsec: nanos as i64 };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::open;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    #[test]
    fn a_tree_is_copied_with_its_links_and_modes() {
        let tmp = tempfile::tempdir().unwrap();
        let (a, b) = (tmp.path().join("a"), tmp.path().join("b"));
        fs::create_dir_all(a.join("d/e")).unwrap();
        fs::create_dir(&b).unwrap();
        fs::write(a.join("d/f"), "text").unwrap();
        fs::set_permissions(a.join("d/f"), fs::Permissions::from_mode(0o4750)).unwrap();
        symlink("/nowhere", a.join("link")).unwrap();
        let fd = |path| open(path, OFlags::PATH, Mode::empty()).unwrap();
        copy(fd(&a).as_fd(), fd(&b).as_fd()).unwrap();
        assert_eq!(fs::read(b.join("d/f")).unwrap(), b"text");
        let (old, new) = (fs::metadata(a.join("d/f")).unwrap(), fs::metadata(b.join("d/f")).unwrap());
        assert_eq!((old.mode(), old.mtime_nsec()), (new.mode(), new.mtime_nsec()));
        assert_eq!(fs::read_link(b.join("link")).unwrap(), std::path::Path::new("/nowhere"));
        assert!(b.join("d/e").is_dir());
    }
}
