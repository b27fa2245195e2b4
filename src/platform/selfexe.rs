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
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const EXE: &str = "/proc/self/exe";
/// Tells the protected program where its executable is: the kernel calls a detached clone `/`.
const PATH_VARIABLE: &str = "_MAGIKRUN_EXE";
/// The same, before its value.
pub const PATH_ASSIGNMENT: &CStr = c"_MAGIKRUN_EXE=";

/// Makes sure that this process runs from an executable that cannot be written through `/proc/PID/exe`.
///
/// Re-executes the program with the same arguments and environment if it does not yet; so call it first.
pub fn protect() -> Result<()> {
    if is_protected()? {
        return Ok(());
    }
    let path = path()?;
    let exe = read_only::clone(Path::new(EXE)).or_else(|_| sealed_copy())?;
    match execute(&exe, c"", &[(PATH_VARIABLE, path.as_os_str().as_bytes())]) {
        Ok(never) => match never {},
        Err(e) => Err(e).or_kind(ErrorKind::System, || "cannot execute the protected copy of this program"),
    }
}

/// Where the executable of this process is.
pub fn path() -> Result<PathBuf> {
    match std::env::var_os(PATH_VARIABLE).filter(|_| is_protected().unwrap_or(false)) {
        Some(path) => Ok(path.into()),
        None => std::fs::read_link(EXE).context(|| format!("cannot read '{EXE}'")),
    }
}

/// Executes another program in the place of this one, with the same arguments and environment and one more variable.
///
/// It is protected as this one: at once where that is possible, so that it need not execute itself once more.
pub fn execute_in_place(program: &Path, variable: (&str, &str)) -> Result<Infallible> {
    let variable = (variable.0, variable.1.as_bytes());
    let program = std::fs::canonicalize(program)?;
    let path = program.as_os_str().as_bytes();
    if let Ok(exe) = read_only::clone(&program) {
        // Where that fails, for a script cannot be executed so, it is as if there were no clone.
        let Err(_) = execute(&exe, c"", &[variable, (PATH_VARIABLE, path)]);
    }
    let path = CString::new(path).map_err(|_| Error::from_errno(libc::EINVAL))?;
    execute(rustix::fs::CWD, &path, &[variable])
}

/// Opens the executable of this process, to be executed again by descriptor.
pub fn open() -> Result<OwnedFd> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(EXE, flags, rustix::fs::Mode::empty()).context(|| format!("cannot open '{EXE}'"))
}

fn is_protected() -> Result<bool> {
    // A process runs from one executable until it executes another.
    static KNOWN: AtomicBool = AtomicBool::new(false);
    if KNOWN.load(Ordering::Relaxed) {
        return Ok(true);
    }
    let protected = look()?;
    KNOWN.store(protected, Ordering::Relaxed);
    Ok(protected)
}

fn look() -> Result<bool> {
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

fn execute(at: impl AsFd, path: &CStr, variables: &[(&str, &[u8])]) -> Result<Infallible> {
    let args = strings(std::env::args_os().map(OsStringExt::into_vec))?;
    let others = std::env::vars_os().filter(|(other, _)| !variables.iter().any(|(name, _)| other == name));
    let all = others.map(|(name, value)| (name.into_vec(), value.into_vec()));
    let own = variables.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()));
    let all = all.chain(own);
    let env = strings(all.map(|(name, value)| [name, b"=".to_vec(), value].concat()))?;
    let flags = if path.is_empty() { AtFlags::AT_EMPTY_PATH } else { AtFlags::empty() };
    Ok(nix::unistd::execveat(at, path, &args, &env, flags)?)
}

fn strings(items: impl Iterator<Item = Vec<u8>>) -> Result<Vec<CString>> {
    items.map(|item| CString::new(item).map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))).collect()
}
