//! The state root: one directory a container, and how they come and go.
//!
//! A container that is being created has the directory `ID~`, which no id can be called, and holds a lock in it. The
//! finished container is published by a rename to `ID`. A directory `ID~` whose lock is free was left by a
//! create that died: whoever comes next cleans it up. Deletion renames back to `ID~` first.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::limits::MAX_CONTAINER_ID_LEN;
use crate::storage::atomic;
use crate::storage::cache::Cache;
use crate::storage::lock::{self, Lock};
use crate::storage::overview::{Overview, has_at, read_at};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, fstat, mkdirat, renameat, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const NEW_LOCK: &str = "lock~";
const ROOT_LOCK: &str = "lock~";
/// Bytes of directory entries that are read at a time.
const ENTRIES: usize = 4096;
/// What is in the state root and belongs to no container; no id and no half-made container begins so.
const SHARED: char = '~';

/// The directory under which the state of all containers lives.
#[derive(Debug)]
pub struct StateRoot {
    path: PathBuf,
}

/// The open state directory of one container.
#[derive(Debug)]
pub struct StateDir {
    dir: OwnedFd,
    path: PathBuf,
}

/// Checks the rules for container ids: those of runc, and the length limit of [`MAX_CONTAINER_ID_LEN`].
pub fn validate_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() {
        bail_id("container id cannot be empty")
    } else if id == "." || id == ".." || !id.chars().all(allowed) {
        bail_id(&format!(
            "invalid container ID format: '{}' (letters, digits, '_', '+', '-' and '.')",
            id.escape_default()
        ))
    } else if id.len() > MAX_CONTAINER_ID_LEN {
        bail_id(&format!(
            "invalid container ID format: {} bytes are more than {MAX_CONTAINER_ID_LEN}",
            id.len()
        ))
    } else {
        Ok(())
    }
}

fn bail_id(message: &str) -> Result<()> {
    Err(Error::new(ErrorKind::InvalidContainerId, message))
}

/// Says what helps somebody without privileges, whose state root is another.
fn with_help(e: Error) -> Error {
    if e.errno() != Some(libc::EACCES) {
        return e;
    }
    let message = format!("{e} (set XDG_RUNTIME_DIR, or name a directory of your own with --root)");
    Error::from_parts(e.kind(), message, e.errno())
}

/// The error, in the words of runc, for a container that does not exist.
pub fn not_found() -> Error {
    Error::new(ErrorKind::ContainerNotFound, "container does not exist")
}

fn exists() -> Error {
    Error::new(ErrorKind::ContainerExists, "container with given ID already exists")
}

impl StateRoot {
    /// The state root at `path`; nothing is touched.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the state directory of an existing container.
    ///
    /// Fails with [`ErrorKind::ContainerNotFound`] in runc's words when there is none.
    pub fn open(&self, id: &str) -> Result<StateDir> {
        validate_id(id)?;
        self.open_name(id)?.ok_or_else(not_found)
    }

    /// Opens what an interrupted `create` or `delete` left of `id`, if it did.
    pub fn open_leftover(&self, id: &str) -> Result<Option<StateDir>> {
        validate_id(id)?;
        self.open_name(&half_made(id))
    }

    fn open_name(&self, name: &str) -> Result<Option<StateDir>> {
        let path = self.path.join(name);
        match open_dir(&path) {
            Ok(dir) => Ok(Some(StateDir { dir, path })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e)
                .or_kind(ErrorKind::Storage, || format!("cannot open state directory '{}'", path.display())),
        }
    }

    /// The ids of all containers, sorted; those being created or deleted are not among them.
    pub fn ids(&self) -> Result<Vec<String>> {
        Ok(self.open_all()?.map_or_else(Vec::new, Overview::into_ids))
    }

    /// Opens the state root to read of many containers; `None` when it does not exist.
    pub fn open_all(&self) -> Result<Option<Overview>> {
        let Some(root) = self.open_root()? else { return Ok(None) };
        let mut ids = self.names(root.as_fd())?;
        ids.retain(|name| validate_id(name).is_ok());
        ids.sort_unstable();
        Ok(Some(Overview::new(root, ids)))
    }

