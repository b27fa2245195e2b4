//! Compiled code on disk: every module is compiled once.
//!
//! `ROOT/index/KEY` names the blob that holds the code of a module ([`super::engine::key`] tells what a key stands for),
//! its length and what kind of program it is; the code is in a blob store beside it. Code that is found here runs, so it is
//! used only if nobody but the user of this process could have put it there, and only with the digest that it had then. What
//! does not pass is compiled again and replaced. Files are published by rename and never changed afterwards: so a digest that
//! was verified holds until the next boot, for as long as the file is the same and unchanged (`verified.rs`).
//!
//! `ROOT/index/DEVICE-INODE~module` remembers the digest of a module in the same way: reading and hashing it takes longer than all
//! else for a module of some megabytes.

use super::program::Kind;
use super::verified::Verified;
use crate::error::{Context as _, ErrorKind, Result};
use crate::platform::{memory, read_only};
use crate::storage::atomic;
use crate::storage::blobs::{BlobStore, Digest, Hasher};
use crate::storage::trust::require_own;
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, flock, openat, statat, unlinkat,
    utimensat,
};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{DirBuilder, DirEntry, File, Metadata};
use std::io::{Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::{Duration, SystemTime};

/// Longest entry of the index, in bytes.
const MAX_ENTRY: u64 = 4096;
/// Bytes that are hashed at once.
const CHUNK: usize = 256 << 10;
/// The time of last use is noted when the noted one is older than this; a start need not write each time.
const NOTED_USE: Duration = Duration::from_secs(3600);
/// A temporary file that is older than this was left by a process that died.
const STALE: Duration = Duration::from_secs(3600);

/// The store of compiled code.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    max_bytes: u64,
}

/// An entry of the index.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    code: String,
    length: u64,
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verified: Option<Verified>,
}

/// What is remembered of a module's file.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    digest: String,
    verified: Verified,
}

/// Compiled code from the store.
#[derive(Debug)]
pub struct Stored {
    /// Open on the code, at its beginning.
    pub code: File,
    /// What it is.
    pub kind: Kind,
}

impl Store {
    /// The store at `root`, which keeps at most `max_bytes`. Nothing is touched.
    pub fn new(root: impl Into<PathBuf>, max_bytes: u64) -> Self {
        Self { root: root.into(), max_bytes }
    }

    fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    fn blobs(&self) -> BlobStore {
        BlobStore::new(&self.root)
    }

    /// The code for `key`, if it is there and can be trusted.
    pub fn get(&self, key: &Digest) -> Option<Stored> {
        match self.find(key) {
            Ok(found) => found,
            Err(e) => {
                tracing::warn!("compiling again: {e}");
                None
            }
        }
    }

