//! What is remembered of a file whose digest was verified, so that it need not be verified at every start.

use crate::platform::small_file;
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

/// A file that was changed more recently than this could change again without another time: the clock of some file systems
/// ticks every few milliseconds, or once in two seconds.
const SETTLED: Duration = Duration::from_secs(3);

/// A file of which nothing has changed since, in this boot. What a power failure did to it shows after the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    boot: String,
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds of the last change of content or attributes, which nobody can set.
    changed: (i64, i64),
}

impl Verified {
    /// The file as it is now; none while it is not settled, and where the boot is not known.
    pub fn now(file: &Metadata) -> Option<Self> {
        let changed = (file.ctime(), file.ctime_nsec());
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(changed.0).ok()?);
        if time.elapsed().ok()? < SETTLED {
            return None;
        }
        let boot = small_file::read("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Self { boot: boot.trim_end().to_owned(), device: file.dev(), inode: file.ino(), changed })
    }
}
