//! Properties of units, and which of them follow from the resources of a container: pure functions.
//!
//! The limits are written to the cgroup's files too. systemd must know them, for it sets again what it knows when its
//! configuration is reloaded.

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::cgroups::host::Version;
use crate::runtime::cgroups::plan::{Setting, io_weight, plan_v2};
use oci_spec::runtime::{LinuxCpu, LinuxResources};
use rustbus::params::{Base, Container, Param};

/// A value of D-Bus.
pub type Value = Param<'static, 'static>;

/// systemd's word for no limit.
const INFINITY: u64 = u64::MAX;
/// Default period of the processor quota in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;
/// systemd counts the processor quota in steps of this, in microseconds in a second.
const QUOTA_STEP: u64 = 10_000;

/// A property of a unit: a name of org.freedesktop.systemd1(5) and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Name.
    pub name: String,
    /// Value.
    pub value: Value,
}

impl Property {
    /// Name and value.
    pub fn new(name: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// An array; `of` is the signature of its elements.
pub fn array(of: &str, values: Vec<Value>) -> Result<Value> {
    let invalid = |e| Error::new(ErrorKind::InvalidBundle, format!("not an array of '{of}': {e:?}"));
    Ok(Param::Container(Container::make_array(of, values.into_iter()).map_err(invalid)?))
}

/// A text.
pub fn text(text: impl Into<String>) -> Value {
    Param::Base(Base::String(text.into()))
}

/// A number of type `t`.
fn number(value: u64) -> Value {
    Param::Base(Base::Uint64(value))
}

/// What a unit gets when it is made; `pid` is the first process of a scope.
pub fn of_unit(
    id: &str,
    slice: &str,
    unit: &str,
    pid: Option<i32>,
    version: Version,
) -> Result<Vec<Property>> {
    let yes = || Param::Base(Base::Boolean(true));
    let is_slice = unit.ends_with(".slice");
    let what = if is_slice { "slice" } else { "container" };
    // What has failed is forgotten as what has ended: nobody is going to ask systemd for it.
    let mut all = vec![
        Property::new("Description", text(format!("magikrun {what} {id}"))),
        Property::new("CollectMode", text("inactive-or-failed")),
    ];
    if is_slice {
        all.push(Property::new("Wants", array("s", vec![text(slice)])?));
    } else {
        let pids = pid.iter().map(|pid| Param::Base(Base::Uint32(pid.unsigned_abs()))).collect();
        all.push(Property::new("Slice", text(slice)));
        all.push(Property::new("Delegate", yes()));
        all.push(Property::new("PIDs", array("u", pids)?));
    }
    let io = if version == Version::V1 { "BlockIOAccounting" } else { "IOAccounting" };
    for name in ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"] {
        all.push(Property::new(name, yes()));
    }
    all.push(Property::new("DefaultDependencies", Param::Base(Base::Boolean(false))));
    Ok(all)
}

/// What follows from resources. What systemd has no property for is left to the files.
pub fn of_resources(resources: &LinuxResources, version: Version) -> Result<Vec<Property>> {
    let mut all = resources.cpu().as_ref().map(quota).unwrap_or_default();
    match version {
        Version::V1 => {
            let shares = resources.cpu().as_ref().and_then(LinuxCpu::shares).filter(|shares| *shares != 0);
            all.extend(shares.map(|shares| Property::new("CPUShares", number(shares))));
            let limit = resources
                .memory()
                .as_ref()
                .and_then(oci_spec::runtime::LinuxMemory::limit)
                .filter(|limit| *limit != 0);
            all.extend(limit.map(|limit| Property::new("MemoryLimit", number(bytes(limit)))));
            let weight = resources
                .block_io()
                .as_ref()
                .and_then(oci_spec::runtime::LinuxBlockIo::weight)
                .filter(|weight| *weight != 0);
            all.extend(weight.map(|weight| Property::new("BlockIOWeight", number(weight.into()))));
            let pids = resources
                .pids()
                .as_ref()
                .map(oci_spec::runtime::LinuxPids::limit)
                .filter(|limit| *limit != 0);
            all.extend(pids.map(|limit| Property::new("TasksMax", number(bytes(limit)))));
        }
        Version::V2 => {
            for setting in plan_v2(resources)? {
                all.extend(of_setting(&setting)?);
            }
            let weight = resources
                .block_io()
                .as_ref()
                .and_then(oci_spec::runtime::LinuxBlockIo::weight)
                .filter(|weight| *weight != 0);
            all.extend(weight.map(|weight| Property::new("IOWeight", number(io_weight(weight)))));
        }
    }
    Ok(all)
}

fn bytes(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(INFINITY)
}

/// The property of a file of cgroup v2; none where systemd has none, or where the quota has said it.
fn of_setting(setting: &Setting) -> Result<Option<Property>> {
    let name = match setting.file.as_str() {
        "cpu.weight" => "CPUWeight",
        "memory.min" => "MemoryMin",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        "cpuset.cpus" => return bits(&setting.value).map(|bits| Some(Property::new("AllowedCPUs", bits))),
        "cpuset.mems" => {
            return bits(&setting.value).map(|bits| Some(Property::new("AllowedMemoryNodes", bits)));
        }
        _ => return Ok(None),
    };
    let value = match setting.value.trim() {
        "max" => Some(INFINITY),
        // A unit such as in `1G` is the kernel's business.
        other => other.parse().ok(),
    };
    Ok(value.map(|value| Property::new(name, number(value))))
}

fn quota(cpu: &LinuxCpu) -> Vec<Property> {
    let (quota, period) =
        (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period != 0));
    let mut all: Vec<_> =
        period.iter().map(|period| Property::new("CPUQuotaPeriodUSec", number(*period))).collect();
    if quota.is_some() || period.is_some() {
        let per_second = match quota {
            Some(quota @ 1..) => {
                let exact = quota.unsigned_abs().saturating_mul(1_000_000) / period.unwrap_or(DEFAULT_PERIOD);
                exact.div_ceil(QUOTA_STEP) * QUOTA_STEP
            }
            _ => INFINITY,
        };
        all.push(Property::new("CPUQuotaPerSecUSec", number(per_second)));
    }
    all
}

