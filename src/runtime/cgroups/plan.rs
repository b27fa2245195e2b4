//! From the configuration's resources to files of the cgroup file system: pure functions.

mod v1;
mod v2;

pub use v1::plan as plan_v1;
pub use v2::{io_weight, plan as plan_v2};

use crate::error::{Error, ErrorKind, Result};
use oci_spec::runtime::{LinuxMemory, LinuxResources};
use std::collections::HashMap;

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Controller that has the file.
    pub controller: &'static str,
    /// File name.
    pub file: String,
    /// What to write.
    pub value: String,
    /// What to do about a refusal.
    pub on_failure: OnFailure,
}

/// What a refused write means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The limit cannot be set: an error.
    Fail,
    /// The file may be missing: the kernel lacks the feature and the value asks for nothing.
    IgnoreMissing,
    /// Two settings that limit each other: write the others first and then this one again.
    RetryLast,
}

impl Setting {
    fn new(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Self {
        Self { controller, file: file.into(), value: value.to_string(), on_failure: OnFailure::Fail }
    }

    fn on_failure(self, on_failure: OnFailure) -> Self {
        Self { on_failure, ..self }
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidBundle, message)
}

/// `rbps`, `wbps`, `riops`, `wiops` lines of a device throttle.
struct Throttles<'a>(&'a oci_spec::runtime::LinuxBlockIo);

impl Throttles<'_> {
    /// `(name, major, minor, rate)` of every throttle.
    fn all(&self) -> Vec<(&'static str, i64, i64, u64)> {
        let lists = [
            ("rbps", self.0.throttle_read_bps_device()),
            ("wbps", self.0.throttle_write_bps_device()),
            ("riops", self.0.throttle_read_iops_device()),
            ("wiops", self.0.throttle_write_iops_device()),
        ];
        lists
            .into_iter()
            .flat_map(|(name, list)| {
                list.iter().flatten().map(move |t| (name, t.major(), t.minor(), t.rate()))
            })
            .collect()
    }
}

/// `hca_handle=..` of an RDMA device.
fn rdma(limits: &HashMap<String, oci_spec::runtime::LinuxRdma>) -> Vec<Setting> {
    limits
        .iter()
        .map(|(device, limit)| {
            let mut line = device.clone();
            if let Some(handles) = limit.hca_handles() {
                line.push_str(&format!(" hca_handle={handles}"));
            }
            if let Some(objects) = limit.hca_objects() {
                line.push_str(&format!(" hca_object={objects}"));
            }
            Setting::new("rdma", "rdma.max", line)
        })
        .collect()
}

/// Limits of memory that contradict each other.
fn check_memory(memory: &LinuxMemory) -> Result<()> {
    if let (Some(limit @ 1..), Some(reservation @ 1..)) = (memory.limit(), memory.reservation())
        && reservation > limit
    {
        return Err(invalid(format!(
            "linux.resources.memory: the reservation {reservation} is larger than the limit {limit}"
        )));
    }
    if let Some(limit @ 1..) = memory.limit()
        && let Some(swap @ 1..) = memory.swap()
        && swap < limit
    {
        return Err(invalid("memory+swap limit should be >= memory limit".to_owned()));
    }
    Ok(())
}

/// The pids limit: absent and 0 set nothing, negative is unlimited.
fn pids(resources: &LinuxResources) -> Option<Setting> {
    let limit = resources.pids().as_ref()?.limit();
    match limit {
        0 => None,
        1.. => Some(Setting::new("pids", "pids.max", limit)),
        _ => Some(Setting::new("pids", "pids.max", "max")),
    }
}

#[cfg(test)]
fn shown(settings: &[Setting]) -> Vec<String> {
    settings.iter().map(|s| format!("{}={}", s.file, s.value)).collect()
}
