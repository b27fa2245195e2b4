//! The standard input of a container in the pod's microVM: from the pipe that clients write to, to its guest.
//!
//! No more is read than the guest has room for: what is slow to be read waits in the pipe, as it does for any other container.

use super::Monitor;
use crate::error::{Error, Result};
use crate::vm::connection::{Connection, Received, malformed, reply_of};
use crate::vm::protocol::STDIN_WINDOW;
use crate::vm::protocol::frame::{Kind, MAX_DATA, encode, encode_json};
use crate::vm::protocol::message::{Reply, Request, Target};
use crate::vm::protocol::spec::Size;
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// The way of an input.
#[derive(Debug)]
pub(super) struct GuestInput {
    connection: Connection,
    /// What clients write; none after its end.
    pipe: Option<OwnedFd>,
    /// Bytes that the guest was sent and has not taken yet.
    untaken: usize,
    /// What is to be sent, one frame of data and a few messages at most.
    out: Vec<u8>,
    /// The size that the terminal is to have.
    size: Option<Size>,
}

impl GuestInput {
    pub(super) fn new(connection: Connection, pipe: OwnedFd) -> Self {
        Self { connection, pipe: Some(pipe), untaken: 0, out: Vec::new(), size: None }
    }

    /// What to wait for.
    pub(super) fn sources(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let sending = if self.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let pipe = self.pipe.iter().filter(|_| self.room() > 0);
        let pipe = pipe.map(|pipe| (pipe.as_fd(), PollFlags::IN));
        std::iter::once((self.connection.as_fd(), PollFlags::IN | sending)).chain(pipe)
    }

    fn room(&self) -> usize {
        if self.out.is_empty() { MAX_DATA.min(STDIN_WINDOW - self.untaken) } else { 0 }
    }

    /// Moves on what there is, without waiting; false when the guest takes nothing any more.
    fn serve(&mut self) -> Result<bool> {
        let moved = self.hear().and_then(|open| {
            self.send()?;
            self.read()?;
            self.send().map(|()| open)
        });
        match moved {
            // The machine is ending: its own end says what that means.
            Err(e) if e.is_hangup() => Ok(false),
            moved => moved,
        }
    }

    /// Hears what the guest has taken: at least a byte each time, so that this ends whatever it says.
    fn hear(&mut self) -> Result<bool> {
        loop {
            let frame = match self.connection.try_receive()? {
                Received::Frame(frame) => frame,
                Received::Nothing => return Ok(true),
                Received::Closed => return Ok(false),
            };
            match reply_of(&frame)? {
                Reply::Taken { bytes: bytes @ 1.. } if bytes as usize <= self.untaken => {
                    self.untaken -= bytes as usize;
                }
                Reply::Done => return Ok(false),
                _ => crate::bail!(System, "the guest has taken input that it was not sent"),
            }
        }
    }

    fn read(&mut self) -> Result<()> {
        let room = self.room();
        let Some(pipe) = self.pipe.as_ref().filter(|_| room > 0) else { return Ok(()) };
        let mut buffer = vec![0u8; room];
        let read = match rustix::io::read(pipe, &mut buffer) {
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(e) => return Err(Error::from(e)),
        };
        if read == 0 {
            self.pipe = None;
        }
        self.untaken += read;
        self.out = encode(Kind::Stdin, &buffer[..read]).map_err(|e| malformed(&e))?;
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        if let Some(size) = self.size.take_if(|_| self.out.is_empty()) {
            let resize = Request::Resize { target: Target::This, size };
            self.out = encode_json(Kind::Message, &resize).map_err(|e| malformed(&e))?;
        }
        while !self.out.is_empty() {
            match self.connection.try_send(&self.out)? {
                0 => break,
                sent => drop(self.out.drain(..sent)),
            }
        }
        Ok(())
    }
}

