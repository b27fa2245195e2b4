//! cgroup v2: Linux, `Documentation/admin-guide/cgroup-v2.rst`; conversions from v1 values as in the runtime specification's
//! ecosystem (runc, crun, systemd).

use super::{OnFailure, Setting, Throttles, check_memory, invalid, pids, rdma};
use crate::error::Result;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

/// Default period of `cpu.max` in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// Names of the controllers that have files starting with `NAME.`.
const CONTROLLERS: [&str; 8] = ["cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"];

/// The writes for these resources, in order.
pub fn plan(resources: &LinuxResources) -> Result<Vec<Setting>> {
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
        plan.push(Setting::new("hugetlb", format!("hugetlb.{size}.max"), limit.limit()));
        plan.push(
            Setting::new("hugetlb", format!("hugetlb.{size}.rsvd.max"), limit.limit())
                .on_failure(OnFailure::IgnoreMissing),
        );
    }
    if let Some(limits) = resources.rdma() {
        plan.extend(rdma(limits));
    }
    for (file, value) in resources.unified().iter().flatten() {
        plan.push(unified(file, value)?);
    }
    Ok(plan)
}

fn unified(file: &str, value: &str) -> Result<Setting> {
    if file.contains('/') {
        return Err(invalid(format!("linux.resources.unified: {file:?} must be a file name (no slashes)")));
    }
    let name = file.split_once('.').map(|(name, _)| name);
    // "cgroup.freeze" and the like belong to no controller.
    let controller = match name {
        Some("cgroup") => "",
        name => *CONTROLLERS
            .iter()
            .find(|c| Some(**c) == name)
            .ok_or_else(|| invalid(format!("linux.resources.unified: {file:?} is of no known controller")))?,
    };
    Ok(Setting::new(controller, file, value))
}

/// `cpu.weight` (1 to 10000, default 100) for `cpu.shares` (2 to 262144, default 1024): a curve through the three
/// pairs, so that the default of one is the default of the other (kubernetes KEP-2254, corrected in 2025).
fn weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

fn cpu_settings(cpu: &LinuxCpu, plan: &mut Vec<Setting>) {
    if let Some(idle) = cpu.idle() {
        plan.push(Setting::new("cpu", "cpu.idle", idle));
    }
    // An idle cgroup has no weight, and refuses one.
    if let Some(shares) = cpu.shares().filter(|s| *s != 0)
        && cpu.idle() != Some(1)
    {
        plan.push(Setting::new("cpu", "cpu.weight", weight(shares)));
    }
    if let Some(burst) = cpu.burst() {
        plan.push(Setting::new("cpu", "cpu.max.burst", burst).on_failure(OnFailure::RetryLast));
    }
    let (quota, period) = (cpu.quota().filter(|q| *q != 0), cpu.period().filter(|p| *p != 0));
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
        let line = format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD));
        plan.push(Setting::new("cpu", "cpu.max", line).on_failure(OnFailure::RetryLast));
    }
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            plan.push(Setting::new("cpuset", file, list));
        }
    }
}

fn memory_settings(memory: &LinuxMemory, plan: &mut Vec<Setting>) -> Result<()> {
    check_memory(memory)?;
    let bytes = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    if let Some(setting) = swap(memory)? {
        plan.push(setting);
    }
    if let Some(limit) = memory.limit().filter(|l| *l != 0) {
        plan.push(Setting::new("memory", "memory.max", bytes(limit)));
    }
    if let Some(reservation) = memory.reservation().filter(|r| *r != 0) {
        plan.push(Setting::new("memory", "memory.low", bytes(reservation)));
    }
    Ok(())
}

