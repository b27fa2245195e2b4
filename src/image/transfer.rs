//! One blob on its way into the store: read once, verified, stored and unpacked at the same time.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::extract::{self, Extraction, Rules, Unpacked};
use crate::image::progress::Progress;
use crate::platform::userns::IdMappings;
use crate::storage::blobs::{BlobWriter, Digest, Hasher};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are read at once, and the size of the pipe to the process that unpacks.
const CHUNK: usize = 256 << 10;

/// What a blob is read for.
pub struct Transfer<'a> {
    /// Its digest.
    pub digest: &'a Digest,
    /// Its size in bytes, as announced.
    pub size: u64,
    /// Stores it; none if it is read from the store.
    pub writer: Option<BlobWriter>,
    /// Hears how far it is.
    pub progress: &'a dyn Progress,
    /// Set when another transfer has failed.
    pub cancelled: &'a AtomicBool,
}

/// The process that unpacks, and the pipe to it.
struct Sink {
    pipe: Option<File>,
    extraction: Extraction,
}

impl Transfer<'_> {
    /// Reads the blob, and stores it once it is verified.
    pub fn store(mut self, from: impl Read) -> Result<()> {
        self.copy(from, &mut None)?;
        self.publish()
    }

    /// Reads the blob and unpacks it into `target` meanwhile. It is verified before anything of it counts.
    pub fn unpack(
        mut self,
        from: impl Read,
        target: &Path,
        rules: &Rules,
        mappings: Option<&IdMappings>,
    ) -> Result<(Unpacked, Self)> {
        let (input, pipe) = pipe_with(PipeFlags::CLOEXEC)?;
        // A user's pipes may be limited to less.
        let _ = fcntl_setpipe_size(&pipe, CHUNK);
        let extraction = extract::start(input, target, rules, mappings)?;
        let mut sink = Some(Sink { pipe: Some(pipe.into()), extraction });
        // What is not what it should be is told as that, whatever unpacking makes of it.
        self.copy(from, &mut sink)?;
        let sink = sink.ok_or_else(|| Error::from_errno(libc::EPIPE))?;
        drop(sink.pipe);
        Ok((sink.extraction.finish()?, self))
    }

    /// Makes the blob visible.
    pub fn publish(self) -> Result<()> {
        self.writer.map_or(Ok(()), |writer| writer.publish().map(drop))
    }

    fn copy(&mut self, mut from: impl Read, sink: &mut Option<Sink>) -> Result<()> {
        let mut buffer = vec![0u8; CHUNK];
        let mut hasher = Hasher::default();
        let mut length = 0u64;
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(read_failed(e)),
            };
            if self.cancelled.load(Ordering::Relaxed) {
                crate::bail!(ImagePullFailed, "cancelled");
            }
            let data = &buffer[..read];
            length += read as u64;
            if length > self.size {
                crate::bail!(ImageTooLarge, "it has more than the {} bytes that were announced", self.size);
            }
            match &mut self.writer {
                Some(writer) => writer.write(data)?,
                None => hasher.update(data),
            }
            if let Some(sink) = sink
                && let Some(pipe) = &mut sink.pipe
                && pipe.write_all(data).is_err()
            {
                // It has ended early, and says why when it is asked. The rest is still read, to see whether it is what
                // was announced.
                sink.pipe = None;
            }
            self.progress.advanced(self.digest, read as u64);
        }
        if length != self.size {
            crate::bail!(ImagePullFailed, "it ends after {length} of {} bytes", self.size);
        }
        match &self.writer {
            Some(writer) => writer.verify(),
            None => verify(hasher.finish(), self.digest),
        }
    }
}

fn verify(found: Digest, expected: &Digest) -> Result<()> {
    if found == *expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::DigestMismatch, format!("its content has the digest {found}")))
}

/// An error of a source carries ours inside.
fn read_failed(e: std::io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(error) => error,
        Err(e) => Err::<(), _>(e).or_kind(ErrorKind::ImagePullFailed, || "cannot read it").unwrap_err(),
    }
}
