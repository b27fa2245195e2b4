//! Directories of the host that several containers of a pod have: each is mounted once in the microVM, and bound by the guest into every
//! container that mounts it. Two mounts of one directory would be two file systems to the guest's kernel: sockets, FIFOs and locks in
//! them would not meet.
//!
//! A container's own mounts say what it may have; nothing is looked up on the host again. What shows the host's kernel is not among it,
//! whatever led there: through the `/proc` of the monitor the guest would be master of that.

use super::guest::{self, ROOT};
use super::place::Place;
use super::pod::PLACE;
use crate::error::{Context as _, Result};
use crate::platform::sys::mount::{MountAttr, mount_setattr};
use crate::runtime::wasm::view::{Procfs, shows_kernel};
use oci_spec::runtime::{self as oci, Spec};
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags, flock, open,
    openat, openat2, statx,
};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, open_tree};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use vm_protocol::spec::Mount;

/// Attributes of a mount that hold in the guest as well.
const ATTRIBUTES: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// The directories of a container that the guest may bind.
#[derive(Debug)]
pub struct Volumes {
    destinations: Vec<PathBuf>,
    /// The state directory of the sandbox: one container at a time looks for what is mounted, and mounts it.
    lock: OwnedFd,
}

impl Volumes {
    /// Those of a configuration, in the pod whose sandbox has this state directory.
    pub fn of(spec: &Spec, sandbox: impl AsFd) -> Result<Self> {
        let mut destinations = Vec::new();
        for mount in spec.mounts().iter().flatten() {
            if is_volume(mount)? {
                destinations.push(mount.destination().clone());
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = openat(sandbox, ".", flags, Mode::empty())
            .context(|| "cannot open the state directory of the pod's sandbox")?;
        Ok(Self { destinations, lock })
    }

    /// In the container's root, while this process may still mount: mounts in the machine what is not mounted there yet, and answers
    /// what the guest binds.
    pub fn share(&self, procfs: &Procfs, place: &Place) -> Result<Vec<Mount>> {
        if self.destinations.is_empty() {
            return Ok(Vec::new());
        }
        let mountinfo = procfs.mountinfo()?;
        let mut binds = Vec::new();
        // Its end is that of this process or of what holds it.
        rustix::io::retry_on_intr(|| flock(&self.lock, FlockOperation::LockExclusive))
            .context(|| "cannot lock the state directory of the pod's sandbox")?;
        for destination in &self.destinations {
            let cannot = || format!("cannot share '{}' in the microVM of the pod", destination.display());
            if let Some(found) = find(destination, &mountinfo).context(cannot)? {
                place.share(&found.name, &found.tree, found.is_writable()).context(cannot)?;
                binds.push(found.bind(destination));
            }
        }
        flock(&self.lock, FlockOperation::Unlock)?;
        Ok(binds)
    }
}

/// Whether a mount is of the host.
fn is_volume(mount: &oci::Mount) -> Result<bool> {
    let mut options = mount.options().iter().flatten();
    let is_bind = mount.typ().as_deref() == Some("bind") || options.any(|o| o == "bind" || o == "rbind");
    Ok(is_bind && guest::mount(mount)?.is_none())
}

/// A directory that is mounted in a container.
#[derive(Debug)]
struct Found {
    /// Its name in the place of the machine, which no other directory has while this is mounted.
    name: String,
    /// A copy of the mount, in which nothing appears that is mounted elsewhere.
    tree: OwnedFd,
    attributes: Vec<&'static str>,
}

impl Found {
    fn is_writable(&self) -> bool {
        !self.attributes.contains(&"ro")
    }

    fn bind(&self, destination: &Path) -> Mount {
        let options = ["bind"].iter().chain(&self.attributes);
        Mount {
            destination: destination.display().to_string(),
            kind: "bind".to_owned(),
            // Into it: only who walks into a mount of the host has the file system that the guest's kernel makes of it.
            source: format!("{ROOT}{PLACE}/{}/.", self.name),
            options: options.map(|&option| option.to_owned()).collect(),
            ..Mount::default()
        }
    }
}

/// The directory that is mounted at a path of this root; none if it is no directory, or is not to be shared.
fn find(destination: &Path, mountinfo: &str) -> Result<Option<Found>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let root = open("/", flags, Mode::empty())?;
    let directory = match openat2(&root, destination, flags, Mode::empty(), resolve) {
        Err(Errno::NOTDIR | Errno::NOENT | Errno::LOOP) => return Ok(None),
        directory => directory?,
    };
    let stat = statx(&directory, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    let Some(attributes) = attributes(&stat, mountinfo) else { return Ok(None) };
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&directory, "", flags)?;
    let private = MountAttr { propagation: Some(MountPropagationFlags::PRIVATE), ..MountAttr::NONE };
    mount_setattr(tree.as_fd(), false, &private)?;
    let name = format!("volume-{}-{}-{}", stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    Ok(Some(Found { name, tree, attributes }))
}

/// The attributes of the mount with this root.
fn attributes(stat: &Statx, mountinfo: &str) -> Option<Vec<&'static str>> {
    let is_root = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    if is_root { shareable(stat.stx_mnt_id, mountinfo) } else { None }
}

/// The attributes of a mount that can be shared: all is seen of it, by anybody as by this container, and nothing of the kernel.
fn shareable(id: u64, mountinfo: &str) -> Option<Vec<&'static str>> {
    let mut found = None;
    for line in mountinfo.lines() {
        let Some((mount, fs)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = mount.split(' ').collect();
        let [own, parent, _, _, _, options, propagation @ ..] = &fields[..] else { continue };
        if parent.parse() == Ok(id) {
            // It would be hidden.
            return None;
        }
        if own.parse() == Ok(id) {
            let has = |attribute: &&str| options.split(',').any(|option| option == *attribute);
            let of_kernel = fs.split(' ').next().is_none_or(shows_kernel);
            if of_kernel || has(&"idmapped") || propagation.contains(&"unbindable") {
                return None;
            }
            found = Some(ATTRIBUTES.into_iter().filter(has).collect());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::sys::apart::apart;
    use rustix::fs::{CWD, mkdirat, statat};
    use rustix::mount::{MountFlags, mount, mount_bind, mount_change, mount_remount};
    use serde_json::json;

    #[test]
    fn what_the_host_binds_as_it_is_can_be_shared() {
        let is = |mount: serde_json::Value| is_volume(&serde_json::from_value(mount).unwrap()).unwrap();
        assert!(is(json!({"destination": "/v", "type": "bind", "source": "/v", "options": ["rbind", "ro"]})));
        assert!(is(json!({"destination": "/v", "source": "/v", "options": ["bind"]})));
        assert!(!is(
            json!({"destination": "/dev/shm", "type": "bind", "source": "/s", "options": ["rbind"]})
        ));
        assert!(!is(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs"})));
    }

    #[test]
    fn what_others_would_see_otherwise_or_nobody_should_is_left_as_it_is() {
        let mountinfo = "\
23 1 0:21 / / rw - overlay overlay rw
31 23 8:1 /a /data rw,nosuid,relatime shared:5 - ext4 /dev/sda1 rw
32 31 8:1 /b /data/b ro,noexec - ext4 /dev/sda1 rw
33 23 0:22 / /host/proc rw - proc proc rw
34 23 8:1 /c /ids rw,idmapped - ext4 /dev/sda1 rw
35 23 8:1 /c /alone rw unbindable - ext4 /dev/sda1 rw
36 23 8:1 /c /data\\040-\\040 rw,nodev master:5 - ext4 /dev/sda1 ro
";
        assert_eq!(shareable(32, mountinfo), Some(vec!["ro", "noexec"]));
        assert_eq!(shareable(36, mountinfo), Some(vec!["nodev"]));
        for id in [23, 31, 33, 34, 35, 37] {
            assert_eq!(shareable(id, mountinfo), None, "{id}");
        }
    }

    /// In a mount namespace of its own.
    fn find_mounted(folder: &Path) -> Result<()> {
        crate::platform::sys::security::unshare(libc::CLONE_NEWNS as u64)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let procfs = Procfs::open()?;
        let at = |name: &str| {
            let path = folder.join(name);
            find(&path, &procfs.mountinfo().unwrap()).unwrap()
        };
        let (volume, proc) = (folder.join("volume"), folder.join("proc"));
        assert!(at("volume").is_none(), "it is not mounted");
        mount_bind(&volume, &volume)?;
        mount_remount(&volume, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOEXEC, c"")?;
        mount_change(&volume, MountPropagationFlags::SHARED)?;
        let found = at("volume").unwrap();
        assert_eq!(found.attributes, ["ro", "noexec"]);
        assert_eq!(at("link").unwrap().name, found.name);
        // What is mounted there now is no part of it.
        mount("tmpfs", volume.join("below"), "tmpfs", MountFlags::empty(), None)?;
        mkdirat(CWD, volume.join("below/made"), Mode::RWXU)?;
        let made = statat(&found.tree, "below/made", AtFlags::empty());
        assert_eq!(made.map(|_| ()), Err(Errno::NOENT));
        assert!(at("volume").is_none(), "something is mounted below");
        mount_bind("/proc", &proc)?;
        assert!(at("proc").is_none(), "a guest would see the host's kernel");
        Ok(())
    }

    #[test]
    fn only_what_is_mounted_is_found_and_no_kernel() {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let folder = tempfile::tempdir().unwrap();
        for name in ["volume/below", "proc"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("volume", folder.path().join("link")).unwrap();
        apart(|| find_mounted(folder.path())).unwrap().expect("its result").unwrap();
    }

    #[test]
    fn the_guest_binds_what_is_mounted_once_with_the_rights_of_each() {
        let tree = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let found = Found { name: "volume-8-1-2".to_owned(), tree, attributes: vec!["ro"] };
        let bind = found.bind(Path::new("/data"));
        assert_eq!(bind.source, "/containers/main/dev/volume-8-1-2/.");
        assert_eq!((bind.destination.as_str(), found.is_writable()), ("/data", false));
        assert_eq!(bind.options, ["bind", "ro"]);
        assert_eq!(find(Path::new("/"), "").unwrap().map(|found| found.name), None);
    }
}