    /// The ids of those that are being created or deleted, or were when their command died.
    pub fn half_made_ids(&self) -> Result<Vec<String>> {
        let Some(root) = self.open_root()? else { return Ok(Vec::new()) };
        let names = self.names(root.as_fd())?;
        Ok(names.iter().filter_map(|name| name.strip_suffix('~')).map(str::to_owned).collect())
    }

    fn open_root(&self) -> Result<Option<OwnedFd>> {
        match open_dir(&self.path) {
            Err(Errno::NOENT) => Ok(None),
            root => root
                .map(Some)
                .or_kind(ErrorKind::Storage, || format!("cannot open state root '{}'", self.path.display()))
                .map_err(with_help),
        }
    }

    /// The names of the directories in the state root, which was opened for this.
    fn names(&self, root: BorrowedFd<'_>) -> Result<Vec<String>> {
        directories(root)
            .or_kind(ErrorKind::Storage, || format!("cannot read state root '{}'", self.path.display()))
    }

    /// Reserves `id` for a new container: an empty, locked directory that nobody sees as a container yet.
    ///
    /// `clean_up` is called with what an interrupted operation left under this id, before its directory is
    /// removed. Fails when the id is in use, in runc's words, or when `max_containers` exist already.
    pub fn reserve(
        &self,
        id: &str,
        max_containers: usize,
        clean_up: impl Fn(&StateDir) -> Result<()>,
    ) -> Result<(StateDir, Lock)> {
        validate_id(id)?;
        let (root, root_lock) = self.lock()?;
        if let Some(left) = self.open_leftover(id)? {
            if self.open_name(id)?.is_some() {
                return Err(exists());
            }
            if left.has(LOCK) {
                let _lock = left.try_lock()?.ok_or_else(exists)?;
                if !left.is_in_place() {
                    // Finished since it was opened: what would be cleaned up is a container.
                    return Err(exists());
                }
                clean_up(&left)?;
            }
            remove(&left.path)?;
        } else if self.open_name(id)?.is_some() {
            // Looked for last: it may have been finished since the other look.
            return Err(exists());
        }
        self.check_room(root.as_fd(), max_containers)?;
        let made = self.make_half_made(root.as_fd(), id);
        drop(root_lock);
        made
    }

    /// Refuses a further container when `max` exist, half-made ones included.
    fn check_room(&self, root: BorrowedFd<'_>, max: usize) -> Result<()> {
        // Most file systems count a directory's directories as links to it, which takes no time however many there are; one that does not
        // says 1, or always 2.
        let links = fstat(root).map_or(0, |stat| stat.st_nlink as usize);
        if links > 2 && links - 2 < max {
            return Ok(());
        }
        let count = self.names(root)?.iter().filter(|name| !name.starts_with(SHARED)).count();
        if count >= max {
            crate::bail!(TooManyContainers, "{count} containers exist already, the limit is {max}");
        }
        Ok(())
    }

    fn make_half_made(&self, root: BorrowedFd<'_>, id: &str) -> Result<(StateDir, Lock)> {
        let name = half_made(id);
        match mkdirat(root, &name, Mode::RWXU) {
            // Finished, and being deleted already.
            Err(Errno::EXIST) => return Err(exists()),
            made => made.or_kind(ErrorKind::Storage, || format!("cannot make state directory '{name}'"))?,
        }
        let made = self.open_name(&name).and_then(|dir| {
            let dir = dir.ok_or_else(not_found)?;
            dir.make_lock().map(|lock| (dir, lock))
        });
        if made.is_err() {
            let _ = remove(&self.path.join(&name));
        }
        made
    }

    /// Opens the cache `name` of all containers, if there is a state root and it can be trusted.
    pub fn cache(&self, name: &str) -> Option<Cache> {
        Cache::open(open_dir(&self.path).ok()?.as_fd(), &format!("{SHARED}{name}"))
    }

    /// Removes a directory `ID~` that has no lock file: what is left of a `create` that died before it had one.
    pub fn remove_unlocked(&self, id: &str) -> Result<()> {
        let (_root, _lock) = self.lock()?;
        match self.open_leftover(id)? {
            Some(left) if !left.has(LOCK) => remove(&left.path),
            _ => Ok(()),
        }
    }

