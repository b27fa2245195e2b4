//! The message for cgroups of version 2.

use super::{Blkio, Cpu, Memory, Pressure, Psi, RdmaEntry, Stats};
use containerd_shim_protos::cgroups_v2::metrics as proto;
use containerd_shim_protos::protobuf::MessageField;
use std::collections::BTreeMap;

/// Nanoseconds in a microsecond.
const MICRO: u64 = 1000;

/// The message with what the runtime knows.
pub fn metrics(stats: Stats) -> proto::Metrics {
    // The runtime's 0 is that there is no limit, for which this message has the largest number.
    let limit = if stats.pids.limit == 0 { u64::MAX } else { stats.pids.limit };
    let pids = proto::PidsStat { current: stats.pids.current, limit, ..Default::default() };
    let hugetlb = stats.hugetlb.into_iter().map(|(pagesize, usage)| proto::HugeTlbStat {
        current: usage.usage,
        max: usage.limit,
        failcnt: usage.failcnt,
        pagesize,
        ..Default::default()
    });
    let rdma = proto::RdmaStat {
        current: stats.rdma.current.into_iter().map(rdma).collect(),
        limit: stats.rdma.limit.into_iter().map(rdma).collect(),
        ..Default::default()
    };
    let io =
        proto::IOStat { usage: io(&stats.blkio), psi: psi(stats.blkio.psi.as_ref()), ..Default::default() };
    proto::Metrics {
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu(&stats.cpu)),
        memory: MessageField::some(memory(&stats.memory)),
        memory_events: events(&stats.memory).into(),
        rdma: MessageField::some(rdma),
        io: MessageField::some(io),
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
        psi: psi(cpu.psi.as_ref()),
        nr_bursts: cpu.burst.periods,
        burst_usec: cpu.burst.time / MICRO,
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

fn rdma(entry: RdmaEntry) -> proto::RdmaEntry {
    proto::RdmaEntry {
        device: entry.device,
        hca_handles: entry.hca_handles,
        hca_objects: entry.hca_objects,
        ..Default::default()
    }
}

fn psi(psi: Option<&Psi>) -> MessageField<proto::PSIStats> {
    let data = |pressure: &Pressure| {
        MessageField::some(proto::PSIData {
            avg10: pressure.avg10,
            avg60: pressure.avg60,
            avg300: pressure.avg300,
            total: pressure.total,
            ..Default::default()
        })
    };
    let stats =
        |psi: &Psi| proto::PSIStats { some: data(&psi.some), full: data(&psi.full), ..Default::default() };
    psi.map(stats).into()
}

/// `memory.events`; none where memory is not accounted.
fn events(memory: &Memory) -> Option<proto::MemoryEvents> {
    let event = |name: &str| memory.events.get(name).copied().unwrap_or(0);
    (!memory.events.is_empty()).then(|| proto::MemoryEvents {
        low: event("low"),
        high: event("high"),
        max: event("max"),
        oom: event("oom"),
        oom_kill: event("oom_kill"),
        oom_group_kill: event("oom_group_kill"),
        ..Default::default()
    })
}

/// Usage, limit and maximum of swap. runc's contract has memory and swap together, as version 1.
fn swap(memory: &Memory) -> (u64, u64, u64) {
    match &memory.swap_only {
        Some(swap) => (swap.usage, swap.limit, swap.max),
        None => (
            memory.swap.usage.saturating_sub(memory.usage.usage),
            without_memory(memory.swap.limit, memory.usage.limit),
            memory.swap.max,
        ),
    }
}

fn without_memory(limit: u64, memory: u64) -> u64 {
    if limit == u64::MAX { limit } else { limit.saturating_sub(memory) }
}

fn memory(memory: &Memory) -> proto::MemoryStat {
    let (swap_usage, swap_limit, swap_max_usage) = swap(memory);
    let raw = |name: &str| memory.raw.get(name).copied().unwrap_or(0);
    // Before Linux 5.9 there was one number, for files alone.
    let of_files = |name: &str| raw(name).saturating_add(raw(&format!("{name}_file")));
    proto::MemoryStat {
        anon: raw("anon"),
        file: raw("file"),
        kernel_stack: raw("kernel_stack"),
        slab: raw("slab"),
        sock: raw("sock"),
        shmem: raw("shmem"),
        file_mapped: raw("file_mapped"),
        file_dirty: raw("file_dirty"),
        file_writeback: raw("file_writeback"),
        anon_thp: raw("anon_thp"),
        inactive_anon: raw("inactive_anon"),
        active_anon: raw("active_anon"),
        inactive_file: raw("inactive_file"),
        active_file: raw("active_file"),
        unevictable: raw("unevictable"),
        slab_reclaimable: raw("slab_reclaimable"),
        slab_unreclaimable: raw("slab_unreclaimable"),
        pgfault: raw("pgfault"),
        pgmajfault: raw("pgmajfault"),
        workingset_refault: of_files("workingset_refault"),
        workingset_activate: of_files("workingset_activate"),
        workingset_nodereclaim: raw("workingset_nodereclaim"),
        pgrefill: raw("pgrefill"),
        pgscan: raw("pgscan"),
        pgsteal: raw("pgsteal"),
        pgactivate: raw("pgactivate"),
        pgdeactivate: raw("pgdeactivate"),
        pglazyfree: raw("pglazyfree"),
        pglazyfreed: raw("pglazyfreed"),
        thp_fault_alloc: raw("thp_fault_alloc"),
        thp_collapse_alloc: raw("thp_collapse_alloc"),
        usage: memory.usage.usage,
        usage_limit: memory.usage.limit,
        max_usage: memory.usage.max,
        swap_usage,
        swap_limit,
        swap_max_usage,
        psi: psi(memory.psi.as_ref()),
        ..Default::default()
    }
}
