//! Masked and read-only paths, applied from inside the container's root.

use super::attach::{self, NewFs};
use super::null;
use super::resolve::file_type;
use crate::error::{Context as _, Result};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags as Attr;
use std::path::{Path, PathBuf};

fn open_existing(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    match open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes `path`, if it exists, and everything mounted below it, read-only.
pub(super) fn make_read_only(path: &Path) -> Result<()> {
    let cannot = || format!("unable to make {} read-only", path.display());
    let Some(at) = open_existing(path).context(cannot)? else { return Ok(()) };
    let tree = attach::clone_fd(at.as_fd(), true).context(cannot)?;
    // Attached first: in a user namespace a mount's other attributes are locked, and only a change keeps them.
    attach::attach(tree.as_fd(), at.as_fd()).context(cannot)?;
    attach::change(tree.as_fd(), Attr::MOUNT_ATTR_RDONLY, Attr::empty()).context(cannot)
}

/// Hides the paths that exist: files below the null device, directories below an empty, read-only one.
pub(super) fn mask(paths: &[PathBuf]) -> Result<()> {
    let (mut file, mut empty) = (None, None);
    for path in paths {
        let cannot = || format!("unable to mask {}", path.display());
        let Some(at) = open_existing(path).context(cannot)? else { continue };
        let cover = if file_type(&at).context(cannot)? == FileType::Directory {
            cover_of(&mut empty, empty_directory)
        } else {
            cover_of(&mut file, || Ok(attach::clone_fd(null::open_device(OFlags::PATH)?.as_fd(), false)?))
        }
        .map_err(|e| e.wrap(cannot()))?;
        attach::attach(cover.as_fd(), at.as_fd()).context(cannot)?;
        // From now on it is a mount of this namespace, of which copies can be made.
        let slot =
            if file_type(&cover).context(cannot)? == FileType::Directory { &mut empty } else { &mut file };
        *slot = Some(cover);
    }
    Ok(())
}

fn cover_of(made: &mut Option<OwnedFd>, make: impl Fn() -> Result<OwnedFd>) -> Result<OwnedFd> {
    match made {
        Some(made) => Ok(attach::clone_fd(made.as_fd(), false)?),
        None => make(),
    }
}

fn empty_directory() -> Result<OwnedFd> {
    let data = ["mode=755".to_owned()];
    let attr =
        Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    Ok(NewFs { kind: "tmpfs", source: "tmpfs", flags: &[], data: &data, attr }.create()?)
}