    /// Takes a container, whose lock the caller holds, out of sight. Answers where its state directory is now.
    pub fn retract(&self, id: &str) -> Result<PathBuf> {
        let to = self.path.join(half_made(id));
        renameat(rustix::fs::CWD, self.path.join(id), rustix::fs::CWD, &to)
            .or_kind(ErrorKind::Storage, || format!("cannot retract container '{id}'"))?;
        Ok(to)
    }

    /// Removes the state directory at `path`, whose lock the caller holds, and all files in it.
    ///
    /// Its name is free for others the moment that its lock file is gone, so they are kept out until it is gone as a whole.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let (_root, _lock) = self.lock()?;
        remove(path)
    }

    /// Waits for the lock of the whole root. While it is held nobody makes or removes a directory, and none is without its
    /// lock file but those that a dead process has left.
    fn lock(&self) -> Result<(OwnedFd, Lock)> {
        let root = self.make_root()?;
        let lock = Lock::wait(lock::open(root.as_fd(), ROOT_LOCK, OFlags::CREATE)?)?;
        Ok((root, lock))
    }

    /// Opens and locks what an interrupted operation left of `id`, if nobody is at work on it. One without a lock file, which
    /// a `create` left that died at once, is removed.
    pub fn lock_leftover(&self, id: &str) -> Result<Option<(StateDir, Lock)>> {
        let (_root, _lock) = self.lock()?;
        let Some(left) = self.open_leftover(id)? else { return Ok(None) };
        if !left.has(LOCK) {
            return remove(&left.path).map(|()| None);
        }
        Ok(left.try_lock()?.map(|lock| (left, lock)))
    }

    fn make_root(&self) -> Result<OwnedFd> {
        use std::os::unix::fs::DirBuilderExt as _;
        let cannot = || format!("cannot make state root '{}'", self.path.display());
        if let Ok(dir) = open_dir(&self.path) {
            return Ok(dir);
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        let made = made.map_err(Error::from).and_then(|()| open_dir(&self.path).map_err(Error::from));
        made.or_kind(ErrorKind::Storage, cannot).map_err(with_help)
    }
}

fn half_made(id: &str) -> String {
    format!("{id}~")
}

