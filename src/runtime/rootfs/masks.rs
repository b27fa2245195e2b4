//! Masked and read-only paths, applied from inside the container's root.

use super::attach::{self, NewFs};
use super::resolve::file_type;
use crate::error::{Context as _, Result};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, fstat, major, minor, open};
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
    let (mut null, mut empty) = (None, None);
    for path in paths {
        let cannot = || format!("unable to mask {}", path.display());
        let Some(at) = open_existing(path).context(cannot)? else { continue };
        let cover = if file_type(&at).context(cannot)? == FileType::Directory {
            cover_of(&mut empty, empty_directory)
        } else {
            cover_of(&mut null, null_device)
        }
        .map_err(|e| e.wrap(cannot()))?;
        attach::attach(cover.as_fd(), at.as_fd()).context(cannot)?;
        // From now on it is a mount of this namespace, of which copies can be made.
        let slot =
            if file_type(&cover).context(cannot)? == FileType::Directory { &mut empty } else { &mut null };
        *slot = Some(cover);
    }
    Ok(())
}

fn cover_of(made: &mut Option<OwnedFd>, make: fn() -> Result<OwnedFd>) -> Result<OwnedFd> {
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

/// The container's null device: really that, and not what an image or a racing container put in its place
/// (CVE-2025-31133).
fn null_device() -> Result<OwnedFd> {
    let null = open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open '/dev/null'")?;
    let stat = fstat(&null)?;
    let is_null = file_type(&null)? == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
    if !is_null {
        crate::bail!(CreateFailed, "'/dev/null' is not the null device");
    }
    Ok(attach::clone_fd(null.as_fd(), false)?)
}
