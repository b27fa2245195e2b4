//! Mounting the root file system that containerd's snapshotter describes.

mod helper;
mod idmap;
mod layers;
mod loop_device;
mod options;
mod user_namespace;

use crate::error::{Context as _, Error, Result};
use crate::reaper::Reaper;
use containerd_shim_protos::types::mount::Mount;
use options::Options;
use rustix::mount::{MountFlags, UnmountFlags};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

pub use user_namespace::{ARGUMENT as BECOME_USER_NAMESPACE, become_user_namespace};

/// A root file system that is unmounted when this goes away.
pub struct Mounted(Option<PathBuf>);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            unmount_all(path);
        }
    }
}

/// Takes off everything that is mounted on a directory.
pub fn unmount_all(path: &Path) {
    loop {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::BUSY) => {
                if rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH).is_err() {
                    return;
                }
            }
            // EINVAL: nothing is mounted there any more.
            Err(_) => return,
        }
    }
}

/// Mounts a root file system onto `target`; without mounts, the bundle has one already.
pub fn mount(reaper: &Reaper, mounts: &[Mount], target: &Path) -> Result<Mounted> {
    if mounts.is_empty() {
        return Ok(Mounted(None));
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(target)
        .context(|| format!("cannot make '{}'", target.display()))?;
    let mounted = Mounted(Some(target.to_owned()));
    for one in mounts {
        mount_one(reaper, one, target).context(|| {
            format!("failed to mount rootfs component: cannot mount '{}' of type {}", one.source, one.type_)
        })?;
    }
    Ok(mounted)
}

fn mount_one(reaper: &Reaper, mount: &Mount, root: &Path) -> Result<()> {
    let target = inside(root, &mount.target)?;
    if let Some((program, name)) = helper::find(&mount.type_) {
        return helper::mount(reaper, program, name, mount, &target);
    }
    let options = Options::parse(&mount.options)?;
    // It stays open until it is mounted, as it would go away before.
    let device = match options.loop_device {
        None => None,
        Some(wanted) => {
            let read_only = options.flags.contains(MountFlags::RDONLY);
            Some(loop_device::attach(&mount.source, wanted, read_only)?)
        }
    };
    let source = device.as_ref().map_or(mount.source.as_str(), |device| &device.path);
    match &options.ids {
        None => options.mount(&mount.type_, source, &target)?,
        Some(mappings) => {
            let namespace = user_namespace::make(reaper, mappings)?;
            idmap::mount(&options, &mount.type_, source, &target, &namespace)?;
        }
    }
    if !options.propagation.is_empty() {
        rustix::mount::mount_change(&target, options.propagation)?;
    }
    Ok(())
}

/// The place of a mount below the root file system.
fn inside(root: &Path, target: &str) -> Result<PathBuf> {
    let target = Path::new(target.trim_start_matches('/'));
    if target.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(Error::invalid(format!("the target '{}' leads out of the root", target.display())));
    }
    Ok(if target.as_os_str().is_empty() { root.to_owned() } else { root.join(target) })
}

#[cfg(test)]
mod tests;
