//! The kinds of mounts.

use super::attach::{self, NewFs};
use super::options::split_data;
use super::plan::{MountPlan, RootfsPlan};
use super::prepare::LateReadOnly;
use super::resolve::{Spot, clean, file_type, locate};
use super::{classic, copy_up, overlay};
use crate::error::{Context as _, Result};
use crate::runtime::procfs;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags as Attr;
use std::path::Path;

/// Files below `/proc` that may be mounted over: lxcfs and the like do. Everything else there would lie to us, or to the
/// security modules, about the container (CVE-2019-16884).
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

fn target(root: BorrowedFd<'_>, mount: &MountPlan) -> Result<Spot> {
    let spot = locate(root, &mount.destination).context(|| "cannot resolve the destination")?;
    if spot.path() == Path::new("/") {
        crate::bail!(InvalidBundle, "mountpoint '/' is the root itself");
    }
    Ok(spot)
}

fn check_proc(path: &Path, is_procfs: bool) -> Result<()> {
    if !path.starts_with("/proc") || PROC_FILES.iter().any(|file| path == Path::new(file)) {
        return Ok(());
    }
    if path == Path::new("/proc") && is_procfs {
        return Ok(());
    }
    crate::bail!(InvalidBundle, "{:?} cannot be mounted because it is inside /proc", path.display())
}

/// A bind mount.
pub(super) fn bind(mount: &MountPlan, root: BorrowedFd<'_>) -> Result<()> {
    let own_tree;
    let tree = if let Some(tree) = &mount.tree {
        tree
    } else {
        own_tree = attach::clone_path(&mount.source, mount.options.bind == Some(true))?;
        &own_tree
    };
    let spot = target(root, mount)?;
    check_proc(spot.path(), procfs::is_procfs(tree)?)?;
    let at = match file_type(tree)? {
        FileType::Directory => spot.or_create_dir(),
        _ => spot.or_create_file(),
    }
    .context(|| "cannot make the mount point")?;
    attach::attach_bind(tree.as_fd(), at.as_fd(), &mount.options)?;
    Ok(())
}

/// A tmpfs: keeps the mode of the directory below it, and its content if asked to.
pub(super) fn tmpfs(
    plan: &RootfsPlan,
    mount: &MountPlan,
    root: BorrowedFd<'_>,
    late_read_only: &mut Vec<LateReadOnly>,
) -> Result<()> {
    let spot = target(root, mount)?;
    check_proc(spot.path(), false)?;
    let path = spot.path().to_owned();
    let existed = spot.existing().is_some();
    let at = spot.or_create_dir().context(|| "cannot make the mount point")?;
    let mut data = data_of(plan, mount);
    if existed && !data.iter().any(|d| d.starts_with("mode=")) {
        data.push(format!("mode={:04o}", fstat(&at)?.st_mode & 0o7777));
    }
    let attr = mount.options.new_mount_attr() - Attr::MOUNT_ATTR_RDONLY;
    let tree = make(mount, &data, attr, at.as_fd())?;
    if let Some(tree) = &tree {
        if mount.options.copy_up {
            copy_up::copy(at.as_fd(), tree.as_fd()).map_err(|e| e.wrap("tmpcopyup"))?;
        }
        attach::finish(tree.as_fd(), &mount.options)?;
        attach::attach(tree.as_fd(), at.as_fd())?;
    } else if mount.options.copy_up {
        crate::bail!(
            NotSupported,
            "tmpcopyup needs a kernel with fsopen(2), and options of at most 255 bytes"
        );
    }
    if mount.options.read_only() {
        // mount(2) has given us no descriptor.
        let tree = tree.map_or_else(|| locate(root, &path).and_then(Spot::or_create_dir), Ok)?;
        late_read_only.push(LateReadOnly { mount: tree, path });
    }
    Ok(())
}

/// procfs and sysfs.
pub(super) fn kernel(plan: &RootfsPlan, mount: &MountPlan, root: BorrowedFd<'_>) -> Result<()> {
    let spot = target(root, mount)?;
    if spot.path() != clean(&mount.destination) {
        // A link here would send later writes below /proc to the wrong files (CVE-2019-19921).
        crate::bail!(InvalidBundle, "filesystem {:?} must be mounted on ordinary directory", mount.fs);
    }
    check_proc(spot.path(), mount.fs == "proc")?;
    let at = spot.or_create_dir().context(|| "cannot make the mount point")?;
    let made = mount_new(plan, mount, at.as_fd());
    match made {
        Err(e) if mount.fs == "sysfs" && e.errno() == Some(libc::EPERM) && plan.context.user_namespace => {
            // A sysfs belongs to a network namespace; one that belongs to another user namespace cannot be
            // mounted, but the host's can be bound. What is mounted below it comes along, and must be no more open than
            // it: the user may own cgroups there (CVE-2023-25809).
            let tree = attach::clone_path(Path::new("/sys"), true)?;
            Ok(attach::attach_bind(tree.as_fd(), at.as_fd(), &mount.options.for_all_below())?)
        }
        made => made,
    }
}

