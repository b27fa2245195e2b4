//! A request by HTTP/1.1, and the status of its answer.

use crate::error::{Error, ErrorKind, Result};
use std::io::{Read, Write};

/// Longest status line that is read, in bytes.
const MAX_STATUS_LINE: usize = 4096;

/// The text of a request.
pub fn request(host: &str, port: u16, path: &str, headers: &[(String, String)]) -> String {
    let has = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    if !has("host") {
        request += &format!("Host: {host}:{port}\r\n");
    }
    if !has("user-agent") {
        request += "User-Agent: magikrun-probe\r\n";
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request + "Accept: */*\r\nConnection: close\r\n\r\n"
}

/// Sends a request; answers the status.
pub fn ask(mut stream: impl Read + Write, request: &str) -> Result<u16> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let line = status_line(&mut stream)?;
    line.strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5)?.parse().ok())
        .ok_or_else(|| Error::new(ErrorKind::System, "the answer is not HTTP"))
}

fn status_line(stream: &mut impl Read) -> Result<String> {
    let mut line = Vec::new();
    let mut buffer = [0u8; 512];
    while !line.contains(&b'\n') && line.len() < MAX_STATUS_LINE {
        match stream.read(&mut buffer)? {
            0 => break,
            read => line.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned())
}
