//! What passt needs to pass pings on: sockets that the kernel gives to few groups.

use super::process::group;
use crate::error::{Context as _, Result};

/// The groups that may make sockets of ICMP in this network namespace, see icmp(7); in a new one there are none.
const GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

/// Lets passt make sockets for pings in the network namespace of this process.
pub fn allow_ping() -> Result<()> {
    let cannot = || format!("cannot let passt pass pings on: cannot set '{GROUPS}'");
    match widened(&std::fs::read_to_string(GROUPS).context(cannot)?, group()) {
        Some(range) => std::fs::write(GROUPS, range).context(cannot),
        None => Ok(()),
    }
}

/// The range with a group; none where it is in it. In an empty range the first number is larger than the last.
fn widened(range: &str, group: u32) -> Option<String> {
    let mut numbers = range.split_whitespace().map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if (first..=last).contains(&group) => None,
        (Some(first), Some(last)) if first <= last => {
            Some(format!("{} {}", first.min(group), last.max(group)))
        }
        _ => Some(format!("{group} {group}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_groups_is_widened_by_what_it_lacks() {
        assert_eq!(widened("1\t0\n", 65534).as_deref(), Some("65534 65534"));
        assert_eq!(widened("0\t0\n", 65534).as_deref(), Some("0 65534"));
        assert_eq!(widened("70000\t80000\n", 65534).as_deref(), Some("65534 80000"));
        assert_eq!(widened("0\t2147483647\n", 65534), None);
    }
}
