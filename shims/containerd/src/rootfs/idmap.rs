//! Root file systems whose files belong to other users than on the disk: those of a container with a user namespace.
//!
//! The mount is made in a mount namespace that a thread has for itself, so that nobody else sees what it is made of and the kernel
//! takes that away whatever happens, and only the finished mount is taken out. overlayfs has no ids of its own to map: its layers are mapped.
//! Older kernels take only layers that are mounted somewhere, so each is mounted onto the target there.

use super::options::Options;
use crate::error::{Context as _, Error, Result};
use crate::ffi;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use std::fmt::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

/// How ids are mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mappings {
    uids: Vec<Mapping>,
    gids: Vec<Mapping>,
}

/// One range: ids on the disk, ids as seen, and how many.
type Mapping = [u32; 3];

impl Mappings {
    /// Reads what containerd writes: `container:host:size`, and a comma between several.
    pub fn parse(uids: &str, gids: &str) -> Result<Self> {
        Ok(Self { uids: parse(uids)?, gids: parse(gids)? })
    }

    /// Those of users, as the kernel wants them.
    pub fn uids(&self) -> String {
        lines(&self.uids)
    }

    /// Those of groups.
    pub fn gids(&self) -> String {
        lines(&self.gids)
    }
}

fn parse(list: &str) -> Result<Vec<Mapping>> {
    let mapping = |text: &str| -> Option<Mapping> {
        let numbers: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
        numbers.ok()?.try_into().ok().filter(|mapping: &Mapping| mapping[2] > 0)
    };
    let mappings: Option<Vec<_>> = list.split(',').map(mapping).collect();
    mappings.ok_or_else(|| Error::invalid(format!("'{list}' is no mapping of ids (container:host:size)")))
}

fn lines(mappings: &[Mapping]) -> String {
    mappings.iter().fold(String::new(), |mut text, [inside, outside, size]| {
        let _ = writeln!(text, "{inside} {outside} {size}");
        text
    })
}

/// Mounts `source` with the ids that `namespace` has.
pub fn mount(options: &Options, kind: &str, source: &str, target: &Path, namespace: &OwnedFd) -> Result<()> {
    let tree = std::thread::scope(|scope| {
        let apart = || {
            leave()?;
            if kind == "overlay" {
                overlay(options, source, target, namespace)
            } else {
                other(options, kind, source, target, namespace)
            }
        };
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, apart);
        let thread = thread.context(|| "cannot start a thread")?;
        thread.join().unwrap_or_else(|_| Err(Error::new("the thread that mounts has failed")))
    })?;
    attach(&tree, target)
}

/// Takes this thread into a mount namespace of its own.
fn leave() -> Result<()> {
    let left = unshare(CloneFlags::CLONE_NEWNS).map_err(std::io::Error::from);
    left.context(|| "cannot make a mount namespace")?;
    // What is unmounted outside goes here too, so that nothing is kept busy; what is mounted here stays here.
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).context(|| "cannot make a mount namespace private")
}

/// An overlay of mapped layers.
fn overlay(options: &Options, source: &str, target: &Path, namespace: &OwnedFd) -> Result<OwnedFd> {
    let paths = options.layers().ok_or_else(|| Error::invalid("it has no layers"))?;
    let layer = |path: &str| -> Result<OwnedFd> {
        let tree = clone(Path::new(path), false).context(|| format!("cannot open the layer '{path}'"))?;
        map(&tree, namespace, false).context(|| format!("cannot map the ids of the layer '{path}'"))?;
        attach(&tree, target)?;
        Ok(tree)
    };
    let layers = paths.split(':').map(layer).collect::<Result<Vec<_>>>()?;
    // Names from here are short. There is but one table of descriptors; the directory is this thread's own.
    rustix::process::chdir("/proc/self/fd").context(|| "cannot open '/proc/self/fd'")?;
    let names: Vec<_> = layers.iter().map(|layer| layer.as_raw_fd().to_string()).collect();
    options.with_layers(&names.join(":")).mount("overlay", source, target)?;
    Ok(clone(target, false)?)
}

/// Any other mount: it is mapped itself.
fn other(options: &Options, kind: &str, source: &str, target: &Path, namespace: &OwnedFd) -> Result<OwnedFd> {
    options.mount(kind, source, target)?;
    let recursive = options.flags.contains(MountFlags::REC);
    let tree = clone(target, recursive)?;
    map(&tree, namespace, recursive).context(|| "cannot map its ids")?;
    Ok(tree)
}

/// A copy of what is mounted somewhere, or of a directory, which is mounted nowhere.
fn clone(path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    rustix::mount::open_tree(CWD, path, flags)
}

fn map(tree: &OwnedFd, namespace: &OwnedFd, recursive: bool) -> Result<()> {
    ffi::map_ids(tree, namespace, recursive).map_err(|e| {
        let help = match e.raw_os_error() {
            Some(libc::EINVAL) => ": its file system or the kernel knows no ID-mapped mounts",
            Some(libc::ENOSYS) => ": the kernel knows no ID-mapped mounts",
            _ => return e.into(),
        };
        Error::new(format!("{}{help}", Error::from(e)))
    })
}

fn attach(tree: &OwnedFd, target: &Path) -> Result<()> {
    rustix::mount::move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context(|| format!("cannot mount onto '{}'", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_three_numbers() {
        let mappings = Mappings::parse("0:100000:10,10:0:1", "0:7:1").unwrap();
        assert_eq!([mappings.uids(), mappings.gids()], ["0 100000 10\n10 0 1\n", "0 7 1\n"]);
        for wrong in ["", "0:1", "0:1:2:3", "0:1:0", "0:-1:1", "0:1:2,", "a:1:1", "0:1:4294967296"] {
            let error = Mappings::parse("0:1:1", wrong).unwrap_err().to_string();
            assert_eq!(error, format!("'{wrong}' is no mapping of ids (container:host:size)"));
        }
    }
}
