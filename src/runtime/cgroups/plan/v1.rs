//! cgroup v1: Linux, `Documentation/admin-guide/cgroup-v1`.

use super::{OnFailure, Setting, Throttles, check_memory, invalid, pids, rdma};
use crate::error::Result;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

/// The writes for these resources, in order.
pub fn plan(resources: &LinuxResources) -> Result<Vec<Setting>> {
    if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
        return Err(invalid("invalid configuration: cannot use unified on cgroup v1".to_owned()));
    }
    let mut plan = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut plan);
    }
    if let Some(memory) = resources.memory() {
        memory_settings(memory, &mut plan)?;
    }
    plan.extend(pids(resources));
    if let Some(io) = resources.block_io() {
        io_settings(io, &mut plan);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        plan.push(Setting::new("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), limit.limit()));
        plan.push(
            Setting::new("hugetlb", format!("hugetlb.{size}.rsvd.limit_in_bytes"), limit.limit())
                .on_failure(OnFailure::IgnoreMissing),
        );
    }
    if let Some(network) = resources.network() {
        if let Some(id) = network.class_id() {
            plan.push(Setting::new("net_cls", "net_cls.classid", id));
        }
        for priority in network.priorities().iter().flatten() {
            let line = format!("{} {}", priority.name(), priority.priority());
            plan.push(Setting::new("net_prio", "net_prio.ifpriomap", line));
        }
    }
    if let Some(limits) = resources.rdma() {
        plan.extend(rdma(limits));
    }
    Ok(plan)
}

fn cpu_settings(cpu: &LinuxCpu, plan: &mut Vec<Setting>) {
    let mut add = |controller, file: &str, value: Option<String>, on_failure| {
        plan.extend(value.map(|value| Setting::new(controller, file, value).on_failure(on_failure)));
    };
    let text = |value: Option<u64>| value.filter(|v| *v != 0).map(|v| v.to_string());
    let signed = |value: Option<i64>| value.filter(|v| *v != 0).map(|v| v.to_string());
    add("cpu", "cpu.shares", text(cpu.shares()), OnFailure::Fail);
    // Period, quota and burst must fit each other at every moment; which order works depends on the old values.
    add("cpu", "cpu.cfs_burst_us", cpu.burst().map(|b| b.to_string()), OnFailure::RetryLast);
    add("cpu", "cpu.cfs_period_us", text(cpu.period()), OnFailure::RetryLast);
    add("cpu", "cpu.cfs_quota_us", signed(cpu.quota()), OnFailure::RetryLast);
    add("cpu", "cpu.rt_period_us", text(cpu.realtime_period()), OnFailure::RetryLast);
    add("cpu", "cpu.rt_runtime_us", signed(cpu.realtime_runtime()), OnFailure::RetryLast);
    add("cpu", "cpu.idle", cpu.idle().map(|i| i.to_string()), OnFailure::Fail);
    let list = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
    add("cpuset", "cpuset.cpus", list(cpu.cpus()), OnFailure::Fail);
    add("cpuset", "cpuset.mems", list(cpu.mems()), OnFailure::Fail);
}

fn memory_settings(memory: &LinuxMemory, plan: &mut Vec<Setting>) -> Result<()> {
    check_memory(memory)?;
    let mut add = |file: &str, value: Option<i64>, on_failure| {
        let value = value.filter(|v| *v != 0);
        plan.extend(value.map(|value| Setting::new("memory", file, value).on_failure(on_failure)));
    };
    // Without a memory limit there is nothing left for a limit of memory and swap together.
    let swap = memory.swap().or((memory.limit() == Some(-1)).then_some(-1));
    // Each must not exceed the other at any moment, so which goes first depends on the old values.
    add("memory.limit_in_bytes", memory.limit(), OnFailure::RetryLast);
    let missing = if memory.swap().is_none() { OnFailure::IgnoreMissing } else { OnFailure::RetryLast };
    add("memory.memsw.limit_in_bytes", swap, missing);
    add("memory.soft_limit_in_bytes", memory.reservation(), OnFailure::Fail);
    add("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp(), OnFailure::Fail);
    if memory.disable_oom_killer() == Some(true) {
        plan.push(Setting::new("memory", "memory.oom_control", 1));
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(invalid(format!(
                "invalid memory swappiness value: {swappiness} (valid range is 0-100)"
            )));
        }
        plan.push(Setting::new("memory", "memory.swappiness", swappiness));
    }
    if memory.use_hierarchy() == Some(true) {
        plan.push(Setting::new("memory", "memory.use_hierarchy", 1).on_failure(OnFailure::IgnoreMissing));
    }
    Ok(())
}

fn io_settings(io: &LinuxBlockIo, plan: &mut Vec<Setting>) {
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        plan.push(Setting::new("blkio", "blkio.weight", weight));
    }
    if let Some(weight) = io.leaf_weight().filter(|w| *w != 0) {
        plan.push(Setting::new("blkio", "blkio.leaf_weight", weight));
    }
    for device in io.weight_device().iter().flatten() {
        let id = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|w| *w != 0) {
            plan.push(Setting::new("blkio", "blkio.weight_device", format!("{id} {weight}")));
        }
        if let Some(weight) = device.leaf_weight().filter(|w| *w != 0) {
            plan.push(Setting::new("blkio", "blkio.leaf_weight_device", format!("{id} {weight}")));
        }
    }
    for (name, major, minor, rate) in Throttles(io).all() {
        let file = match name {
            "rbps" => "blkio.throttle.read_bps_device",
            "wbps" => "blkio.throttle.write_bps_device",
            "riops" => "blkio.throttle.read_iops_device",
            _ => "blkio.throttle.write_iops_device",
        };
        plan.push(Setting::new("blkio", file, format!("{major}:{minor} {rate}")));
    }
}

#[cfg(test)]
mod tests {
    use super::super::shown;
    use super::*;
    use serde_json::json;

    fn plan_of(resources: serde_json::Value) -> Result<Vec<Setting>> {
        plan(&serde_json::from_value(resources).unwrap())
    }

    #[test]
    fn resources_become_files() {
        let plan = plan_of(json!({
            "cpu": {"shares": 512, "quota": 50000, "period": 100_000, "cpus": "0", "mems": ""},
            "memory": {"limit": 1000, "swap": 2000, "reservation": 0},
            "pids": {"limit": -1},
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
        }));
        assert_eq!(
            shown(&plan.unwrap()),
            [
                "cpu.shares=512",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpuset.cpus=0",
                "memory.limit_in_bytes=1000",
                "memory.memsw.limit_in_bytes=2000",
                "pids.max=max",
                "blkio.throttle.read_bps_device=8:0 5",
                "hugetlb.2MB.limit_in_bytes=9",
                "hugetlb.2MB.rsvd.limit_in_bytes=9",
            ]
        );
    }

    #[test]
    fn contradictions_are_refused() {
        for (wrong, word) in [
            (json!({"memory": {"limit": 10, "swap": 5}}), "memory+swap limit should be >= memory limit"),
            (json!({"memory": {"limit": 10, "reservation": 50}}), "reservation"),
            (json!({"memory": {"swappiness": 101}}), "swappiness"),
            (json!({"unified": {"memory.high": "1"}}), "unified"),
        ] {
            let e = plan_of(wrong).unwrap_err();
            assert!(e.message().contains(word), "{e}");
        }
    }
}
