//! The three standard descriptors.

use crate::error::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

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
