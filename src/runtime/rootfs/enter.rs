//! Entering the root, and what is done from inside it.

use super::attach;
use super::masks;
use super::null;
use super::plan::RootfsPlan;
use super::prepare::Prepared;
use crate::error::{Context as _, Result};
use crate::platform::sys::security;
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    MountAttrFlags as Attr, MountPropagationFlags as Propagation, MoveMountFlags, UnmountFlags, mount_change,
    move_mount, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::path::Path;

/// Makes the prepared root the root of this process. The host's file system cannot be reached afterwards.
pub fn enter(plan: &RootfsPlan, prepared: &Prepared) -> Result<()> {
    let root = prepared.root.as_fd();
    if !plan.context.new_mount_namespace {
        fchdir(root).context(|| "cannot enter the root file system")?;
        return chroot(".").and_then(|()| chdir("/")).context(|| "cannot chroot");
    }
    leave_chroot()?;
    if plan.context.no_pivot { move_root(root) } else { pivot(root) }?;
    prepared.late_read_only.iter().try_for_each(|late| make_read_only(late.mount.as_fd(), &late.path))
}

/// Makes the root of our mount namespace our own, which it is not where the caller is in a chroot: whoever joins the namespace
/// later, as `exec` does, starts at that root, and must find the container there and not the host.
fn leave_chroot() -> Result<()> {
    let own = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open our mount namespace")?;
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Mount))
        .context(|| "cannot enter the root of our mount namespace")
}

/// pivot_root(2) with the new and the old root in one place: no directory in the image is needed.
fn pivot(root: BorrowedFd<'_>) -> Result<()> {
    let old = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open the old root")?;
    fchdir(root).context(|| "cannot enter the root file system")?;
    pivot_root(".", ".").context(|| "pivot_root")?;
    fchdir(&old).context(|| "cannot enter the old root")?;
    // Unmounting must not propagate to the host.
    mount_change(".", Propagation::DOWNSTREAM | Propagation::REC)
        .context(|| "cannot make the old root a slave")?;
    unmount(".", UnmountFlags::DETACH).context(|| "cannot unmount the old root")?;
    chdir("/").context(|| "cannot enter the new root")
}

/// Makes a root inside that of the container the root of this process, in a mount namespace of its own: nothing beside it can be
/// reached afterwards. `path` is one at which something is mounted.
pub fn enter_inner(path: &Path) -> Result<()> {
    security::unshare(libc::CLONE_NEWNS as u64).context(|| "cannot make a mount namespace")?;
    mount_change("/", Propagation::PRIVATE | Propagation::REC)
        .context(|| "cannot keep the mounts of the process apart")?;
    let root = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("cannot open '{}'", path.display()))?;
    pivot(root.as_fd())
}

/// For a root on the kernel's initial ramdisk, which pivot_root(2) refuses to leave.
fn move_root(root: BorrowedFd<'_>) -> Result<()> {
    // The host's procfs and sysfs are still mounted below the old root, unmasked; without them no process of the container
    // can reach what is hidden there.
    for path in host_kernel_mounts()? {
        let slave = mount_change(&path, Propagation::DOWNSTREAM | Propagation::REC);
        let gone = slave.and_then(|()| unmount(&path, UnmountFlags::DETACH));
        if let Err(e) = gone
            && !matches!(e, rustix::io::Errno::INVAL | rustix::io::Errno::NOENT)
        {
            return Err(e).context(|| format!("cannot unmount '{path}'"));
        }
    }
    fchdir(root).context(|| "cannot enter the root file system")?;
    move_mount(root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context(|| "cannot move the root file system")?;
    chroot(".").and_then(|()| chdir("/")).context(|| "cannot chroot")
}

fn host_kernel_mounts() -> Result<Vec<String>> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").context(|| "cannot read mountinfo")?;
    let root = std::fs::read_link("/proc/self/cwd").unwrap_or_default();
    let mut paths: Vec<String> = mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, fs) = line.split_once(" - ")?;
            let point = mount.split(' ').nth(4)?;
            let kernel = fs.starts_with("proc ") || fs.starts_with("sysfs ");
            (kernel && matches!(point, "/proc" | "/sys")).then(|| point.to_owned())
        })
        .collect();
    paths.retain(|path| !root.starts_with(path));
    // /proc last: mountinfo was read from it.
    paths.sort_unstable_by(|a, b| b.cmp(a));
    Ok(paths)
}

fn make_read_only(mount: BorrowedFd<'_>, path: &Path) -> Result<()> {
    attach::change(mount, Attr::MOUNT_ATTR_RDONLY, Attr::empty())
        .context(|| format!("cannot make '{}' read-only", path.display()))
}

/// What is done inside: propagation and protection of the root, masked and read-only paths.
pub fn finish(plan: &RootfsPlan) -> Result<()> {
    if !plan.context.new_mount_namespace {
        return Ok(());
    }
    if let Some((kind, recursive)) = plan.propagation {
        let flags = if recursive { kind | Propagation::REC } else { kind };
        mount_change("/", flags).context(|| "cannot set the propagation of the root")?;
    }
    if plan.read_only {
        let root = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .context(|| "cannot open the root file system")?;
        make_read_only(root.as_fd(), Path::new("/"))?;
    }
    plan.read_only_paths.iter().try_for_each(|path| masks::make_read_only(path))?;
    masks::mask(&plan.masked)?;
    null::reopen_streams()
}
