//! The message for cgroups of version 2.

use super::{Blkio, Cpu, Memory, Stats};
use containerd_shim_protos::cgroups_v2::metrics as proto;
use containerd_shim_protos::protobuf::MessageField;
use std::collections::BTreeMap;

/// Nanoseconds in a microsecond.
const MICRO: u64 = 1000;

/// The message with what the runtime knows.
pub fn metrics(stats: Stats) -> proto::Metrics {
    let pids = proto::PidsStat { current: stats.pids.current, limit: stats.pids.limit, ..Default::default() };
    let hugetlb = stats.hugetlb.into_iter().map(|(pagesize, usage)| proto::HugeTlbStat {
        current: usage.usage,
        max: usage.limit,
        failcnt: usage.failcnt,
        pagesize,
        ..Default::default()
    });
    proto::Metrics {
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu(&stats.cpu)),
        memory: MessageField::some(memory(&stats.memory)),
        io: MessageField::some(proto::IOStat { usage: io(&stats.blkio), ..Default::default() }),
        hugetlb: hugetlb.collect(),
        ..Default::default()
    }
}

fn cpu(cpu: &Cpu) -> proto::CPUStat {
    proto::CPUStat {
        usage_usec: cpu.usage.total / MICRO,
        user_usec: cpu.usage.user / MICRO,
        system_usec: cpu.usage.kernel / MICRO,
        nr_periods: cpu.throttling.periods,
        nr_throttled: cpu.throttling.throttled_periods,
        throttled_usec: cpu.throttling.throttled_time / MICRO,
        ..Default::default()
    }
}

/// One entry a device, of the lists of bytes and of operations.
fn io(blkio: &Blkio) -> Vec<proto::IOEntry> {
    let mut devices: BTreeMap<(u64, u64), proto::IOEntry> = BTreeMap::new();
    let bytes = blkio.io_service_bytes_recursive.iter().map(|entry| (entry, true));
    let served = blkio.io_serviced_recursive.iter().map(|entry| (entry, false));
    for (entry, in_bytes) in bytes.chain(served) {
        let device = devices.entry((entry.major, entry.minor)).or_default();
        (device.major, device.minor) = (entry.major, entry.minor);
        match (entry.op.to_ascii_lowercase().as_str(), in_bytes) {
            ("read", true) => device.rbytes = entry.value,
            ("write", true) => device.wbytes = entry.value,
            ("read", false) => device.rios = entry.value,
            ("write", false) => device.wios = entry.value,
            _ => {}
        }
    }
    devices.into_values().collect()
}

fn without_memory(limit: u64, memory: u64) -> u64 {
    if limit == u64::MAX { limit } else { limit.saturating_sub(memory) }
}

fn memory(memory: &Memory) -> proto::MemoryStat {
    proto::MemoryStat {
        anon: memory.raw("anon"),
        file: memory.raw("file"),
        kernel_stack: memory.raw("kernel_stack"),
        slab: memory.raw("slab"),
        sock: memory.raw("sock"),
        shmem: memory.raw("shmem"),
        file_mapped: memory.raw("file_mapped"),
        file_dirty: memory.raw("file_dirty"),
        file_writeback: memory.raw("file_writeback"),
        anon_thp: memory.raw("anon_thp"),
        inactive_anon: memory.raw("inactive_anon"),
        active_anon: memory.raw("active_anon"),
        inactive_file: memory.raw("inactive_file"),
        active_file: memory.raw("active_file"),
        unevictable: memory.raw("unevictable"),
        slab_reclaimable: memory.raw("slab_reclaimable"),
        slab_unreclaimable: memory.raw("slab_unreclaimable"),
        pgfault: memory.raw("pgfault"),
        pgmajfault: memory.raw("pgmajfault"),
        workingset_refault: memory.raw("workingset_refault_file"),
        workingset_activate: memory.raw("workingset_activate_file"),
        workingset_nodereclaim: memory.raw("workingset_nodereclaim"),
        pgrefill: memory.raw("pgrefill"),
        pgscan: memory.raw("pgscan"),
        pgsteal: memory.raw("pgsteal"),
        pgactivate: memory.raw("pgactivate"),
        pgdeactivate: memory.raw("pgdeactivate"),
        pglazyfree: memory.raw("pglazyfree"),
        pglazyfreed: memory.raw("pglazyfreed"),
        thp_fault_alloc: memory.raw("thp_fault_alloc"),
        thp_collapse_alloc: memory.raw("thp_collapse_alloc"),
        usage: memory.usage.usage,
        usage_limit: memory.usage.limit,
        max_usage: memory.usage.max,
        // The contract has memory and swap together, as version 1.
        swap_usage: memory.swap.usage.saturating_sub(memory.usage.usage),
        swap_limit: without_memory(memory.swap.limit, memory.usage.limit),
        swap_max_usage: memory.swap.max,
        ..Default::default()
    }
}
