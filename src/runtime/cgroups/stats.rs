//! Usage and limits of a container, in the shape that `events --stats` prints.

use super::host::Version;
use super::{Place, fs};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Nanoseconds in a tick of `cpuacct.stat` (`USER_HZ` is 100 on every architecture that matters).
const NANOS_PER_TICK: u64 = 10_000_000;

/// Everything that is known; runc's names.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// Processors and memory nodes.
    pub cpuset: BTreeMap<&'static str, Vec<u32>>,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
    /// Block devices.
    pub blkio: BTreeMap<&'static str, Vec<BlkioEntry>>,
    /// Huge pages, by size.
    pub hugetlb: BTreeMap<String, Usage>,
    /// Intel RDT: not read.
    pub intel_rdt: BTreeMap<String, String>,
    /// Network interfaces: those of the container's namespace are not read.
    pub network_interfaces: Option<Vec<String>>,
}

/// Processor time in nanoseconds.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)] // The names say it; they are runc's.
pub struct Cpu {
    pub usage: CpuUsage,
    pub throttling: Throttling,
}

#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct CpuUsage {
    pub total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    pub kernel: u64,
    pub user: u64,
}

#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Throttling {
    pub periods: u64,
    #[serde(rename = "throttledPeriods")]
    pub throttled_periods: u64,
    #[serde(rename = "throttledTime")]
    pub throttled_time: u64,
}

/// Memory in bytes.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Memory {
    pub cache: u64,
    pub usage: Usage,
    pub swap: Usage,
    pub kernel: Usage,
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: Usage,
    pub raw: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Usage {
    pub limit: u64,
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
}

#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Pids {
    pub current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    pub op: String,
    pub value: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde gives a reference.
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Reads what the hierarchies have; what is missing stays zero.
pub(super) fn read(places: &[Place]) -> Stats {
    let mut stats = Stats::default();
    for place in places {
        let directory = Directory(&place.directory);
        match place.version {
            Version::V1 => v1(place, &directory, &mut stats),
            Version::V2 => v2(&directory, &mut stats, places.len() == 1),
        }
    }
    stats
}

/// A cgroup whose files are numbers, lists of names and numbers, or missing.
struct Directory<'a>(&'a Path);

impl Directory<'_> {
    fn text(&self, file: &str) -> String {
        fs::read(&self.0.join(file)).unwrap_or_default()
    }

    fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    /// A number; `max` is the largest.
    fn number(&self, file: &str) -> u64 {
        number(&self.text(file))
    }

    fn pairs(&self, file: &str) -> BTreeMap<String, u64> {
        let text = self.text(file);
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, n)| (name.to_owned(), number(n)))
            .collect()
    }

    fn v1_usage(&self, prefix: &str) -> Usage {
        Usage {
            limit: self.number(&format!("{prefix}.limit_in_bytes")),
            usage: self.number(&format!("{prefix}.usage_in_bytes")),
            max: self.number(&format!("{prefix}.max_usage_in_bytes")),
            failcnt: self.number(&format!("{prefix}.failcnt")),
        }
    }
}

fn number(text: &str) -> u64 {
    if text.trim() == "max" { u64::MAX } else { text.trim().parse().unwrap_or(0) }
}

/// Numbers of a list as in `0-2,5`.
fn list(text: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

fn v1(place: &Place, directory: &Directory<'_>, stats: &mut Stats) {
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
        stats.blkio.insert("ioServiceBytesRecursive", blkio_v1(&bytes));
        let served = directory.text("blkio.throttle.io_serviced_recursive");
        stats.blkio.insert("ioServicedRecursive", blkio_v1(&served));
    }
    if place.has("hugetlb") {
        stats.hugetlb = hugetlb(directory, "limit_in_bytes", "usage_in_bytes");
    }
}

fn pids(directory: &Directory<'_>) -> Pids {
    let limit = directory.number("pids.max");
    Pids { current: directory.number("pids.current"), limit: if limit == u64::MAX { 0 } else { limit } }
}

