//! Reading the logs of containers.

use crate::error::{Context as _, ErrorKind, Result};
use crate::pod::store::Pod;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it was written, RFC 3339 in UTC.
    pub time: String,
    /// It was written to standard error.
    pub stderr: bool,
    /// Its line goes on with the next entry of its stream.
    pub partial: bool,
    /// Text without a line feed.
    pub text: Vec<u8>,
}

impl Entry {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = String::from_utf8(parts.next()?.to_vec()).ok()?;
        let stderr = parts.next()? == b"stderr";
        let partial = parts.next()? == b"P";
        Some(Self { time, stderr, partial, text: parts.next()?.to_vec() })
    }

    /// When it was written.
    pub fn moment(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::parse(&self.time, &Rfc3339).ok()
    }
}

/// Reads the log of a container from its oldest entry, over rotated files, and can go on where it ended.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    older: Vec<PathBuf>,
    current: Option<BufReader<File>>,
    line: Vec<u8>,
}

impl LogReader {
    /// The log of a container.
    pub fn open(pod: &Pod, container: &str) -> Self {
        let path = pod.record.data.join("logs").join(format!("{container}.log"));
        // Sorted so that the oldest, which has the highest number, is taken first from the end of the list.
        let older =
            (1..10).map(|n| path.with_extension(format!("log.{n}"))).take_while(|p| p.exists()).collect();
        Self { path, older, current: None, line: Vec::new() }
    }

    /// The next entry; `None` when there is none yet.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        loop {
            let cannot = || format!("cannot read log '{}'", self.path.display());
            if self.current.is_none() {
                let path = self.older.last().unwrap_or(&self.path);
                match File::open(path) {
                    Ok(file) => self.current = Some(BufReader::new(file)),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound && self.older.is_empty() => {
                        return Ok(None);
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e).or_kind(ErrorKind::Storage, cannot),
                }
            }
            if let Some(reader) = &mut self.current {
                reader.read_until(b'\n', &mut self.line).or_kind(ErrorKind::Storage, cannot)?;
                if self.line.last() == Some(&b'\n') {
                    let mut line = std::mem::take(&mut self.line);
                    line.pop();
                    match Entry::parse(&line) {
                        Some(entry) => return Ok(Some(entry)),
                        None => continue,
                    }
                }
            }
            if self.older.pop().is_none() && !self.was_rotated() {
                return Ok(None);
            }
            self.current = None;
        }
    }

    /// The file that is read is not the newest any more.
    fn was_rotated(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let Some(reader) = &self.current else { return false };
        match (reader.get_ref().metadata(), std::fs::metadata(&self.path)) {
            (Ok(ours), Ok(newest)) => ours.ino() != newest.ino(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_taken_apart_and_its_text_may_have_spaces() {
        let entry = Entry::parse(b"2026-01-02T03:04:05.6Z stderr P a  b").unwrap();
        assert!(entry.stderr && entry.partial);
        assert_eq!(entry.text, b"a  b");
        assert_eq!(entry.moment().unwrap().year(), 2026);
        assert_eq!(Entry::parse(b"garbage"), None);
        assert_eq!(Entry::parse(b"t stdout F ").unwrap().text, b"");
    }
}
