//! The mark of a directory of a layer that hides what the layers below have in its place.

use rustix::fs::fgetxattr;
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::AsFd;

/// Name of the extended attribute, whose value is `y` then: overlayfs's with the option `userxattr`.
pub const OPAQUE: &CStr = c"user.overlay.opaque";

/// Whether a directory has the mark.
pub fn is_opaque(directory: impl AsFd) -> rustix::io::Result<bool> {
    let mut value = [0u8; 1];
    match fgetxattr(directory, OPAQUE, &mut value) {
        Ok(_) => Ok(value == *b"y"),
        // None, another one, or a file system without them.
        Err(Errno::NODATA | Errno::RANGE | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e),
    }
}
