//! What a layer's directory looks like, as one digest: it is computed when the layer is unpacked, and again to find damage.

use crate::error::{Error, Result};
use crate::storage::blobs::{Digest, Hasher};
use crate::storage::tree::open_directory;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, openat, readlinkat, statat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};

/// Bytes of an extended attribute, and of all their names: the kernel's most is 64 KiB each.
const MAX_ATTRIBUTE: usize = 64 << 10;

/// The digest of the names, kinds, modes, owners, sizes, times, links and devices of everything below `root`, and of the
/// attributes of directories, among which are the marks of overlayfs. With `content` also of the content and the attributes
/// of files, all of which is read for that, but without the times of directories and whiteouts: that of two directories into which
/// the same archive was unpacked is the same.
pub fn fingerprint(root: BorrowedFd<'_>, content: bool) -> Result<Digest> {
    let mut walk = Walk { hasher: Hasher::default(), content, buffer: vec![0; MAX_ATTRIBUTE] };
    walk.directory(root, &[])?;
    Ok(walk.hasher.finish())
}

struct Walk {
    hasher: Hasher,
    content: bool,
    buffer: Vec<u8>,
}

impl Walk {
    /// Layers are not deeper than there may be descriptors.
    fn directory(&mut self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        self.attributes(directory)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(directory)? {
            names.push(entry?.file_name().to_bytes().to_vec());
        }
        names.sort_unstable();
        for name in names.iter().filter(|name| !matches!(name.as_slice(), b"..")) {
            let stat = statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
            let path = [path, b"/", name].concat();
            self.entry(directory, name, &path, &stat)
                .map_err(|e| e.wrap(format!("'{}'", String::from_utf8_lossy(&path).escape_default())))?;
        }
        Ok(())
    }

    fn entry(&mut self, at: BorrowedFd<'_>, name: &[u8], path: &[u8], stat: &Stat) -> Result<()> {
        self.item(path);
        let kind = FileType::from_raw_mode(stat.st_mode);
        // Sizes and links of directories are the file system's affair.
        let own = if kind == FileType::Directory { [0, 0] } else { [stat.st_size as u64, stat.st_nlink] };
        // What no entry of the archive stands for has the time at which it was made: not the same in another directory.
        let timed = !self.content || matches!(kind, FileType::RegularFile | FileType::Symlink);
        let time = if timed { (stat.st_mtime.cast_unsigned(), stat.st_mtime_nsec) } else { (0, 0) };
        let numbers = [
            stat.st_mode.into(),
            stat.st_uid.into(),
            stat.st_gid.into(),
            stat.st_rdev,
            time.0,
            time.1,
            own[0],
            own[1],
        ];
        numbers.iter().for_each(|number: &u64| self.hasher.update(&number.to_le_bytes()));
        match kind {
            FileType::Directory if name != b"." => {
                let directory = open_directory(at, name)?;
                self.directory(directory.as_fd(), path)
            }
            FileType::Symlink => {
                self.item(readlinkat(at, name, Vec::new())?.as_bytes());
                Ok(())
            }
            FileType::RegularFile if self.content => self.file(at, name),
            _ => Ok(()),
        }
    }

    fn file(&mut self, at: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file: File = openat(at, name, flags, Mode::empty())?.into();
        self.attributes(file.as_fd())?;
        std::io::copy(&mut file, &mut self.hasher).map_err(Error::from)?;
        Ok(())
    }

    fn attributes(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        let length = match flistxattr(fd, &mut self.buffer) {
            Err(Errno::OPNOTSUPP) => return Ok(()),
            length => length?,
        };
        let mut names: Vec<Vec<u8>> = self.buffer[..length].split(|b| *b == 0).map(<[u8]>::to_vec).collect();
        // A label is the host's.
        names.retain(|name| !name.is_empty() && name != b"security.selinux");
        names.sort_unstable();
        for name in names {
            let length = fgetxattr(fd, name.as_slice(), &mut self.buffer)?;
            self.item(&name);
            let value = self.buffer[..length].to_vec();
            self.item(&value);
        }
        Ok(())
    }

    /// Adds something whose length varies.
    fn item(&mut self, data: &[u8]) {
        self.hasher.update(&(data.len() as u64).to_le_bytes());
        let _ = self.hasher.write_all(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn whatever_changes_is_seen() {
        let tmp = tempfile::tempdir().unwrap();
        let path = |name: &str| tmp.path().join(name);
        std::fs::create_dir_all(path("a/b")).unwrap();
        std::fs::write(path("a/file"), "content").unwrap();
        std::os::unix::fs::symlink("file", path("a/link")).unwrap();
        let root = open_directory(rustix::fs::CWD, tmp.path().as_os_str().as_encoded_bytes()).unwrap();
        let look = |content| fingerprint(root.as_fd(), content).unwrap();
        let (shallow, deep) = (look(false), look(true));
        assert_eq!((&look(false), &look(true)), (&shallow, &deep));
        // The same size at the same time: only reading it tells.
        let time = std::fs::metadata(path("a/file")).unwrap().modified().unwrap();
        std::fs::write(path("a/file"), "CONTENT").unwrap();
        File::options().write(true).open(path("a/file")).unwrap().set_modified(time).unwrap();
        assert_eq!(look(false), shallow);
        assert_ne!(look(true), deep);
        std::fs::set_permissions(path("a/b"), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_ne!(look(false), shallow);
        let before = look(false);
        rustix::fs::setxattr(path("a/b"), "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
            .unwrap();
        assert_ne!(look(false), before);
    }
}
