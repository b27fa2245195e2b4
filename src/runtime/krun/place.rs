//! Where a microVM takes up the roots of further containers: a directory of its monitor's view, in which they are mounted while it runs.
//!
//! The view is a mount namespace of its own, which the supervisor holds open. A child of this program enters it; on the host nothing
//! appears, and what is mounted there is gone with the machine. Nothing in it is looked up by a path that the guest could change.

use super::pod::PLACE;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::apart::apart;
use crate::platform::sys::mount::{MountAttr, mount_setattr};
use crate::runtime::process_id::ProcessId;
use crate::runtime::procfs;
use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, mkdirat, openat, openat2,
    readlinkat, statx, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::{AsFd as _, OwnedFd};

/// The view of a machine.
#[derive(Debug)]
pub struct Place(OwnedFd);

impl Place {
    /// Opens the view of the machine with this supervisor; none if that has ended.
    pub fn open(supervisor: ProcessId) -> Result<Option<Self>> {
        if !supervisor.is_alive() {
            return Ok(None);
        }
        let found = find(supervisor.pid);
        // Whatever has its number now may be another one.
        if supervisor.is_alive() { found.map(Some) } else { Ok(None) }
    }

    /// Mounts a detached tree in a new directory.
    pub fn add(&self, directory: &str, tree: &OwnedFd) -> Result<()> {
        let act = || {
            let place = place()?;
            mkdirat(writable(&place)?, directory, Mode::from_raw_mode(0o700))?;
            attach(tree, &directory_in(&place, directory)?)
        };
        self.within(act).context(|| "cannot mount the root of the container for the microVM of its pod")
    }

    /// Mounts a detached mount in the directory of this name, unless it is mounted there already. One that may be written to makes what was
    /// mounted for reading only writable. It stays until the machine ends.
    pub fn share(&self, directory: &str, mount: &OwnedFd, is_writable: bool) -> Result<()> {
        let act = || {
            let place = place()?;
            match mkdirat(writable(&place)?, directory, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            let target = directory_in(&place, directory)?;
            let stat = statx(&target, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
            if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
                attach(mount, &target)
            } else if is_writable {
                let attr = MountAttr { clear: MountAttrFlags::MOUNT_ATTR_RDONLY, ..MountAttr::NONE };
                mount_setattr(target.as_fd(), false, &attr)
            } else {
                Ok(())
            }
        };
        self.within(act)
    }

    /// Takes a tree and its directory away; it is no error if they are gone.
    pub fn remove(&self, directory: &str) -> Result<()> {
        let act = || {
            let place = place()?;
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            match rustix::mount::unmount(format!("{PLACE}/{directory}"), flags) {
                // Not mounted yet, or not any more.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
            match unlinkat(writable(&place)?, directory, AtFlags::REMOVEDIR) {
                Err(Errno::NOENT) => Ok(()),
                removed => removed,
            }
        };
        self.within(act).context(|| "cannot take the root of the container out of the microVM of its pod")
    }

    /// Does something in the namespace, in a process apart: to come back from one takes rights that not everybody has.
    fn within(&self, act: impl FnOnce() -> rustix::io::Result<()>) -> Result<()> {
        let entered = || move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Mount));
        match apart(|| entered().and_then(|()| act()))? {
            Some(done) => Ok(done?),
            None => Err(Error::new(ErrorKind::System, "the process that does it was killed")),
        }
    }
}

fn place() -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(rustix::fs::CWD, PLACE, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

fn directory_in(place: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(place, name, flags, Mode::empty())
}

fn attach(tree: &OwnedFd, target: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// The same directory by a mount that nobody else has: by that of the view it is read-only, so that the guest makes nothing there.
fn writable(place: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let own = open_tree(place, "", flags)?;
    let attr = MountAttr { clear: MountAttrFlags::MOUNT_ATTR_RDONLY, ..MountAttr::NONE };
    mount_setattr(own.as_fd(), false, &attr)?;
    Ok(own)
}

/// The mount namespace that a supervisor has open beside its own.
fn find(pid: i32) -> Result<Place> {
    let cannot = || format!("cannot find the view of the microVM with the supervisor {pid}");
    let procfs = procfs::open_verified()?;
    let own = readlinkat(&procfs, format!("{pid}/ns/mnt"), Vec::new()).context(cannot)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptors = openat(&procfs, format!("{pid}/fd"), flags, Mode::empty()).context(cannot)?;
    for entry in Dir::read_from(&descriptors).context(cannot)? {
        let name = entry.context(cannot)?.file_name().to_owned();
        let Ok(target) = readlinkat(&descriptors, &name, Vec::new()) else { continue };
        if target.as_bytes().starts_with(b"mnt:[") && target != own {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            return openat(&descriptors, &name, flags, Mode::empty()).map(Place).context(cannot);
        }
    }
    crate::bail!(System, "{}: it has none", cannot())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::wasm::view::{Procfs, View};
    use rustix::mount::{MountPropagationFlags, mount_change};
    use std::path::Path;

    /// The supervisor is this process: a child of the test with a mount namespace of its own.
    fn as_supervisor() -> Result<()> {
        crate::platform::sys::security::unshare(libc::CLONE_NEWNS as u64)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let procfs = Procfs::open()?;
        let view = View::open(&procfs, Some(PLACE))?;
        let inside = |path: &str| openat(&view.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let made = mkdirat(&view.root, "dev/x", Mode::from_raw_mode(0o700));
        assert_eq!(made, Err(Errno::ROFS), "the guest could make something there");
        let tree = View::tree(&procfs, Some(PLACE))?;
        let place = find(std::process::id() as i32)?;
        place.add("one", &tree)?;
        // All is there that the other container sees, without what shows a kernel.
        inside("dev/one/usr")?;
        assert_eq!(inside("dev/one/proc/self").unwrap_err(), Errno::NOENT);
        assert_eq!(place.add("one", &tree).unwrap_err().errno(), Some(libc::EEXIST));
        assert!(!Path::new("/dev/one").exists(), "the host sees it");
        place.remove("one")?;
        place.remove("one")?;
        assert_eq!(inside("dev/one").unwrap_err(), Errno::NOENT);
        share_twice(&place, &view.root)
    }

    /// A directory is mounted once, and is writable once somebody may write to it.
    fn share_twice(place: &Place, root: &OwnedFd) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let mount = |is_writable: bool| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = open_tree(rustix::fs::CWD, folder.path(), flags).unwrap();
            let set = MountAttrFlags::MOUNT_ATTR_RDONLY;
            if !is_writable {
                mount_setattr(tree.as_fd(), false, &MountAttr { set, ..MountAttr::NONE }).unwrap();
            }
            place.share("v", &tree, is_writable)
        };
        let id = || statx(root, "dev/v", AtFlags::empty(), StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id);
        let make = |name: &str| mkdirat(root, format!("dev/v/{name}"), Mode::from_raw_mode(0o700));
        mount(false)?;
        let first = id()?;
        assert_eq!(make("early"), Err(Errno::ROFS));
        for is_writable in [false, true, false] {
            mount(is_writable)?;
            assert_eq!(id()?, first);
        }
        make("late")?;
        Ok(())
    }

    #[test]
    fn a_tree_comes_and_goes_in_the_view_of_a_machine_alone() {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        apart(as_supervisor).unwrap().expect("its result").unwrap();
    }
}
