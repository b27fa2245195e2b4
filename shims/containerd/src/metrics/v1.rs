//! The message for cgroups of version 1.

use super::{BlkioEntry, Memory, Stats, Usage};
use containerd_shim_protos::cgroups::metrics as proto;
use containerd_shim_protos::protobuf::MessageField;

/// The message with what the runtime knows.
pub fn metrics(stats: Stats) -> proto::Metrics {
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
    let blkio = proto::BlkIOStat {
        io_service_bytes_recursive: entries(stats.blkio.io_service_bytes_recursive),
        io_serviced_recursive: entries(stats.blkio.io_serviced_recursive),
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
        blkio: MessageField::some(blkio),
        ..Default::default()
    }
}

fn entries(entries: Vec<BlkioEntry>) -> Vec<proto::BlkIOEntry> {
    let entry = |entry: BlkioEntry| proto::BlkIOEntry {
        op: entry.op,
        major: entry.major,
        minor: entry.minor,
        value: entry.value,
        ..Default::default()
    };
    entries.into_iter().map(entry).collect()
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

fn memory(memory: &Memory) -> proto::MemoryStat {
    proto::MemoryStat {
        cache: memory.cache,
        rss: memory.raw("rss"),
        rss_huge: memory.raw("rss_huge"),
        mapped_file: memory.raw("mapped_file"),
        dirty: memory.raw("dirty"),
        writeback: memory.raw("writeback"),
        pg_pg_in: memory.raw("pgpgin"),
        pg_pg_out: memory.raw("pgpgout"),
        pg_fault: memory.raw("pgfault"),
        pg_maj_fault: memory.raw("pgmajfault"),
        inactive_anon: memory.raw("inactive_anon"),
        active_anon: memory.raw("active_anon"),
        inactive_file: memory.raw("inactive_file"),
        active_file: memory.raw("active_file"),
        unevictable: memory.raw("unevictable"),
        hierarchical_memory_limit: memory.raw("hierarchical_memory_limit"),
        hierarchical_swap_limit: memory.raw("hierarchical_memsw_limit"),
        total_cache: memory.raw("total_cache"),
        total_rss: memory.raw("total_rss"),
        total_rss_huge: memory.raw("total_rss_huge"),
        total_mapped_file: memory.raw("total_mapped_file"),
        total_dirty: memory.raw("total_dirty"),
        total_writeback: memory.raw("total_writeback"),
        total_pg_pg_in: memory.raw("total_pgpgin"),
        total_pg_pg_out: memory.raw("total_pgpgout"),
        total_pg_fault: memory.raw("total_pgfault"),
        total_pg_maj_fault: memory.raw("total_pgmajfault"),
        total_inactive_anon: memory.raw("total_inactive_anon"),
        total_active_anon: memory.raw("total_active_anon"),
        total_inactive_file: memory.raw("total_inactive_file"),
        total_active_file: memory.raw("total_active_file"),
        total_unevictable: memory.raw("total_unevictable"),
        usage: entry(&memory.usage),
        swap: entry(&memory.swap),
        kernel: entry(&memory.kernel),
        kernel_tcp: entry(&memory.kernel_tcp),
        ..Default::default()
    }
}
