//! Files of cgroup v1.

use super::files::{Directory, hugetlb, list, number, pids, rdma};
use super::{BlkioEntry, Burst, Stats, Throttling};
use crate::runtime::cgroups::Place;

/// Nanoseconds in a tick of `cpuacct.stat` (`USER_HZ` is 100 on every architecture that matters).
const NANOS_PER_TICK: u64 = 10_000_000;

/// Lists of what was done on devices: runc's name, and the end of the names of files.
const LISTS: [(&str, &str); 8] = [
    ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
    ("ioServicedRecursive", "io_serviced_recursive"),
    ("ioQueueRecursive", "io_queued_recursive"),
    ("ioServiceTimeRecursive", "io_service_time_recursive"),
    ("ioWaitTimeRecursive", "io_wait_time_recursive"),
    ("ioMergedRecursive", "io_merged_recursive"),
    ("ioTimeRecursive", "time_recursive"),
    ("sectorsRecursive", "sectors_recursive"),
];

/// Who counts that: limits of rates for every device, the schedulers BFQ and CFQ for theirs, and more.
const COUNTERS: [&str; 3] = ["blkio.throttle", "blkio.bfq", "blkio"];

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
        stats.cpu.burst = Burst { periods: value("nr_bursts"), time: value("burst_time") };
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
        stats.memory.oom_control = directory.pairs("memory.oom_control");
    }
    if place.has("pids") {
        stats.pids = pids(directory);
    }
    if place.has("blkio") {
        for (name, file) in LISTS {
            let lists = COUNTERS.iter().map(|counter| blkio(&directory.text(&format!("{counter}.{file}"))));
            let list = lists.into_iter().find(|list| !list.is_empty());
            stats.blkio.lists.insert(name, list.unwrap_or_default());
        }
    }
    if place.has("hugetlb") {
        stats.hugetlb = hugetlb(directory, "limit_in_bytes", |prefix| directory.v1_usage(prefix));
    }
    if place.has("rdma") {
        stats.rdma = rdma(directory);
    }
}

/// Lines as in `8:0 Read 4096`, or `8:0 4096` where there is one kind.
fn blkio(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let (op, value) = match (words.next()?, words.next()) {
                (op, Some(value)) => (op.to_owned(), number(value)),
                (value, None) => (String::new(), number(value)),
            };
            Some(BlkioEntry { major: number(major), minor: number(minor), op, value })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cgroups::Version;
    use serde_json::json;

    #[test]
    fn devices_are_understood() {
        let entries = blkio("8:0 Read 4096\n8:0 Write 1\nTotal 5\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].major, entries[0].op.as_str(), entries[0].value), (8, "Read", 4096));
        let entries = blkio("8:16 1536\n");
        assert_eq!((entries[0].minor, entries[0].op.as_str(), entries[0].value), (16, "", 1536));
    }

    #[test]
    fn everything_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            ("cpu.stat", "nr_periods 9\nnr_throttled 3\nthrottled_time 5000\nnr_bursts 2\nburst_time 700\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"),
            ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 4096\n8:0 Discard 0\nTotal 4096\n"),
            ("blkio.bfq.io_service_bytes_recursive", "8:0 Read 1\nTotal 1\n"),
            ("blkio.throttle.io_serviced_recursive", "Total 0\n"),
            ("blkio.bfq.io_serviced_recursive", "8:0 Read 5\nTotal 5\n"),
            ("blkio.io_queued_recursive", "8:0 Read 6\nTotal 6\n"),
            ("blkio.bfq.time_recursive", "8:0 77\n"),
            ("hugetlb.2MB.limit_in_bytes", "4194304\n"),
            ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ("hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
            ("hugetlb.2MB.failcnt", "8\n"),
            ("hugetlb.2MB.rsvd.limit_in_bytes", "0\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
            ("rdma.max", "mlx4_0 hca_handle=max hca_object=3000\n"),
        ];
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let place = Place {
            version: Version::V1,
            controllers: ["cpu", "memory", "blkio", "hugetlb", "rdma"].map(str::to_owned).to_vec(),
            mount: directory.path().to_owned(),
            directory: directory.path().to_owned(),
        };
        let stats = serde_json::to_value(super::super::read(&[place])).unwrap();
        assert_eq!(stats["cpu"]["burst"], json!({"periods": 2, "time": 700}));
        assert_eq!(stats["cpu"].get("psi"), None);
        let control = json!({"oom_kill_disable": 0, "under_oom": 0, "oom_kill": 4});
        assert_eq!(stats["memory"]["oomControl"], control);
        assert_eq!((stats["memory"].get("events"), stats["memory"].get("swapOnly")), (None, None));
        let blkio = &stats["blkio"];
        // The counters that are not of a scheduler come first, unless they have counted nothing.
        assert_eq!(blkio["ioServiceBytesRecursive"].as_array().map(Vec::len), Some(2));
        assert_eq!(blkio["ioServiceBytesRecursive"][0]["value"], 4096);
        assert_eq!(blkio["ioServicedRecursive"][0]["value"], 5);
        assert_eq!(blkio["ioQueueRecursive"][0]["value"], 6);
        assert_eq!(blkio["ioTimeRecursive"], json!([{"major": 8, "minor": 0, "op": "", "value": 77}]));
        assert_eq!(blkio["sectorsRecursive"], json!([]));
        let pages = json!({"2MB": {"limit": 4_194_304, "usage": 2_097_152, "max": 4_194_304, "failcnt": 8}});
        assert_eq!(stats["hugetlb"], pages);
        assert_eq!(stats["rdma"]["current"][0]["hca_objects"], 2000);
        assert_eq!(stats["rdma"]["limit"][0]["hca_handles"], u32::MAX);
    }
}
