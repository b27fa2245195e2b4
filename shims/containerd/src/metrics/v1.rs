//! The message for cgroups of version 1.

use super::{Blkio, BlkioEntry, Memory, RdmaEntry, Stats, Usage};
use containerd_shim_protos::cgroups::metrics as proto;
use containerd_shim_protos::protobuf::MessageField;
use std::collections::HashMap;

/// Files of block devices, by their numbers.
pub type Devices = HashMap<(u64, u64), String>;

/// The devices of `/proc/partitions`.
pub fn devices(partitions: &str) -> Devices {
    let device = |line: &str| {
        let mut words = line.split_whitespace();
        let numbers = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((numbers, format!("/dev/{}", words.nth(1)?)))
    };
    partitions.lines().filter_map(device).collect()
}

/// The message with what the runtime knows.
pub fn metrics(stats: Stats, devices: &Devices) -> proto::Metrics {
    let usage = proto::CPUUsage {
        total: stats.cpu.usage.total,
        kernel: stats.cpu.usage.kernel,
        user: stats.cpu.usage.user,
        per_cpu: stats.cpu.usage.percpu,
        ..Default::default()
    };
    let throttling = proto::Throttle {
        periods: stats.cpu.throttling.periods,
        throttled_periods: stats.cpu.throttling.throttled_periods,
        throttled_time: stats.cpu.throttling.throttled_time,
        ..Default::default()
    };
    let cpu = proto::CPUStat {
        usage: MessageField::some(usage),
        throttling: MessageField::some(throttling),
        ..Default::default()
    };
    let rdma = proto::RdmaStat {
        current: stats.rdma.current.into_iter().map(rdma).collect(),
        limit: stats.rdma.limit.into_iter().map(rdma).collect(),
        ..Default::default()
    };
    let pids = proto::PidsStat { current: stats.pids.current, limit: stats.pids.limit, ..Default::default() };
    let hugetlb = stats.hugetlb.into_iter().map(|(pagesize, usage)| proto::HugetlbStat {
        usage: usage.usage,
        max: usage.max,
        failcnt: usage.failcnt,
        pagesize,
        ..Default::default()
    });
    proto::Metrics {
        hugetlb: hugetlb.collect(),
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory(&stats.memory)),
        memory_oom_control: MessageField::some(oom_control(&stats.memory)),
        blkio: MessageField::some(blkio(stats.blkio, devices)),
        rdma: MessageField::some(rdma),
        ..Default::default()
    }
}

fn blkio(blkio: Blkio, devices: &Devices) -> proto::BlkIOStat {
    let entry = |entry: BlkioEntry| proto::BlkIOEntry {
        op: entry.op,
        device: devices.get(&(entry.major, entry.minor)).cloned().unwrap_or_default(),
        major: entry.major,
        minor: entry.minor,
        value: entry.value,
        ..Default::default()
    };
    let entries = |list: Vec<BlkioEntry>| list.into_iter().map(entry).collect();
    proto::BlkIOStat {
        io_service_bytes_recursive: entries(blkio.io_service_bytes_recursive),
        io_serviced_recursive: entries(blkio.io_serviced_recursive),
        io_queued_recursive: entries(blkio.io_queued_recursive),
        io_service_time_recursive: entries(blkio.io_service_time_recursive),
        io_wait_time_recursive: entries(blkio.io_wait_time_recursive),
        io_merged_recursive: entries(blkio.io_merged_recursive),
        io_time_recursive: entries(blkio.io_time_recursive),
        sectors_recursive: entries(blkio.sectors_recursive),
        ..Default::default()
    }
}

fn rdma(entry: RdmaEntry) -> proto::RdmaEntry {
    proto::RdmaEntry {
        device: entry.device,
        hca_handles: entry.hca_handles,
        hca_objects: entry.hca_objects,
        ..Default::default()
    }
}

/// Of a container in a microVM the file of version 2 is known in any case.
fn oom_control(memory: &Memory) -> proto::MemoryOomControl {
    let value =
        |name: &str| memory.oom_control.get(name).or_else(|| memory.events.get(name)).copied().unwrap_or(0);
    proto::MemoryOomControl {
        oom_kill_disable: value("oom_kill_disable"),
        under_oom: value("under_oom"),
        oom_kill: value("oom_kill"),
        ..Default::default()
    }
}

fn entry(usage: &Usage) -> MessageField<proto::MemoryEntry> {
    MessageField::some(proto::MemoryEntry {
        limit: usage.limit,
        usage: usage.usage,
        max: usage.max,
        failcnt: usage.failcnt,
        ..Default::default()
    })
}

/// A number of `memory.stat`. Of a container in a microVM it has the name that version 2 gives it, which counts what is below too.
fn raw(memory: &Memory, name: &str) -> u64 {
    let other = match name.trim_start_matches("total_") {
        "cache" => "file",
        "rss" => "anon",
        "rss_huge" => "anon_thp",
        "mapped_file" => "file_mapped",
        "dirty" => "file_dirty",
        "writeback" => "file_writeback",
        same => same,
    };
    memory.raw.get(name).or_else(|| memory.raw.get(other)).copied().unwrap_or(0)
}

fn memory(memory: &Memory) -> proto::MemoryStat {
    let raw = |name: &str| raw(memory, name);
    proto::MemoryStat {
        cache: memory.cache,
        rss: raw("rss"),
        rss_huge: raw("rss_huge"),
        mapped_file: raw("mapped_file"),
        dirty: raw("dirty"),
        writeback: raw("writeback"),
        pg_pg_in: raw("pgpgin"),
        pg_pg_out: raw("pgpgout"),
        pg_fault: raw("pgfault"),
        pg_maj_fault: raw("pgmajfault"),
        inactive_anon: raw("inactive_anon"),
        active_anon: raw("active_anon"),
        inactive_file: raw("inactive_file"),
        active_file: raw("active_file"),
        unevictable: raw("unevictable"),
        hierarchical_memory_limit: raw("hierarchical_memory_limit"),
        hierarchical_swap_limit: raw("hierarchical_memsw_limit"),
        total_cache: raw("total_cache"),
        total_rss: raw("total_rss"),
        total_rss_huge: raw("total_rss_huge"),
        total_mapped_file: raw("total_mapped_file"),
        total_dirty: raw("total_dirty"),
        total_writeback: raw("total_writeback"),
        total_pg_pg_in: raw("total_pgpgin"),
        total_pg_pg_out: raw("total_pgpgout"),
        total_pg_fault: raw("total_pgfault"),
        total_pg_maj_fault: raw("total_pgmajfault"),
        total_inactive_anon: raw("total_inactive_anon"),
        total_active_anon: raw("total_active_anon"),
        total_inactive_file: raw("total_inactive_file"),
        total_active_file: raw("total_active_file"),
        total_unevictable: raw("total_unevictable"),
        usage: entry(&memory.usage),
        swap: entry(&memory.swap),
        kernel: entry(&memory.kernel),
        kernel_tcp: entry(&memory.kernel_tcp),
        ..Default::default()
    }
}
