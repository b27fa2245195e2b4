//! The disk that holds a guest's root: a file or a block device of the container, which is named by a path in it.
//!
//! It is found in the container's root, with its volumes and devices, and by no path that leads out of it: an annotation
//! gives a container nothing that it does not have.

use super::settings::ROOT_DISK;
use super::superblock::{self, FileSystem, HEAD};
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{
    FileType, FlockOperation, Mode, OFlags, ResolveFlags, SeekFrom, flock, fstat, open, openat2, seek,
};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A disk that is open.
#[derive(Debug)]
pub struct Disk {
    /// The file or device. Nobody else writes to it as long as this is open.
    pub file: OwnedFd,
    /// Name of its file system.
    pub kind: &'static str,
    /// It is not open for writing.
    pub read_only: bool,
}

impl Disk {
    /// Opens what `path` leads to in the directory `root`. `reopen` gives another descriptor, with these flags, of a file that is
    /// open as a path only. Unless it is for reading only nobody else may have it, otherwise nobody who writes.
    pub fn open(
        root: &Path,
        path: &Path,
        read_only: bool,
        reopen: impl Fn(&OwnedFd, OFlags) -> rustix::io::Result<OwnedFd>,
    ) -> Result<Self> {
        Self::find(root, path, read_only, reopen).map_err(|e| {
            let kind = if e.kind() == ErrorKind::System { ErrorKind::InvalidBundle } else { e.kind() };
            e.wrap(format!("annotations: {ROOT_DISK}: cannot use '{}'", path.display())).with_kind(kind)
        })
    }

    fn find(
        root: &Path,
        path: &Path,
        read_only: bool,
        reopen: impl Fn(&OwnedFd, OFlags) -> rustix::io::Result<OwnedFd>,
    ) -> Result<Self> {
        let root = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // No links of procfs, which lead to where no path does.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let found = openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
        let is_device = match FileType::from_raw_mode(fstat(&found)?.st_mode) {
            FileType::RegularFile => false,
            FileType::BlockDevice => true,
            _ => crate::bail!(InvalidBundle, "it is neither a regular file nor a block device"),
        };
        let file = reopen(&found, OFlags::RDONLY)?;
        let system = recognise(&file)?;
        let read_only = read_only || system.read_only;
        let file = match (read_only, is_device) {
            (true, _) => file,
            // Whoever has mounted the device has it too.
            (false, true) => reopen(&found, OFlags::RDWR | OFlags::EXCL).map_err(explain)?,
            (false, false) => reopen(&found, OFlags::RDWR).map_err(explain)?,
        };
        let lock = if read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        flock(&file, lock).map_err(explain)?;
        Ok(Self { file, kind: system.name, read_only })
    }

    /// Its path in this process.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
}

/// Reads what a disk holds. It must be as long as that says.
fn recognise(file: &OwnedFd) -> Result<FileSystem> {
    let length = seek(file, SeekFrom::End(0))?;
    let mut head = vec![0; length.min(HEAD as u64) as usize];
    File::from(file.try_clone()?).read_exact_at(&mut head, 0)?;
    match superblock::recognise(&head) {
        Some(system) if system.size > length => crate::bail!(
            InvalidBundle,
            "it is too small: it has {length} bytes, and its file system, {}, {} bytes",
            system.name,
            system.size
        ),
        Some(system) => Ok(system),
        None if length < HEAD as u64 => {
            crate::bail!(InvalidBundle, "it is too small to hold a file system: it has {length} bytes")
        }
        None => crate::bail!(
            NotSupported,
            "it holds no file system that the guest's kernel has: {}, without a table of partitions",
            superblock::NAMES
        ),
    }
}

fn explain(e: Errno) -> Error {
    let advice = match e {
        Errno::WOULDBLOCK | Errno::BUSY => "it is in use",
        Errno::ROFS | Errno::ACCESS | Errno::PERM => "it cannot be written to (see root.readonly)",
        _ => return e.into(),
    };
    Error::from(e).wrap(advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// As in a container, by the host's procfs.
    fn opened(root: &Path, path: &str, read_only: bool) -> Result<Disk> {
        Disk::open(root, Path::new(path), read_only, |fd, flags| {
            open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags | OFlags::CLOEXEC, Mode::empty())
        })
    }

    #[test]
    fn a_disk_is_found_in_the_root_alone_and_belongs_to_one_who_writes() {
        let all = tempfile::tempdir().unwrap();
        let root = all.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut image = vec![0; 1 << 20];
        image[..4].copy_from_slice(b"XFSB");
        fs::write(all.path().join("secret"), &image).unwrap();
        fs::write(root.join("disk"), &image).unwrap();
        symlink("/disk", root.join("link")).unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let readers = [opened(&root, "/disk", true).unwrap(), opened(&root, "/link", true).unwrap()];
        assert!(opened(&root, "/disk", false).unwrap_err().message().contains("in use"));
        drop(readers);
        let writer = opened(&root, "/disk", false).unwrap();
        assert_eq!((writer.kind, writer.read_only), ("xfs", false));
        assert!(opened(&root, "/disk", true).unwrap_err().message().contains("in use"));
        for path in ["/out", "/magic/etc/hostname", "/missing"] {
            let e = opened(&root, path, true).unwrap_err();
            assert_eq!((e.kind(), e.errno()), (ErrorKind::InvalidBundle, Some(libc::ENOENT)), "{path}: {e}");
        }
        let e = opened(Path::new("/"), "/proc/self/exe", true).unwrap_err();
        assert_eq!(e.errno(), Some(libc::ELOOP), "{e}");
    }

    #[test]
    fn what_is_no_disk_is_told() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("small"), "small").unwrap();
        fs::write(root.path().join("zeros"), vec![0; 1 << 20]).unwrap();
        let mut ext = vec![0; 1 << 20];
        ext[1080..1082].copy_from_slice(&[0x53, 0xef]);
        ext[1028..1032].copy_from_slice(&1025_u32.to_le_bytes());
        fs::write(root.path().join("cut"), ext).unwrap();
        nix::unistd::mkfifo(&root.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (name, why) in [
            ("small", "too small to hold a file system: it has 5 bytes"),
            ("zeros", "no file system"),
            ("cut", "its file system, ext4, 1049600 bytes"),
            ("fifo", "neither a regular file nor"),
            (".", "neither a regular file nor"),
        ] {
            let e = opened(root.path(), &format!("/{name}"), true).unwrap_err();
            assert!(e.message().contains(why), "{e}");
        }
    }
}