impl Monitor<'_> {
    /// Moves on the input of a container.
    pub(super) fn move_input(&mut self, number: usize) {
        let Some(inputs) = self.around.guest_mut().map(|guest| &mut guest.inputs) else { return };
        let Some(at) = inputs.iter().position(|(of, _)| *of == number) else { return };
        match inputs[at].1.serve() {
            Ok(true) => {}
            Ok(false) => drop(inputs.remove(at)),
            Err(e) => {
                inputs.remove(at);
                self.fail(e.wrap("cannot pass the standard input of a container on"));
            }
        }
    }

    /// Gives the terminal of a container in the guest another size. Nobody waits for that.
    pub(super) fn resize_in_guest(&mut self, number: usize, size: Size) {
        let inputs = self.around.guest_mut().into_iter().flat_map(|guest| &mut guest.inputs);
        inputs.filter(|(of, _)| *of == number).for_each(|(_, input)| input.size = Some(size));
        self.move_input(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::protocol::frame::Decoder;
    use crate::vm::protocol::message::Hello;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::pipe::{PipeFlags, pipe_with};

    /// An input, where clients write, and the guest's end.
    fn input() -> (GuestInput, OwnedFd, OwnedFd) {
        let (ours, guest) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let (pipe, client) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        for fd in [&pipe, &client, &guest] {
            rustix::io::ioctl_fionbio(fd, true).unwrap();
        }
        say(&guest, Kind::Hello, &Hello::new("a guest"));
        (GuestInput::new(ours.into(), pipe), client, guest)
    }

    fn say(guest: &OwnedFd, kind: Kind, value: &impl serde::Serialize) {
        let bytes = encode_json(kind, value).unwrap();
        assert_eq!(rustix::io::write(guest, &bytes).unwrap(), bytes.len());
    }

    fn taken(guest: &OwnedFd, bytes: u32) {
        say(guest, Kind::Message, &Reply::Taken { bytes });
    }

    /// The frames that have come.
    fn frames(guest: &OwnedFd) -> Vec<(Kind, Vec<u8>)> {
        let (mut decoder, mut buffer, mut all) = (Decoder::default(), vec![0; 1 << 20], Vec::new());
        while let Ok(read @ 1..) = rustix::io::read(guest, &mut buffer) {
            decoder.push(&buffer[..read]);
        }
        while let Some(frame) = decoder.next_frame().unwrap() {
            all.push((frame.kind, frame.body));
        }
        all
    }

    #[test]
    fn what_clients_write_goes_to_the_guest_as_far_as_it_has_room_and_so_does_its_end() {
        let (mut input, client, guest) = input();
        let mut got = 0;
        for _ in 0..8 {
            while rustix::io::write(&client, &[b'x'; 4096]).is_ok() {}
            assert!(input.serve().unwrap());
            got += frames(&guest).iter().map(|(_, body)| body.len()).sum::<usize>();
        }
        assert_eq!(got, STDIN_WINDOW);
        assert_eq!(input.sources().count(), 1, "the rest waits in the pipe");
        taken(&guest, 3);
        assert!(input.serve().unwrap());
        assert_eq!(frames(&guest), [(Kind::Stdin, b"xxx".to_vec())]);
        drop(client);
        taken(&guest, STDIN_WINDOW as u32);
        let mut last = Vec::new();
        for _ in 0..8 {
            assert!(input.serve().unwrap());
            last.extend(frames(&guest));
            let untaken = input.untaken as u32;
            (untaken > 0).then(|| taken(&guest, untaken));
        }
        assert_eq!(last.pop(), Some((Kind::Stdin, Vec::new())));
        input.size = Some(Size { columns: 3, rows: 4 });
        assert!(input.serve().unwrap());
        let expected = Request::Resize { target: Target::This, size: Size { columns: 3, rows: 4 } };
        assert_eq!(frames(&guest), [(Kind::Message, serde_json::to_vec(&expected).unwrap())]);
        say(&guest, Kind::Message, &Reply::Done);
        assert!(!input.serve().unwrap());
    }

    #[test]
    fn a_guest_that_takes_what_it_was_not_sent_is_an_error() {
        for reply in [
            Reply::Taken { bytes: 0 },
            Reply::Taken { bytes: 4 },
            Reply::Taken { bytes: u32::MAX },
            Reply::Exited { code: 0 },
        ] {
            let (mut input, client, guest) = input();
            rustix::io::write(&client, b"abc").unwrap();
            assert!(input.serve().unwrap());
            say(&guest, Kind::Message, &reply);
            let e = input.serve().unwrap_err();
            assert!(e.message().contains("not sent"), "{reply:?}: {e}");
        }
        let (mut input, _client, guest) = input();
        rustix::io::write(&guest, &[9; 64]).unwrap();
        assert!(input.serve().is_err());
        let (mut input, client, guest) = self::input();
        drop(guest);
        rustix::io::write(&client, b"abc").unwrap();
        assert!(!input.serve().unwrap());
    }
}
