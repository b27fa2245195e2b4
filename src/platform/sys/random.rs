//! What nobody can guess, and nobody else has.

use std::io;
use std::time::SystemTime;
use uuid::{Builder, Uuid};

/// A new id: UUID version 7, RFC 9562 section 5.7. Later ones sort after earlier ones, by the millisecond.
///
/// Fails where the kernel gives no random numbers. The generator of the library ends the process then.
pub fn unique_id() -> io::Result<Uuid> {
    let mut random = [0u8; 10];
    // SAFETY: the kernel writes at most as many bytes as there are. It gives so few of them whole, getrandom(2).
    let given = unsafe { libc::getrandom(random.as_mut_ptr().cast(), random.len(), 0) };
    if given < 0 {
        return Err(io::Error::last_os_error());
    }
    let time = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_millis() as u64);
    Ok(Builder::from_unix_timestamp_millis(time, &random).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_of_version_7_and_never_the_same() {
        let ids: std::collections::HashSet<Uuid> = (0..1000).map(|_| unique_id().unwrap()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
    }
}
