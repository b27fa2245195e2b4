//! Bytes that all layers of an image may have together, counted by the processes that unpack them at the same time.

use crate::error::Result;
use crate::platform::sys::shared::Counters;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One layer's part in what an image may unpack to. Everybody takes before writing, so that all together never write more
/// than the limit.
#[derive(Debug, Clone)]
pub struct Share {
    limit: u64,
    /// What each layer has taken.
    taken: Arc<Counters>,
    own: usize,
}

impl Share {
    /// Parts for so many layers that may have `limit` bytes together.
    pub fn of(limit: u64, layers: usize) -> Result<Vec<Self>> {
        let taken = Arc::new(Counters::new(layers)?);
        Ok((0..layers).map(|own| Self { limit, taken: Arc::clone(&taken), own }).collect())
    }

    /// Takes so many bytes. Fails if there are not as many left.
    pub fn take(&self, bytes: u64) -> Result<()> {
        let fits = bytes <= self.limit && {
            self.taken.all()[self.own].fetch_add(bytes, Ordering::SeqCst);
            let all = self.taken.all().iter().map(|one| one.load(Ordering::SeqCst));
            all.fold(0, u64::saturating_add) <= self.limit
        };
        if !fits {
            crate::bail!(
                ImageTooLarge,
                "the image unpacks to more than {} bytes (limits.max_rootfs_size)",
                self.limit
            );
        }
        Ok(())
    }

    /// Gives everything back: the layer is begun again.
    pub fn reset(&self) {
        self.taken.all()[self.own].store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::worker;

    #[test]
    fn layers_in_other_processes_take_from_one_budget() {
        let shares = Share::of(10, 2).unwrap();
        worker::run(None, || shares[0].take(6)).unwrap();
        shares[1].take(4).unwrap();
        assert!(
            worker::run(None, || shares[1].take(1)).unwrap_err().message().contains("more than 10 bytes")
        );
        shares[1].reset();
        shares[1].take(4).unwrap();
        assert!(shares[0].take(u64::MAX).is_err());
    }
}
