//! What stands for a pod, for the sandbox service of containerd 2.
//!
//! It is a container that holds the pod's namespaces, of which containerd knows the pid. Its bundle is made here, and so is what the pod's
//! containers get beside what containerd wrote for them. A microVM that all containers of a pod share is that container: the runtime finds
//! it by their annotations.

mod config;
mod files;
mod pause;
mod pod;

use crate::bundle::SharedFile;
use crate::error::{Context as _, Error, Result};
use crate::reaper::Reaper;
use crate::rootfs::{self, Mounted};
use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use pod::Pod;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use pause::{ARGUMENT as BECOME_SANDBOX, become_sandbox};

/// A pod's sandbox, as far as it is not its container.
pub struct Sandbox {
    /// Its id, which is that of its container too.
    pub id: String,
    /// The bundle.
    pub bundle: PathBuf,
    /// What its containers share.
    pub files: Vec<SharedFile>,
    /// When it was made.
    pub created: SystemTime,
    /// Its shared memory, for as long as it exists.
    _shm: Option<Mounted>,
}

impl Sandbox {
    /// Makes the bundle of a sandbox in the directory that containerd has made for it.
    pub fn prepare(reaper: &Reaper, request: &CreateSandboxRequest) -> Result<Self> {
        if !request.rootfs.is_empty() {
            return Err(Error::invalid("a sandbox with a root file system of its own is not supported"));
        }
        let pod = Pod::from_any(request.options.as_ref())?;
        let bundle = PathBuf::from(&request.bundle_path);
        let program = std::env::current_exe().context(|| "cannot find this program")?;
        let config = config::config(&request.sandbox_id, &pod, &request.netns_path, &program);
        let root = bundle.join(config::ROOT);
        std::fs::create_dir_all(&root).context(|| format!("cannot make '{}'", root.display()))?;
        let path = bundle.join("config.json");
        std::fs::write(&path, config.to_string()).context(|| format!("cannot write '{}'", path.display()))?;
        let (files, shm) = files::make(reaper, &bundle, &pod)?;
        let (id, created) = (request.sandbox_id.clone(), SystemTime::now());
        Ok(Self { id, bundle, files, created, _shm: shm })
    }
}

/// Unmounts what a sandbox whose server has died has left in its bundle.
pub fn clean(bundle: &Path) {
    rootfs::unmount_all(&bundle.join(files::SHM));
}
