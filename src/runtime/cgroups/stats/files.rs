//! Files of a cgroup, as both versions have them.

use super::{Pids, Usage};
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

/// Huge pages, by their size.
pub fn hugetlb(directory: &Directory<'_>, limit: &str, usage: &str) -> BTreeMap<String, Usage> {
    let entries = std::fs::read_dir(directory.0).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_prefix("hugetlb.")?.strip_suffix(&format!(".{limit}"))?.to_owned())
    });
    sizes
        .filter(|size| !size.contains('.'))
        .map(|size| {
            let file = |name: &str| directory.number(&format!("hugetlb.{size}.{name}"));
            let usage = Usage { limit: file(limit), usage: file(usage), ..Usage::default() };
            (size.clone(), usage)
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
}
