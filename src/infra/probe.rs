//! Probes and hooks that go over the pod's network.

use crate::error::{Context as _, Error, Result};
use serde::{Deserialize, Serialize};
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// Longest status line that is read, in bytes.
const MAX_STATUS_LINE: u64 = 4096;

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
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// Path with query.
        path: String,
        /// Headers.
        headers: Vec<(String, String)>,
    },
}

/// Does it within `timeout`.
///
/// HTTP is a request and a status line here: a client library with TLS would cost each pod more memory than the rest of
/// the infra container.
pub fn run(action: &NetAction, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    match action {
        NetAction::Tcp { host, port } => connect(host, *port, deadline).map(drop),
        NetAction::Http { host, port, path, headers } => {
            let stream = connect(host, *port, deadline)?;
            http(stream, host, *port, path, headers, deadline)
        }
    }
}

fn left(deadline: Instant) -> Duration {
    // Zero would mean "no limit".
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

fn connect(host: &str, port: u16, deadline: Instant) -> Result<TcpStream> {
    let cannot = || format!("cannot connect to '{host}:{port}'");
    let mut last = Error::from_errno(libc::EADDRNOTAVAIL);
    for address in (host, port).to_socket_addrs().context(cannot)? {
        match TcpStream::connect_timeout(&address, left(deadline)) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e.into(),
        }
    }
    Err(last.wrap(cannot()))
}

fn http(
    mut stream: TcpStream,
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
    deadline: Instant,
) -> Result<()> {
    let cannot = || format!("cannot get 'http://{host}:{port}{path}'");
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request += &format!("Host: {host}:{port}\r\n");
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
        request += "User-Agent: magikrun-probe\r\n";
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "Accept: */*\r\nConnection: close\r\n\r\n";
    stream.set_write_timeout(Some(left(deadline))).context(cannot)?;
    stream.write_all(request.as_bytes()).context(cannot)?;
    let line = status_line(&mut stream, deadline).map_err(|e| e.wrap(cannot()))?;
    match line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse::<u16>().ok()) {
        Some(200..=399) => Ok(()),
        Some(status) => crate::bail!(System, "{}: status {status}", cannot()),
        None => crate::bail!(System, "{}: the answer is not HTTP", cannot()),
    }
}

fn status_line(stream: &mut TcpStream, deadline: Instant) -> Result<String> {
    let mut line = Vec::new();
    let mut buffer = [0u8; 512];
    while !line.contains(&b'\n') && (line.len() as u64) < MAX_STATUS_LINE {
        stream.set_read_timeout(Some(left(deadline)))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read => line.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned())
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
        let action =
            NetAction::Http { host: "127.0.0.1".into(), port, path: "/".into(), headers: Vec::new() };
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
