//! `/.krun_vm.json` of an image, read without following a link that the image has put there.

use super::settings::Wish;
use crate::error::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use std::io::Read as _;
use std::path::Path;

/// Its name in the root of the image.
const NAME: &str = ".krun_vm.json";
/// Longest file that is read, in bytes: it has two numbers.
const MAX_SIZE: u64 = 16 << 10;

/// What the image wishes; nothing if it has no such file.
pub fn read(rootfs: &Path) -> Result<Wish> {
    let cannot = || format!("cannot read '/{NAME}' of the image");
    let root = openat(CWD, rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("cannot open '{}'", rootfs.display()))?;
    // Not blocking, since the image may hold a FIFO there.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file =
        match openat2(&root, NAME, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(Wish::default()),
            Err(rustix::io::Errno::LOOP) => {
                crate::bail!(InvalidBundle, "{}: it is a symbolic link", cannot())
            }
            Err(e) => return Err(e).or_kind(ErrorKind::InvalidBundle, cannot),
        };
    if FileType::from_raw_mode(fstat(&file).map_err(Error::from)?.st_mode) != FileType::RegularFile {
        crate::bail!(InvalidBundle, "{}: it is no regular file", cannot());
    }
    let mut data = Vec::new();
    std::fs::File::from(file).take(MAX_SIZE + 1).read_to_end(&mut data).context(cannot)?;
    if data.len() as u64 > MAX_SIZE {
        crate::bail!(InvalidBundle, "{}: it has more than {MAX_SIZE} bytes", cannot());
    }
    serde_json::from_slice(&data).or_kind(ErrorKind::InvalidBundle, cannot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_small_regular_file_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(NAME);
        assert_eq!(read(root.path()).unwrap(), Wish::default());
        std::fs::write(&path, json!({"cpus": 2, "ram_mib": 300, "gpu_flags": 7}).to_string()).unwrap();
        assert_eq!(read(root.path()).unwrap(), Wish { cpus: Some(2), ram_mib: Some(300) });
        std::fs::write(&path, " ".repeat(MAX_SIZE as usize + 1)).unwrap();
        assert!(read(root.path()).unwrap_err().message().contains("more than"));
        std::fs::write(&path, "nonsense").unwrap();
        read(root.path()).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(read(root.path()).unwrap_err().message().contains("symbolic link"));
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(root.path()).unwrap_err().message().contains("no regular file"));
    }
}
