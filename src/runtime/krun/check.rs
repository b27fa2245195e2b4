//! What of the host a microVM needs, asked before anything is made.

use crate::error::Result;
use crate::platform::detect::hypervisor_fault;
use std::path::Path;
use std::sync::OnceLock;

/// Fails with the reason why no microVM boots here.
pub fn hypervisor() -> Result<()> {
    // Asked by all that needs one, and of one process always the same.
    static FAULT: OnceLock<Option<String>> = OnceLock::new();
    match FAULT.get_or_init(|| hypervisor_fault(Path::new("/"))) {
        Some(fault) => crate::bail!(RuntimeUnavailable, "cannot run a microVM: {fault}"),
        None => Ok(()),
    }
}

/// Fails with the reason why a microVM with this much memory, in MiB, would not run here.
pub fn check(ram_mib: u32) -> Result<()> {
    hypervisor()?;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available(&text) {
        Some(mib) if mib < u64::from(ram_mib) => crate::bail!(
            RuntimeUnavailable,
            "cannot run a microVM with {ram_mib} MiB of memory: the host has {mib} MiB left (see krun.ram_mib)"
        ),
        _ => Ok(()),
    }
}

/// Memory that can be had without swapping, in MiB, from `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_that_is_left_is_read() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    2097152 kB\n"), Some(2048));
        assert_eq!(available(""), None);
        let e = check(u32::MAX).unwrap_err();
        assert!(e.message().starts_with("cannot run a microVM"), "{e}");
    }
}
