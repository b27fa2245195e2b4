//! Entries of a tar archive: ustar, GNU and pax headers, read as a stream.
//!
//! What an archive says is never believed further than it can be checked: headers have their checksum verified, extended
//! headers are bounded, and content has the length that was announced or the archive is refused.

use super::input::{Input, truncated};
use super::pax::Extensions;
use super::sparse::{self, Part};
use crate::error::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};

/// Size of a block of an archive.
const BLOCK: usize = 512;
/// Most bytes of extended headers and long names of one entry: parsed in memory.
const MAX_EXTENSION: u64 = 1 << 20;
/// A piece of zeros that is at least this long, in bytes, becomes a hole.
const MIN_HOLE: usize = 4096;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
}

/// One entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Target of a link.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Bytes of the file.
    pub(super) size: u64,
    /// Bytes of content in the archive.
    pub(super) stored: u64,
    /// Parts of a sparse file.
    pub(super) parts: Option<Vec<Part>>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Major and minor number of a device.
    pub(super) device: (u32, u32),
}

impl Entry {
    /// Bytes that it may take on the disk beside its inode.
    pub(super) fn cost(&self) -> u64 {
        let attributes = self.xattrs.iter().map(|(name, value)| name.len() + value.len());
        self.stored.saturating_add((self.link.len() + attributes.sum::<usize>()) as u64)
    }
}

/// An archive that is being read.
pub(super) struct Archive<'a> {
    input: Input<'a>,
    /// Bytes of the current entry's content that were not read.
    rest: u64,
    /// Bytes that fill its last block.
    padding: u64,
    ended: bool,
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::ImagePullFailed, format!("malformed archive: {why}"))
}

impl<'a> Archive<'a> {
    pub(super) fn new(input: Input<'a>) -> Self {
        Self { input, rest: 0, padding: 0, ended: false }
    }

