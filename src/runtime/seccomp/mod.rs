//! Seccomp: compiling the configuration's profile once, storing the program, loading it, and handing over listeners.

mod classic;
mod compile;
mod enosys;
mod notify;
mod stored;
mod tree;

#[cfg(feature = "testing")]
pub use compile::compile;
pub use compile::{known_actions, known_archs, known_flags, known_operators, supported_flags};
pub use notify::send_listener;
pub use stored::filter;

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::seccomp::{self, FLAG_NEW_LISTENER, Instruction};
use std::os::fd::OwnedFd;

/// Format of a stored filter; the first byte.
const FORMAT: u8 = 1;
/// Bytes of an instruction: code, two jumps, operand (linux/filter.h).
const INSTRUCTION_SIZE: usize = 8;
/// Bytes before the program: format, three of padding, flags.
const HEADER_SIZE: usize = 8;
/// Most instructions that the kernel accepts: `BPF_MAXINSNS` of linux/bpf_common.h.
const MAX_INSTRUCTIONS: usize = 4096;

/// A compiled filter.
#[derive(Clone)]
pub struct Filter {
    flags: u32,
    program: Vec<Instruction>,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter")
            .field("flags", &self.flags)
            .field("instructions", &self.program.len())
            .finish()
    }
}

impl Filter {
    /// The filter as bytes, for [`Filter::decode`] on the same machine.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = vec![FORMAT, 0, 0, 0];
        data.extend(self.flags.to_le_bytes());
        for i in &self.program {
            data.extend(i.code.to_le_bytes());
            data.extend([i.jt, i.jf]);
            data.extend(i.k.to_le_bytes());
        }
        data
    }

    /// Reads what [`Filter::encode`] wrote.
    pub fn decode(data: &[u8]) -> Result<Self> {
        let damaged = || Error::new(ErrorKind::Storage, "the stored seccomp filter is damaged");
        if data.first() != Some(&FORMAT) || data.len() <= HEADER_SIZE {
            return Err(damaged());
        }
        let flags = u32::from_le_bytes(data[4..HEADER_SIZE].try_into().map_err(|_| damaged())?);
        Ok(Self { flags, program: instructions(&data[HEADER_SIZE..]).ok_or_else(damaged)? })
    }

    /// Loads the filter for the calling, only thread. The listener is for its notifications, if it has any.
    pub fn load(&self) -> Result<Option<OwnedFd>> {
        seccomp::set_mode_filter(&self.program, self.flags)
            .context(|| "unable to init seccomp: error loading filter")
    }

    /// True if loading it gives a listener.
    pub fn has_listener(&self) -> bool {
        self.flags & FLAG_NEW_LISTENER != 0
    }
}

/// Reads a program; `None` when it is no whole number of instructions, or too long.
fn instructions(data: &[u8]) -> Option<Vec<Instruction>> {
    let (chunks, rest) = data.as_chunks::<INSTRUCTION_SIZE>();
    if !rest.is_empty() || chunks.is_empty() || chunks.len() > MAX_INSTRUCTIONS {
        return None;
    }
    let read = |c: &[u8; INSTRUCTION_SIZE]| Instruction {
        code: u16::from_le_bytes([c[0], c[1]]),
        jt: c[2],
        jf: c[3],
        k: u32::from_le_bytes([c[4], c[5], c[6], c[7]]),
    };
    Some(chunks.iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_filter_is_read_back_and_a_damaged_one_is_refused() {
        let program = vec![Instruction { code: 6, jt: 1, jf: 2, k: 0x7fff_0000 }];
        let filter = Filter { flags: 8, program };
        let data = filter.encode();
        let again = Filter::decode(&data).unwrap();
        assert_eq!((again.flags, again.encode()), (8, data.clone()));
        for wrong in [&data[..data.len() - 1], &data[..8], &[][..], &[9; 16][..]] {
            assert!(Filter::decode(wrong).is_err());
        }
    }
}
