//! Device files and links in the container's `/dev`.

use super::attach;
use super::plan::RootfsPlan;
use super::resolve::{create_file, locate};
use crate::error::{Context as _, Error, ErrorKind, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fstat, makedev, mknodat, openat, readlinkat,
    statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, umask};
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
    let missing = |path: &str| !own.iter().any(|node| node.path == Path::new(path));
    let mut defaults = DEFAULTS.iter().filter(|(path, ..)| missing(path)).map(|(path, major, minor)| Node {
        path: path.into(),
        kind: FileType::CharacterDevice,
        device: makedev(*major, *minor),
        mode: 0o666,
        uid: 0,
        gid: 0,
    });
    let mut places = Places::new(root);
    // Without a umask: changing modes afterwards would follow a link that was put in a device's place.
    let before = umask(Mode::empty());
    let made = defaults.try_for_each(|node| make(plan, &mut places, &node));
    let made = made.and_then(|()| own.iter().try_for_each(|node| make(plan, &mut places, node)));
    umask(before);
    made?;
    for (path, target) in LINKS {
        link(&mut places, Path::new(path), target).context(|| format!("cannot make link '{path}'"))?;
    }
    if Path::new("/proc/kcore").exists() {
        link(&mut places, Path::new("/dev/core"), "/proc/kcore")
            .context(|| "cannot make link '/dev/core'")?;
    }
    Ok(())
}

/// The directories of devices; each is looked up once as long as one device after the other is in it, as nearly all are in `/dev`.
struct Places<'a> {
    root: BorrowedFd<'a>,
    last: Option<(PathBuf, Place)>,
}

/// A directory of devices.
struct Place {
    dir: OwnedFd,
    /// Who owns what is made in it, unless the directory gives its own group to all.
    owner: Option<(Uid, Gid)>,
}

impl<'a> Places<'a> {
    fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }

    /// The directory that `path` is in, made if missing; none for the root.
    fn of(&mut self, path: &Path) -> Result<Option<&Place>, Errno> {
        let Some(parent) = path.parent() else { return Ok(None) };
        if self.last.as_ref().is_none_or(|(last, _)| last != parent) {
            let dir = locate(self.root, parent)?.or_create_dir()?;
            let gives_group = Mode::from_raw_mode(fstat(&dir)?.st_mode).contains(Mode::SGID);
            let owner = (!gives_group).then(|| (geteuid(), getegid()));
            self.last = Some((parent.to_owned(), Place { dir, owner }));
        }
        Ok(self.last.as_ref().map(|(_, place)| place))
    }
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

fn make(plan: &RootfsPlan, places: &mut Places<'_>, node: &Node) -> Result<()> {
    let cannot = || format!("cannot make device '{}'", node.path.display());
    let place = places.of(&node.path).context(cannot)?;
    let Some((place, name)) = place.zip(node.path.file_name()) else {
        return Err(Error::new(ErrorKind::InvalidBundle, cannot()));
    };
    // A user namespace cannot make devices.
    if plan.context.user_namespace || !mknod(place, name, node).context(cannot)? {
        return bind(place.dir.as_fd(), name, node).context(cannot);
    }
    Ok(())
}

/// Makes a device node; answers whether that is permitted. Only mknod(2) itself says so: whatever else is denied is an error.
fn mknod(place: &Place, name: &OsStr, node: &Node) -> Result<bool, Errno> {
    let dir = place.dir.as_fd();
    let once = || mknodat(dir, name, node.kind, Mode::from_raw_mode(node.mode), node.device);
    let mut made = once();
    if made == Err(Errno::EXIST) {
        // The image's own, if it is the same device; anything else in its place is replaced.
        let there = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if is(node, &there) {
            return Ok(true);
        }
        unlinkat(dir, name, AtFlags::empty())?;
        made = once();
    }
    match made {
        Err(Errno::PERM) => return Ok(false),
        made => made?,
    }
    let owner = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    if place.owner == Some(owner) {
        return Ok(true);
    }
    // The name may lead to something else by now, where others can write to the directory: only a descriptor that is open
    // on the device is given away.
    let made = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if !is(node, &fstat(&made)?) {
        return Err(Errno::EXIST);
    }
    chownat(made, "", Some(owner.0), Some(owner.1), AtFlags::EMPTY_PATH)?;
    Ok(true)
}

fn is(node: &Node, there: &Stat) -> bool {
    FileType::from_raw_mode(there.st_mode) == node.kind && there.st_rdev == node.device
}

/// Binds the host's device, which has the path that the configuration gives.
fn bind(dir: BorrowedFd<'_>, name: &OsStr, node: &Node) -> Result<(), Errno> {
    let tree = attach::clone_path(&node.path, false)?;
    let at = create_file(dir, name, Mode::from_raw_mode(0o644))?;
    attach::attach(tree.as_fd(), at.as_fd())
}

fn link(places: &mut Places<'_>, path: &Path, target: &str) -> Result<(), Errno> {
    let Some((Place { dir, .. }, name)) = places.of(path)?.zip(path.file_name()) else { return Ok(()) };
    match symlinkat(target, dir, name) {
        Err(Errno::EXIST) => {
            let there = readlinkat(dir, name, Vec::new());
            if there.is_ok_and(|there| there.as_bytes() == target.as_bytes()) || name != "ptmx" {
                return Ok(());
            }
            // A ptmx of the image would make terminals in a devpts that the container does not see.
            unlinkat(dir, name, AtFlags::empty())?;
            symlinkat(target, dir, name)
        }
        made => made,
    }
}
