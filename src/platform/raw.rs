//! Raw mode of terminals.

use crate::error::{Context as _, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::os::fd::BorrowedFd;

/// Lets a terminal pass everything on as it is.
pub fn make_raw(terminal: BorrowedFd<'_>) -> Result<()> {
    let cannot = || "cannot set the terminal to raw mode";
    let mut raw = tcgetattr(terminal).context(cannot)?;
    raw.make_raw();
    tcsetattr(terminal, OptionalActions::Now, &raw).context(cannot)
}

/// Keeps the terminal that is our standard input in raw mode, in which every key is passed on, and then sets it back.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Sets it; `None` if our standard input is no terminal.
    pub fn set() -> Result<Option<Self>> {
        let stdin = rustix::stdio::stdin();
        let Ok(before) = tcgetattr(stdin) else { return Ok(None) };
        make_raw(stdin)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &self.before);
    }
}