/// Lines as in `8:0 Read 4096`.
fn blkio_v1(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let (op, value) = (words.next()?.to_owned(), words.next()?);
            Some(BlkioEntry { major: number(major), minor: number(minor), op, value: number(value) })
        })
        .collect()
}

fn v2(directory: &Directory<'_>, stats: &mut Stats, alone: bool) {
    if directory.has("hugetlb.2MB.max") {
        stats.hugetlb = hugetlb(directory, "max", "current");
    }
    if !alone {
        return;
    }
    let times = directory.pairs("cpu.stat");
    // cpu.stat counts microseconds.
    let micros = |name: &str| times.get(name).copied().unwrap_or(0) * 1000;
    let count = |name: &str| times.get(name).copied().unwrap_or(0);
    stats.cpu.usage.total = micros("usage_usec");
    stats.cpu.usage.user = micros("user_usec");
    stats.cpu.usage.kernel = micros("system_usec");
    stats.cpu.throttling = Throttling {
        periods: count("nr_periods"),
        throttled_periods: count("nr_throttled"),
        throttled_time: micros("throttled_usec"),
    };
    stats.cpuset.insert("cpus", list(&directory.text("cpuset.cpus.effective")));
    stats.cpuset.insert("mems", list(&directory.text("cpuset.mems.effective")));
    stats.memory.raw = directory.pairs("memory.stat");
    stats.memory.cache = stats.memory.raw.get("file").copied().unwrap_or(0);
    let usage = |prefix: &str, events: &str| Usage {
        limit: directory.number(&format!("{prefix}.max")),
        usage: directory.number(&format!("{prefix}.current")),
        max: directory.number(&format!("{prefix}.peak")),
        failcnt: directory.pairs(events).get("max").copied().unwrap_or(0),
    };
    stats.memory.usage = usage("memory", "memory.events");
    stats.memory.swap = memory_and_swap(usage("memory.swap", "memory.swap.events"), &stats.memory.usage);
    stats.pids = pids(directory);
    let (bytes, served) = blkio_v2(&directory.text("io.stat"));
    stats.blkio.insert("ioServiceBytesRecursive", bytes);
    stats.blkio.insert("ioServicedRecursive", served);
}

/// What version 1 counts as swap, which is what callers expect: memory and swap together. There is no maximum of both.
fn memory_and_swap(swap: Usage, memory: &Usage) -> Usage {
    let limit = if swap.limit == u64::MAX { swap.limit } else { swap.limit.saturating_add(memory.limit) };
    Usage { limit, usage: swap.usage + memory.usage, max: 0, failcnt: swap.failcnt }
}

/// Lines as in `8:0 rbytes=1 wbytes=2 rios=3 wios=4`: bytes, and numbers of operations.
fn blkio_v2(text: &str) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
    let (mut bytes, mut served) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|id| id.split_once(':')) else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match name {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut served, "Read"),
                "wios" => (&mut served, "Write"),
                _ => continue,
            };
            let op = op.to_owned();
            list.push(BlkioEntry { major: number(major), minor: number(minor), op, value: number(value) });
        }
    }
    (bytes, served)
}

fn hugetlb(directory: &Directory<'_>, limit: &str, usage: &str) -> BTreeMap<String, Usage> {
    let entries = std::fs::read_dir(directory.0).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_prefix("hugetlb.")?.strip_suffix(&format!(".{limit}"))?.to_owned())
    });
    sizes
        .filter(|size| !size.contains('.'))
        .map(|size| {
            let file = |name: &str| directory.number(&format!("hugetlb.{size}.{name}"));
            let usage = Usage { limit: file(limit), usage: file(usage), ..Usage::default() };
            (size.clone(), usage)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_understood() {
        assert_eq!(list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(list(""), [0u32; 0]);
        assert_eq!(number("max"), u64::MAX);
        let entries = blkio_v1("8:0 Read 4096\n8:0 Write 1\nTotal 5\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].major, entries[0].op.as_str(), entries[0].value), (8, "Read", 4096));
        let (bytes, served) = blkio_v2("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        assert_eq!((bytes[1].value, served[0].value, served[0].minor), (2, 3, 16));
    }
}
