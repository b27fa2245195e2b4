//! Usage of resources: what the runtime prints as JSON, in the messages that containerd has for cgroups of version 1 and 2.

mod v1;
mod v2;

use crate::cgroup;
use crate::error::{Context as _, Result};
use crate::events::any;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// A line of `events`.
#[derive(Deserialize)]
struct Event {
    data: Stats,
}

/// The part of the statistics that the messages have: of runc's contract, and what our runtime adds to that.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stats {
    cpu: Cpu,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    hugetlb: BTreeMap<String, Usage>,
    rdma: Rdma,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cpu {
    usage: CpuUsage,
    throttling: Throttling,
    burst: Burst,
    psi: Option<Psi>,
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

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Burst {
    periods: u64,
    time: u64,
}

/// How long any process waited for something, and how long all did.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Psi {
    some: Pressure,
    full: Pressure,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pressure {
    avg10: f64,
    avg60: f64,
    avg300: f64,
    total: u64,
}

/// Bytes; `raw` is `memory.stat`, and the last two are the files of these names, of one version each.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Memory {
    cache: u64,
    usage: Usage,
    swap: Usage,
    kernel: Usage,
    #[serde(rename = "kernelTCP")]
    kernel_tcp: Usage,
    raw: HashMap<String, u64>,
    psi: Option<Psi>,
    swap_only: Option<Usage>,
    events: HashMap<String, u64>,
    oom_control: HashMap<String, u64>,
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
    #[serde(rename = "ioQueueRecursive")]
    io_queued_recursive: Vec<BlkioEntry>,
    io_service_time_recursive: Vec<BlkioEntry>,
    io_wait_time_recursive: Vec<BlkioEntry>,
    io_merged_recursive: Vec<BlkioEntry>,
    io_time_recursive: Vec<BlkioEntry>,
    sectors_recursive: Vec<BlkioEntry>,
    psi: Option<Psi>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BlkioEntry {
    major: u64,
    minor: u64,
    op: String,
    value: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rdma {
    current: Vec<RdmaEntry>,
    limit: Vec<RdmaEntry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RdmaEntry {
    device: String,
    hca_handles: u32,
    hca_objects: u32,
}

/// The message for containerd, of the version that this host has.
pub fn from_runtime(text: &str) -> Result<Any> {
    let event: Event = serde_json::from_str(text).context(|| "cannot read the runtime's statistics")?;
    Ok(if cgroup::is_unified() {
        any("io.containerd.cgroups.v2.Metrics", &v2::metrics(event.data))
    } else {
        let partitions = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
        any("io.containerd.cgroups.v1.Metrics", &v1::metrics(event.data, &v1::devices(&partitions)))
    })
}

#[cfg(test)]
mod tests;
