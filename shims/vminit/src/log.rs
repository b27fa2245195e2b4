//! The last output of a container, kept in memory.

use std::collections::VecDeque;
use vm_protocol::frame::{Kind, MAX_DATA};

/// Bytes that are kept for one container: with this many, one that has a reader waits for it.
const CAPACITY: usize = 256 << 10;

/// Most bytes that are kept: what is read of both streams at once still fits.
const MOST: usize = CAPACITY + 2 * MAX_DATA;

#[derive(Debug)]
struct Piece {
    kind: Kind,
    data: Vec<u8>,
    /// Bytes that there were before it.
    before: u64,
}

/// The last output of a container.
#[derive(Debug, Default)]
pub struct Log {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// Bytes that there were ever.
    total: u64,
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
        let next = reader.and_then(|reader| self.pieces.get(reader.saturating_sub(self.first) as usize));
        next.is_some_and(|piece| self.total - piece.before >= CAPACITY as u64)
    }

    /// Adds a piece; what is oldest goes.
    pub fn push(&mut self, kind: Kind, data: Vec<u8>) {
        let before = self.total;
        self.bytes += data.len();
        self.total += data.len() as u64;
        self.pieces.push_back(Piece { kind, data, before });
        while self.bytes > MOST
            && let Some(oldest) = self.pieces.pop_front()
        {
            self.bytes -= oldest.data.len();
            self.first += 1;
        }
    }

    /// The piece with this number, or the first that is kept, and the number after it.
    pub fn piece(&self, number: u64) -> Option<(Kind, &[u8], u64)> {
        let number = number.max(self.first);
        let piece = self.pieces.get((number - self.first) as usize)?;
        Some((piece.kind, &piece.data, number + 1))
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
        assert!(log.is_full_for(Some(12)));
        assert!(!log.is_full_for(Some(13)));
        assert!(!log.is_full_for(Some(20)) && !log.is_full_for(None));
        assert!(log.piece(20).is_none());
    }

    #[test]
    fn what_a_reader_has_not_read_stays_whatever_the_sizes_of_pieces() {
        let mut log = Log::default();
        let sizes = [1, 11, MAX_DATA, 3, MAX_DATA, MAX_DATA];
        let (mut read, mut pushed) = (0, 0);
        for size in sizes.iter().cycle().take(500) {
            while log.is_full_for(Some(read)) {
                // One piece makes room for a small one alone.
                let (_, data, next) = log.piece(read).unwrap();
                assert_eq!((data.len(), next), (sizes[read as usize % sizes.len()], read + 1));
                read = next;
            }
            log.push(Kind::Stdout, vec![0; *size]);
            pushed += 1;
        }
        assert_eq!(log.end(), pushed);
    }
}
