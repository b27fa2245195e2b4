//! The memory of a program, and how it hears of errors.

use rustix::io::Errno;

/// Numbers of errors in WASI preview 1, `errno` of its specification.
pub mod number {
    /// None.
    pub const SUCCESS: i32 = 0;
    /// Would block.
    pub const AGAIN: i32 = 6;
    /// No such descriptor.
    pub const BADF: i32 = 8;
    /// The connection was given up.
    pub const CONNABORTED: i32 = 13;
    /// The connection was reset.
    pub const CONNRESET: i32 = 15;
    /// An address outside of memory.
    pub const FAULT: i32 = 21;
    /// A wrong argument.
    pub const INVAL: i32 = 28;
    /// Anything else.
    pub const IO: i32 = 29;
    /// Too many descriptors.
    pub const MFILE: i32 = 33;
    /// Not connected.
    pub const NOTCONN: i32 = 53;
    /// Not supported.
    pub const NOTSUP: i32 = 58;
    /// Nobody reads.
    pub const PIPE: i32 = 64;
}

/// Nothing, or the number of an error.
pub type Answer = Result<(), i32>;

/// The number for an error of the kernel.
pub fn error(e: Errno) -> i32 {
    match e {
        Errno::AGAIN => number::AGAIN,
        Errno::CONNABORTED => number::CONNABORTED,
        Errno::CONNRESET => number::CONNRESET,
        Errno::INVAL => number::INVAL,
        Errno::MFILE | Errno::NFILE => number::MFILE,
        Errno::NOTCONN => number::NOTCONN,
        Errno::OPNOTSUPP => number::NOTSUP,
        Errno::PIPE => number::PIPE,
        _ => number::IO,
    }
}

/// The memory of a program. Addresses are what it gives; outside of the memory they are an error to it.
pub struct Guest<'a>(pub &'a mut [u8]);

impl Guest<'_> {
    /// `length` bytes at an address.
    pub fn slice(&mut self, at: i32, length: usize) -> Result<&mut [u8], i32> {
        let at = at as u32 as usize;
        at.checked_add(length).and_then(|end| self.0.get_mut(at..end)).ok_or(number::FAULT)
    }

    /// Writes bytes at an address.
    pub fn write(&mut self, at: i32, bytes: &[u8]) -> Answer {
        self.slice(at, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// The number of `N` bytes at an address, in the order of WebAssembly.
    pub fn bytes<const N: usize>(&mut self, at: i32) -> Result<[u8; N], i32> {
        Ok(self.slice(at, N)?.try_into().unwrap_or([0; N]))
    }

    /// The buffers that an array of `count` addresses and lengths names, up to `limit` bytes of them.
    pub fn buffers(&mut self, at: i32, count: i32, limit: usize) -> Result<Vec<(i32, usize)>, i32> {
        let mut left = limit;
        let mut found = Vec::new();
        for n in 0..count as u32 {
            if left == 0 {
                break;
            }
            let entry =
                (at as u32).checked_add(n.checked_mul(8).ok_or(number::FAULT)?).ok_or(number::FAULT)?;
            let address = i32::from_le_bytes(self.bytes(entry as i32)?);
            let length = u32::from_le_bytes(self.bytes(entry.checked_add(4).ok_or(number::FAULT)? as i32)?);
            let length = (length as usize).min(left);
            left -= length;
            found.push((address, length));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_outside_of_memory_are_an_error() {
        let mut memory = vec![0u8; 100];
        let mut guest = Guest(&mut memory);
        for (at, length) in [(-1, 1), (100, 1), (99, 2), (i32::MIN, 4), (0, usize::MAX)] {
            assert_eq!(guest.slice(at, length).err(), Some(number::FAULT), "{at} {length}");
        }
        assert_eq!(guest.write(98, &[1, 2]), Ok(()));
        assert_eq!(guest.buffers(96, 2, 10).err(), Some(number::FAULT));
        assert_eq!(guest.buffers(-4, 1, 10).err(), Some(number::FAULT));
    }

    #[test]
    fn buffers_are_taken_up_to_a_limit() {
        let mut memory = vec![0u8; 100];
        memory[..16].copy_from_slice(&[20, 0, 0, 0, 6, 0, 0, 0, 40, 0, 0, 0, 255, 255, 255, 255]);
        let mut guest = Guest(&mut memory);
        assert_eq!(guest.buffers(0, 2, 10), Ok(vec![(20, 6), (40, 4)]));
        assert_eq!(guest.buffers(0, i32::MAX, 6), Ok(vec![(20, 6)]));
    }
}
