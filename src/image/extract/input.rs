//! The stream of a layer: decompressed, hashed and counted while it is read.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::limits::MIN_EXPANDED_SIZE;
use crate::storage::blobs::{Digest, Hasher};
use crate::storage::config::Limits;
use std::cell::Cell;
use std::io::{BufRead as _, BufReader, Read};
use std::rc::Rc;

/// Bytes that are read and decompressed at once.
const CHUNK: usize = 256 << 10;
/// Bytes of archive that an entry may cost beside its content: headers, padding, long names.
const OVERHEAD: u64 = 4096;
/// Logarithm of the largest window of zstd (128 MiB): what `zstd --ultra` makes without further options.
const ZSTD_WINDOW_LOG: u32 = 27;

/// A layer's archive without its compression.
pub(super) struct Input<'a> {
    decoder: Box<dyn Read + 'a>,
    buffer: Vec<u8>,
    /// What of the buffer is not consumed.
    at: usize,
    end: usize,
    hasher: Hasher,
    /// Bytes that have been decompressed.
    length: u64,
    /// Bytes that have been read.
    compressed: Rc<Cell<u64>>,
    max_length: u64,
    max_expansion: u64,
}

/// Counts what is read.
struct Counter<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

impl<'a> Input<'a> {
    /// Recognises the compression by its first bytes, whatever the manifest calls it.
    pub(super) fn new(from: impl Read + 'a, limits: &Limits) -> Result<Self> {
        let compressed = Rc::new(Cell::new(0));
        let counter = Counter { inner: from, count: Rc::clone(&compressed) };
        let mut reader = BufReader::with_capacity(CHUNK, counter);
        let start = fill(&mut reader).context(|| "cannot read the layer")?;
        let decoder: Box<dyn Read + 'a> = match start {
            [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
            // A frame with content, or one with metadata.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                let mut decoder = zstd::Decoder::with_buffer(reader).context(|| "cannot decompress")?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).context(|| "cannot decompress")?;
                Box::new(decoder)
            }
            [b'B', b'Z', b'h', _] => return Err(unsupported("bzip2")),
            [0xfd, b'7', b'z', b'X'] => return Err(unsupported("xz")),
            _ => Box::new(reader),
        };
        Ok(Self {
            decoder,
            buffer: vec![0; CHUNK],
            at: 0,
            end: 0,
            hasher: Hasher::default(),
            length: 0,
            compressed,
            max_length: limits
                .max_rootfs_size
                .saturating_add(OVERHEAD.saturating_mul(limits.max_files_per_layer as u64)),
            max_expansion: limits.max_expansion,
        })
    }

    /// What is in the buffer, after reading more if it is empty. Empty at the end.
    pub(super) fn available(&mut self) -> Result<&[u8]> {
        if self.at == self.end {
            self.refill()?;
        }
        Ok(&self.buffer[self.at..self.end])
    }

    /// Takes `count` bytes that were available.
    pub(super) fn consume(&mut self, count: usize) {
        self.at += count.min(self.end - self.at);
    }

    fn refill(&mut self) -> Result<()> {
        let read = loop {
            match self.decoder.read(&mut self.buffer) {
                Ok(read) => break read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(damaged(&e)),
            }
        };
        (self.at, self.end) = (0, read);
        self.hasher.update(&self.buffer[..read]);
        self.length += read as u64;
        if self.length > self.max_length {
            crate::bail!(
                ImageTooLarge,
                "the layer unpacks to more than {} bytes (limits.max_rootfs_size)",
                self.max_length
            );
        }
        // What is read ahead makes the ratio look smaller than it is, by no more than the buffer.
        let allowed = self.compressed.get().saturating_mul(self.max_expansion).max(MIN_EXPANDED_SIZE);
        if self.length > allowed {
            crate::bail!(
                ImageTooLarge,
                "the layer unpacks to more than {} times its size (limits.max_expansion)",
                self.max_expansion
            );
        }
        Ok(())
    }

    /// Fills `block`. False at the end of the stream; in the middle of a block that is an error.
    pub(super) fn read_block(&mut self, block: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            let there = self.available()?;
            if there.is_empty() {
                if filled == 0 {
                    return Ok(false);
                }
                return Err(truncated());
            }
            let count = there.len().min(block.len() - filled);
            block[filled..filled + count].copy_from_slice(&there[..count]);
            self.consume(count);
            filled += count;
        }
        Ok(true)
    }

    /// Passes over `count` bytes.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let there = self.available()?.len();
            if there == 0 {
                return Err(truncated());
            }
            let step = count.min(there as u64);
            self.consume(step as usize);
            count -= step;
        }
        Ok(())
    }

    /// Reads to the end of the stream, for its digest. Answers that and the length.
    pub(super) fn drain(mut self) -> Result<(Digest, u64)> {
        while !self.available()?.is_empty() {
            self.consume(usize::MAX);
        }
        Ok((self.hasher.finish(), self.length))
    }
}

/// The first four bytes, fewer only if there are no more.
fn fill<R: Read>(reader: &mut BufReader<R>) -> std::io::Result<[u8; 4]> {
    // The writer's first write is the first chunk of the layer; one that is shorter than a magic number is an empty layer.
    let there = reader.fill_buf()?;
    let mut start = [0; 4];
    let count = there.len().min(4);
    start[..count].copy_from_slice(&there[..count]);
    Ok(start)
}

fn unsupported(what: &str) -> Error {
    Error::new(
        ErrorKind::NotSupported,
        format!("the layer is compressed with {what}, which is not supported"),
    )
}

/// The end of the archive comes too early.
pub(super) fn truncated() -> Error {
    Error::new(ErrorKind::ImagePullFailed, "the archive ends in the middle of an entry")
}

fn damaged(e: &std::io::Error) -> Error {
    Error::new(ErrorKind::ImagePullFailed, format!("cannot decompress the layer: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn read(data: &[u8], limits: &Limits) -> Result<(Digest, u64)> {
        Input::new(data, limits)?.drain()
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_digest_is_that_of_the_content_whatever_compresses_it() {
        let limits = Limits::default();
        let content = b"content ".repeat(1000);
        let zstd = zstd::encode_all(&content[..], 1).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd].concat();
        let members = [gzip(&content[..100]), gzip(&content[100..])].concat();
        for data in [&content, &gzip(&content), &members, &zstd, &skippable] {
            assert_eq!(read(data, &limits).unwrap(), (Digest::of(&content), content.len() as u64));
        }
        assert_eq!(read(b"", &limits).unwrap().1, 0);
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let limits = Limits::default();
        let whole = gzip(&b"content ".repeat(1000));
        let trailing = [&whole[..], b"garbage"].concat();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for data in [&whole[..whole.len() - 1], &trailing, &flipped] {
            assert!(read(data, &limits).unwrap_err().message().starts_with("cannot decompress"));
        }
        assert_eq!(read(b"BZh9....", &limits).unwrap_err().kind(), ErrorKind::NotSupported);
    }

    #[test]
    fn a_bomb_is_stopped_by_its_ratio_and_by_its_size() {
        let bomb = zstd::encode_all(std::io::repeat(0).take(MIN_EXPANDED_SIZE + (1 << 20)), 1).unwrap();
        let e = read(&bomb, &Limits::default()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ImageTooLarge);
        assert!(e.message().contains("limits.max_expansion"), "{e}");
        let small = Limits { max_rootfs_size: 1 << 20, max_files_per_layer: 1, ..Limits::default() };
        let e = read(&bomb, &small).unwrap_err();
        assert!(e.message().contains("limits.max_rootfs_size"), "{e}");
    }
}
