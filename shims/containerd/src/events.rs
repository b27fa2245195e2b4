//! Publishing events to containerd: in order, and not lost while containerd is away.
//!
//! The client of the ttrpc crate wakes up a hundred times a second for as long as it is connected, so the few bytes of a call are
//! written here, with its messages.

use crate::error::{Context as _, Error, Result};
use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX};
use containerd_shim_protos::ttrpc::{Code, MessageHeader, Request, Response};
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How many events are kept while containerd is away; the oldest are lost after that.
const QUEUE_LIMIT: usize = 8192;
/// How long containerd may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// The first and the longest pause before another attempt.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The queue of events, and the thread that sends them.
pub struct Publisher {
    address: String,
    namespace: String,
    queue: Mutex<VecDeque<Envelope>>,
    changed: Condvar,
}

impl Publisher {
    /// Starts to publish to the ttrpc socket at `address`.
    pub fn start(address: &str, namespace: &str) -> Result<Arc<Self>> {
        let publisher = Arc::new(Self {
            address: address.strip_prefix("unix://").unwrap_or(address).to_owned(),
            namespace: namespace.to_owned(),
            queue: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = Arc::clone(&publisher);
        std::thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || own.run())
            .context(|| "cannot start a thread")?;
        Ok(publisher)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Envelope>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an event: `topic` is what containerd calls its kind.
    pub fn publish<M: Message>(&self, topic: &str, event: &M) {
        let mut envelope = Envelope::new();
        envelope.topic = format!("/tasks/{topic}");
        envelope.namespace.clone_from(&self.namespace);
        envelope.timestamp = MessageField::some(timestamp(SystemTime::now()));
        envelope.event = MessageField::some(any(&format!("containerd.events.{}", M::NAME), event));
        let mut queue = self.lock();
        if queue.len() == QUEUE_LIMIT {
            queue.pop_front();
            log::warn!("an event is lost: containerd has not taken {QUEUE_LIMIT} of them");
        }
        queue.push_back(envelope);
        drop(queue);
        self.changed.notify_all();
    }

    /// The kinds of the events that containerd has not taken.
    #[cfg(test)]
    pub fn topics(&self) -> Vec<String> {
        self.lock().iter().map(|envelope| envelope.topic.clone()).collect()
    }

    /// Waits until everything was sent, at most for `limit`.
    pub fn flush(&self, limit: Duration) {
        let _ = self.changed.wait_timeout_while(self.lock(), limit, |queue| !queue.is_empty());
    }

    fn run(&self) {
        let mut connection = None;
        let mut pause = PAUSES.0;
        loop {
            let queue = self.changed.wait_while(self.lock(), |queue| queue.is_empty());
            let Some(envelope) = queue.unwrap_or_else(PoisonError::into_inner).front().cloned() else {
                continue;
            };
            let request =
                ForwardRequest { envelope: MessageField::some(envelope.clone()), ..Default::default() };
            match forward(&mut connection, &self.address, &request) {
                Ok(()) => {
                    pause = PAUSES.0;
                    let mut queue = self.lock();
                    // While it was sent, it may have become one event too many.
                    if queue.front() == Some(&envelope) {
                        queue.pop_front();
                    }
                    drop(queue);
                    self.changed.notify_all();
                }
                Err(e) => {
                    log::debug!("cannot publish an event yet: {e}");
                    connection = None;
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }
}

/// A connection, and the number of its next call.
type Connection = (UnixStream, u32);

/// Sends one event, over a new connection if there is none.
fn forward(connection: &mut Option<Connection>, address: &str, event: &ForwardRequest) -> Result<()> {
    let (stream, next) = match connection {
        Some(connection) => connection,
        None => connection.insert((connect(address)?, 1)),
    };
    let mut request = Request::new();
    "containerd.services.events.ttrpc.v1.Events".clone_into(&mut request.service);
    "Forward".clone_into(&mut request.method);
    request.payload = event.write_to_bytes()?;
    let body = request.write_to_bytes()?;
    let length = u32::try_from(body.len()).map_err(|_| Error::new("the event is too long"))?;
    let mut message: Vec<u8> = MessageHeader::new_request(*next, length).into();
    message.extend(body);
    // Clients have the odd numbers.
    *next += 2;
    stream.write_all(&message).context(|| "cannot write")?;
    let mut header = [0; MESSAGE_HEADER_LENGTH];
    stream.read_exact(&mut header).context(|| "cannot read")?;
    let length = MessageHeader::from(header).length as usize;
    if length > MESSAGE_LENGTH_MAX {
        return Err(Error::new("the answer is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).context(|| "cannot read")?;
    let response = Response::parse_from_bytes(&body)?;
    if let Some(status) = response.status.as_ref().filter(|status| status.code() != Code::OK) {
        // Sending it again would change nothing.
        log::warn!("containerd refuses an event: {}", status.message);
    }
    Ok(())
}

fn connect(address: &str) -> Result<UnixStream> {
    let stream = UnixStream::connect(address).context(|| format!("cannot connect to '{address}'"))?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE)).context(|| "cannot set a deadline")?;
    stream.set_write_timeout(Some(ANSWER_DEADLINE)).context(|| "cannot set a deadline")?;
    Ok(stream)
}

/// A message in containerd's envelope.
pub fn any<M: Message>(name: &str, message: &M) -> Any {
    // Writing to memory fails for messages of more than 2 GiB only.
    let value = message.write_to_bytes().unwrap_or_default();
    Any { type_url: name.to_owned(), value, ..Any::default() }
}

/// A moment in a message.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
        ..Timestamp::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::events::task::TaskOOM;
    use std::os::unix::net::UnixListener;

    /// Takes one event, and answers it unless it is to be cut off.
    fn take(stream: &mut UnixStream, answer: bool) -> String {
        let mut header = [0; MESSAGE_HEADER_LENGTH];
        stream.read_exact(&mut header).unwrap();
        let header = MessageHeader::from(header);
        let mut body = vec![0; header.length as usize];
        stream.read_exact(&mut body).unwrap();
        let request = Request::parse_from_bytes(&body).unwrap();
        let event = ForwardRequest::parse_from_bytes(&request.payload).unwrap().envelope.unwrap();
        if answer {
            stream.write_all(&Vec::from(MessageHeader::new_response(header.stream_id, 0))).unwrap();
        }
        let oom = TaskOOM::parse_from_bytes(&event.event.value).unwrap();
        format!("{} {} {}", event.topic, event.event.type_url, oom.container_id)
    }

    #[test]
    fn events_come_in_order_and_again_after_the_reader_was_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let publisher = Publisher::start(path.to_str().unwrap(), "ns").unwrap();
        let oom = |id: &str| TaskOOM { container_id: id.to_owned(), ..TaskOOM::default() };
        publisher.publish("oom", &oom("a"));
        let listener = UnixListener::bind(&path).unwrap();
        let mut stream = listener.accept().unwrap().0;
        assert_eq!(take(&mut stream, true), "/tasks/oom containerd.events.TaskOOM a");
        publisher.publish("oom", &oom("b"));
        publisher.publish("oom", &oom("c"));
        // It dies before it has answered: the event comes again.
        assert!(take(&mut stream, false).ends_with('b'));
        drop(stream);
        let mut stream = listener.accept().unwrap().0;
        assert!(take(&mut stream, true).ends_with('b'));
        assert!(take(&mut stream, true).ends_with('c'));
        publisher.flush(Duration::from_secs(60));
        assert!(publisher.lock().is_empty());
    }
}
