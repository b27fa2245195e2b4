//! Files of cgroup v2.

use super::files::{Directory, hugetlb, list, number, pids, rdma};
use super::{BlkioEntry, Burst, Stats, Throttling, Usage};

/// Reads what a directory knows; it is not `alone` where version 1 has controllers too.
pub fn read(directory: &Directory<'_>, stats: &mut Stats, alone: bool) {
    stats.hugetlb.extend(hugetlb(directory, "max", |prefix| directory.v2_usage(prefix)));
    if directory.has("rdma.current") {
        stats.rdma = rdma(directory);
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
    stats.cpu.burst = Burst { periods: count("nr_bursts"), time: micros("burst_usec") };
    stats.cpu.psi = directory.pressure("cpu.pressure");
    stats.cpuset.insert("cpus", list(&directory.text("cpuset.cpus.effective")));
    stats.cpuset.insert("mems", list(&directory.text("cpuset.mems.effective")));
    stats.memory.raw = directory.pairs("memory.stat");
    stats.memory.cache = stats.memory.raw.get("file").copied().unwrap_or(0);
    stats.memory.usage = directory.v2_usage("memory");
    let swap = directory.v2_usage("memory.swap");
    stats.memory.swap = memory_and_swap(&swap, &stats.memory.usage);
    stats.memory.swap_only = Some(swap);
    stats.memory.events = directory.pairs("memory.events");
    stats.memory.psi = directory.pressure("memory.pressure");
    stats.pids = pids(directory);
    let (bytes, served) = blkio(&directory.text("io.stat"));
    stats.blkio.lists.insert("ioServiceBytesRecursive", bytes);
    stats.blkio.lists.insert("ioServicedRecursive", served);
    stats.blkio.psi = directory.pressure("io.pressure");
}

/// What version 1 counts as swap, which is what callers expect: memory and swap together. There is no maximum of both.
fn memory_and_swap(swap: &Usage, memory: &Usage) -> Usage {
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
    use serde_json::json;

    #[test]
    fn devices_are_understood() {
        let (bytes, served) = blkio("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        assert_eq!((bytes[1].value, served[0].value, served[0].minor), (2, 3, 16));
    }

    #[test]
    fn everything_is_read() {
        const PRESSURE: &str = "some avg10=1.50 avg60=0.24 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let directory = tempfile::tempdir().unwrap();
        let files = [
            ("cpu.stat", "usage_usec 9\nnr_periods 9\nnr_bursts 2\nburst_usec 7\n"),
            ("cpu.pressure", PRESSURE),
            ("memory.pressure", PRESSURE),
            ("io.pressure", PRESSURE),
            ("memory.max", "67108864\n"),
            ("memory.current", "4096\n"),
            ("memory.peak", "8192\n"),
            ("memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n"),
            ("memory.swap.max", "max\n"),
            ("memory.swap.current", "100\n"),
            ("memory.swap.peak", "200\n"),
            ("memory.swap.events", "high 0\nmax 7\nfail 0\n"),
            // There are systems without huge pages of 2 MB.
            ("hugetlb.512MB.max", "max\n"),
            ("hugetlb.512MB.current", "536870912\n"),
            ("hugetlb.512MB.events", "max 8\n"),
            ("hugetlb.512MB.rsvd.max", "max\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
            ("rdma.max", "mlx4_0 hca_handle=max hca_object=3000\n"),
        ];
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let mut stats = Stats::default();
        read(&Directory(directory.path()), &mut stats, true);
        let stats = serde_json::to_value(stats).unwrap();
        assert_eq!(stats["cpu"]["burst"], json!({"periods": 2, "time": 7000}));
        for place in ["cpu", "memory", "blkio"] {
            let some = json!({"avg10": 1.5, "avg60": 0.24, "avg300": 0.0, "total": 42});
            assert_eq!(stats[place]["psi"]["some"], some, "{place}");
        }
        let memory = &stats["memory"];
        let events = json!({"low": 1, "high": 2, "max": 3, "oom": 4, "oom_kill": 5, "oom_group_kill": 6});
        assert_eq!((&memory["events"], memory.get("oomControl")), (&events, None));
        let used = json!({"limit": 67_108_864, "usage": 4096, "max": 8192, "failcnt": 3});
        assert_eq!(memory["usage"], used);
        assert_eq!(memory["swap"]["usage"], 4196);
        let swap = json!({"limit": u64::MAX, "usage": 100, "max": 200, "failcnt": 7});
        assert_eq!(memory["swapOnly"], swap);
        let pages = json!({"512MB": {"limit": u64::MAX, "usage": 536_870_912, "max": 0, "failcnt": 8}});
        assert_eq!(stats["hugetlb"], pages);
        assert_eq!(stats["rdma"]["limit"][0]["hca_handles"], u32::MAX);
    }
}
