//! libkrun's functions, each failure an error. They are C functions whether libkrun is linked in or a library of the system.

#![allow(unsafe_code)]
// Some are safe in the crate, and none in the bindings of the library.
#![allow(unused_unsafe)]

use magikrun::error::errno_text;
use magikrun::{Error, ErrorKind, Result};
use std::ffi::{CString, c_int};
use std::os::fd::{IntoRawFd as _, OwnedFd, RawFd};
use std::ptr::null;

#[cfg(all(feature = "bundled", not(feature = "system")))]
use krun as lib;
#[cfg(feature = "system")]
use krun_sys as lib;

/// A disk image is the disk, byte for byte, of libkrun's formats.
const DISK_RAW: u32 = 0;
/// What the guest's kernel says is the serial number of the disk.
const DISK_ID: &str = "root";
/// Tag of the share that the guest's kernel takes as its root.
const ROOT_TAG: &str = "/dev/root";
/// Errors only, of libkrun's levels.
const LOG_ERRORS: u32 = 1;
/// No colours, whatever the log goes to.
const LOG_STYLE_NEVER: u32 = 2;
/// Whatever the environment asks for.
const LOG_NO_ENVIRONMENT: u32 = 1;

/// A configuration of libkrun's.
#[derive(Debug)]
pub struct Context(u32);

fn check(what: &str, code: c_int) -> Result<u32> {
    u32::try_from(code).map_err(|_| {
        let text = format!("cannot set up the virtual machine: {what}: {}", errno_text(-code));
        Error::from_parts(ErrorKind::StartFailed, text, Some(-code))
    })
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(ErrorKind::StartFailed, "a path holds a nul byte"))
}

/// Loads a shared library for good, as libkrun does later by the same name.
pub fn load(name: &str) -> bool {
    let Ok(name) = text(name) else { return false };
    // SAFETY: the name ends with a nul byte; the library is the guest's kernel, whose code runs nothing when it is loaded.
    unsafe { !libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL).is_null() }
}

/// Sends what libkrun itself has to say to a descriptor, which it owns from now on. Once in a process.
pub fn log_to(target: OwnedFd) -> Result<()> {
    // SAFETY: numbers, and a descriptor that nobody else owns.
    let code =
        unsafe { lib::krun_init_log(target.into_raw_fd(), LOG_ERRORS, LOG_STYLE_NEVER, LOG_NO_ENVIRONMENT) };
    check("log", code).map(drop)
}

impl Context {
    /// A new configuration.
    pub fn new() -> Result<Self> {
        // SAFETY: no arguments.
        check("context", unsafe { lib::krun_create_ctx() }).map(Self)
    }

    /// Processors and memory.
    pub fn set_size(&self, cpus: u8, ram_mib: u32) -> Result<()> {
        // SAFETY: numbers only.
        check("size", unsafe { lib::krun_set_vm_config(self.0, cpus, ram_mib) }).map(drop)
    }

