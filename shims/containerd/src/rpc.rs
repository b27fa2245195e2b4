//! The server's side of ttrpc: a thread for each connection reads calls, and whoever has an answer sends it.
//!
//! The crate's own server hands a call from the thread that reads to one that works, and the answer to one that writes, and its threads look
//! for work by yielding. containerd makes ten calls for an exec, so these changes of threads are most of what a shim costs on a busy machine.

use crate::error::{Context as _, Error, Result};
use containerd_shim_protos::protobuf::{Message as _, MessageField};
use containerd_shim_protos::ttrpc::proto::{
    MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST, MessageHeader,
};
use containerd_shim_protos::ttrpc::{Request, Response};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How long to wait when a connection cannot be taken, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who answers calls.
pub trait Handler: Send + Sync + 'static {
    /// Answers a call, now or later. The thread of the connection waits for this.
    fn handle(self: &Arc<Self>, request: Request, call: Call);
}

/// A call that waits for its answer.
#[derive(Clone)]
pub struct Call {
    stream_id: u32,
    /// A call may wait for longer than its client does, and must not keep the connection open.
    answers: Weak<Answers>,
}

impl Call {
    /// Leaves the call to a thread of its own, whose work is to answer it.
    pub fn hand_over(self, work: impl FnOnce(&Self) + Send + 'static) {
        let own = self.clone();
        if let Err(e) = start("call", move || work(&own)) {
            self.answer(Err(e));
        }
    }

    /// Sends the answer, if the client is still there. This never waits for it.
    pub fn answer(&self, result: Result<Vec<u8>>) {
        let Some(answers) = self.answers.upgrade() else { return };
        let mut response = Response::new();
        match result {
            Ok(payload) => response.payload = payload,
            Err(e) => response.status = MessageField::some(e.into()),
        }
        // Writing to memory fails for messages of more than 2 GiB only.
        let body = response.write_to_bytes().unwrap_or_default();
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let mut message: Vec<u8> = MessageHeader::new_response(self.stream_id, length).into();
        message.extend(body);
        answers.send(&message);
    }
}

/// The way back to a client.
struct Answers {
    stream: UnixStream,
    rest: Mutex<Rest>,
}

/// Bytes for which there was no room, and whether a thread is sending them.
#[derive(Default)]
struct Rest {
    bytes: Vec<u8>,
    is_sent: bool,
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends bytes, or leaves them to a thread when there is no room: the one that reaps must not wait for a client that is stopped.
    fn send(self: &Arc<Self>, message: &[u8]) {
        let mut rest = self.lock();
        if rest.is_sent {
            return rest.bytes.extend(message);
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match rustix::net::send(&self.stream, message, flags) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            // The client has hung up.
            Err(_) => return,
        };
        if sent < message.len() {
            rest.bytes.extend(&message[sent..]);
            rest.is_sent = true;
            let own = Arc::clone(self);
            if let Err(e) = start("answers", move || own.send_rest()) {
                // The client has half a message, and no use for anything that follows it.
                log::error!("cannot answer: {e}");
                let _ = self.stream.shutdown(Shutdown::Both);
            }
        }
    }

    fn send_rest(&self) {
        loop {
            let mut rest = self.lock();
            let bytes = std::mem::take(&mut rest.bytes);
            rest.is_sent = !bytes.is_empty();
            drop(rest);
            if bytes.is_empty() {
                return;
            }
            if (&self.stream).write_all(&bytes).is_err() {
                self.lock().is_sent = false;
                return;
            }
        }
    }
}

/// Takes connections in a thread of its own, for as long as the process lives.
pub fn serve(listener: UnixListener, handler: Arc<impl Handler>) -> Result<()> {
    let accept = move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => {
                    let handler = Arc::clone(&handler);
                    let served = start("connection", move || read_calls(stream, &handler));
                    served.unwrap_or_else(|e| log::error!("cannot serve a connection: {e}"));
                }
                Err(e) => {
                    log::warn!("cannot take a connection: {e}");
                    // It is still there, and whatever there is too little of may come back.
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    };
    start("listener", accept)
}

/// Starts a thread.
pub fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).context(|| "cannot start a thread")
}

