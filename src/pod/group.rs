//! Pods of one manifest: all of them are there, or none.
//!
//! While they are made a file `groups/ID~` names them, locked by the process that makes them. Every pod is put into its place, where
//! nobody counts it, since its record names the group. One rename, to `groups/ID`, is the commit of all. Then the records forget
//! the group, and the file goes.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::pod::clean;
use crate::pod::record::PodRecord;
use crate::pod::store::PodStore;
use crate::runtime::options::Host;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};

/// The pods of one manifest, as the process that makes them has them.
#[derive(Debug)]
pub struct Group {
    /// Its id.
    pub id: String,
    directory: PathBuf,
    /// Held as long as that process lives.
    _lock: File,
}

impl Group {
    /// Names the pods that are going to be made.
    pub fn begin(store: &PodStore, id: &str, pods: &[String]) -> Result<Self> {
        let directory = store.groups();
        let path = directory.join(format!("{id}~"));
        let cannot = || format!("cannot make '{}'", path.display());
        // Nobody looks for what was left while the file has no lock yet.
        let _names = store.lock_names()?;
        std::fs::create_dir_all(&directory).or_kind(ErrorKind::Storage, cannot)?;
        std::fs::write(&path, serde_json::to_vec(pods)?).or_kind(ErrorKind::Storage, cannot)?;
        let lock = File::open(&path).or_kind(ErrorKind::Storage, cannot)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).or_kind(ErrorKind::Storage, cannot)?;
        Ok(Self { id: id.to_owned(), directory, _lock: lock })
    }

    /// From here on all pods are there.
    pub fn commit(&self) -> Result<()> {
        let to = self.directory.join(&self.id);
        std::fs::rename(self.directory.join(format!("{}~", self.id)), to)
            .or_kind(ErrorKind::Storage, || "cannot commit the pods")
    }

    /// Removes the file, committed or not: no record names it any more.
    pub fn end(self) -> Result<()> {
        remove(&self.directory.join(&self.id))?;
        remove(&self.directory.join(format!("{}~", self.id)))
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).or_kind(ErrorKind::Storage, || format!("cannot remove '{}'", path.display()))
        }
        _ => Ok(()),
    }
}

/// Finishes what interrupted commands left of groups: pods of a committed one are there, those of another one go.
pub fn leftovers(store: &PodStore, host: &Host) -> Result<()> {
    let entries = match std::fs::read_dir(store.groups()) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.or_kind(ErrorKind::Storage, || "cannot read the groups of pods")?,
    };
    for entry in entries.flatten() {
        let Some(_lock) = lock(store, &entry.path())? else { continue };
        // The name may have changed meanwhile: that of a file which nobody makes any more cannot.
        let Ok(data) = std::fs::read(entry.path()) else { continue };
        let pods: Vec<String> = serde_json::from_slice(&data).unwrap_or_default();
        let committed = !entry.file_name().to_string_lossy().ends_with('~');
        let mut done = true;
        for id in &pods {
            if committed {
                forget(store, id)?;
            } else {
                done &= clean::leftover(store, host, id)?;
            }
        }
        // One that somebody is still at work on is looked at again by the next command.
        if done {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn lock(store: &PodStore, path: &Path) -> Result<Option<File>> {
    let _names = store.lock_names()?;
    let Ok(file) = File::open(path) else { return Ok(None) };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(Error::from(e)).or_kind(ErrorKind::Storage, || "cannot lock a group of pods"),
    }
}

/// Takes the group out of the record of a pod whose group is committed.
fn forget(store: &PodStore, id: &str) -> Result<()> {
    let Ok(dir) = store.pods().open(id) else { return Ok(()) };
    match PodRecord::load(&dir)? {
        Some(record) if record.group.is_some() => PodRecord { group: None, ..record }.save(&dir),
        _ => Ok(()),
    }
}