    /// The stream, for what follows the end of the archive.
    pub(super) fn into_input(self) -> Input<'a> {
        self.input
    }

    /// The next entry that is a file of some kind.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let (mut extensions, mut left) = (Extensions::default(), MAX_EXTENSION);
        while let Some(header) = self.header()? {
            let number = |n: std::io::Result<u64>| n.map_err(malformed);
            let kind = header.entry_type();
            match kind.as_byte() {
                b'x' => {
                    let data = self.extension(number(header.entry_size())?, &mut left)?;
                    extensions.add(&data)?;
                }
                // Tools that make images do not use it, and those that read them ignore it.
                b'g' => drop(self.extension(number(header.entry_size())?, &mut MAX_EXTENSION.clone())?),
                b'L' => extensions.path = Some(self.long_name(&header, &mut left)?),
                b'K' => extensions.link = Some(self.long_name(&header, &mut left)?),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
        Ok(None)
    }

    /// The next header; none at the end of the archive, which is two blocks of zeros or the end of the stream.
    fn header(&mut self) -> Result<Option<tar::Header>> {
        let mut header = tar::Header::new_old();
        if self.ended || !self.input.read_block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|b| *b == 0) {
            self.ended = true;
            let mut second = [0u8; BLOCK];
            if self.input.read_block(&mut second)? && second.iter().any(|b| *b != 0) {
                return Err(malformed("an entry follows a block of zeros"));
            }
            return Ok(None);
        }
        if has_right_checksum(&header) {
            return Ok(Some(header));
        }
        Err(malformed("the checksum of a header is wrong (is it a tar archive?)"))
    }

    /// The content of an entry that describes the next one. All of one entry together have at most [`MAX_EXTENSION`] bytes.
    fn extension(&mut self, size: u64, left: &mut u64) -> Result<Vec<u8>> {
        *left = left.checked_sub(size).ok_or_else(|| {
            malformed(format!("the extended headers of an entry have more than {MAX_EXTENSION} bytes"))
        })?;
        let mut data = vec![0u8; size as usize];
        if !data.is_empty() && !self.input.read_block(&mut data)? {
            return Err(truncated());
        }
        self.input.skip(padding(size))?;
        Ok(data)
    }

    fn long_name(&mut self, header: &tar::Header, left: &mut u64) -> Result<Vec<u8>> {
        let mut name = self.extension(header.entry_size().map_err(malformed)?, left)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn entry(&mut self, header: &tar::Header, extensions: Extensions) -> Result<Entry> {
        let number = |n: std::io::Result<u64>| n.map_err(malformed);
        let Extensions { path, link, size, uid, gid, mtime, xattrs, sparse } = extensions;
        let path = sparse.name.or(path).unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = kind(header, &path)?;
        let link =
            link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let mut entry = Entry {
            kind,
            link,
            mode: header.mode().map_err(malformed)? & 0o7777,
            uid: id(uid.map_or_else(|| number(header.uid()), Ok)?)?,
            gid: id(gid.map_or_else(|| number(header.gid()), Ok)?)?,
            mtime: mtime.map_or_else(|| header_time(header), Ok)?,
            size: 0,
            stored: 0,
            parts: None,
            xattrs,
            device: device(header, kind)?,
            path,
        };
        if kind == Kind::File {
            // Whatever else a header says of other kinds, they have no content: as Go's archive/tar reads them.
            entry.stored = size.map_or_else(|| number(header.entry_size()), Ok)?;
            entry.size = entry.stored;
            self.padding = padding(entry.stored);
            self.sparse_map(header, &mut entry, sparse.real_size, sparse.map_in_content, &sparse.numbers)?;
            self.rest = entry.stored;
        }
        Ok(entry)
    }

    fn sparse_map(
        &mut self,
        header: &tar::Header,
        entry: &mut Entry,
        real_size: Option<u64>,
        map_in_content: bool,
        numbers: &[u64],
    ) -> Result<()> {
        let parts = if header.entry_type().is_gnu_sparse() {
            let gnu = header.as_gnu().ok_or_else(|| malformed("a sparse file without a GNU header"))?;
            entry.size = gnu.real_size().map_err(malformed)?;
            sparse::from_header(gnu, &mut self.input)?
        } else if map_in_content {
            let (parts, used) = sparse::from_content(&mut self.input, entry.stored)?;
            entry.stored = entry
                .stored
                .checked_sub(used)
                .ok_or_else(|| malformed("a sparse file is shorter than its map"))?;
            parts
        } else if !numbers.is_empty() {
            sparse::pairs(numbers)?
        } else {
            return Ok(());
        };
        entry.size = real_size.unwrap_or(entry.size);
        sparse::check(&parts, entry.size, entry.stored)?;
        entry.parts = Some(parts);
        Ok(())
    }

    /// Writes the content of the current entry.
    pub(super) fn content(&mut self, entry: &Entry, file: &File) -> Result<()> {
        let mut ends_in_hole = false;
        match &entry.parts {
            None => ends_in_hole = self.copy(entry.stored, file)?,
            Some(parts) => {
                for (offset, length) in parts {
                    let mut at = file;
                    at.seek(SeekFrom::Start(*offset)).map_err(Error::from)?;
                    self.copy(*length, file)?;
                }
            }
        }
        if ends_in_hole || entry.parts.is_some() {
            file.set_len(entry.size).map_err(Error::from)?;
        }
        Ok(())
    }

    /// Copies so many bytes. True if the last of them are zeros that were not written.
    fn copy(&mut self, mut length: u64, mut file: &File) -> Result<bool> {
        let mut hole = false;
        while length > 0 {
            let there = self.input.available()?;
            if there.is_empty() {
                return Err(truncated());
            }
            let count = there.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let piece = &there[..count];
            hole = count >= MIN_HOLE && piece.iter().all(|b| *b == 0);
            if hole {
                file.seek_relative(count as i64).map_err(Error::from)?;
            } else {
                file.write_all(piece).map_err(Error::from)?;
            }
            self.input.consume(count);
            self.rest -= count as u64;
            length -= count as u64;
        }
        Ok(hole)
    }

    /// Passes over what of the current entry was not read.
    pub(super) fn skip_rest(&mut self) -> Result<()> {
        let count = std::mem::take(&mut self.rest);
        self.input.skip(count)?;
        let padding = std::mem::take(&mut self.padding);
        self.input.skip(padding)
    }
}

/// True for a header that is one, as far as its checksum tells.
pub(in crate::image) fn has_right_checksum(header: &tar::Header) -> bool {
    let bytes = header.as_bytes();
    // The checksum counts its own field as blanks.
    let sum = |range: &[u8]| range.iter().map(|b| u32::from(*b)).sum::<u32>();
    let computed = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
    header.cksum().is_ok_and(|stated| stated == computed)
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn kind(header: &tar::Header, path: &[u8]) -> Result<Kind> {
    Ok(match header.entry_type().as_byte() {
        // Before POSIX a directory was a file whose name ends with a slash.
        0 if path.last() == Some(&b'/') => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            let name = String::from_utf8_lossy(path).escape_default().to_string();
            return Err(malformed(format!("entry '{name}' has the unknown type '{}'", other.escape_ascii())));
        }
    })
}

/// An id that a file can have: 32 bits, and not the one that means none.
fn id(id: u64) -> Result<u32> {
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| malformed(format!("the owner {id} is no user or group id")))
}

fn header_time(header: &tar::Header) -> Result<(i64, u32)> {
    let seconds = header.mtime().map_err(malformed)?;
    // Times before 1970 are negative numbers in base 256.
    Ok((seconds.cast_signed(), 0))
}

fn device(header: &tar::Header, kind: Kind) -> Result<(u32, u32)> {
    if !matches!(kind, Kind::Char | Kind::Block) {
        return Ok((0, 0));
    }
    let number = |n: std::io::Result<Option<u32>>| n.map(Option::unwrap_or_default).map_err(malformed);
    number(header.device_major()).and_then(|major| Ok((major, number(header.device_minor())?)))
}
