//! Files of cgroup v2.

use super::files::{Directory, hugetlb, list, number, pids};
use super::{BlkioEntry, Stats, Throttling, Usage};

/// Reads what a directory knows; it is not `alone` where version 1 has controllers too.
pub fn read(directory: &Directory<'_>, stats: &mut Stats, alone: bool) {
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
    let (bytes, served) = blkio(&directory.text("io.stat"));
    stats.blkio.insert("ioServiceBytesRecursive", bytes);
    stats.blkio.insert("ioServicedRecursive", served);
}

/// What version 1 counts as swap, which is what callers expect: memory and swap together. There is no maximum of both.
fn memory_and_swap(swap: Usage, memory: &Usage) -> Usage {
    let limit = if swap.limit == u64::MAX { swap.limit } else { swap.limit.saturating_add(memory.limit) };
    Usage { limit, usage: swap.usage + memory.usage, max: 0, failcnt: swap.failcnt }
}

/// Lines as in `8:0 rbytes=1 wbytes=2 rios=3 wios=4`: bytes, and numbers of operations.
fn blkio(text: &str) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_understood() {
        let (bytes, served) = blkio("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        assert_eq!((bytes[1].value, served[0].value, served[0].minor), (2, 3, 16));
    }
}
