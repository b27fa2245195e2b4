//! What is downloaded or built once and kept outside the repository: `$XDG_CACHE_HOME/magikrun` or `~/.cache/magikrun`.

use crate::scratch;
use anyhow::{Context as _, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The folder of the cache, which exists.
pub(crate) fn folder() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base =
        set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache"))).ok_or_else(|| {
            anyhow!("cannot find a folder for the cache: neither XDG_CACHE_HOME nor HOME is set")
        })?;
    let folder = base.join("magikrun");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make '{}'", folder.display()))?;
    Ok(folder)
}

/// The folder `name` for `recipe`, made by `make` if it is not there yet.
///
/// `recipe` is all that decides what is in the folder: another recipe is another folder. `make` fills a temporary
/// folder, which is renamed when it is complete; two processes that want the same wait for each other.
pub(crate) fn folder_of(
    name: &str,
    recipe: &[&str],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let base = folder()?;
    let mut hash = Sha256::new();
    for part in recipe {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    let start = std::array::from_fn(|i| hash[i]);
    let folder = base.join(format!("{name}-{:016x}", u64::from_be_bytes(start)));
    let lock = File::create(base.join(format!("{name}.lock")))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    if folder.exists() {
        return Ok(folder);
    }
    // Whoever holds the lock is alone: these are of runs that were killed.
    for entry in fs::read_dir(&base)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&format!(".{name}-")) {
            scratch::remove(&entry.path())?;
        }
    }
    eprintln!("making '{}'", folder.display());
    let half = tempfile::Builder::new().prefix(&format!(".{name}-")).tempdir_in(&base)?;
    make(half.path()).with_context(|| format!("cannot make '{}'", folder.display()))?;
    fs::rename(half.keep(), &folder)?;
    Ok(folder)
}
