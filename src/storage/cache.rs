//! A bounded cache of small files that are costly to compute, in a directory that only its owner can write to.
//!
//! It is a shortcut and nothing else: what cannot be read, trusted or written is computed again, and no error comes out
//! of it.

use crate::error::Result;
use crate::storage::atomic;
use crate::storage::blobs::Digest;
use crate::storage::trust::require_own;
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// Most files that are kept.
const MAX_FILES: usize = 64;
/// Most bytes of a file.
const MAX_BYTES: u64 = 1 << 20;
/// Bytes that are enough for most of what is kept. Without a capacity, reading begins with 32 bytes.
const USUAL_BYTES: usize = 8 << 10;
/// Bytes of the digest in front of the content.
const DIGEST_SIZE: usize = 32;

/// The cache.
#[derive(Debug)]
pub struct Cache {
    dir: OwnedFd,
}

impl Cache {
    /// Opens the cache `name` below `parent` and makes it if it is not there; `None` if others can write to it.
    pub fn open(parent: BorrowedFd<'_>, name: &str) -> Option<Self> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(parent, name, flags, Mode::empty())
        };
        let dir = match open() {
            Err(Errno::NOENT) => {
                let _ = mkdirat(parent, name, Mode::RWXU);
                open()
            }
            dir => dir,
        };
        let dir = dir.ok()?;
        require_own(&dir, "the cache").inspect_err(|e| tracing::warn!("computing again: {e}")).ok()?;
        Some(Self { dir })
    }

    /// What was kept for `key`, undamaged.
    pub fn get(&self, key: &Digest) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.dir, key.hex(), flags, Mode::empty()).ok()?);
        let mut data = Vec::with_capacity(USUAL_BYTES);
        file.take(MAX_BYTES).read_to_end(&mut data).ok()?;
        let (digest, content) = data.split_at_checked(DIGEST_SIZE)?;
        (checksum(key, content)[..] == *digest).then(|| content.to_vec())
    }

    /// Keeps `content` for `key`. The file has no name until it is complete, so an interruption leaves nothing.
    pub fn put(&self, key: &Digest, content: &[u8]) {
        if let Err(e) = self.try_put(key, content) {
            tracing::debug!("not kept in the cache: {e}");
        }
    }

    fn try_put(&self, key: &Digest, content: &[u8]) -> Result<()> {
        self.make_room()?;
        let data = [&checksum(key, content)[..], content].concat();
        atomic::write_nameless(&self.dir, key.hex(), Mode::RUSR | Mode::WUSR, &data)
    }

    /// Removes the oldest files until one more may come.
    fn make_room(&self) -> Result<()> {
        let mut files = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.dir.as_fd())?.flatten() {
            if let Ok(stat) = rustix::fs::statat(&self.dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                && rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file()
            {
                files.push(((stat.st_mtime, stat.st_mtime_nsec), entry.file_name().to_owned()));
            }
        }
        files.sort();
        for (_, name) in files.iter().take((files.len() + 1).saturating_sub(MAX_FILES)) {
            unlinkat(&self.dir, name, AtFlags::empty())?;
        }
        Ok(())
    }
}

/// Binds the content to its key, so that neither a damaged file nor one under a wrong name is used.
fn checksum(key: &Digest, content: &[u8]) -> [u8; DIGEST_SIZE] {
    Sha256::new().chain_update(key.hex()).chain_update(content).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn cache(parent: &std::path::Path) -> Option<Cache> {
        Cache::open(File::open(parent).unwrap().as_fd(), "c")
    }

    #[test]
    fn what_was_kept_comes_back_and_what_was_damaged_does_not() {
        let parent = tempfile::tempdir().unwrap();
        let cache = cache(parent.path()).unwrap();
        let (key, other) = (Digest::of(b"key"), Digest::of(b"other"));
        assert_eq!(cache.get(&key), None);
        cache.put(&key, b"content");
        assert_eq!(cache.get(&key).unwrap(), b"content");
        let path = |key: &Digest| parent.path().join("c").join(key.hex());
        std::fs::copy(path(&key), path(&other)).unwrap();
        assert_eq!(cache.get(&other), None, "content under a name that is not its own");
        let mut data = std::fs::read(path(&key)).unwrap();
        *data.last_mut().unwrap() ^= 1;
        std::fs::write(path(&key), &data).unwrap();
        assert_eq!(cache.get(&key), None);
        std::fs::write(path(&key), b"short").unwrap();
        assert_eq!(cache.get(&key), None);
        cache.put(&key, b"content");
        assert_eq!(cache.get(&key).unwrap(), b"content");
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let parent = tempfile::tempdir().unwrap();
        let cache = cache(parent.path()).unwrap();
        for n in 0..MAX_FILES + 5 {
            cache.put(&Digest::of(&n.to_le_bytes()), b"x");
        }
        assert_eq!(std::fs::read_dir(parent.path().join("c")).unwrap().count(), MAX_FILES);
        assert!(cache.get(&Digest::of(&(MAX_FILES + 4).to_le_bytes())).is_some());
    }

    #[test]
    fn one_that_others_can_write_to_is_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("c");
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(cache(parent.path()).is_none());
        std::fs::remove_dir(&dir).unwrap();
        std::os::unix::fs::symlink("/tmp", &dir).unwrap();
        assert!(cache(parent.path()).is_none());
    }
}
