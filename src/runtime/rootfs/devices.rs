//! Device files and links in the container's `/dev`.

use super::attach;
use super::plan::RootfsPlan;
use super::resolve::{Spot, create_file};
use crate::error::{Context as _, Error, ErrorKind, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fstat, makedev, mknodat, openat, readlinkat,
    statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::umask;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Devices that every container has: the runtime specification, "Default Devices". Name, major, minor.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links that every container has: the runtime specification, "Dev symbolic links", and `ptmx`.
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

struct Node {
    path: PathBuf,
    kind: FileType,
    device: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Makes the devices and links.
pub(super) fn create(plan: &RootfsPlan, root: BorrowedFd<'_>) -> Result<()> {
    let own = plan.devices.iter().map(node).collect::<Result<Vec<_>>>()?;
    let defaults = DEFAULTS.iter().filter(|(path, ..)| !own.iter().any(|node| node.path == Path::new(path)));
    for (path, major, minor) in defaults {
        let device = makedev(*major, *minor);
        let node =
            Node { path: path.into(), kind: FileType::CharacterDevice, device, mode: 0o666, uid: 0, gid: 0 };
        make(plan, root, &node)?;
    }
    for node in &own {
        make(plan, root, node)?;
    }
    for (path, target) in LINKS {
        link(root, Path::new(path), target).context(|| format!("cannot make link '{path}'"))?;
    }
    if Path::new("/proc/kcore").exists() {
        link(root, Path::new("/dev/core"), "/proc/kcore").context(|| "cannot make link '/dev/core'")?;
    }
    Ok(())
}

fn node(device: &LinuxDevice) -> Result<Node> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            crate::bail!(InvalidBundle, "linux.devices: '{}' has type 'a'", device.path().display())
        }
    };
    let number = |value: i64| {
        u32::try_from(value.max(0)).map_err(|_| {
            let path = device.path().display();
            Error::new(ErrorKind::InvalidBundle, format!("linux.devices: '{path}' has device number {value}"))
        })
    };
    // A fifo has no numbers, whatever the configuration says.
    let rdev =
        if kind == FileType::Fifo { 0 } else { makedev(number(device.major())?, number(device.minor())?) };
    Ok(Node {
        path: device.path().clone(),
        kind,
        device: rdev,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

fn make(plan: &RootfsPlan, root: BorrowedFd<'_>, node: &Node) -> Result<()> {
    let cannot = || format!("cannot make device '{}'", node.path.display());
    let Some((dir, name)) = Spot::parent(root, &node.path).context(cannot)? else {
        return Err(Error::new(ErrorKind::InvalidBundle, cannot()));
    };
    // A user namespace cannot make devices.
    if plan.context.user_namespace || !mknod(dir.as_fd(), &name, node).context(cannot)? {
        return bind(dir.as_fd(), &name, node).context(cannot);
    }
    Ok(())
}

/// Makes a device node; answers whether that is permitted. Only mknod(2) itself says so: whatever else is denied is an error.
fn mknod(dir: BorrowedFd<'_>, name: &OsStr, node: &Node) -> Result<bool, Errno> {
    let mut made = mknod_exactly(dir, name, node);
    if made == Err(Errno::EXIST) {
        // The image's own, if it is the same device; anything else in its place is replaced.
        let there = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if is(node, &there) {
            return Ok(true);
        }
        unlinkat(dir, name, AtFlags::empty())?;
        made = mknod_exactly(dir, name, node);
    }
    match made {
        Err(Errno::PERM) => return Ok(false),
        made => made?,
    }
    // The name may lead to something else by now, where others can write to the directory: only a descriptor that is open
    // on the device is given away.
    let made = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if !is(node, &fstat(&made)?) {
        return Err(Errno::EXIST);
    }
    chownat(made, "", Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)), AtFlags::EMPTY_PATH)?;
    Ok(true)
}

fn is(node: &Node, there: &Stat) -> bool {
    FileType::from_raw_mode(there.st_mode) == node.kind && there.st_rdev == node.device
}

/// mknod(2) without the umask: changing the mode afterwards would follow a link that was put in its place.
fn mknod_exactly(dir: BorrowedFd<'_>, name: &OsStr, node: &Node) -> Result<(), Errno> {
    let before = umask(Mode::empty());
    let made = mknodat(dir, name, node.kind, Mode::from_raw_mode(node.mode), node.device);
    umask(before);
    made
}

/// Binds the host's device, which has the path that the configuration gives.
fn bind(dir: BorrowedFd<'_>, name: &OsStr, node: &Node) -> Result<(), Errno> {
    let tree = attach::clone_path(&node.path, false)?;
    let at = create_file(dir, name, Mode::from_raw_mode(0o644))?;
    attach::attach(tree.as_fd(), at.as_fd())
}

fn link(root: BorrowedFd<'_>, path: &Path, target: &str) -> Result<(), Errno> {
    let Some((dir, name)) = Spot::parent(root, path)? else { return Ok(()) };
    match symlinkat(target, &dir, &name) {
        Err(Errno::EXIST) => {
            let there = readlinkat(&dir, &name, Vec::new());
            if there.is_ok_and(|there| there.as_bytes() == target.as_bytes()) || name != "ptmx" {
                return Ok(());
            }
            // A ptmx of the image would make terminals in a devpts that the container does not see.
            unlinkat(&dir, &name, AtFlags::empty())?;
            symlinkat(target, &dir, &name)
        }
        made => made,
    }
}
