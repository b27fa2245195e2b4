//! One call of `grpc.health.v1.Health/Check`: the few frames of HTTP/2 (RFC 9113) that it takes.

use crate::error::{Error, ErrorKind, Result};
use std::io::{Read, Write};

/// The status of a server that works.
pub const SERVING: u64 = 1;

/// What a client of HTTP/2 says first, and its settings: none.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// Flags of frames: the last of a stream, or the acknowledgement of another one; all headers are here; there is padding.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
/// The stream of the only call.
const STREAM: u32 = 1;
/// Longest frame that a server may send to a client without settings, in bytes.
const MAX_FRAME: usize = 16 << 10;
/// Most frames that are read for one answer.
const MAX_FRAMES: usize = 64;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// Asks a server for the status of a service.
pub fn check(mut stream: impl Read + Write, authority: &str, service: &str) -> Result<u64> {
    let mut request = PREFACE.to_vec();
    request.extend(frame(HEADERS, END_HEADERS, STREAM, &headers(authority)));
    request.extend(frame(DATA, END_STREAM, STREAM, &message(service)));
    stream.write_all(&request)?;
    stream.flush()?;
    let mut answer = Vec::new();
    for _ in 0..MAX_FRAMES {
        let frame = read_frame(&mut stream)?;
        let ours = frame.stream == STREAM;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => stream.write_all(&self::frame(SETTINGS, ACK, 0, &[]))?,
            PING if frame.flags & ACK == 0 => stream.write_all(&self::frame(PING, ACK, 0, &frame.payload))?,
            DATA if ours => answer.extend_from_slice(unpadded(&frame)),
            GOAWAY => crate::bail!(System, "the server closes the connection"),
            RST_STREAM if ours => crate::bail!(System, "the server does not take the call"),
            _ => {}
        }
        if let Some(status) = status(&answer) {
            return Ok(status);
        }
        if ours && matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
            crate::bail!(System, "the server has no status of this service");
        }
    }
    Err(Error::new(ErrorKind::System, "the server does not answer"))
}

/// What a status is called.
pub fn name(status: u64) -> &'static str {
    match status {
        SERVING => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut all = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    all.extend([kind, flags]);
    all.extend(stream.to_be_bytes());
    all.extend(payload);
    all
}

/// The headers of the call, in HPACK (RFC 7541) without compression: fields by their number in its table, or in full.
fn headers(authority: &str) -> Vec<u8> {
    // `:method POST` and `:scheme http`.
    let mut all = vec![0x83, 0x86];
    let mut field = |name: &[u8], value: &str| {
        all.extend(name);
        length(value.len(), &mut all);
        all.extend(value.as_bytes());
    };
    field(&[0x04], "/grpc.health.v1.Health/Check");
    field(&[0x01], authority);
    // Numbers 31 (`content-type`) and 58 (`user-agent`) do not fit into the four bits that they have.
    field(&[0x0f, 31 - 15], "application/grpc");
    field(&[0x0f, 58 - 15], "magikrun-probe");
    field(b"\0\x02te", "trailers");
    all
}

/// A length in seven bits, or in more bytes.
fn length(length: usize, to: &mut Vec<u8>) {
    if length < 127 {
        to.push(length as u8);
    } else {
        to.push(127);
        varint((length - 127) as u64, to);
    }
}

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// `HealthCheckRequest` with its prefix: not compressed, and its length.
fn message(service: &str) -> Vec<u8> {
    let mut body = Vec::new();
    if !service.is_empty() {
        body.push(0x0a);
        varint(service.len() as u64, &mut body);
        body.extend(service.as_bytes());
    }
    let mut all = vec![0];
    all.extend((body.len() as u32).to_be_bytes());
    all.extend(body);
    all
}

fn read_frame(stream: &mut impl Read) -> Result<Frame> {
    let mut head = [0u8; 9];
    stream.read_exact(&mut head)?;
    let size = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    if size > MAX_FRAME {
        crate::bail!(System, "the answer is not HTTP/2");
    }
    let mut payload = vec![0; size];
    stream.read_exact(&mut payload)?;
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    Ok(Frame { kind: head[3], flags: head[4], stream, payload })
}

/// The data of a frame without its padding.
fn unpadded(frame: &Frame) -> &[u8] {
    if frame.flags & PADDED == 0 {
        return &frame.payload;
    }
    let padding = frame.payload.first().map_or(0, |length| usize::from(*length));
    frame.payload.get(1..frame.payload.len().saturating_sub(padding)).unwrap_or_default()
}

/// The status in `HealthCheckResponse`, once it is complete: its only field, which is left out when it is 0.
fn status(answer: &[u8]) -> Option<u64> {
    let size = u32::from_be_bytes(*answer.get(1..5)?.first_chunk()?) as usize;
    match answer.get(5..5 + size)? {
        [0x08, status, ..] => Some(u64::from(*status)),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A server that says this, whatever it is asked.
    struct Server(Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Server {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Server {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.1.extend(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn asked(frames: &[Vec<u8>]) -> (Result<u64>, Vec<u8>) {
        let mut server = Server(Cursor::new(frames.concat()), Vec::new());
        let answer = check(&mut server, "127.0.0.1:50051", "web");
        (answer, server.1)
    }

    #[test]
    fn the_status_of_a_service_is_read_and_what_the_server_asks_is_answered() {
        let (status, said) = asked(&[
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
            frame(PING, 0, 0, b"12345678"),
            frame(HEADERS, END_HEADERS, STREAM, &[0x88]),
            frame(DATA, 0, STREAM, &[0, 0, 0, 0, 2]),
            frame(DATA, PADDED, STREAM, &[1, 0x08, 0x01, 0xff]),
        ]);
        assert_eq!(status.unwrap(), SERVING);
        assert!(said.starts_with(PREFACE));
        assert!(said.windows(10).any(|part| part == b"\0\0\0\0\x05\x0a\x03web"), "the message");
        assert!(said.ends_with(&[frame(SETTINGS, ACK, 0, &[]), frame(PING, ACK, 0, b"12345678")].concat()));
        let (status, _) = asked(&[frame(DATA, 0, STREAM, &[0, 0, 0, 0, 2, 8, 2])]);
        assert_eq!(name(status.unwrap()), "NOT_SERVING");
    }

    #[test]
    fn a_server_without_a_status_is_bad() {
        for (frames, reason) in [
            (vec![frame(HEADERS, END_HEADERS | END_STREAM, STREAM, &[0x88])], "no status"),
            (vec![frame(RST_STREAM, 0, STREAM, &[0; 4])], "does not take"),
            (vec![frame(GOAWAY, 0, 0, &[0; 8])], "closes"),
            (vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()], "not HTTP/2"),
            (Vec::new(), ""),
        ] {
            let e = asked(&frames).0.unwrap_err();
            assert!(e.message().contains(reason), "{e}");
        }
    }
}
