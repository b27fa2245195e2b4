//! Descriptors of the whole process.

use crate::error::{Error, Result};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

/// Takes over a descriptor that the program which executed this one left open under this number. To be called once for each
/// number, by the first code of the process.
///
/// Fails when none is open there.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: asking for the flags of a descriptor touches no memory, whatever the number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if number < 3 || flags < 0 {
        return Err(Error::from_errno(libc::EBADF).wrap(format!("cannot take over descriptor {number}")));
    }
    // SAFETY: it is open, and by the contract above nothing else in this process owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// [`inherited`] for a socket. None if there is something else under this number, which stays as it is.
pub fn inherited_socket(number: RawFd) -> Option<OwnedFd> {
    let mut kind: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `kind`, and to `length` itself; the number may be any.
    let answered = unsafe {
        libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut length)
    };
    if answered != 0 {
        return None;
    }
    inherited(number).ok()
}

/// Asks the kernel to write a part of a file to the disk, without waiting for that: sync_file_range(2). Nothing depends on it.
pub fn start_writing(file: impl AsFd, offset: u64, length: u64) {
    let (offset, length) = (offset.cast_signed(), length.cast_signed());
    // SAFETY: the descriptor is open as long as it is borrowed, and no memory is touched.
    unsafe {
        libc::sync_file_range(file.as_fd().as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Closes all descriptors from `first` to `last`, both included (close_range(2), Linux 5.9; older kernels: one by one).
///
/// For a process that is about to execute a program and needs none of them any more: whoever still holds a Rust owner
/// of one must not use or drop it afterwards.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: closing descriptors touches no memory; the contract above keeps their owners from using them.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if ret == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM) => close_one_by_one(first, last),
        _ => Err(Error::from(error).wrap("cannot close descriptors")),
    }
}

fn close_one_by_one(first: u32, last: u32) -> Result<()> {
    let mut numbers = Vec::new();
    // Every entry keeps the listing's own descriptor open, so none may be left when that is closed below.
    for entry in std::fs::read_dir("/proc/self/fd")? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    for number in numbers.into_iter().filter(|number| (first..=last).contains(number)) {
        // SAFETY: as above. The listing's own descriptor is closed already, which is no error here.
        unsafe { libc::close(number as libc::c_int) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn a_range_is_closed_and_nothing_beside_it() {
        let keep = std::fs::File::open("/dev/null").unwrap();
        for close in [close_range, close_one_by_one] {
            // Far above what other tests of this process open meanwhile.
            let high = rustix::io::fcntl_dupfd_cloexec(&keep, 900).unwrap().into_raw_fd();
            close(high as u32, high as u32).unwrap();
            assert!(!std::path::Path::new(&format!("/proc/self/fd/{high}")).exists());
            assert!(std::path::Path::new(&format!("/proc/self/fd/{}", keep.as_raw_fd())).exists());
        }
    }
}
