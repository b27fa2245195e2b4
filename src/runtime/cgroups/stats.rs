//! Usage and limits of a container, in the shape that `events --stats` prints.

mod files;
mod v1;
mod v2;

use super::Place;
use super::host::Version;
use files::Directory;
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything that is known; runc's names. What runc does not print has the kernel's.
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
    pub blkio: Blkio,
    /// Huge pages, by size.
    pub hugetlb: BTreeMap<String, Usage>,
    /// RDMA devices; not in runc's statistics.
    #[serde(skip_serializing_if = "Rdma::is_empty")]
    pub rdma: Rdma,
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
    /// More than the quota, which was saved up before; not in runc's statistics.
    pub burst: Burst,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
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

#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Burst {
    pub periods: u64,
    pub time: u64,
}

/// How long processes waited for something: any of them, and all at once. Only version 2 measures it.
#[derive(Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Psi {
    pub some: Pressure,
    pub full: Pressure,
}

/// Averages are percents of the last 10, 60 and 300 seconds, the total is in microseconds.
#[derive(Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Pressure {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
    /// Version 2: swap without memory; not in runc's statistics, as the others below.
    #[serde(rename = "swapOnly", skip_serializing_if = "Option::is_none")]
    pub swap_only: Option<Usage>,
    /// Version 2: `memory.events`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub events: BTreeMap<String, u64>,
    /// Version 1: `memory.oom_control`.
    #[serde(rename = "oomControl", skip_serializing_if = "BTreeMap::is_empty")]
    pub oom_control: BTreeMap<String, u64>,
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

/// Lists of what was done on block devices.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Blkio {
    #[serde(flatten)]
    pub lists: BTreeMap<&'static str, Vec<BlkioEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    pub op: String,
    pub value: u64,
}

/// What is in use of RDMA devices, and what may be.
#[derive(Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Rdma {
    pub current: Vec<RdmaEntry>,
    pub limit: Vec<RdmaEntry>,
}

impl Rdma {
    fn is_empty(&self) -> bool {
        self.current.is_empty() && self.limit.is_empty()
    }
}

#[derive(Debug, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct RdmaEntry {
    pub device: String,
    pub hca_handles: u32,
    pub hca_objects: u32,
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
            Version::V1 => v1::read(place, &directory, &mut stats),
            Version::V2 => v2::read(&directory, &mut stats, places.len() == 1),
        }
    }
    stats
}
