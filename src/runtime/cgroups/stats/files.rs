//! Files of a cgroup, as both versions have them.

use super::{Pids, Pressure, Psi, Rdma, RdmaEntry, Usage};
use crate::runtime::cgroups::fs;
use std::collections::BTreeMap;
use std::path::Path;

/// A cgroup whose files are numbers, lists of names and numbers, or missing.
pub struct Directory<'a>(pub &'a Path);

impl Directory<'_> {
    /// All of a file; nothing where it is missing.
    pub fn text(&self, file: &str) -> String {
        fs::read(&self.0.join(file)).unwrap_or_default()
    }

    /// Whether the kernel has a file.
    pub fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    /// A number; `max` is the largest.
    pub fn number(&self, file: &str) -> u64 {
        number(&self.text(file))
    }

    /// Lines of a name and a number.
    pub fn pairs(&self, file: &str) -> BTreeMap<String, u64> {
        let text = self.text(file);
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, n)| (name.to_owned(), number(n)))
            .collect()
    }

    /// Four files of version 2, of which a resource may not have all.
    pub fn v2_usage(&self, prefix: &str) -> Usage {
        Usage {
            limit: self.number(&format!("{prefix}.max")),
            usage: self.number(&format!("{prefix}.current")),
            max: self.number(&format!("{prefix}.peak")),
            failcnt: self.pairs(&format!("{prefix}.events")).get("max").copied().unwrap_or(0),
        }
    }

    /// Pressure; nothing where the kernel does not measure it.
    pub fn pressure(&self, file: &str) -> Option<Psi> {
        let text = self.text(file);
        let line = |kind: &str| text.lines().find_map(|line| line.strip_prefix(kind)).map(pressure);
        // Not everything has a line for all processes.
        Some(Psi { some: line("some ")?, full: line("full ").unwrap_or_default() })
    }

    /// Four files of version 1.
    pub fn v1_usage(&self, prefix: &str) -> Usage {
        Usage {
            limit: self.number(&format!("{prefix}.limit_in_bytes")),
            usage: self.number(&format!("{prefix}.usage_in_bytes")),
            max: self.number(&format!("{prefix}.max_usage_in_bytes")),
            failcnt: self.number(&format!("{prefix}.failcnt")),
        }
    }
}

/// A number; `max` is the largest.
pub fn number(text: &str) -> u64 {
    if text.trim() == "max" { u64::MAX } else { text.trim().parse().unwrap_or(0) }
}

/// Numbers of a list as in `0-2,5`.
pub fn list(text: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// How many processes there are; without a limit it is 0.
pub fn pids(directory: &Directory<'_>) -> Pids {
    let limit = directory.number("pids.max");
    Pids { current: directory.number("pids.current"), limit: if limit == u64::MAX { 0 } else { limit } }
}

/// The rest of a line as in `some avg10=0.05 avg60=0.24 avg300=1.78 total=1129`.
fn pressure(values: &str) -> Pressure {
    let value = |name: &str| values.split(' ').find_map(|value| value.strip_prefix(name));
    let average = |name: &str| value(name).and_then(|text| text.parse().ok()).unwrap_or(0.0);
    Pressure {
        avg10: average("avg10="),
        avg60: average("avg60="),
        avg300: average("avg300="),
        total: value("total=").map_or(0, number),
    }
}

/// RDMA devices.
pub fn rdma(directory: &Directory<'_>) -> Rdma {
    let entries = |file: &str| directory.text(file).lines().filter_map(rdma_entry).collect();
    Rdma { current: entries("rdma.current"), limit: entries("rdma.max") }
}

/// A line as in `mlx4_0 hca_handle=2 hca_object=max`.
fn rdma_entry(line: &str) -> Option<RdmaEntry> {
    let (device, values) = line.split_once(' ')?;
    let value = |name: &str| {
        let text = values.split(' ').find_map(|value| value.strip_prefix(name));
        u32::try_from(text.map_or(0, number)).unwrap_or(u32::MAX)
    };
    let (hca_handles, hca_objects) = (value("hca_handle="), value("hca_object="));
    Some(RdmaEntry { device: device.to_owned(), hca_handles, hca_objects })
}

/// Huge pages, by their size: of each that has a file for its limit.
pub fn hugetlb(
    directory: &Directory<'_>,
    limit: &str,
    usage: impl Fn(&str) -> Usage,
) -> BTreeMap<String, Usage> {
    let entries = std::fs::read_dir(directory.0).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_prefix("hugetlb.")?.strip_suffix(&format!(".{limit}"))?.to_owned())
    });
    sizes
        .filter(|size| !size.contains('.'))
        .map(|size| {
            let usage = usage(&format!("hugetlb.{size}"));
            (size, usage)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lists_are_understood() {
        assert_eq!(list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(list(""), [0u32; 0]);
        assert_eq!(number("max"), u64::MAX);
    }

    #[test]
    fn pressure_is_read_where_it_is_measured() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cpu.pressure");
        let pressure = || Directory(directory.path()).pressure("cpu.pressure");
        assert_eq!(pressure(), None);
        let some = "some avg10=0.05 avg60=1.24 avg300=12.00 total=11292636339\n";
        std::fs::write(&file, some).unwrap();
        let expected = Pressure { avg10: 0.05, avg60: 1.24, avg300: 12.0, total: 11_292_636_339 };
        assert_eq!(pressure(), Some(Psi { some: expected, full: Pressure::default() }));
        std::fs::write(&file, format!("{some}full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")).unwrap();
        assert_eq!(pressure().map(|psi| (psi.some.total, psi.full.total)), Some((11_292_636_339, 7)));
    }

    #[test]
    fn rdma_devices_are_understood() {
        let entry = |device: &str, hca_handles, hca_objects| {
            Some(RdmaEntry { device: device.to_owned(), hca_handles, hca_objects })
        };
        assert_eq!(rdma_entry("mlx4_0 hca_handle=2 hca_object=2000"), entry("mlx4_0", 2, 2000));
        assert_eq!(rdma_entry("ocrdma1 hca_handle=3 hca_object=max"), entry("ocrdma1", 3, u32::MAX));
        assert_eq!(rdma_entry(""), None);
    }
}