/// Reads calls until the client hangs up.
fn read_calls(stream: UnixStream, handler: &Arc<impl Handler>) {
    let answers = Arc::new(Answers { stream, rest: Mutex::default() });
    while let Ok((header, body)) = read_message(&answers.stream) {
        if header.type_ != MESSAGE_TYPE_REQUEST {
            continue;
        }
        let call = Call { stream_id: header.stream_id, answers: Arc::downgrade(&answers) };
        match body
            .ok_or_else(|| Error::invalid("the call is too long"))
            .and_then(|body| Ok(Request::parse_from_bytes(&body)?))
        {
            Ok(request) => handler.handle(request, call),
            Err(e) => call.answer(Err(e)),
        }
    }
}

/// A message; without its body, if that is too long.
fn read_message(mut stream: &UnixStream) -> std::io::Result<(MessageHeader, Option<Vec<u8>>)> {
    let mut header = [0; MESSAGE_HEADER_LENGTH];
    stream.read_exact(&mut header)?;
    let header = MessageHeader::from(header);
    if header.length as usize > MESSAGE_LENGTH_MAX {
        std::io::copy(&mut stream.take(header.length.into()), &mut std::io::sink())?;
        return Ok((header, None));
    }
    let mut body = vec![0; header.length as usize];
    stream.read_exact(&mut body)?;
    Ok((header, Some(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each call with what it was called with, many times over, or later.
    #[derive(Default)]
    struct Echo(Mutex<Vec<Call>>);

    impl Handler for Echo {
        fn handle(self: &Arc<Self>, request: Request, call: Call) {
            if request.method == "Later" {
                return self.0.lock().unwrap().push(call);
            }
            call.answer(match request.method.as_str() {
                "Echo" => Ok(request.payload.repeat(1000)),
                method => Err(Error::not_found(method)),
            });
        }
    }

    fn call(stream: &mut UnixStream, id: u32, method: &str, payload: &[u8]) {
        let request = Request { method: method.to_owned(), payload: payload.to_vec(), ..Request::default() };
        let body = request.write_to_bytes().unwrap();
        let length = u32::try_from(body.len()).unwrap();
        stream.write_all(&Vec::from(MessageHeader::new_request(id, length))).unwrap();
        stream.write_all(&body).unwrap();
    }

    fn answer(stream: &UnixStream) -> (u32, Response) {
        let (header, body) = read_message(stream).unwrap();
        (header.stream_id, Response::parse_from_bytes(&body.unwrap()).unwrap())
    }

    fn server() -> (tempfile::TempDir, UnixStream) {
        let folder = tempfile::tempdir().unwrap();
        serve(UnixListener::bind(folder.path().join("s")).unwrap(), Arc::new(Echo::default())).unwrap();
        let stream = UnixStream::connect(folder.path().join("s")).unwrap();
        (folder, stream)
    }

    #[test]
    fn calls_are_answered_and_errors_have_their_code() {
        let (_folder, mut stream) = server();
        call(&mut stream, 1, "Echo", b"x");
        call(&mut stream, 3, "Other", b"");
        let (id, response) = answer(&stream);
        assert_eq!((id, response.payload.len(), response.status.is_none()), (1, 1000, true));
        let (id, response) = answer(&stream);
        let status = response.status.unwrap();
        assert_eq!(
            (id, status.code(), status.message.as_str()),
            (3, containerd_shim_protos::ttrpc::Code::NOT_FOUND, "Other: not found")
        );
    }

    #[test]
    fn a_call_that_waits_does_not_hold_the_connection_of_a_client_that_is_gone() {
        let handler = Arc::new(Echo::default());
        let (mut client, server) = UnixStream::pair().unwrap();
        let other_side = rustix::io::dup(&client).unwrap();
        call(&mut client, 1, "Later", b"");
        client.shutdown(Shutdown::Write).unwrap();
        read_calls(server, &handler);
        assert_eq!(handler.0.lock().unwrap().len(), 1);
        // The other side is closed, though the call waits.
        let mut byte = [0];
        assert_eq!(UnixStream::from(other_side).read(&mut byte).unwrap(), 0);
        handler.0.lock().unwrap()[0].answer(Ok(Vec::new()));
    }

    #[test]
    fn a_client_that_does_not_read_holds_nobody_up_and_misses_nothing() {
        let (_folder, mut stream) = server();
        // Far more than there is room for: without the thread, the server would stop reading, and this would never end.
        (0..2000).for_each(|id| call(&mut stream, id, "Echo", b"abcd"));
        for id in 0..2000 {
            let (answered, response) = answer(&stream);
            assert_eq!((answered, response.payload.len()), (id, 4000));
        }
    }
}