    fn find(&self, key: &Digest) -> Result<Option<Stored>> {
        let index = match self.open_index() {
            Err(e) if e.errno() == Some(libc::ENOENT) => return Ok(None),
            index => index?,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = match openat(&index, key.hex(), flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            entry => File::from(entry.context(|| "cannot open an entry of the store")?),
        };
        require_own(&entry, "an entry of the store")?;
        let mut text = Vec::new();
        (&entry).take(MAX_ENTRY).read_to_end(&mut text)?;
        let mut entry: Entry = serde_json::from_slice(&text)?;
        let digest = Digest::from_str(&entry.code)?;
        let path = self.blobs().path(&digest);
        let code = match open_protected(&path) {
            // Pruned, or never written to disk.
            Err(e) if e.errno() == Some(libc::ENOENT) => return Ok(None),
            code => code.context(|| format!("cannot open '{}'", path.display()))?,
        };
        let metadata = code.metadata()?;
        let now = Verified::now(&metadata);
        if metadata.len() != entry.length
            || (now.is_none() || now != entry.verified) && hash(&code)? != digest
        {
            crate::bail!(DigestMismatch, "'{}' is damaged", path.display());
        }
        if now.is_some() && now != entry.verified {
            entry.verified = now;
            // Without it the digest is verified again.
            let _ = atomic::write_at(&index, key.hex(), &serde_json::to_vec(&entry)?);
        }
        note_use(&index, key);
        Ok(Some(Stored { code, kind: entry.kind }))
    }

    /// The digest of a module that was read before and has not changed since, so that a start need not read all of it again.
    pub fn known(&self, module: &Metadata) -> Option<Digest> {
        let now = identity(module)?;
        let index = self.open_index().ok()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&index, known_name(module), flags, Mode::empty()).ok()?);
        require_own(&file, "an entry of the store").ok()?;
        let mut text = Vec::new();
        (&file).take(MAX_ENTRY).read_to_end(&mut text).ok()?;
        let known: Known = serde_json::from_slice(&text).ok()?;
        if known.verified == now { Digest::from_str(&known.digest).ok() } else { None }
    }

    /// Remembers the digest of a module. `module` is what was said of its file before it was read.
    pub fn remember(&self, module: &Metadata, digest: &Digest) {
        let Some(verified) = identity(module) else { return };
        let known = Known { digest: digest.to_string(), verified };
        // Without it the module is read again.
        let _ = self
            .open_index()
            .and_then(|index| atomic::write_at(&index, &known_name(module), &serde_json::to_vec(&known)?));
    }

    fn open_index(&self) -> Result<OwnedFd> {
        for directory in [&self.root, &self.index()] {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::open(directory, flags, Mode::empty())
                .context(|| format!("cannot open '{}'", directory.display()))?;
            require_own(&fd, &format!("'{}'", directory.display()))?;
            if *directory != self.root {
                return Ok(fd);
            }
        }
        crate::bail!(Storage, "the store has no index")
    }

    /// Waits until nobody else compiles for `key`; nobody does until the lock is dropped. Without a lock it is only done twice.
    pub fn lock(&self, key: &Digest) -> Option<OwnedFd> {
        self.make_directories().ok()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = format!("{}~lock", key.hex());
        let lock = openat(self.open_index().ok()?, name, flags, Mode::RUSR | Mode::WUSR).ok()?;
        flock(&lock, FlockOperation::LockExclusive).ok()?;
        Some(lock)
    }

    fn make_directories(&self) -> Result<()> {
        for directory in [&self.root, &self.index()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .or_kind(ErrorKind::Storage, || format!("cannot make '{}'", directory.display()))?;
        }
        Ok(())
    }

    /// Keeps `code` for `key`, and removes what was not used for longest if the store grows too large.
    pub fn put(&self, key: &Digest, code: &[u8], kind: Kind) -> Result<()> {
        self.make_directories()?;
        let index = self.open_index()?;
        let digest = Digest::of(code);
        let blobs = self.blobs();
        // One that is there may be damaged: that is why it is compiled again.
        blobs.put(&digest, code, code.len() as u64)?;
        let entry = Entry { code: digest.to_string(), length: code.len() as u64, kind, verified: None };
        atomic::write_at(&index, key.hex(), &serde_json::to_vec(&entry)?)?;
        self.prune(&index, key)
    }

    /// Removes the entries that were not used for longest until the code fits, but never that for `keep`; and what processes
    /// that died have left.
    fn prune(&self, index: &OwnedFd, keep: &Digest) -> Result<()> {
        let mut entries = Vec::new();
        for file in std::fs::read_dir(self.index())?.flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            match std::fs::read(file.path()).map(|text| serde_json::from_slice::<Entry>(&text)) {
                Ok(Ok(entry)) if !name.contains('~') => entries.push((modified(&file), name, entry)),
                _ if is_stale(&file) => drop(std::fs::remove_file(file.path())),
                _ => {}
            }
        }
        entries.sort_by_key(|(used, _, _)| *used);
        let mut total: u64 = entries.iter().map(|(_, _, entry)| entry.length).sum();
        let mut named: HashSet<String> = entries.iter().map(|(_, _, entry)| entry.code.clone()).collect();
        for (_, name, entry) in entries.iter().filter(|(_, name, _)| name != keep.hex()) {
            if total <= self.max_bytes {
                break;
            }
            let _ = unlinkat(index, name, AtFlags::empty());
            self.blobs().remove(&Digest::from_str(&entry.code)?)?;
            named.remove(&entry.code);
            total -= entry.length;
        }
        self.remove_stale_blobs(&named);
        Ok(())
    }

    /// Removes what no entry names, unless it is so young that its entry may be about to be written.
    fn remove_stale_blobs(&self, named: &HashSet<String>) {
        let files = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
        for file in files(self.root.join("sha256")).flat_map(|directory| files(directory.path())) {
            let name = format!("sha256:{}", file.file_name().to_string_lossy());
            if !named.contains(&name) && is_stale(&file) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

/// The file as it is now. None where another file may later have the same device and inode number: file systems without a device of
/// their own (overlay, tmpfs) pass their numbers on.
fn identity(module: &Metadata) -> Option<Verified> {
    (rustix::fs::major(module.dev()) != 0).then(|| Verified::now(module)).flatten()
}

/// The tilde makes it one of the names that are removed when they are old.
fn known_name(module: &Metadata) -> String {
    format!("{:x}-{:x}~module", module.dev(), module.ino())
}

fn modified(file: &DirEntry) -> SystemTime {
    file.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn is_stale(file: &DirEntry) -> bool {
    modified(file).elapsed().is_ok_and(|age| age > STALE)
}

/// Opens code so that no process of a container can write to it by our descriptor, and checks whose it is. Where no clone of its
/// mount can be made, the code is copied.
fn open_protected(path: &Path) -> Result<File> {
    if let Ok(code) = read_only::open(path) {
        require_own(&code, "compiled code")?;
        return Ok(code);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut code = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    require_own(&code, "compiled code")?;
    let mut copy = memory::file()?;
    std::io::copy(&mut code, &mut copy)?;
    memory::seal(copy)
}

fn hash(mut file: &File) -> Result<Digest> {
    let mut hash = Hasher::default();
    let mut buffer = vec![0u8; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    file.rewind()?;
    Ok(hash.finish())
}

/// Notes that an entry was used; it is only about what is removed first.
fn note_use(index: &OwnedFd, key: &Digest) {
    let Ok(stat) = statat(index, key.hex(), AtFlags::SYMLINK_NOFOLLOW) else { return };
    let noted = SystemTime::UNIX_EPOCH + Duration::from_secs(stat.st_mtime as u64);
    if noted.elapsed().is_ok_and(|age| age > NOTED_USE) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        let _ = utimensat(index, key.hex(), &times, AtFlags::SYMLINK_NOFOLLOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store(max_bytes: u64) -> (tempfile::TempDir, Store) {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::new(tmp.path().join("store"), max_bytes);
        (tmp, store)
    }

    fn read(store: &Store, key: &Digest) -> Option<String> {
        store.get(key).map(|stored| std::io::read_to_string(stored.code).unwrap())
    }

    #[test]
    fn code_is_found_under_its_key() {
        let (_tmp, store) = store(1000);
        let key = Digest::of(b"key");
        assert!(store.get(&key).is_none());
        store.put(&key, b"code", Kind::Command).unwrap();
        assert_eq!(read(&store, &key).as_deref(), Some("code"));
        assert_eq!(store.get(&key).unwrap().kind, Kind::Command);
    }

    #[test]
    fn damaged_or_foreign_code_is_not_used_and_is_replaced() {
        let (_tmp, store) = store(1000);
        let key = Digest::of(b"key");
        let blob = store.blobs().path(&Digest::of(b"code"));
        let entry = store.index().join(key.hex());
        let damages: [&dyn Fn(); 8] = [
            &|| std::fs::write(&blob, b"evil").unwrap(),
            &|| std::fs::write(&blob, b"longer").unwrap(),
            &|| std::fs::write(&entry, b"{}").unwrap(),
            &|| std::fs::remove_file(&blob).unwrap(),
            &|| std::fs::set_permissions(&blob, PermissionsExt::from_mode(0o666)).unwrap(),
            &|| std::fs::set_permissions(&entry, PermissionsExt::from_mode(0o620)).unwrap(),
            &|| std::os::unix::fs::chown(&blob, Some(12345), None).unwrap(),
            &|| {
                std::fs::rename(&blob, blob.with_extension("away")).unwrap();
                std::os::unix::fs::symlink(blob.with_extension("away"), &blob).unwrap();
            },
        ];
        for damage in damages {
            store.put(&key, b"code", Kind::Command).unwrap();
            assert_eq!(read(&store, &key).as_deref(), Some("code"));
            damage();
            assert!(store.get(&key).is_none());
        }
        store.put(&key, b"code", Kind::Command).unwrap();
    }

    #[test]
    fn a_digest_is_verified_once_while_the_file_does_not_change() {
        let (_tmp, store) = store(1000);
        let key = Digest::of(b"key");
        store.put(&key, b"code", Kind::Command).unwrap();
        let entry = store.index().join(key.hex());
        let recorded = || {
            assert_eq!(read(&store, &key).as_deref(), Some("code"));
            std::fs::read_to_string(&entry).unwrap().contains("verified")
        };
        // Not while a change could go unseen.
        assert!(!recorded());
        let begin = std::time::Instant::now();
        while !recorded() {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(50));
        }
        // Of the same length and with the same time.
        let blob = store.blobs().path(&Digest::of(b"code"));
        let modified = std::fs::metadata(&blob).unwrap().modified().unwrap();
        std::fs::write(&blob, b"evil").unwrap();
        File::options().write(true).open(&blob).unwrap().set_modified(modified).unwrap();
        assert!(store.get(&key).is_none());
    }

    #[test]
    fn a_module_is_read_again_when_it_has_changed() {
        let (tmp, store) = store(1000);
        let key = Digest::of(b"key");
        store.put(&key, b"code", Kind::Command).unwrap();
        let path = tmp.path().join("module");
        std::fs::write(&path, b"one").unwrap();
        let of = || std::fs::metadata(&path).unwrap();
        if rustix::fs::major(of().dev()) == 0 {
            // On a file system without a device nothing is remembered.
            store.remember(&of(), &key);
            assert!(store.known(&of()).is_none());
            return;
        }
        store.remember(&of(), &Digest::of(b"one"));
        assert!(store.known(&of()).is_none(), "not while a change could go unseen");
        std::thread::sleep(Duration::from_millis(3100));
        store.remember(&of(), &Digest::of(b"one"));
        assert_eq!(store.known(&of()), Some(Digest::of(b"one")));
        let modified = of().modified().unwrap();
        std::fs::write(&path, b"two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert!(store.known(&of()).is_none());
    }

    #[test]
    fn a_store_that_others_can_write_to_is_not_used() {
        let (_tmp, store) = store(1000);
        let key = Digest::of(b"key");
        store.put(&key, b"code", Kind::Command).unwrap();
        for directory in [store.root.clone(), store.index()] {
            std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).unwrap();
            assert!(store.get(&key).is_none());
            assert!(store.put(&key, b"code", Kind::Command).is_err());
            std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)).unwrap();
        }
        assert!(store.get(&key).is_some());
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let (_tmp, store) = store(20);
        let keys: Vec<Digest> = (0..4u8).map(|n| Digest::of(&[n])).collect();
        for (n, key) in keys.iter().enumerate() {
            store.put(key, format!("code {n}").as_bytes(), Kind::Command).unwrap();
            let used = SystemTime::now() - Duration::from_secs(100 - n as u64);
            let entry = File::open(store.index().join(key.hex())).unwrap();
            entry.set_modified(used).unwrap();
        }
        let there: Vec<bool> = keys.iter().map(|key| store.get(key).is_some()).collect();
        assert_eq!(there, [false, true, true, true]);
        assert!(!store.blobs().contains(&Digest::of(b"code 0")));
    }

    #[test]
    fn many_can_put_the_same_at_once() {
        let (_tmp, store) = store(1000);
        let key = Digest::of(b"key");
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    store.put(&key, b"code", Kind::Command).unwrap();
                    assert_eq!(read(&store, &key).as_deref(), Some("code"));
                });
            }
        });
    }
}