/// v1 limits memory and swap together, v2 swap alone.
fn swap(memory: &LinuxMemory) -> Result<Option<Setting>> {
    let limit = memory.limit().filter(|l| *l != 0);
    let setting = |value: String| Setting::new("memory", "memory.swap.max", value);
    match (memory.swap().filter(|s| *s != 0), limit) {
        (None, Some(-1)) | (Some(..=-1), _) => {
            Ok(Some(setting("max".to_owned()).on_failure(OnFailure::IgnoreMissing)))
        }
        (None, _) => Ok(None),
        (Some(_), None | Some(..=-1)) => {
            Err(invalid("unable to set swap limit without memory limit".to_owned()))
        }
        // A kernel without swap has no such file, and no swap is what is asked for.
        (Some(swap), Some(limit)) if swap == limit => {
            Ok(Some(setting("0".to_owned()).on_failure(OnFailure::IgnoreMissing)))
        }
        (Some(swap), Some(limit)) => Ok(Some(setting((swap - limit).to_string()))),
    }
}

/// `io.weight` (1 to 10000) for `blkio.weight` (10 to 1000).
pub fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight).saturating_sub(10) * 9999 / 990
}

fn io_settings(io: &LinuxBlockIo, plan: &mut Vec<Setting>) {
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        // Which of the two there is depends on the scheduler of the device.
        plan.push(Setting::new("io", "io.bfq.weight", weight).on_failure(OnFailure::IgnoreMissing));
        plan.push(
            Setting::new("io", "io.weight", format!("default {}", io_weight(weight)))
                .on_failure(OnFailure::IgnoreMissing),
        );
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|w| *w != 0) {
            let line = format!("{}:{} {weight}", device.major(), device.minor());
            plan.push(Setting::new("io", "io.bfq.weight", line));
        }
    }
    for (name, major, minor, rate) in Throttles(io).all() {
        let rate = if rate == 0 { "max".to_owned() } else { rate.to_string() };
        plan.push(Setting::new("io", "io.max", format!("{major}:{minor} {name}={rate}")));
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
            "cpu": {"shares": 1024, "quota": -1, "cpus": "0-1"},
            "memory": {"limit": 1000, "swap": 3000, "reservation": 500},
            "pids": {"limit": 7},
            "blockIO": {"weight": 500, "throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 5}]},
            "unified": {"memory.high": "900"},
        }));
        assert_eq!(
            shown(&plan.unwrap()),
            [
                "cpu.weight=100",
                "cpu.max=max 100000",
                "cpuset.cpus=0-1",
                "memory.swap.max=2000",
                "memory.max=1000",
                "memory.low=500",
                "pids.max=7",
                "io.bfq.weight=500",
                "io.weight=default 4950",
                "io.max=8:1 wiops=5",
                "memory.high=900",
            ]
        );
    }

    #[test]
    fn weights_follow_the_curve_at_its_three_points() {
        assert_eq!(
            [weight(2), weight(1024), weight(262_144), weight(1), weight(u64::MAX)],
            [1, 100, 10_000, 1, 10_000]
        );
        assert!((2..2000).all(|shares| weight(shares) <= weight(shares + 1)));
        assert_eq!([io_weight(10), io_weight(1000), io_weight(0)], [1, 10_000, 1]);
    }

    #[test]
    fn swap_is_what_is_left_of_both_together() {
        let of = |memory| plan_of(json!({ "memory": memory })).map(|plan| shown(&plan));
        assert_eq!(of(json!({"limit": -1})).unwrap(), ["memory.swap.max=max", "memory.max=max"]);
        assert_eq!(of(json!({"limit": 5, "swap": 5})).unwrap(), ["memory.swap.max=0", "memory.max=5"]);
        assert_eq!(of(json!({"swap": -1})).unwrap(), ["memory.swap.max=max"]);
        assert!(of(json!({"swap": 5})).is_err());
    }

    #[test]
    fn unified_names_a_file_of_a_controller() {
        assert!(plan_of(json!({"unified": {"../x": "1"}})).is_err());
        assert!(plan_of(json!({"unified": {"nonsense.max": "1"}})).is_err());
    }
}
