//! Files of cgroup v1.

use super::files::{Directory, hugetlb, list, number, pids};
use super::{BlkioEntry, Stats, Throttling};
use crate::runtime::cgroups::Place;

/// Nanoseconds in a tick of `cpuacct.stat` (`USER_HZ` is 100 on every architecture that matters).
const NANOS_PER_TICK: u64 = 10_000_000;

/// Reads what the controllers of one hierarchy know.
pub fn read(place: &Place, directory: &Directory<'_>, stats: &mut Stats) {
    if place.has("cpuacct") {
        stats.cpu.usage.total = directory.number("cpuacct.usage");
        let percpu = directory.text("cpuacct.usage_percpu");
        stats.cpu.usage.percpu = percpu.split_whitespace().map(number).collect();
        let times = directory.pairs("cpuacct.stat");
        let time = |name: &str| times.get(name).copied().unwrap_or(0) * NANOS_PER_TICK;
        stats.cpu.usage.user = time("user");
        stats.cpu.usage.kernel = time("system");
    }
    if place.has("cpu") {
        let times = directory.pairs("cpu.stat");
        let value = |name: &str| times.get(name).copied().unwrap_or(0);
        stats.cpu.throttling = Throttling {
            periods: value("nr_periods"),
            throttled_periods: value("nr_throttled"),
            throttled_time: value("throttled_time"),
        };
    }
    if place.has("cpuset") {
        stats.cpuset.insert("cpus", list(&directory.text("cpuset.cpus")));
        stats.cpuset.insert("mems", list(&directory.text("cpuset.mems")));
    }
    if place.has("memory") {
        stats.memory.raw = directory.pairs("memory.stat");
        stats.memory.cache = stats.memory.raw.get("cache").copied().unwrap_or(0);
        stats.memory.usage = directory.v1_usage("memory");
        stats.memory.swap = directory.v1_usage("memory.memsw");
        stats.memory.kernel = directory.v1_usage("memory.kmem");
        stats.memory.kernel_tcp = directory.v1_usage("memory.kmem.tcp");
    }
    if place.has("pids") {
        stats.pids = pids(directory);
    }
    if place.has("blkio") {
        let bytes = directory.text("blkio.throttle.io_service_bytes_recursive");
        stats.blkio.insert("ioServiceBytesRecursive", blkio(&bytes));
        let served = directory.text("blkio.throttle.io_serviced_recursive");
        stats.blkio.insert("ioServicedRecursive", blkio(&served));
    }
    if place.has("hugetlb") {
        stats.hugetlb = hugetlb(directory, "limit_in_bytes", "usage_in_bytes");
    }
}

/// Lines as in `8:0 Read 4096`.
fn blkio(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let (op, value) = (words.next()?.to_owned(), words.next()?);
            Some(BlkioEntry { major: number(major), minor: number(minor), op, value: number(value) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_understood() {
        let entries = blkio("8:0 Read 4096\n8:0 Write 1\nTotal 5\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].major, entries[0].op.as_str(), entries[0].value), (8, "Read", 4096));
    }
}
