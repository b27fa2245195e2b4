//! Processor affinity of executed processes: `process.execCPUAffinity`.

use crate::error::{Context as _, Error, ErrorKind, Result};
use oci_spec::runtime::Process;
use rustix::thread::{CpuSet, sched_setaffinity};

/// The processors of a process before and after it is moved to its cgroup.
#[derive(Debug, Default)]
pub struct Plan {
    /// Before.
    pub initial: Option<CpuSet>,
    /// After.
    pub after: Option<CpuSet>,
}

impl Plan {
    /// Reads the process object.
    pub fn new(process: &Process) -> Result<Self> {
        let Some(affinity) = process.exec_cpu_affinity() else { return Ok(Self::default()) };
        let set =
            |list: &Option<String>| list.as_deref().filter(|list| !list.is_empty()).map(parse).transpose();
        Ok(Self { initial: set(affinity.initial())?, after: set(affinity.cpu_affinity_final())? })
    }
}

/// Parses a list as in `0-3,7`.
fn parse(list: &str) -> Result<CpuSet> {
    let wrong =
        || Error::new(ErrorKind::InvalidBundle, format!("process.execCPUAffinity: invalid list '{list}'"));
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n < CpuSet::MAX_CPU);
    let mut set = CpuSet::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first).ok_or_else(wrong)?, number(last).ok_or_else(wrong)?);
        if first > last {
            return Err(wrong());
        }
        (first..=last).for_each(|cpu| set.set(cpu));
    }
    Ok(set)
}

/// Moves the calling process to these processors.
pub fn apply(set: Option<&CpuSet>) -> Result<()> {
    match set {
        Some(set) => sched_setaffinity(None, set).context(|| "error setting CPU affinity"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_understood_and_nonsense_is_not() {
        let set = parse("0-2,5").unwrap();
        assert_eq!((0..8).filter(|cpu| set.is_set(*cpu)).collect::<Vec<_>>(), [0, 1, 2, 5]);
        for wrong in ["", "a", "3-1", "0-", "999999"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
