//! The size of the terminal on its way to that of the guest's program.

use super::asking::Asking;
use super::guest;
use rustix::event::PollFd;
use std::path::Path;
use std::time::{Duration, Instant};
use vm_protocol::message::Request;
use vm_protocol::spec::Size;

/// Longest pause until the guest is told again that has not heard it. Nothing but the look of a screen depends on it.
const LONGEST: Duration = Duration::from_secs(1);

/// Tells the guest the newest size, until somebody has taken it up.
#[derive(Debug, Default)]
pub struct Resizing {
    asking: Option<Asking>,
    /// The size has changed since it was told.
    changed: bool,
}

impl Resizing {
    /// The size is another one. The guest hears of it as soon as [`Resizing::look`] is called.
    pub fn changed(&mut self) {
        self.changed = true;
    }

    /// What to wait for.
    pub fn wait_for(&self) -> Option<PollFd<'_>> {
        self.asking.as_ref()?.wait_for()
    }

    /// When to look again, whatever happens.
    pub fn wakeup(&self) -> Option<Instant> {
        self.asking.as_ref()?.wakeup()
    }

    /// Goes on with it; `size` tells the size of now.
    pub fn look(&mut self, control: &Path, size: impl Fn() -> Option<Size>) {
        loop {
            if self.asking.is_none() && self.changed {
                self.asking = Some(Asking::new(LONGEST));
            }
            let Some(asking) = &mut self.asking else { return };
            let Some(size) = size() else { return *self = Self::default() };
            let changed = &mut self.changed;
            let request = || {
                *changed = false;
                Request::Resize { target: guest::target(), size }
            };
            match asking.look(control, request, Instant::now()) {
                Ok(false) => return,
                // A guest that cannot do it once cannot do it again.
                Ok(true) | Err(_) => self.asking = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;
    use vm_protocol::frame::{Decoder, Kind, encode_json};
    use vm_protocol::message::{Hello, Reply};

    const LIMIT: Duration = Duration::from_secs(30);

    struct Terminal {
        directory: tempfile::TempDir,
        resizing: Resizing,
        size: Size,
    }

    impl Terminal {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            Self { directory, resizing: Resizing::default(), size: Size { rows: 0, columns: 80 } }
        }

        fn listen(&self) -> UnixListener {
            let listener = UnixListener::bind(self.directory.path().join("control")).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        }

        fn resize(&mut self, rows: u16) {
            self.size.rows = rows;
            self.resizing.changed();
            self.look();
        }

        fn look(&mut self) {
            let size = self.size;
            self.resizing.look(&self.directory.path().join("control"), || Some(size));
        }

        /// The rows that the guest is told next; with `answer` it has taken it up.
        fn told(&mut self, listener: &UnixListener, answer: bool) -> u16 {
            let begin = Instant::now();
            let mut connection = loop {
                assert!(begin.elapsed() < LIMIT, "nobody tells it");
                self.look();
                match listener.accept() {
                    Ok((connection, _)) => break connection,
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            };
            connection.set_nonblocking(false).unwrap();
            let mut bytes = [0; 4096];
            let length = connection.read(&mut bytes).unwrap();
            let mut decoder = Decoder::default();
            decoder.push(&bytes[..length]);
            let frames = std::iter::from_fn(|| decoder.next_frame().unwrap());
            let request = frames.filter(|frame| frame.kind == Kind::Message).last().unwrap();
            let Request::Resize { size, .. } = request.parse().unwrap() else { panic!("{request:?}") };
            if answer {
                let mut bytes = encode_json(Kind::Hello, &Hello::new("a guest")).unwrap();
                bytes.extend(encode_json(Kind::Message, &Reply::Done).unwrap());
                connection.write_all(&bytes).unwrap();
            }
            drop(connection);
            self.look();
            size.rows
        }
    }

    #[test]
    fn a_size_that_nobody_takes_up_is_told_again_and_the_newest_one() {
        let mut terminal = Terminal::new();
        terminal.resize(1);
        assert!(terminal.resizing.wakeup().is_some(), "it is lost");
        let listener = terminal.listen();
        assert_eq!(terminal.told(&listener, false), 1);
        terminal.resize(2);
        assert_eq!(terminal.told(&listener, true), 2);
        assert!(terminal.resizing.wakeup().is_none() && terminal.resizing.wait_for().is_none());
    }

    #[test]
    fn a_size_that_changes_while_the_guest_is_told_another_is_told_after_it() {
        let mut terminal = Terminal::new();
        let listener = terminal.listen();
        terminal.resize(1);
        terminal.resize(2);
        terminal.resize(3);
        assert_eq!(terminal.told(&listener, true), 1);
        assert_eq!(terminal.told(&listener, true), 3);
        assert!(terminal.resizing.wait_for().is_none());
        assert!(listener.accept().is_err(), "it is told what it knows");
    }

    #[test]
    fn without_a_terminal_nobody_is_told() {
        let mut resizing = Resizing::default();
        resizing.changed();
        resizing.look(Path::new("/nonexistent"), || None);
        assert!(resizing.wakeup().is_none() && resizing.wait_for().is_none());
    }
}
