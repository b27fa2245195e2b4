//! Documents as the runtime prints them, of each version, of a microVM, and as runc prints them.

use super::*;
use containerd_shim_protos::protobuf::Message as _;

const V1: &str = r#"{"type": "stats", "id": "box", "data": {
    "cpu": {"usage": {"total": 3000, "percpu": [1, 2], "kernel": 1000, "user": 2000},
            "throttling": {"periods": 4, "throttledPeriods": 5, "throttledTime": 6000}, "burst": {"periods": 0, "time": 0}},
    "cpuset": {"cpus": [0, 1], "mems": [0]},
    "memory": {"cache": 7, "usage": {"limit": 8, "usage": 9, "max": 10, "failcnt": 11},
               "swap": {"limit": 18, "usage": 29, "max": 30, "failcnt": 31},
               "kernel": {"limit": 32, "usage": 33, "max": 34, "failcnt": 35},
               "kernelTCP": {"limit": 36, "usage": 37, "max": 38, "failcnt": 39},
               "raw": {"cache": 7, "rss": 40, "hierarchical_memory_limit": 8, "hierarchical_memsw_limit": 18,
                       "inactive_file": 13, "total_inactive_file": 12, "total_rss": 41, "total_pgmajfault": 42},
               "oomControl": {"oom_kill_disable": 1, "under_oom": 0, "oom_kill": 3}},
    "pids": {"current": 15, "limit": 16},
    "blkio": {"ioMergedRecursive": [{"major": 8, "minor": 0, "op": "Read", "value": 1}],
              "ioQueueRecursive": [{"major": 8, "minor": 0, "op": "Read", "value": 2}],
              "ioServiceBytesRecursive": [{"major": 8, "minor": 1, "op": "Read", "value": 17}],
              "ioServiceTimeRecursive": [{"major": 8, "minor": 0, "op": "Read", "value": 3}],
              "ioServicedRecursive": [{"major": 254, "minor": 0, "op": "Write", "value": 4}],
              "ioTimeRecursive": [{"major": 8, "minor": 0, "op": "", "value": 5}],
              "ioWaitTimeRecursive": [{"major": 8, "minor": 0, "op": "Read", "value": 6}],
              "sectorsRecursive": [{"major": 8, "minor": 0, "op": "", "value": 7}]},
    "hugetlb": {"1GB": {"limit": 1, "usage": 0, "max": 0, "failcnt": 0}, "2MB": {"limit": 1, "usage": 19, "max": 20, "failcnt": 21}},
    "rdma": {"current": [{"device": "mlx4_0", "hca_handles": 2, "hca_objects": 2000}],
             "limit": [{"device": "mlx4_0", "hca_handles": 4294967295, "hca_objects": 3000}]},
    "intel_rdt": {}, "network_interfaces": null}}"#;

