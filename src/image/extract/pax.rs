//! Extended headers: POSIX pax(1), "pax Extended Header", with the keywords of GNU and star that layers have.

use crate::error::{Error, ErrorKind, Result};

/// Prefix of extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// Most extended attributes of one entry.
const MAX_XATTRS: usize = 256;

/// What the extended headers of one entry say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::image) struct Extensions {
    pub(in crate::image) path: Option<Vec<u8>>,
    pub(in crate::image) link: Option<Vec<u8>>,
    pub(in crate::image) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    /// Seconds and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseKeys,
}

/// Keywords `GNU.sparse.*`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparseKeys {
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Version 1.0: the map is at the start of the content.
    pub(super) map_in_content: bool,
    /// Versions 0.0 and 0.1: offsets and lengths, one after the other.
    pub(super) numbers: Vec<u64>,
}

fn malformed(why: &str) -> Error {
    Error::new(ErrorKind::ImagePullFailed, format!("malformed extended header: {why}"))
}

impl Extensions {
    /// Adds the records of one extended header: `LENGTH KEY=VALUE\n`, where the value may have any bytes.
    pub(in crate::image) fn add(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let space =
                data.iter().position(|b| *b == b' ').ok_or_else(|| malformed("a record has no length"))?;
            let length = number(&data[..space])? as usize;
            let record = data.get(space + 1..length).filter(|record| record.last() == Some(&b'\n'));
            let record = record.ok_or_else(|| malformed("the length of a record is wrong"))?;
            let record = &record[..record.len() - 1];
            let equals =
                record.iter().position(|b| *b == b'=').ok_or_else(|| malformed("a record has no value"))?;
            self.set(&record[..equals], &record[equals + 1..])?;
            data = &data[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(XATTR) {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            if self.xattrs.len() > MAX_XATTRS {
                return Err(malformed("there are too many extended attributes"));
            }
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = Some(number(value)?),
            b"GNU.sparse.major" => self.sparse.map_in_content = value == b"1",
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.numbers.push(number(value)?),
            b"GNU.sparse.map" => {
                self.sparse.numbers = value.split(|b| *b == b',').map(number).collect::<Result<_>>()?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// A decimal number.
pub(super) fn number(digits: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(digits).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed("a value is not a number"));
    }
    text.parse().map_err(|_| malformed("a number is too large"))
}

/// Seconds with an optional fraction, before or after 1970.
fn time(value: &[u8]) -> Result<(i64, u32)> {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| malformed("a time is not a number"))?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().map_err(|_| malformed("a time is not a number"))?;
    // Before 1970 the fraction counts backwards.
    Ok(if whole.starts_with('-') && nanos > 0 {
        (seconds - 1, 1_000_000_000 - nanos)
    } else {
        (seconds, nanos)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let digits = (rest + rest.to_string().len()).to_string().len();
        [format!("{} {key}=", rest + digits).as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn values_may_have_any_bytes() {
        let mut extensions = Extensions::default();
        let data = [
            record("path", b"a\nb=c"),
            record("SCHILY.xattr.security.capability", b"\x01\n\0="),
            record("mtime", b"1.5"),
            record("size", b"12345678901"),
            record("comment", b"x"),
        ]
        .concat();
        extensions.add(&data).unwrap();
        assert_eq!(extensions.path.as_deref(), Some(&b"a\nb=c"[..]));
        assert_eq!(extensions.xattrs, [(b"security.capability".to_vec(), b"\x01\n\0=".to_vec())]);
        assert_eq!(extensions.mtime, Some((1, 500_000_000)));
        assert_eq!(extensions.size, Some(12_345_678_901));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for data in [
            &b"x"[..],
            b"8 path=a\n",
            b"99 path=a\n",
            b"0 path=a\n",
            b"7 path=",
            b"-1 a=b\n",
            b"6 ab\n\n",
            b"12 size=abc\n",
            b"35 size=99999999999999999999999999\n",
            b"18446744073709551615 a=b\n",
        ] {
            assert!(Extensions::default().add(data).is_err(), "{}", data.escape_ascii());
        }
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
    }
}
