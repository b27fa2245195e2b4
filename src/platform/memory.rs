//! Files in memory that nobody can change any more.

use crate::error::{Context as _, Result};
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io::Seek as _;

/// A new file in memory.
pub fn file() -> Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    rustix::fs::memfd_create("magikrun", flags | MemfdFlags::EXEC)
        // Before Linux 6.3 there is no such flag, and every memfd is executable.
        .or_else(|_| rustix::fs::memfd_create("magikrun", flags))
        .map(File::from)
        .context(|| "cannot make a file in memory")
}

/// Keeps the file as it is for ever, whoever opens it, and goes to its beginning.
pub fn seal(mut file: File) -> Result<File> {
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).context(|| "cannot seal a file in memory")?;
    file.rewind()?;
    Ok(file)
}
