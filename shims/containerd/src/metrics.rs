//! Usage of resources: what the runtime prints as JSON, in the messages that containerd has for cgroups of version 1 and 2.

mod v1;
mod v2;

use crate::cgroup;
use crate::error::{Context as _, Result};
use crate::events::any;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use serde::Deserialize;
use std::collections::HashMap;

/// A line of `events`.
#[derive(Deserialize)]
struct Event {
    data: Stats,
}

/// The part of the statistics of runc's contract that the messages have.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stats {
    cpu: Cpu,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    hugetlb: HashMap<String, Usage>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
}

/// Nanoseconds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CpuUsage {
    total: u64,
    kernel: u64,
    user: u64,
    percpu: Vec<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Throttling {
    periods: u64,
    throttled_periods: u64,
    throttled_time: u64,
}

/// Bytes; `raw` is `memory.stat`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Memory {
    cache: u64,
    usage: Usage,
    swap: Usage,
    kernel: Usage,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: Usage,
    raw: HashMap<String, u64>,
}

impl Memory {
    fn raw(&self, name: &str) -> u64 {
        self.raw.get(name).copied().unwrap_or(0)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Usage {
    limit: u64,
    usage: u64,
    max: u64,
    failcnt: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pids {
    current: u64,
    limit: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Blkio {
    io_service_bytes_recursive: Vec<BlkioEntry>,
    io_serviced_recursive: Vec<BlkioEntry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BlkioEntry {
    major: u64,
    minor: u64,
    op: String,
    value: u64,
}

/// The message for containerd, of the version that this host has.
pub fn from_runtime(text: &str) -> Result<Any> {
    let event: Event = serde_json::from_str(text).context(|| "cannot read the runtime's statistics")?;
    Ok(if cgroup::is_unified() {
        any("io.containerd.cgroups.v2.Metrics", &v2::metrics(event.data))
    } else {
        any("io.containerd.cgroups.v1.Metrics", &v1::metrics(event.data))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"type": "stats", "id": "box", "data": {
        "cpu": {"usage": {"total": 3000, "kernel": 1000, "user": 2000, "percpu": [1, 2]},
                "throttling": {"periods": 4, "throttledPeriods": 5, "throttledTime": 6000}},
        "memory": {"cache": 7, "usage": {"limit": 8, "usage": 9, "max": 10, "failcnt": 11}, "swap": {"usage": 29, "limit": 18},
                   "raw": {"total_inactive_file": 12, "inactive_file": 13, "anon": 14}},
        "pids": {"current": 15, "limit": 16},
        "blkio": {"ioServiceBytesRecursive": [{"major": 8, "minor": 1, "op": "Read", "value": 17}],
                  "ioServicedRecursive": [{"major": 8, "minor": 1, "op": "Write", "value": 2}]},
        "hugetlb": {"2MB": {"usage": 19, "max": 20}}}}"#;

    fn stats() -> Stats {
        serde_json::from_str::<Event>(TEXT).unwrap().data
    }

    #[test]
    fn statistics_become_the_message_of_version_1() {
        let metrics = v1::metrics(stats());
        assert_eq!(metrics.cpu.usage.total, 3000);
        assert_eq!(metrics.cpu.throttling.throttled_time, 6000);
        assert_eq!((metrics.memory.usage.usage, metrics.memory.usage.limit), (9, 8));
        assert_eq!(metrics.memory.total_inactive_file, 12);
        assert_eq!((metrics.pids.current, metrics.pids.limit), (15, 16));
        assert_eq!(metrics.blkio.io_service_bytes_recursive[0].value, 17);
        assert_eq!((metrics.hugetlb[0].pagesize.as_str(), metrics.hugetlb[0].usage), ("2MB", 19));
    }

    #[test]
    fn statistics_become_the_message_of_version_2() {
        let metrics = v2::metrics(stats());
        assert_eq!((metrics.cpu.usage_usec, metrics.cpu.throttled_usec), (3, 6));
        assert_eq!((metrics.memory.usage, metrics.memory.usage_limit), (9, 8));
        assert_eq!((metrics.memory.inactive_file, metrics.memory.anon), (13, 14));
        assert_eq!((metrics.memory.swap_usage, metrics.memory.swap_limit), (20, 10));
        let io = &metrics.io.usage[0];
        assert_eq!((io.major, io.minor, io.rbytes, io.wios), (8, 1, 17, 2));
    }

    #[test]
    fn what_is_missing_is_zero() {
        let event: Event = serde_json::from_str(r#"{"data": {}}"#).unwrap();
        assert_eq!(v1::metrics(event.data).pids.current, 0);
    }
}
