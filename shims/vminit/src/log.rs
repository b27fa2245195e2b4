//! The last output of a container, kept in memory.

use std::collections::VecDeque;
use vm_protocol::frame::{Kind, MAX_DATA};

/// Bytes that are kept for one container: with this many, one that has a reader waits for it.
const CAPACITY: usize = 256 << 10;

/// Most bytes that are kept: what is read of both streams at once still fits.
const MOST: usize = CAPACITY + 2 * MAX_DATA;

/// The last output of a container.
#[derive(Debug, Default)]
pub struct Log {
    pieces: VecDeque<(Kind, Vec<u8>)>,
    bytes: usize,
    /// Number of the first piece that is kept.
    first: u64,
}

impl Log {
    /// Number of the piece that comes next.
    pub fn end(&self) -> u64 {
        self.first + self.pieces.len() as u64
    }

    /// Whether the pieces from `reader` on leave no room: adding would take from the reader what it has not read.
    pub fn is_full_for(&self, reader: Option<u64>) -> bool {
        reader.is_some_and(|reader| reader <= self.first) && self.bytes >= CAPACITY
    }

    /// Adds a piece; what is oldest goes.
    pub fn push(&mut self, kind: Kind, data: Vec<u8>) {
        self.bytes += data.len();
        self.pieces.push_back((kind, data));
        while self.bytes > MOST
            && let Some((_, oldest)) = self.pieces.pop_front()
        {
            self.bytes -= oldest.len();
            self.first += 1;
        }
    }

    /// The piece with this number, or the first that is kept, and the number after it.
    pub fn piece(&self, number: u64) -> Option<(Kind, &[u8], u64)> {
        let number = number.max(self.first);
        let (kind, data) = self.pieces.get((number - self.first) as usize)?;
        Some((*kind, data, number + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_output_goes_and_who_reads_too_slowly_goes_on_with_what_is_left() {
        let mut log = Log::default();
        for number in 0..20u8 {
            log.push(Kind::Stdout, vec![number; 32 << 10]);
        }
        assert_eq!(log.end(), 20);
        let (_, data, next) = log.piece(0).unwrap();
        assert_eq!((data[0], next), (10, 11));
        assert!(log.is_full_for(Some(10)));
        assert!(!log.is_full_for(Some(11)));
        assert!(!log.is_full_for(None));
        assert!(log.piece(20).is_none());
    }
}