fn open_dir(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// The names of the directories in a directory that was just opened, those in UTF-8.
fn directories(dir: BorrowedFd<'_>) -> std::result::Result<Vec<String>, Errno> {
    let mut buffer = [MaybeUninit::uninit(); ENTRIES];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let kind = match entry.file_type() {
            FileType::Unknown => statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            kind => kind,
        };
        if kind == FileType::Directory && name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

impl StateDir {
    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// False when it was renamed or removed by another since it was opened.
    pub fn is_in_place(&self) -> bool {
        let (Ok(here), Ok(there)) = (fstat(&self.dir), rustix::fs::stat(&self.path)) else { return false };
        (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    }

    /// The directory itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Waits for the container's lock. Fails as if the container did not exist when it was deleted meanwhile.
    pub fn lock(&self) -> Result<Lock> {
        let lock = Lock::wait(self.open_lock()?)?;
        if fstat(&lock).map_err(Error::from)?.st_nlink == 0 {
            return Err(not_found());
        }
        Ok(lock)
    }

    /// Makes the lock file, and holds it from the moment that others can see it.
    fn make_lock(&self) -> Result<Lock> {
        let lock = Lock::wait(lock::open(self.fd(), NEW_LOCK, OFlags::CREATE)?)?;
        renameat(&self.dir, NEW_LOCK, &self.dir, LOCK)
            .or_kind(ErrorKind::Storage, || "cannot make the lock of the state directory")?;
        Ok(lock)
    }

    /// Opens the lock file. It is made with the directory and never again: a new one in a directory that is just being
    /// removed would keep it.
    fn open_lock(&self) -> Result<OwnedFd> {
        lock::open(self.fd(), LOCK, OFlags::empty()).map_err(|e| match e.errno() {
            Some(libc::ENOENT) => not_found(),
            _ => e,
        })
    }

    /// Takes the lock if nobody has it; there may also be none any more.
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        match self.open_lock() {
            Err(e) if e.kind() == ErrorKind::ContainerNotFound => Ok(None),
            file => Lock::take(file?),
        }
    }

    /// Makes the finished container visible under its id.
    pub fn publish(&mut self, root: &StateRoot, id: &str) -> Result<()> {
        let to = root.path.join(id);
        renameat_with(rustix::fs::CWD, &self.path, rustix::fs::CWD, &to, RenameFlags::NOREPLACE)
            .or_kind(ErrorKind::Storage, || format!("cannot publish container '{id}'"))?;
        self.path = to;
        Ok(())
    }

    /// Takes the container out of sight before it is removed; the opposite of [`StateDir::publish`].
    pub fn retract(&mut self, root: &StateRoot, id: &str) -> Result<()> {
        self.path = root.retract(id)?;
        Ok(())
    }

    /// Reads the file `name`; `None` when it does not exist.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        read_at(self.fd(), name, || format!("cannot read '{}'", self.path.join(name).display()))
    }

    /// Writes the file `name` atomically.
    pub fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        atomic::write_at(&self.dir, name, data)
    }

    /// True if there is a file `name`.
    pub fn has(&self, name: &str) -> bool {
        has_at(self.fd(), name)
    }

    /// Removes the file `name` if it is there.
    pub fn remove_file(&self, name: &str) -> Result<()> {
        match unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e).or_kind(ErrorKind::Storage, || format!("cannot remove '{name}'")),
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e)
            .or_kind(ErrorKind::Storage, || format!("cannot remove state directory '{}'", path.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_rules_of_runc() {
        for good in ["a", "A_b+c-d.e", ".hidden", &"x".repeat(MAX_CONTAINER_ID_LEN)] {
            assert!(validate_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a~", "a b", "é", &"x".repeat(MAX_CONTAINER_ID_LEN + 1)] {
            assert_eq!(validate_id(bad).unwrap_err().kind(), ErrorKind::InvalidContainerId, "{bad}");
        }
    }

    #[test]
    fn a_reserved_id_is_invisible_until_published_and_taken_for_others() {
        let tmp = tempfile::tempdir().unwrap();
        let root = StateRoot::new(tmp.path().join("root"));
        let (mut dir, lock) = root.reserve("one", 10, |_| Ok(())).unwrap();
        assert!(root.ids().unwrap().is_empty());
        assert_eq!(root.open("one").unwrap_err().kind(), ErrorKind::ContainerNotFound);
        let busy = root.reserve("one", 10, |_| panic!("not a leftover")).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ContainerExists);
        dir.publish(&root, "one").unwrap();
        drop(lock);
        assert_eq!(root.ids().unwrap(), ["one"]);
        let taken = root.reserve("one", 10, |_| Ok(())).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::ContainerExists);
    }

    #[test]
    fn what_an_interrupted_create_left_is_cleaned_before_the_id_is_given_again() {
        let tmp = tempfile::tempdir().unwrap();
        let root = StateRoot::new(tmp.path());
        let (dir, lock) = root.reserve("one", 10, |_| Ok(())).unwrap();
        dir.write("mark", b"x").unwrap();
        drop(lock);
        let cleaned = std::cell::Cell::new(false);
        let (again, _lock) = root
            .reserve("one", 10, |left| {
                cleaned.set(left.has("mark"));
                Ok(())
            })
            .unwrap();
        assert!(cleaned.get());
        assert!(!again.has("mark"));
    }

    #[test]
    fn the_limit_counts_containers_being_created_too() {
        let tmp = tempfile::tempdir().unwrap();
        let root = StateRoot::new(tmp.path());
        let _one = root.reserve("one", 2, |_| Ok(())).unwrap();
        assert!(root.cache("shared").is_some() && root.ids().unwrap().is_empty());
        let _two = root.reserve("two", 2, |_| Ok(())).unwrap();
        assert_eq!(root.reserve("three", 2, |_| Ok(())).unwrap_err().kind(), ErrorKind::TooManyContainers);
    }
}
