//! Frames: one byte that tells the kind, four bytes of length, most significant first, and the body.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// Longest body of a message, in bytes (1 MiB): it is parsed in memory before it is trusted.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Longest body of a frame with data, in bytes (32 KiB).
pub const MAX_DATA: usize = 32 << 10;

const HEADER: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A [`crate::message::Hello`] in JSON: the first frame of each side.
    Hello,
    /// A request or a reply in JSON.
    Message,
    /// Data for the standard input of a process; an empty body is its end.
    Stdin,
    /// Data of a standard output.
    Stdout,
    /// Data of a standard error.
    Stderr,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Message => 2,
            Self::Stdin => 3,
            Self::Stdout => 4,
            Self::Stderr => 5,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Hello, Self::Message, Self::Stdin, Self::Stdout, Self::Stderr]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }

    /// Longest body, in bytes.
    pub fn limit(self) -> usize {
        match self {
            Self::Hello => 1 << 10,
            Self::Message => MAX_MESSAGE,
            Self::Stdin | Self::Stdout | Self::Stderr => MAX_DATA,
        }
    }
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// The body.
    pub body: Vec<u8>,
}

/// Why something is no frame or no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Malformed {
    /// No kind has this number.
    Kind(u8),
    /// The body is longer than its kind allows; in bytes.
    TooLong(usize),
    /// The body is not what its kind says.
    Body(String),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(number) => write!(f, "a frame of unknown kind {number}"),
            Self::TooLong(length) => write!(f, "a frame of {length} bytes is too long"),
            Self::Body(cause) => write!(f, "cannot parse a message: {cause}"),
        }
    }
}

impl std::error::Error for Malformed {}

/// A frame as bytes.
pub fn encode(kind: Kind, body: &[u8]) -> Result<Vec<u8>, Malformed> {
    if body.len() > kind.limit() {
        return Err(Malformed::TooLong(body.len()));
    }
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.push(kind.byte());
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend_from_slice(body);
    Ok(bytes)
}

/// A frame with a value in JSON as bytes.
pub fn encode_json(kind: Kind, value: &impl Serialize) -> Result<Vec<u8>, Malformed> {
    let body = serde_json::to_vec(value).map_err(|e| Malformed::Body(e.to_string()))?;
    encode(kind, &body)
}

impl Frame {
    /// The value in JSON that the frame carries.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Malformed> {
        serde_json::from_slice(&self.body).map_err(|e| Malformed::Body(e.to_string()))
    }
}

/// Makes frames of bytes as they come in. It keeps at most one frame and what was pushed last.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Bytes at the beginning that belong to frames which were taken.
    taken: usize,
}

impl Decoder {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next frame; `None` when it is not complete. After an error nothing more can be understood.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        let rest = &self.bytes[self.taken..];
        let Some(head) = rest.first_chunk::<HEADER>() else { return Ok(None) };
        let kind = Kind::of(head[0]).ok_or(Malformed::Kind(head[0]))?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > kind.limit() {
            return Err(Malformed::TooLong(length));
        }
        let Some(body) = rest.get(HEADER..HEADER + length) else { return Ok(None) };
        let frame = Frame { kind, body: body.to_vec() };
        self.taken += HEADER + length;
        Ok(Some(frame))
    }

    /// Whether a part of a frame is kept.
    pub fn is_partial(&self) -> bool {
        self.taken < self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut bytes = encode(Kind::Stdout, b"hello").unwrap();
        bytes.extend(encode(Kind::Stdin, b"").unwrap());
        bytes.extend(encode_json(Kind::Message, &"text").unwrap());
        for size in 1..=bytes.len() {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames.len(), 3);
            assert_eq!(frames[0], Frame { kind: Kind::Stdout, body: b"hello".to_vec() });
            assert_eq!(frames[1], Frame { kind: Kind::Stdin, body: Vec::new() });
            assert_eq!(frames[2].parse::<String>().unwrap(), "text");
            assert!(!decoder.is_partial());
        }
    }

    #[test]
    fn what_is_too_long_or_unknown_is_refused_by_its_head_alone() {
        let decode = |head: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(head);
            decoder.next_frame()
        };
        assert_eq!(decode(&[9, 0, 0, 0, 0]), Err(Malformed::Kind(9)));
        assert_eq!(decode(&[2, 0xff, 0xff, 0xff, 0xff]), Err(Malformed::TooLong(u32::MAX as usize)));
        assert_eq!(decode(&[4, 0, 0, 0x80, 1]), Err(Malformed::TooLong(MAX_DATA + 1)));
        assert_eq!(decode(&[4, 0, 0]), Ok(None));
        assert!(encode(Kind::Stdout, &vec![0; MAX_DATA + 1]).is_err());
        assert!(matches!(
            decode(&[2, 0, 0, 0, 1, b'{']).unwrap().unwrap().parse::<u8>(),
            Err(Malformed::Body(_))
        ));
    }
}
