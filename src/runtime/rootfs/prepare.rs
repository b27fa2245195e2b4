//! Building the root in the new mount namespace, up to the point where it is entered.

use super::plan::{MountKind, MountPlan, RootfsPlan};
use super::resolve::{NAME_ONLY, locate};
use super::{attach, cgroup_mounts, devices, mounts};
use crate::error::{Context as _, Error, ErrorKind, Result};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, StatxFlags, open, statx};
use rustix::mount::{MountPropagationFlags as Propagation, mount_change};
use std::path::{Path, PathBuf};

/// A root that is ready to be entered.
#[derive(Debug)]
pub struct Prepared {
    /// Open on the root.
    pub(super) root: OwnedFd,
    /// Mounts that must stay writable until the root is complete; made read-only by [`super::finish`].
    pub(super) late_read_only: Vec<LateReadOnly>,
}

/// A mount to be made read-only: by its descriptor, for its path may lead elsewhere by then.
#[derive(Debug)]
pub(super) struct LateReadOnly {
    /// Open on the mount's root.
    pub(super) mount: OwnedFd,
    /// Where it was attached, for messages.
    pub(super) path: PathBuf,
}

/// Builds the root. Runs in the child, in its new namespaces.
pub fn prepare(plan: &mut RootfsPlan) -> Result<Prepared> {
    if !plan.context.new_mount_namespace {
        let root = open_root(&plan.root)?;
        return Ok(Prepared { root, late_read_only: Vec::new() });
    }
    isolate(plan)?;
    let root = match &plan.root_mount {
        Some(mount) => {
            mounts::root(plan, mount, open_root(&plan.root)?).map_err(|e| e.wrap(mount.description()))?
        }
        None => bind_root(&plan.root)?,
    };
    let mut late_read_only = Vec::new();
    let plans = std::mem::take(&mut plan.mounts);
    for mount in &plans {
        let inner = mount.inner.as_ref().map(|inner| open_inner(&root, inner)).transpose()?;
        let root = inner.as_ref().unwrap_or(&root);
        mount_one(plan, mount, root.as_fd(), &mut late_read_only).map_err(|e| e.wrap(mount.description()))?;
    }
    if !binds_dev(&plans) {
        devices::create(plan, root.as_fd())?;
    }
    for inner in &plan.context.inner {
        devices::create(plan, open_inner(&root, inner)?.as_fd())?;
    }
    plan.mounts = plans;
    locate(root.as_fd(), &plan.cwd)
        .and_then(super::resolve::Spot::or_create_dir)
        .map(drop)
        // What cannot be made, on a read-only root or below a file, is reported when it is entered.
        .unwrap_or_default();
    Ok(Prepared { root, late_read_only })
}

/// Opens a root inside the root.
fn open_inner(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let cannot = || format!("cannot open '{}' in the root file system", path.display());
    locate(root.as_fd(), path).and_then(super::resolve::Spot::or_create_dir).context(cannot)
}

fn open_root(path: &Path) -> Result<OwnedFd> {
    open(path, NAME_ONLY, Mode::empty())
        .or_kind(ErrorKind::InvalidBundle, || format!("cannot open root file system '{}'", path.display()))
}

/// Keeps our mounts from the host.
fn isolate(plan: &RootfsPlan) -> Result<()> {
    let flags = plan.default_propagation() | Propagation::REC;
    mount_change("/", flags).context(|| "cannot set the propagation of '/'")?;
    if plan.default_propagation() == Propagation::SHARED {
        // The mount that holds the root would pass our root mount on to the host, and pivot_root(2) refuses it.
        let parent = mount_point_of(&plan.root)?;
        mount_change(&parent, Propagation::PRIVATE)
            .context(|| format!("cannot make '{}' private", parent.display()))?;
    }
    Ok(())
}

/// The mount point of the mount that `path` is on.
fn mount_point_of(path: &Path) -> Result<PathBuf> {
    let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .context(|| format!("cannot look at '{}'", path.display()))?;
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").context(|| "cannot read mountinfo")?;
    let id = stat.stx_mnt_id.to_string();
    mountinfo
        .lines()
        .map(|line| line.split(' '))
        .find_map(|mut fields| if fields.next() == Some(&id) { fields.nth(3).map(unescape) } else { None })
        .ok_or_else(|| {
            Error::new(ErrorKind::System, format!("cannot find the mount of '{}'", path.display()))
        })
}

/// proc(5): blanks and the like are octal escapes in mountinfo.
pub fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if bytes[at] == b'\\' => {
                out.push(byte);
                at += 4;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Makes the root a mount of its own.
fn bind_root(path: &Path) -> Result<OwnedFd> {
    let at = open_root(path)?;
    let tree = attach::clone_fd(at.as_fd(), true)
        .and_then(|tree| attach::attach(tree.as_fd(), at.as_fd()).map(|()| tree))
        .context(|| format!("cannot bind root file system '{}'", path.display()))?;
    Ok(tree)
}

fn mount_one(
    plan: &RootfsPlan,
    mount: &MountPlan,
    root: BorrowedFd<'_>,
    late_read_only: &mut Vec<LateReadOnly>,
) -> Result<()> {
    match mount.kind {
        MountKind::Bind => mounts::bind(mount, root),
        MountKind::Cgroup => cgroup_mounts::mount(plan, mount, root, late_read_only),
        MountKind::Tmpfs => mounts::tmpfs(plan, mount, root, late_read_only),
        MountKind::Kernel => mounts::kernel(plan, mount, root),
        MountKind::Other => mounts::other(plan, mount, root),
    }
}

/// With a `/dev` from the host, the devices are the caller's business.
fn binds_dev(mounts: &[MountPlan]) -> bool {
    mounts.iter().any(|mount| {
        mount.kind == MountKind::Bind && mount.inner.is_none() && mount.destination == Path::new("/dev")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_mountinfo_are_undone() {
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape("/plain\\"), Path::new("/plain\\"));
    }

    #[test]
    fn the_mount_point_of_a_path_is_found() {
        assert_eq!(mount_point_of(Path::new("/proc/self/status")).unwrap(), Path::new("/proc"));
    }
}
