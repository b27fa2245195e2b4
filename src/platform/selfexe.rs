//! Protection of our own executable against the containers that we enter (CVE-2019-5736).
//!
//! A process that enters a container is visible there, and `/proc/PID/exe` leads to its executable. So
//! everything that enters one runs from a read-only view of the executable: a detached clone of its mount, which no mount
//! namespace holds and so nobody can make writable again. Where the kernel refuses that, from a sealed copy in memory.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::mount::{MountAttr, mount_setattr};
use nix::fcntl::AtFlags;
use rustix::fs::{MemfdFlags, SealFlags, StatVfsMountFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags};
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt;

const EXE: &str = "/proc/self/exe";

/// Makes sure that this process runs from an executable that cannot be written through `/proc/PID/exe`.
///
/// Re-executes the program with the same arguments and environment if it does not yet; so call it first.
pub fn protect() -> Result<()> {
    if is_protected()? {
        return Ok(());
    }
    let exe = read_only_clone().or_else(|_| sealed_copy())?;
    match execute(&exe) {
        Ok(never) => match never {},
        Err(e) => Err(e).or_kind(ErrorKind::System, || "cannot execute the protected copy of this program"),
    }
}

fn is_protected() -> Result<bool> {
    let statvfs = rustix::fs::statvfs(EXE).context(|| format!("cannot look at '{EXE}'"))?;
    if statvfs.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    // Only a file in memory has seals; asking an ordinary one is an error.
    let exe = File::open(EXE).context(|| format!("cannot open '{EXE}'"))?;
    Ok(rustix::fs::fcntl_get_seals(&exe).is_ok_and(|seals| seals.contains(SealFlags::WRITE)))
}

fn read_only_clone() -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, EXE, flags)?;
    let attr = MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY, ..MountAttr::NONE };
    mount_setattr(tree.as_fd(), false, &attr)?;
    Ok(tree)
}

fn sealed_copy() -> Result<OwnedFd> {
    let cannot = || "cannot copy this program into memory";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy: File = rustix::fs::memfd_create("magikrun", flags | MemfdFlags::EXEC)
        // Before Linux 6.3 there is no such flag, and every memfd is executable.
        .or_else(|_| rustix::fs::memfd_create("magikrun", flags))
        .context(cannot)?
        .into();
    let mut exe = File::open(EXE).context(|| format!("cannot open '{EXE}'"))?;
    std::io::copy(&mut exe, &mut copy).context(cannot)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals).context(cannot)?;
    Ok(copy.into())
}

fn execute(exe: &OwnedFd) -> Result<Infallible> {
    let args = strings(std::env::args_os().map(OsStringExt::into_vec))?;
    let env = strings(std::env::vars_os().map(|(name, value)| {
        let mut pair = name.into_vec();
        pair.push(b'=');
        pair.extend(value.into_vec());
        pair
    }))?;
    Ok(nix::unistd::execveat(exe, c"", &args, &env, AtFlags::AT_EMPTY_PATH)?)
}

fn strings(items: impl Iterator<Item = Vec<u8>>) -> Result<Vec<CString>> {
    items.map(|item| CString::new(item).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))).collect()
}
