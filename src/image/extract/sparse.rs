//! Sparse files: which parts of a file are in the archive. GNU tar manual, "Storing Sparse Files".

use super::input::Input;
use super::pax::number;
use crate::error::{Error, ErrorKind, Result};

/// Most parts of one sparse file.
const MAX_PARTS: usize = 1 << 16;
/// Size of a block of an archive.
const BLOCK: usize = 512;

/// A part of a file that has content: offset and length.
pub(super) type Part = (u64, u64);

fn malformed(why: &str) -> Error {
    Error::new(ErrorKind::ImagePullFailed, format!("malformed sparse file: {why}"))
}

/// Checks that the parts are in order, do not overlap, are inside of the file and are what is stored.
pub(super) fn check(parts: &[Part], real_size: u64, stored: u64) -> Result<()> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for (offset, length) in parts {
        let next = offset.checked_add(*length).ok_or_else(|| malformed("a part is too long"))?;
        if *offset < end || next > real_size {
            return Err(malformed("its parts overlap or are outside of it"));
        }
        end = next;
        sum += length;
    }
    if sum == stored { Ok(()) } else { Err(malformed("its parts are not what is stored")) }
}

/// Pairs of offsets and lengths.
pub(super) fn pairs(numbers: &[u64]) -> Result<Vec<Part>> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() > MAX_PARTS {
        return Err(malformed("its map is wrong"));
    }
    Ok(pairs.iter().map(|[offset, length]| (*offset, *length)).collect())
}

/// The map of the old GNU format: four parts in the header, more in blocks that follow it.
pub(super) fn from_header(header: &tar::GnuHeader, input: &mut Input<'_>) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    add(&mut parts, &header.sparse)?;
    let mut more = header.is_extended();
    while more {
        let mut block = tar::GnuExtSparseHeader::new();
        if !input.read_block(block.as_mut_bytes())? {
            return Err(super::input::truncated());
        }
        add(&mut parts, &block.sparse)?;
        more = block.is_extended();
    }
    Ok(parts)
}

fn add(parts: &mut Vec<Part>, from: &[tar::GnuSparseHeader]) -> Result<()> {
    for part in from.iter().filter(|part| !part.is_empty()) {
        let number = |n: std::io::Result<u64>| n.map_err(|_| malformed("its map is wrong"));
        parts.push((number(part.offset())?, number(part.length())?));
    }
    if parts.len() > MAX_PARTS { Err(malformed("it has too many parts")) } else { Ok(()) }
}

/// The map of version 1.0: decimal numbers on lines of their own at the start of the content, filled up to a block.
/// Answers also how many bytes it took.
pub(super) fn from_content(input: &mut Input<'_>, stored: u64) -> Result<(Vec<Part>, u64)> {
    let (mut numbers, mut line, mut used) = (Vec::new(), Vec::new(), 0u64);
    let mut expected = None;
    let mut block = [0u8; BLOCK];
    while expected.is_none_or(|count| numbers.len() < count) {
        if used + BLOCK as u64 > stored.next_multiple_of(BLOCK as u64) || !input.read_block(&mut block)? {
            return Err(malformed("its map is longer than its content"));
        }
        used += BLOCK as u64;
        for byte in block {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            let value = number(&std::mem::take(&mut line))?;
            match expected {
                None if value as usize <= MAX_PARTS => expected = Some(value as usize * 2),
                None => return Err(malformed("it has too many parts")),
                Some(count) if numbers.len() < count => numbers.push(value),
                Some(_) => {}
            }
            if expected.is_some_and(|count| numbers.len() >= count) {
                break;
            }
        }
        if line.len() > BLOCK {
            return Err(malformed("its map is wrong"));
        }
    }
    Ok((pairs(&numbers)?, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_lie_are_refused() {
        check(&[(0, 5), (10, 5)], 20, 10).unwrap();
        check(&[], 20, 0).unwrap();
        for (parts, real, stored) in [
            (&[(0, 5), (4, 5)][..], 20, 10),
            (&[(10, 5), (0, 5)], 20, 10),
            (&[(0, 5)], 4, 5),
            (&[(0, 5)], 20, 6),
            (&[(u64::MAX, 2)], u64::MAX, 2),
        ] {
            assert!(check(parts, real, stored).is_err(), "{parts:?}");
        }
        assert!(pairs(&[1]).is_err());
    }
}
