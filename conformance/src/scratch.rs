//! Temporary folders. One that a killed run has left is removed by the next.

use anyhow::{Context as _, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// How the names of our folders begin.
const PREFIX: &str = "conformance-";
/// The file in a folder that is locked as long as its run lasts.
const LOCK: &str = "lock";

static BASE: OnceLock<PathBuf> = OnceLock::new();

/// The folder that holds all temporary folders of this run; it goes away with this.
#[derive(Debug)]
pub(crate) struct Scratch {
    _folder: TempDir,
    _lock: Flock<File>,
}

impl Scratch {
    /// Makes the folder, and removes those of runs that were killed.
    pub(crate) fn open() -> Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let (folder, lock) =
            make(&parent).with_context(|| format!("cannot make a folder in '{}'", parent.display()))?;
        let _ = BASE.set(folder.path().to_owned());
        Ok(Self { _folder: folder, _lock: lock })
    }
}

/// A new temporary folder, below that of the run where there is one.
pub(crate) fn folder() -> Result<TempDir> {
    let parent = BASE.get().cloned().unwrap_or_else(std::env::temp_dir);
    // Sockets are made below, whose paths may not be long.
    Ok(tempfile::Builder::new().prefix("").tempdir_in(parent)?)
}

fn make(parent: &Path) -> Result<(TempDir, Flock<File>)> {
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
    // What runs in user namespaces must be able to walk through it.
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let file = File::create(folder.path().join(LOCK))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
    Ok((folder, lock))
}

/// Removes folders whose run is over. What cannot be removed stays: it is in nobody's way.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Err(error) = remove_if_over(&entry.path())
        {
            eprintln!("conformance: {error:#}");
        }
    }
}

fn remove_if_over(folder: &Path) -> Result<()> {
    // A folder without a lock is one that was just made.
    let Ok(file) = File::open(folder.join(LOCK)) else { return Ok(()) };
    let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(()) };
    delete_containers(folder);
    remove(folder)
}

/// Removes a folder that a killed run has left. Nothing of another file system, which may be mounted there, is ours.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    let status = Command::new("rm").args(["-rf", "--one-file-system"]).arg(folder).status()?;
    status.success().then_some(()).ok_or_else(|| anyhow!("cannot remove '{}'", folder.display()))
}

/// Deletes the containers that the programs of a killed run have left, by the runtime that made them.
fn delete_containers(folder: &Path) {
    for work in fs::read_dir(folder).into_iter().flatten().flatten() {
        let runtime = work.path().join(crate::runtime::WRAPPER);
        for container in fs::read_dir(work.path().join(crate::runtime::STATE)).into_iter().flatten().flatten()
        {
            let _ = Command::new(&runtime).args(["delete", "--force"]).arg(container.file_name()).output();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_killed_run_goes_and_that_of_another_stays() {
        let parent = tempfile::tempdir().expect("a folder");
        let (killed, lock) = make(parent.path()).expect("a folder");
        let killed = killed.keep();
        drop(lock);
        let (running, _lock) = make(parent.path()).expect("a folder");
        fs::write(killed.join("file"), "x").expect("a file");
        sweep(parent.path());
        assert!(!killed.exists());
        assert!(running.path().join(LOCK).exists());
    }

    #[test]
    fn containers_of_a_killed_run_are_deleted_by_the_runtime_that_made_them() {
        let parent = tempfile::tempdir().expect("a folder");
        let (killed, lock) = make(parent.path()).expect("a folder");
        let killed = killed.keep();
        drop(lock);
        let log = parent.path().join("log");
        let work = killed.join("work");
        fs::create_dir_all(work.join(crate::runtime::STATE).join("c1")).expect("a folder");
        crate::runtime::executable(
            &work.join(crate::runtime::WRAPPER),
            &format!("#!/bin/sh\necho \"$@\" >>'{}'\n", log.display()),
        )
        .expect("a script");
        sweep(parent.path());
        assert_eq!(fs::read_to_string(log).expect("a log"), "delete --force c1\n");
    }
}
