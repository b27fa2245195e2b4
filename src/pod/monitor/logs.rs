//! Logs in the format of CRI: `TIME STREAM TAG TEXT`, a line each, with rotation.
//!
//! The tag is `F` for a full line and `P` for a part of one: a long line, or the end of a log without a line feed.

use super::streams::Stream;
use crate::error::{Context as _, Result};
use crate::runtime::state::now;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Longest line that is kept whole, in bytes, as with containerd.
const MAX_LINE: usize = 16 << 10;
/// Largest log file, in bytes: the kubelet's default.
const MAX_SIZE: u64 = 10 << 20;
/// Most files of a log, the newest included: the kubelet's default.
const MAX_FILES: u32 = 5;

/// Writes the log of a container.
#[derive(Debug)]
pub(super) struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    /// Text without its line feed yet, of standard output and standard error.
    pending: [Vec<u8>; 2],
}

impl LogWriter {
    /// Opens the log of `container` in `directory`, at its end.
    pub(super) fn open(directory: &Path, container: &str) -> Result<Self> {
        let path = directory.join(format!("{container}.log"));
        let file = open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size, pending: [Vec::new(), Vec::new()] })
    }

    /// Adds output. What cannot be written, as on a full disk, is lost: a container must not stop for its log.
    pub(super) fn write(&mut self, stream: Stream, data: &[u8]) {
        let pending = &mut self.pending[stream as usize];
        pending.extend_from_slice(data);
        let mut out = Vec::new();
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            entry(&mut out, stream, 'F', &pending[..end]);
            pending.drain(..=end);
        }
        while pending.len() >= MAX_LINE {
            entry(&mut out, stream, 'P', &pending[..MAX_LINE]);
            pending.drain(..MAX_LINE);
        }
        self.put(&out);
    }

    /// Writes what has no line feed.
    pub(super) fn end(&mut self) {
        let mut out = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let text = std::mem::take(&mut self.pending[stream as usize]);
            if !text.is_empty() {
                entry(&mut out, stream, 'P', &text);
            }
        }
        self.put(&out);
    }

    fn put(&mut self, out: &[u8]) {
        if out.is_empty() {
            return;
        }
        if self.size > 0 && self.size + out.len() as u64 > MAX_SIZE {
            self.rotate();
        }
        if self.file.write_all(out).is_ok() {
            self.size += out.len() as u64;
        }
    }

    /// `NAME.log` becomes `NAME.log.1`, and so on.
    fn rotate(&mut self) {
        let numbered = |number: u32| self.path.with_extension(format!("log.{number}"));
        for number in (1..MAX_FILES - 1).rev() {
            let _ = std::fs::rename(numbered(number), numbered(number + 1));
        }
        let _ = std::fs::rename(&self.path, numbered(1));
        if let Ok(file) = open(&self.path) {
            (self.file, self.size) = (file, 0);
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.context(|| format!("cannot open log '{}'", path.display()))
}

fn entry(out: &mut Vec<u8>, stream: Stream, tag: char, text: &[u8]) {
    let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
    out.extend_from_slice(format!("{} {name} {tag} ", now()).as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_kept_whole_per_stream_and_long_ones_in_parts() {
        let tmp = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(tmp.path(), "a").unwrap();
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"err\n");
        log.write(Stream::Stdout, b"o\n\n");
        log.write(Stream::Stdout, &vec![b'x'; MAX_LINE + 2]);
        log.end();
        let found = lines(&tmp.path().join("a.log"));
        assert_eq!(found[..4], ["stdout F one", "stderr F err", "stdout F two", "stdout F "]);
        assert_eq!(found[4].len(), "stdout P ".len() + MAX_LINE);
        assert_eq!(found[5], "stdout P xx");
    }

    #[test]
    fn a_log_that_grows_is_rotated_and_the_oldest_part_is_lost() {
        let tmp = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(tmp.path(), "a").unwrap();
        let chunk = vec![b'x'; 1 << 20];
        for number in 0..62 {
            log.write(Stream::Stdout, format!("{number} ").as_bytes());
            log.write(Stream::Stdout, &chunk);
            log.write(Stream::Stdout, b"\n");
        }
        let mut names: Vec<_> =
            std::fs::read_dir(tmp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a.log", "a.log.1", "a.log.2", "a.log.3", "a.log.4"]);
        assert!(std::fs::metadata(tmp.path().join("a.log.4")).unwrap().len() <= MAX_SIZE);
    }
}
