//! Probes and hooks that go over the pod's network.

mod grpc;
mod http;
mod tls;

use crate::error::{Context as _, Error, Result};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// Stack that an action needs, in bytes: a TLS handshake takes more than the rest.
const STACK: usize = 128 << 10;
const TLS_STACK: usize = 1 << 20;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetAction {
    /// Connect.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Ask by HTTP; a status from 200 to 399 is good.
    Http {
        /// Through TLS, whoever the server is.
        tls: bool,
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// Path with query.
        path: String,
        /// Headers.
        headers: Vec<(String, String)>,
    },
    /// Ask `grpc.health.v1.Health`; serving is good.
    Grpc {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// Name of the service that is asked for; empty for all of the server.
        service: String,
    },
}

impl NetAction {
    /// Stack of the thread that does it, in bytes.
    pub(super) fn stack(&self) -> usize {
        if matches!(self, Self::Http { tls: true, .. }) { TLS_STACK } else { STACK }
    }
}

/// Does it within `timeout`.
///
/// What is spoken is written by hand here: client libraries would cost each pod more memory than the rest of the infra container.
pub fn run(action: &NetAction, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    match action {
        NetAction::Tcp { host, port } => connect(host, *port, deadline).map(drop),
        NetAction::Http { tls, host, port, path, headers } => {
            let stream = connect(host, *port, deadline)?;
            let scheme = if *tls { "https" } else { "http" };
            let cannot = || format!("cannot get '{scheme}://{host}:{port}{path}'");
            let request = http::request(host, *port, path, headers);
            let status = if *tls {
                tls::through(stream, host, |stream| http::ask(stream, &request))
            } else {
                http::ask(stream, &request)
            };
            match status.context(cannot)? {
                200..=399 => Ok(()),
                status => crate::bail!(System, "{}: status {status}", cannot()),
            }
        }
        NetAction::Grpc { host, port, service } => {
            let cannot = || format!("cannot check the health of '{host}:{port}' by gRPC");
            let authority = format!("{host}:{port}");
            match grpc::check(connect(host, *port, deadline)?, &authority, service).context(cannot)? {
                grpc::SERVING => Ok(()),
                status => crate::bail!(System, "{}: the status is {}", cannot(), grpc::name(status)),
            }
        }
    }
}

/// A connection on which nothing takes longer than the deadline.
struct Connection {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)))?;
        self.stream.read(buffer)
    }
}

impl Write for Connection {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)))?;
        self.stream.write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

fn left(deadline: Instant) -> Duration {
    // Zero would mean "no limit".
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

fn connect(host: &str, port: u16, deadline: Instant) -> Result<Connection> {
    let cannot = || format!("cannot connect to '{host}:{port}'");
    let mut last = Error::from_errno(libc::EADDRNOTAVAIL);
    for address in (host, port).to_socket_addrs().context(cannot)? {
        match TcpStream::connect_timeout(&address, left(deadline)) {
            Ok(stream) => return Ok(Connection { stream, deadline }),
            Err(e) => last = e.into(),
        }
    }
    Err(last.wrap(cannot()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn serve(answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0u8; 1024]);
                let _ = stream.write_all(answer.as_bytes());
                if answer.is_empty() {
                    let _ = stream.read(&mut [0u8; 1]);
                }
            }
        });
        port
    }

    fn get(port: u16, timeout: Duration) -> Result<()> {
        let action = NetAction::Http {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            path: "/".into(),
            headers: Vec::new(),
        };
        run(&action, timeout)
    }

    #[test]
    fn a_good_status_is_good_and_everything_else_is_told() {
        let second = Duration::from_secs(10);
        get(serve("HTTP/1.1 204 No Content\r\n\r\n"), second).unwrap();
        let e = get(serve("HTTP/1.1 503 Unavailable\r\n\r\n"), second).unwrap_err();
        assert!(e.message().ends_with("status 503"), "{e}");
        let e = get(serve("SSH-2.0\r\n"), second).unwrap_err();
        assert!(e.message().ends_with("the answer is not HTTP"), "{e}");
        assert!(get(serve(""), Duration::from_millis(50)).is_err(), "a silent server is bad");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(run(&NetAction::Tcp { host: "127.0.0.1".into(), port: closed }, second).is_err());
        run(&NetAction::Tcp { host: "127.0.0.1".into(), port: serve("x") }, second).unwrap();
    }
}
