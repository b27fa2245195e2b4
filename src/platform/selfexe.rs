//! Protection of our own executable against the containers that we enter (CVE-2019-5736).
//!
//! A process that enters a container is visible there, and `/proc/PID/exe` leads to its executable. So
//! everything that enters one runs from a read-only view of the executable: a detached clone of its mount, which no mount
//! namespace holds and so nobody can make writable again. Where the kernel refuses that, from a sealed copy in memory.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::{memory, read_only};
use nix::fcntl::AtFlags;
use rustix::fs::{SealFlags, StatVfsMountFlags};
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

const EXE: &str = "/proc/self/exe";

/// Makes sure that this process runs from an executable that cannot be written through `/proc/PID/exe`.
///
/// Re-executes the program with the same arguments and environment if it does not yet; so call it first.
pub fn protect() -> Result<()> {
    if is_protected()? {
        return Ok(());
    }
    let exe = read_only::clone(Path::new(EXE)).or_else(|_| sealed_copy())?;
    match execute(&exe) {
        Ok(never) => match never {},
        Err(e) => Err(e).or_kind(ErrorKind::System, || "cannot execute the protected copy of this program"),
    }
}

/// Opens the executable of this process, to be executed again by descriptor.
pub fn open() -> Result<OwnedFd> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(EXE, flags, rustix::fs::Mode::empty()).context(|| format!("cannot open '{EXE}'"))
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

fn sealed_copy() -> Result<OwnedFd> {
    let mut copy = memory::file()?;
    let mut exe = File::open(EXE).context(|| format!("cannot open '{EXE}'"))?;
    std::io::copy(&mut exe, &mut copy).context(|| "cannot copy this program into memory")?;
    memory::seal(copy).map(OwnedFd::from)
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
