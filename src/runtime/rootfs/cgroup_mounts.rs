//! Mounts of type `cgroup`: the container's own cgroup directories, bound from the host's mounts.
//!
//! Binding shows the same as a new mount in a new cgroup namespace and is a thousand times cheaper.

use super::attach::{self, NewFs};
use super::options::Options;
use super::plan::{CgroupMount, MountPlan, RootfsPlan};
use super::prepare::LateReadOnly;
use super::resolve::locate;
use crate::error::{Context as _, Result};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::mount::MountAttrFlags as Attr;

/// Mounts the container's cgroups.
pub(super) fn mount(
    plan: &RootfsPlan,
    mount: &MountPlan,
    root: BorrowedFd<'_>,
    late_read_only: &mut Vec<LateReadOnly>,
) -> Result<()> {
    let spot = locate(root, &mount.destination).context(|| "cannot resolve the destination")?;
    let path = spot.path().to_owned();
    let at = spot.or_create_dir().context(|| "cannot make the mount point")?;
    let cgroups = &plan.context.cgroup;
    if let [only] = cgroups.as_slice()
        && only.name.is_empty()
    {
        let source = if plan.context.own_cgroup_namespace { &only.directory } else { &only.root };
        return bind(source, at.as_fd(), &mount.options);
    }
    let dir = tmpfs(mount, at.as_fd())?;
    for cgroup in cgroups {
        bind_controller(cgroup, dir.as_fd(), &mount.options)
            .map_err(|e| e.wrap(format!("cgroup '{}'", cgroup.directory.display())))?;
    }
    if mount.options.read_only() {
        late_read_only.push(LateReadOnly { mount: dir, path });
    }
    Ok(())
}

/// The directory that holds one mount for each hierarchy of v1.
fn tmpfs(mount: &MountPlan, at: BorrowedFd<'_>) -> Result<OwnedFd> {
    let data = ["mode=755".to_owned()];
    let attr = mount.options.new_mount_attr() - Attr::MOUNT_ATTR_RDONLY;
    let fs = NewFs { kind: "tmpfs", source: "tmpfs", flags: &[], data: &data, attr };
    let tree = fs.create()?;
    attach::attach(tree.as_fd(), at)?;
    Ok(tree)
}

fn bind_controller(cgroup: &CgroupMount, dir: BorrowedFd<'_>, options: &Options) -> Result<()> {
    mkdirat(dir, &cgroup.name, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let at = openat(dir, &cgroup.name, flags, Mode::empty())?;
    bind(&cgroup.directory, at.as_fd(), options)?;
    for link in &cgroup.links {
        symlinkat(&cgroup.name, dir, link)?;
    }
    Ok(())
}

fn bind(source: &std::path::Path, at: BorrowedFd<'_>, options: &Options) -> Result<()> {
    let tree = attach::clone_path(source, false)?;
    Ok(attach::attach_bind(tree.as_fd(), at, options)?)
}