    /// A root without any file of the host, with `init` as the first program, these files and these directories.
    pub fn set_virtual_root(
        &self,
        init: &'static [u8],
        files: &[(&str, &'static [u8])],
        directories: &[&str],
    ) -> Result<()> {
        let tag = text(ROOT_TAG)?;
        // SAFETY: the tag ends with a nul byte and is copied; no path means no directory of the host.
        let code = unsafe {
            lib::krun_disable_implicit_init(self.0);
            lib::krun_add_virtiofs3(self.0, tag.as_ptr(), null(), 0, false)
        };
        check("root", code)?;
        for directory in directories {
            let path = text(directory)?;
            // SAFETY: both texts end with a nul byte and are copied.
            check(directory, unsafe {
                lib::krun_fs_add_overlay_dir(self.0, tag.as_ptr(), path.as_ptr(), 0o755)
            })?;
        }
        let init = ("/init.krun", init, 0o755);
        for (name, data, mode) in files.iter().map(|(name, data)| (*name, *data, 0o444)).chain([init]) {
            let path = text(name)?;
            // SAFETY: both texts end with a nul byte and are copied; the data lives as long as this process.
            let code = unsafe {
                lib::krun_fs_add_overlay_file(
                    self.0,
                    tag.as_ptr(),
                    path.as_ptr(),
                    data.as_ptr(),
                    data.len(),
                    mode,
                    false,
                )
            };
            check(name, code)?;
        }
        Ok(())
    }

    /// A share of a directory.
    pub fn share(&self, tag: &str, directory: &str) -> Result<()> {
        let (name, path) = (text(tag)?, text(directory)?);
        // SAFETY: both texts end with a nul byte and are copied.
        check(tag, unsafe { lib::krun_add_virtiofs3(self.0, name.as_ptr(), path.as_ptr(), 0, false) })
            .map(drop)
    }

    /// A disk, whose image or device is at this path.
    pub fn add_disk(&self, path: &str, read_only: bool) -> Result<()> {
        let (id, path) = (text(DISK_ID)?, text(path)?);
        // SAFETY: numbers, and texts that end with a nul byte and are copied.
        let code = unsafe { lib::krun_add_disk2(self.0, id.as_ptr(), path.as_ptr(), DISK_RAW, read_only) };
        check("disk", code).map(drop)
    }

    /// An empty environment: without one the guest's kernel would get ours.
    pub fn clear_environment(&self) -> Result<()> {
        // SAFETY: a list of no texts, ended by a null pointer.
        check("environment", unsafe { lib::krun_set_env(self.0, [null()].as_ptr()) }).map(drop)
    }

    /// Connections to a unix socket become those to a port of the guest. With `sockets` the guest's sockets of the internet are
    /// made by this process.
    pub fn set_vsock(&self, port: u32, path: &str, sockets: bool) -> Result<()> {
        let path = text(path)?;
        // SAFETY: numbers, and a text that ends with a nul byte and is copied.
        let code = unsafe {
            check("vsock", lib::krun_disable_implicit_vsock(self.0))?;
            check("vsock", lib::krun_add_vsock(self.0, u32::from(sockets)))?;
            lib::krun_add_vsock_port2(self.0, port, path.as_ptr(), true)
        };
        check("control socket", code).map(drop)
    }

    /// The kernel's console, whose output goes to a file.
    pub fn set_console(&self, path: &str) -> Result<()> {
        let path = text(path)?;
        // SAFETY: the text ends with a nul byte and is copied.
        check("console", unsafe { lib::krun_set_console_output(self.0, path.as_ptr()) }).map(drop)
    }

    /// A further console device; returns its number.
    pub fn add_console(&self) -> Result<u32> {
        // SAFETY: a number.
        check("console", unsafe { lib::krun_add_virtio_console_multiport(self.0) })
    }

    /// A port of a console device, for one direction or both; -1 for none.
    pub fn add_port(&self, console: u32, name: &str, input: RawFd, output: RawFd) -> Result<()> {
        let port = text(name)?;
        // SAFETY: numbers, and a text that ends with a nul byte and is copied; descriptors are duplicated.
        check(name, unsafe {
            lib::krun_add_console_port_inout(self.0, console, port.as_ptr(), input, output)
        })
        .map(drop)
    }

    /// A network device whose frames go through a connected stream socket, as passt has it.
    pub fn add_network(&self, socket: RawFd, mac: [u8; 6]) -> Result<()> {
        let mut mac = mac;
        // SAFETY: no path, a connected socket that stays open, and six bytes that are copied.
        let code = unsafe { lib::krun_add_net_unixstream(self.0, null(), socket, mac.as_mut_ptr(), 0, 0) };
        check("network", code).map(drop)
    }

    /// Becomes the machine. Returns only when that fails.
    pub fn enter(&self) -> Error {
        // SAFETY: a number.
        let code = unsafe { lib::krun_start_enter(self.0) };
        check("start", code)
            .err()
            .unwrap_or_else(|| Error::new(ErrorKind::StartFailed, "the virtual machine did not start"))
    }
}
