//! A pod's connection to a network of the Container Network Interface, on disk: whoever removes the pod finds it there.
//!
//! The pod's network namespace is kept by a mount, so that plugins find in it what they have to take back even when every process of
//! the pod was killed.

use crate::cni::Attachment;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::storage::atomic;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use std::path::{Path, PathBuf};

fn file(running: &Path) -> PathBuf {
    running.join("cni.json")
}

/// Where the network namespace of a pod is mounted, if it is: in the pod's directory of what lives as long as its containers.
pub fn namespace(running: &Path) -> PathBuf {
    running.join("netns")
}

/// Keeps the network namespace at `source`.
pub fn keep(running: &Path, source: &str) -> Result<()> {
    let path = namespace(running);
    let cannot = || format!("cannot keep the pod's network namespace at '{}'", path.display());
    std::fs::File::create_new(&path).context(cannot)?;
    mount_bind(source, &path).context(cannot)
}

/// Writes down a connection.
pub fn save(running: &Path, attachment: &Attachment) -> Result<()> {
    atomic::write(&file(running), &serde_json::to_vec(attachment)?)
}

/// The connection of a pod, if it has one.
pub fn load(running: &Path) -> Result<Option<Attachment>> {
    let path = file(running);
    let cannot = || format!("cannot read '{}'", path.display());
    match std::fs::read(&path) {
        Ok(data) => serde_json::from_slice(&data).map(Some).or_kind(ErrorKind::Storage, cannot),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::from(e).wrap(cannot())),
    }
}

/// Has the plugins take back a pod's connection, if it has one, and lets its namespace go. May be called again after a failure.
pub fn remove(running: &Path) -> Result<()> {
    if let Some(attachment) = load(running)? {
        attachment.del()?;
        let path = file(running);
        std::fs::remove_file(&path)
            .or_kind(ErrorKind::Storage, || format!("cannot remove '{}'", path.display()))?;
    }
    let path = namespace(running);
    match unmount(&path, UnmountFlags::DETACH) {
        // It is no mount, or not there.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(e) => Err(e).context(|| format!("cannot unmount '{}'", path.display())),
    }
}