/// Any other file system.
pub(super) fn other(plan: &RootfsPlan, mount: &MountPlan, root: BorrowedFd<'_>) -> Result<()> {
    let spot = target(root, mount)?;
    check_proc(spot.path(), false)?;
    let at = spot.or_create_dir().context(|| "cannot make the mount point")?;
    if mount.options.remount {
        let data = data_of(plan, mount);
        return Ok(classic::remount_fs(&new_fs(mount, &data, mount.options.new_mount_attr()), at.as_fd())?);
    }
    mount_new(plan, mount, at.as_fd())
}

/// The root file system itself, over the directory `at`. Answers its root.
pub(super) fn root(plan: &RootfsPlan, mount: &MountPlan, at: OwnedFd) -> Result<OwnedFd> {
    let data = data_of(plan, mount);
    if let Some(tree) = make(mount, &data, mount.options.new_mount_attr(), at.as_fd())? {
        attach::finish(tree.as_fd(), &mount.options)?;
        attach::attach(tree.as_fd(), at.as_fd())?;
        return Ok(tree);
    }
    // What mount(2) has mounted is found by its path.
    rustix::fs::open(&plan.root, super::resolve::NAME_ONLY, rustix::fs::Mode::empty())
        .context(|| "cannot open the root file system")
}

fn mount_new(plan: &RootfsPlan, mount: &MountPlan, at: BorrowedFd<'_>) -> Result<()> {
    let data = data_of(plan, mount);
    if let Some(tree) = make(mount, &data, mount.options.new_mount_attr(), at)? {
        attach::finish(tree.as_fd(), &mount.options)?;
        attach::attach(tree.as_fd(), at)?;
    }
    Ok(())
}

/// Makes the file system, detached; or, where only mount(2) can, attached to `at`: then `None`.
fn make(mount: &MountPlan, data: &[String], attr: Attr, at: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    overlay::attach_layers(mount, at)?;
    let fs = new_fs(mount, data, attr);
    if fs.fits_fsconfig() {
        match fs.create() {
            Ok(tree) => return Ok(Some(tree)),
            // No such call on old kernels, or refused by a filter around us.
            Err(Errno::NOSYS) => {}
            // The two interfaces do not take the same words everywhere: let mount(2) judge.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    if mount.is_overlay() {
        let (data, _layers) = overlay::in_one_option(data)?;
        classic::mount_fs(&new_fs(mount, &data, attr), at)?;
    } else {
        classic::mount_fs(&fs, at)?;
    }
    Ok(None)
}

fn new_fs<'a>(mount: &'a MountPlan, data: &'a [String], attr: Attr) -> NewFs<'a> {
    NewFs {
        kind: &mount.fs,
        source: mount.source.to_str().unwrap_or_default(),
        flags: &mount.options.super_flags,
        data,
        attr,
    }
}

/// Options for the file system, with the SELinux label of the container's mounts where it can have one.
fn data_of(plan: &RootfsPlan, mount: &MountPlan) -> Vec<String> {
    let mut data = mount.options.data.clone();
    if let Some(label) = &plan.mount_label
        && !matches!(mount.fs.as_str(), "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2")
        && !data.iter().any(|d| d.starts_with("context="))
    {
        data.extend(split_data(&format!("context=\"{label}\"")));
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_lie_harmlessly_may_be_mounted_over_in_proc() {
        for good in ["/proc/meminfo", "/procfs", "/tmp/proc/x", "/proc/sys/kernel/ns_last_pid"] {
            assert!(check_proc(Path::new(good), false).is_ok(), "{good}");
        }
        for bad in ["/proc", "/proc/self", "/proc/sys", "/proc/self/attr"] {
            assert!(check_proc(Path::new(bad), false).is_err(), "{bad}");
        }
        assert!(check_proc(Path::new("/proc"), true).is_ok());
        assert!(check_proc(Path::new("/proc/self"), true).is_err());
    }
}
