//! The console of a guest: what its kernel, its first process and libkrun say. The last of it is kept, for errors.

use crate::vm::connection::shown;
use rustix::event::{PollFd, PollFlags};
use std::os::fd::OwnedFd;

/// How much is kept, in bytes.
const KEPT: usize = 4 << 10;
/// How many lines are told.
const LINES: usize = 8;
/// What the last words of a kernel begin with. A trace follows them that says less.
const PANIC: &str = "Kernel panic";

/// A console.
#[derive(Debug)]
pub struct Console {
    /// None after its end.
    pipe: Option<OwnedFd>,
    said: Vec<u8>,
    amount: u64,
}

impl From<OwnedFd> for Console {
    /// The console that is written to a pipe, whose read end must not block.
    fn from(pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe), said: Vec::new(), amount: 0 }
    }
}

impl Console {
    /// What to wait for.
    pub fn wait_for(&self) -> Option<PollFd<'_>> {
        self.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN))
    }

    /// Reads what is there.
    pub fn read(&mut self) {
        let mut buffer = [0; KEPT];
        while let Some(pipe) = &self.pipe {
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => self.keep(&buffer[..length]),
                Err(_) => break,
            }
        }
    }

    /// How much was said until now, in bytes.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    fn keep(&mut self, data: &[u8]) {
        self.amount += data.len() as u64;
        self.said.extend_from_slice(data);
        let surplus = self.said.len().saturating_sub(KEPT);
        self.said.drain(..surplus);
    }

    /// The last that was said, in one line.
    pub fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.said);
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let panic = lines.iter().rposition(|line| line.contains(PANIC));
        let first = panic.unwrap_or(lines.len()).min(lines.len().saturating_sub(LINES));
        let told = &lines[first..lines.len().min(first + LINES)];
        if told.is_empty() { "nothing".to_owned() } else { shown(&told.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(text: &str) -> Console {
        let mut console = Console { pipe: None, said: Vec::new(), amount: 0 };
        console.keep(text.as_bytes());
        console
    }

    #[test]
    fn the_last_lines_are_told_and_a_panic_rather_than_its_trace() {
        assert_eq!(console("").last_words(), "nothing");
        assert_eq!(console("a\r\n\nb\x1b\n").last_words(), "a; b\\u{1b}");
        let many = (0..2000).map(|number| format!("{number}\n")).collect::<Vec<_>>().concat();
        assert_eq!(console(&many).amount(), many.len() as u64);
        assert_eq!(console(&many).last_words(), "1992; 1993; 1994; 1995; 1996; 1997; 1998; 1999");
        let words = console(&format!("before\nKernel panic - not syncing\n{}", &many[..50])).last_words();
        assert!(words.starts_with("Kernel panic - not syncing; 0; "), "{words}");
    }
}
