//! The root file system of a container: made by its first process, in its own mount namespace.

use crate::boot::RUN;
use crate::failure::{Context as _, Result, system};
use crate::mounts::{Root, path_of};
use rustix::fs::{FileType, Gid, Mode, Uid, mknodat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use std::path::Path;
use vm_protocol::spec::{Container, Device, Mount};

/// The devices that every container has: name, major and minor number.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The terminal of a container that has one.
const CONSOLE: &str = "/dev/console";

/// The links that every container has below `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// The files of the network that a container gets if it mounts none, where there are some in [`RUN`].
const FILES: [&str; 2] = ["resolv.conf", "hosts"];

/// Makes the root file system of a container, with a place for its console if it has a terminal, and enters it.
pub fn enter(container: &Container) -> Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context(|| "cannot make mounts private")?;
    let path = Path::new(&container.root);
    let whole = path == Path::new("/");
    if !whole {
        let cannot = || format!("cannot mount the root '{}'", path.display());
        rustix::mount::mount_bind_recursive(path, path).context(cannot)?;
    }
    let root = Root::open(path)?;
    for mount in &container.mounts {
        root.mount(mount)?;
    }
    mount_files(&root, container)?;
    if container.mounts.iter().any(|mount| mount.destination == "/dev") {
        make_devices(&root)?;
    }
    container.devices.iter().try_for_each(|device| make_device(&root, device))?;
    if container.process.terminal {
        root.make_file(Path::new(CONSOLE)).context(|| "cannot make a place for the console")?;
    }
    container.readonly_paths.iter().try_for_each(|path| root.protect(Path::new(path)))?;
    container.masked_paths.iter().try_for_each(|path| root.mask(Path::new(path)))?;
    if container.read_only {
        let found = root.find(Path::new("/")).context(|| "cannot open the root")?;
        rustix::mount::mount_remount(path_of(&found), MountFlags::BIND | MountFlags::RDONLY, c"")
            .context(|| "cannot make the root read-only")?;
    }
    if whole { Ok(()) } else { pivot(path) }
}

fn pivot(path: &Path) -> Result<()> {
    let cannot = || format!("cannot enter the root '{}'", path.display());
    rustix::process::chdir(path).context(cannot)?;
    rustix::process::pivot_root(".", ".").context(cannot)?;
    // The old root lies on top of the new one now.
    rustix::mount::unmount(".", UnmountFlags::DETACH).context(cannot)?;
    rustix::process::chdir("/").context(cannot)
}

fn mount_files(root: &Root, container: &Container) -> Result<()> {
    for name in FILES {
        let source = format!("{RUN}/{name}");
        let destination = format!("/etc/{name}");
        if !Path::new(&source).exists()
            || container.mounts.iter().any(|mount| mount.destination == destination)
        {
            continue;
        }
        root.mount(&Mount { destination, kind: "bind".to_owned(), source, ..Mount::default() })?;
    }
    Ok(())
}

fn make_devices(root: &Root) -> Result<()> {
    for (name, major, minor) in DEVICES {
        let device =
            Device { path: format!("/dev/{name}"), kind: 'c', major, minor, mode: 0o666, uid: 0, gid: 0 };
        make_device(root, &device)?;
    }
    let directory = root.find(Path::new("/dev")).context(|| "cannot open '/dev'")?;
    for (target, name) in LINKS {
        match rustix::fs::symlinkat(target, &directory, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).context(|| format!("cannot make '/dev/{name}'")),
        }
    }
    Ok(())
}

fn make_device(root: &Root, device: &Device) -> Result<()> {
    let cannot = || format!("cannot make the device '{}'", device.path.escape_debug());
    let path = Path::new(&device.path);
    let kind = match device.kind {
        'c' | 'u' => FileType::CharacterDevice,
        'b' => FileType::BlockDevice,
        'p' => FileType::Fifo,
        other => return Err(system(format!("{}: unknown kind '{other}'", cannot()))),
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(system(cannot())) };
    let parent = root.make_directory(parent).context(cannot)?;
    let number = rustix::fs::makedev(device.major, device.minor);
    match mknodat(&parent, name, kind, Mode::empty(), number) {
        // A devtmpfs has it already.
        Err(Errno::EXIST) => return Ok(()),
        made => made.context(cannot)?,
    }
    rustix::fs::chownat(
        &parent,
        name,
        Some(Uid::from_raw(device.uid)),
        Some(Gid::from_raw(device.gid)),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .context(cannot)?;
    // After the owner, whose change takes bits away; chmod goes by path, but what was made here just now is no link.
    let made = rustix::fs::openat(
        &parent,
        name,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(cannot)?;
    rustix::fs::chmod(path_of(&made), Mode::from_raw_mode(device.mode & 0o7777)).context(cannot)
}

/// Shows the terminal that is this process's standard input as the console of the container, which was entered.
pub fn bind_console() -> Result<()> {
    let cannot = || "cannot mount the console";
    let target = Root::open(Path::new("/"))?.find(Path::new(CONSOLE)).context(cannot)?;
    // By descriptors: the container may have no procfs.
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let terminal = rustix::mount::open_tree(rustix::stdio::stdin(), "", flags).context(cannot)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&terminal, "", &target, "", flags).context(cannot)
}
