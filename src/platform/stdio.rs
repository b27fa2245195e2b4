//! The three standard descriptors.

use crate::error::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::fmt::Display;
use std::io::Write as _;

/// Makes sure that the standard descriptors are open: a caller may have closed them, and the next file that we open would
/// become our standard output, and the container's.
pub fn open_all() -> Result<()> {
    let (stdin, stdout, stderr) = (rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr());
    let mut fds = [stdin, stdout, stderr].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()));
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    for fd in &fds {
        if fd.revents().contains(PollFlags::NVAL) {
            // open(2) takes the lowest number that is free: this very one, for they are looked at in order.
            let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
            std::mem::forget(null);
        }
    }
    Ok(())
}

/// Writes a line to standard error. Where that fails there is nobody to tell, and it is no reason to panic, as `eprintln!` would.
pub fn tell(line: impl Display) {
    prompt(format_args!("{line}\n"));
}

/// As [`tell`], without the end of a line.
pub fn prompt(text: impl Display) {
    // In one piece: others write there too.
    let _ = std::io::stderr().write_all(text.to_string().as_bytes());
}
