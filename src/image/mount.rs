//! An image's files, mounted read-only on a directory of the host.

use crate::error::{Context as _, ErrorKind, Result};
use crate::image::image::Image;
use crate::image::store::{ImageStore, privileged};
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use std::path::Path;

/// Mounts the image over `directory`. Its layers stay in the store as long as that.
pub fn mount(store: &ImageStore, image: &Image, directory: &Path) -> Result<()> {
    let cannot = || format!("cannot mount image '{}' on '{}'", image.name(), directory.display());
    if !privileged() {
        crate::bail!(NotSupported, "{}: mounting on the host needs privileges; use a bundle", cannot());
    }
    let _shared = store.lock_shared()?;
    image.check(store)?;
    let empty = store.empty_directory()?;
    let mounted = (|| -> rustix::io::Result<()> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for layer in image.layers().iter().rev().map(|layer| layer.path.as_path()).chain([empty.as_path()]) {
            fsconfig_set_string(&fs, "lowerdir+", layer)?;
        }
        fsconfig_set_flag(&fs, "userxattr")?;
        fsconfig_set_flag(&fs, "ro")?;
        fsconfig_create(&fs)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID;
        let tree = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        move_mount(&tree, "", CWD, directory, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    })();
    mounted.or_kind(ErrorKind::System, cannot)
}

/// Takes the topmost mount off `directory`.
pub fn umount(directory: &Path) -> Result<()> {
    unmount(directory, UnmountFlags::NOFOLLOW).context(|| format!("cannot unmount '{}'", directory.display()))
}
