//! The server: one thread, one loop.

use super::message::{A, AAAA, NAME_ERROR, Question, SERVER_FAILURE, answer, question, refusal};
use crate::error::{Context as _, Result};
use crate::infra::process::THREAD_STACK;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// Port of name servers.
const PORT: u16 = 53;
/// Longest message that is passed on, in bytes: the most that resolvers ask for over UDP.
const MAX_MESSAGE: usize = 4096;
/// How long a server of the host may take before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most questions that wait for servers of the host at the same time.
const MAX_PENDING: usize = 64;

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolved {
    /// It is a pod's.
    Addresses(Vec<IpAddr>),
    /// It would be a pod's, but there is none.
    Nobody,
    /// It is not a pod's.
    Elsewhere,
}

/// Who knows the pods: asked with a name in lower case. `None` when it cannot be asked any more.
pub type Resolver = Box<dyn FnMut(&str) -> Option<Resolved> + Send>;

/// A question that a server of the host was asked.
struct Pending {
    client: SocketAddr,
    query: Vec<u8>,
    question: Question,
    socket: UdpSocket,
    /// Number of the server.
    server: usize,
    until: Instant,
}

struct Server {
    socket: UdpSocket,
    servers: Vec<IpAddr>,
    resolver: Resolver,
    pending: Vec<Pending>,
}

/// Serves on this socket, in a thread of its own, until the resolver cannot be asked any more.
pub(in crate::infra) fn start(socket: UdpSocket, servers: Vec<IpAddr>, resolver: Resolver) -> Result<()> {
    let mut server = Server { socket, servers, resolver, pending: Vec::new() };
    std::thread::Builder::new()
        .stack_size(THREAD_STACK)
        .spawn(move || while server.turn().is_some() {})
        .context(|| "cannot make a thread")?;
    Ok(())
}

impl Server {
    /// Waits for one thing to happen, and deals with it. `None` at the end.
    fn turn(&mut self) -> Option<()> {
        let now = Instant::now();
        let left = self.pending.iter().map(|pending| pending.until.saturating_duration_since(now)).min();
        let left =
            left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let sockets = std::iter::once(&self.socket).chain(self.pending.iter().map(|pending| &pending.socket));
        let mut fds: Vec<PollFd<'_>> =
            sockets.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)).collect();
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        self.pass_back(&ready[1..]);
        if ready[0] {
            self.serve()?;
        }
        Some(())
    }

    /// Takes one query.
    fn serve(&mut self) -> Option<()> {
        let mut buffer = [0u8; MAX_MESSAGE];
        let Ok((length, client)) = self.socket.recv_from(&mut buffer) else { return Some(()) };
        let query = &buffer[..length];
        // What is no question is not worth an answer.
        let Some(question) = question(query) else { return Some(()) };
        let known = match question.kind {
            A | AAAA => (self.resolver)(&question.name)?,
            _ => Resolved::Elsewhere,
        };
        let reply = match known {
            Resolved::Addresses(addresses) => answer(query, &question, &addresses),
            Resolved::Nobody => refusal(query, &question, NAME_ERROR),
            Resolved::Elsewhere => {
                self.pass_on(client, query.to_vec(), question, 0);
                return Some(());
            }
        };
        let _ = self.socket.send_to(&reply, client);
        Some(())
    }

    /// Asks a server of the host, from this one on.
    fn pass_on(&mut self, client: SocketAddr, query: Vec<u8>, question: Question, first: usize) {
        let asked = self.servers.iter().enumerate().skip(first).find_map(|(number, server)| {
            let socket = ask(*server, &query).ok()?;
            Some((number, socket))
        });
        match asked {
            Some((server, socket)) if self.pending.len() < MAX_PENDING => {
                let until = Instant::now() + PATIENCE;
                self.pending.push(Pending { client, query, question, socket, server, until });
            }
            _ => {
                let _ = self.socket.send_to(&refusal(&query, &question, SERVER_FAILURE), client);
            }
        }
    }

    /// Gives the answers of the host's servers to who asked, and asks the next server where one takes too long.
    fn pass_back(&mut self, ready: &[bool]) {
        let mut buffer = [0u8; MAX_MESSAGE];
        let now = Instant::now();
        for (pending, ready) in std::mem::take(&mut self.pending).into_iter().zip(ready) {
            // An error says that nobody listens there.
            let received = ready.then(|| pending.socket.recv(&mut buffer));
            let failed = matches!(received, Some(Err(_)));
            match received {
                Some(Ok(length)) if length >= 2 && buffer[..2] == pending.query[..2] => {
                    let _ = self.socket.send_to(&buffer[..length], pending.client);
                }
                _ if failed || now >= pending.until => {
                    self.pass_on(pending.client, pending.query, pending.question, pending.server + 1);
                }
                _ => self.pending.push(pending),
            }
        }
    }
}

/// Sends a query from a port of its own, so that a forged answer would have to guess it.
fn ask(server: IpAddr, query: &[u8]) -> std::io::Result<UdpSocket> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((server, PORT))?;
    socket.set_nonblocking(true)?;
    socket.send(query)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str) -> Vec<u8> {
        let mut message = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8];
        message.extend(name.as_bytes());
        message.extend([0, 0, 1, 0, 1]);
        message
    }

    #[test]
    fn names_of_pods_are_answered_and_what_nobody_knows_is_refused() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let resolver: Resolver = Box::new(|name| match name {
            "web" => Some(Resolved::Addresses(vec!["192.0.2.1".parse().unwrap()])),
            "gone" => Some(Resolved::Nobody),
            "end" => None,
            _ => Some(Resolved::Elsewhere),
        });
        start(socket, Vec::new(), resolver).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut buffer = [0u8; 512];
        let mut ask = |name: &str| {
            client.send(b"no query").unwrap();
            client.send(&query(name)).unwrap();
            let length = client.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        };
        assert!(ask("web").ends_with(&[192, 0, 2, 1]));
        assert_eq!(ask("gone")[3] & 0x0f, NAME_ERROR);
        assert_eq!(ask("other")[3] & 0x0f, SERVER_FAILURE, "there is no server to ask");
    }
}