const V2: &str = r#"{"type": "stats", "id": "box", "data": {
    "cpu": {"usage": {"total": 3000, "kernel": 1000, "user": 2000},
            "throttling": {"periods": 4, "throttledPeriods": 5, "throttledTime": 6000}, "burst": {"periods": 7, "time": 8000},
            "psi": {"some": {"avg10": 1.5, "avg60": 0.24, "avg300": 0.0, "total": 9},
                    "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 1}}},
    "memory": {"cache": 7, "usage": {"limit": 18446744073709551615, "usage": 9, "max": 10, "failcnt": 0},
               "swap": {"limit": 18446744073709551615, "usage": 29, "max": 0, "failcnt": 0},
               "raw": {"anon": 14, "inactive_file": 13, "workingset_refault_anon": 1, "workingset_refault_file": 2},
               "psi": {"some": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.5, "total": 10},
                       "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 2}},
               "swapOnly": {"limit": 100, "usage": 20, "max": 50, "failcnt": 0},
               "events": {"low": 1, "high": 2, "max": 3, "oom": 4, "oom_kill": 5, "oom_group_kill": 6}},
    "pids": {"current": 15, "limit": 16},
    "blkio": {"ioServiceBytesRecursive": [{"major": 8, "minor": 1, "op": "Read", "value": 17},
                                          {"major": 8, "minor": 1, "op": "Write", "value": 18}],
              "ioServicedRecursive": [{"major": 8, "minor": 1, "op": "Read", "value": 1},
                                      {"major": 8, "minor": 1, "op": "Write", "value": 2}],
              "psi": {"some": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 11},
                      "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 3}}},
    "hugetlb": {"2MB": {"limit": 21, "usage": 19, "max": 0, "failcnt": 22}},
    "rdma": {"current": [{"device": "mlx4_0", "hca_handles": 2, "hca_objects": 2000}], "limit": []}}}"#;

fn stats(text: &str) -> Stats {
    serde_json::from_str::<Event>(text).unwrap().data
}

fn v1(text: &str) -> containerd_shim_protos::cgroups::metrics::Metrics {
    let partitions =
        "major minor  #blocks  name\n\n   8        0  143374650 sda\n   8        1  143373633 sda1\n";
    v1::metrics(stats(text), &v1::devices(partitions))
}

#[test]
fn statistics_become_the_message_of_version_1() {
    let metrics = v1(V1);
    assert_eq!(metrics.cpu.usage.total, 3000);
    assert_eq!(metrics.cpu.throttling.throttled_time, 6000);
    let memory = &metrics.memory;
    let entry = |entry: &containerd_shim_protos::cgroups::metrics::MemoryEntry| {
        [entry.limit, entry.usage, entry.max, entry.failcnt]
    };
    assert_eq!((entry(&memory.usage), entry(&memory.swap)), ([8, 9, 10, 11], [18, 29, 30, 31]));
    assert_eq!((entry(&memory.kernel), entry(&memory.kernel_tcp)), ([32, 33, 34, 35], [36, 37, 38, 39]));
    assert_eq!((memory.hierarchical_memory_limit, memory.hierarchical_swap_limit), (8, 18));
    assert_eq!((memory.rss, memory.total_rss, memory.total_pg_maj_fault), (40, 41, 42));
    assert_eq!((memory.inactive_file, memory.total_inactive_file), (13, 12));
    let control = &metrics.memory_oom_control;
    assert_eq!((control.oom_kill_disable, control.under_oom, control.oom_kill), (1, 0, 3));
    assert_eq!((metrics.pids.current, metrics.pids.limit), (15, 16));
    let pages: Vec<_> =
        metrics.hugetlb.iter().map(|it| (&*it.pagesize, it.usage, it.max, it.failcnt)).collect();
    assert_eq!(pages, [("1GB", 0, 0, 0), ("2MB", 19, 20, 21)]);
    let (current, limit) = (&metrics.rdma.current[0], &metrics.rdma.limit[0]);
    assert_eq!((&*current.device, current.hca_handles, current.hca_objects), ("mlx4_0", 2, 2000));
    assert_eq!((&*limit.device, limit.hca_handles, limit.hca_objects), ("mlx4_0", u32::MAX, 3000));
}

#[test]
fn all_lists_of_version_1_name_their_devices() {
    let blkio = v1(V1).blkio;
    let (bytes, served) = (&blkio.io_service_bytes_recursive[0], &blkio.io_serviced_recursive[0]);
    assert_eq!((&*bytes.device, &*bytes.op, bytes.value), ("/dev/sda1", "Read", 17));
    // One that is not there any more.
    assert_eq!((&*served.device, served.major, served.value), ("", 254, 4));
    let lists = [
        &blkio.io_merged_recursive,
        &blkio.io_queued_recursive,
        &blkio.io_service_time_recursive,
        &blkio.io_time_recursive,
        &blkio.io_wait_time_recursive,
        &blkio.sectors_recursive,
    ];
    let values: Vec<_> = lists.iter().map(|list| (&*list[0].device, list[0].value)).collect();
    assert_eq!(values, [1, 2, 3, 5, 6, 7].map(|value| ("/dev/sda", value)));
}

#[test]
fn statistics_become_the_message_of_version_2() {
    let metrics = v2::metrics(stats(V2));
    let cpu = &metrics.cpu;
    assert_eq!((cpu.usage_usec, cpu.throttled_usec, cpu.nr_bursts, cpu.burst_usec), (3, 6, 7, 8));
    assert_eq!((cpu.psi.some.avg10, cpu.psi.some.avg60, cpu.psi.some.total), (1.5, 0.24, 9));
    let memory = &metrics.memory;
    assert_eq!((memory.usage, memory.usage_limit, memory.max_usage), (9, u64::MAX, 10));
    assert_eq!((memory.inactive_file, memory.anon, memory.workingset_refault), (13, 14, 2));
    assert_eq!((memory.swap_usage, memory.swap_limit, memory.swap_max_usage), (20, 100, 50));
    assert_eq!((memory.psi.some.avg300, memory.psi.some.total, memory.psi.full.total), (0.5, 10, 2));
    let events = &metrics.memory_events;
    assert_eq!((events.low, events.high, events.max), (1, 2, 3));
    assert_eq!((events.oom, events.oom_kill, events.oom_group_kill), (4, 5, 6));
    let io = &metrics.io.usage[0];
    assert_eq!((io.major, io.minor, io.rbytes, io.wbytes, io.rios, io.wios), (8, 1, 17, 18, 1, 2));
    assert_eq!((metrics.io.psi.some.total, metrics.io.psi.full.total), (11, 3));
    let pages = &metrics.hugetlb[0];
    assert_eq!((&*pages.pagesize, pages.current, pages.max, pages.failcnt), ("2MB", 19, 21, 22));
    assert_eq!((metrics.rdma.current[0].hca_objects, metrics.rdma.limit.len()), (2000, 0));
}

#[test]
fn a_guest_tells_of_version_2_on_every_host() {
    let metrics = v1(V2);
    assert_eq!(metrics.memory_oom_control.oom_kill, 5);
    assert_eq!((metrics.memory.rss, metrics.memory.total_inactive_file), (14, 13));
}

#[test]
fn what_runc_prints_is_enough() {
    let text = r#"{"data": {"memory": {"usage": {"limit": 8, "usage": 9, "failcnt": 0}, "swap": {"limit": 18, "usage": 29, "failcnt": 0}}}}"#;
    let metrics = v2::metrics(stats(text));
    assert_eq!((metrics.memory.swap_usage, metrics.memory.swap_limit), (20, 10));
    assert!(metrics.memory_events.is_none() && metrics.cpu.psi.is_none());
    assert_eq!(metrics.pids.limit, u64::MAX);
    assert_eq!(v1(r#"{"data": {}}"#).pids.current, 0);
}

#[test]
fn the_message_is_of_the_version_of_this_host() {
    let any = from_runtime(V2).unwrap();
    let kills = if cgroup::is_unified() {
        let message = containerd_shim_protos::cgroups_v2::metrics::Metrics::parse_from_bytes(&any.value);
        message.unwrap().memory_events.oom_kill
    } else {
        let message = containerd_shim_protos::cgroups::metrics::Metrics::parse_from_bytes(&any.value);
        message.unwrap().memory_oom_control.oom_kill
    };
    assert_eq!(kills, 5, "{}", any.type_url);
}