/// A list as in `0-2,5` as bits, the least significant byte first.
fn bits(list: &str) -> Result<Value> {
    let invalid = || Error::new(ErrorKind::InvalidBundle, format!("'{list}' is no list of numbers"));
    let mut bits = vec![0u8];
    for part in list.split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let (first, last): (u16, u16) =
            (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?);
        for number in first..=last {
            let at = usize::from(number / 8);
            bits.resize(bits.len().max(at + 1), 0);
            bits[at] |= 1 << (number % 8);
        }
    }
    array("y", bits.into_iter().map(|byte| Param::Base(Base::Byte(byte))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(resources: serde_json::Value, version: Version) -> Vec<String> {
        let resources = serde_json::from_value(resources).unwrap();
        let show = |property: &Property| match &property.value {
            Param::Base(Base::Uint64(INFINITY)) => format!("{}=infinity", property.name),
            Param::Base(Base::Uint64(value)) => format!("{}={value}", property.name),
            other => format!("{}={}", property.name, other.as_slice().map_or(0, <[_]>::len)),
        };
        of_resources(&resources, version).unwrap().iter().map(show).collect()
    }

    #[test]
    fn limits_become_properties() {
        let limits = json!({
            "cpu": {"shares": 1024, "quota": 25_500, "period": 50_000, "cpus": "0-1,9"},
            "memory": {"limit": 1000, "swap": 3000, "reservation": 500},
            "pids": {"limit": -1},
            "blockIO": {"weight": 1000},
            "unified": {"memory.high": "900", "memory.oom.group": "1"},
        });
        assert_eq!(
            shown(limits.clone(), Version::V2),
            [
                "CPUQuotaPeriodUSec=50000",
                "CPUQuotaPerSecUSec=510000",
                "CPUWeight=100",
                "AllowedCPUs=2",
                "MemorySwapMax=2000",
                "MemoryMax=1000",
                "MemoryLow=500",
                "TasksMax=infinity",
                "MemoryHigh=900",
                "IOWeight=10000",
            ]
        );
        assert_eq!(
            shown(limits, Version::V1),
            [
                "CPUQuotaPeriodUSec=50000",
                "CPUQuotaPerSecUSec=510000",
                "CPUShares=1024",
                "MemoryLimit=1000",
                "BlockIOWeight=1000",
                "TasksMax=infinity",
            ]
        );
    }

    #[test]
    fn the_quota_is_rounded_up_to_what_systemd_can_count() {
        let quota = |quota: i64| shown(json!({"cpu": {"quota": quota}}), Version::V2);
        assert_eq!(quota(-1), ["CPUQuotaPerSecUSec=infinity"]);
        assert_eq!(quota(50_001), ["CPUQuotaPerSecUSec=510000"]);
        assert_eq!(shown(json!({"cpu": {}}), Version::V2), [""; 0]);
    }

    #[test]
    fn lists_become_bits() {
        let bytes = |list| bits(list).map(|value| format!("{value:?}"));
        assert!(bytes("0-1,9").unwrap().contains("Byte(3)), Base(Byte(2))"));
        assert!(bytes("x").is_err());
    }
}
