//! Which devices a container may use: rules for v1's files, and a program for v2.

mod bpf;

pub use bpf::attach;

use crate::error::{Error, ErrorKind, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::fmt;

/// Making the device file.
pub const MKNOD: u8 = 1;
/// Opening it for reading.
pub const READ: u8 = 2;
/// Opening it for writing.
pub const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// One rule. Of several that fit, the last holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Allows or denies.
    pub allow: bool,
    /// `b`, `c`, or `a` for both.
    pub kind: char,
    /// Any, if none.
    pub major: Option<u32>,
    /// Any, if none.
    pub minor: Option<u32>,
    /// Bits of [`MKNOD`], [`READ`] and [`WRITE`].
    pub access: u8,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == 'a' && self.major.is_none() && self.minor.is_none() && self.access == ALL {
            return f.write_str("a");
        }
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{} {}:{} ", self.kind, number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MKNOD, "m")] {
            if self.access & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

const fn allow(kind: char, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule { allow: true, kind, major, minor, access }
}

/// What every container may use, whatever its configuration says: making any device file, the default devices, and
/// terminals. The same as in runc.
const DEFAULTS: [Rule; 11] = [
    allow('c', None, None, MKNOD),
    allow('b', None, None, MKNOD),
    allow('c', Some(1), Some(3), ALL),
    allow('c', Some(1), Some(8), ALL),
    allow('c', Some(1), Some(7), ALL),
    allow('c', Some(5), Some(0), ALL),
    allow('c', Some(1), Some(5), ALL),
    allow('c', Some(1), Some(9), ALL),
    allow('c', Some(136), None, ALL),
    allow('c', Some(5), Some(2), ALL),
    allow('c', Some(5), Some(1), ALL),
];

const DENY_ALL: Rule = Rule { allow: false, kind: 'a', major: None, minor: None, access: ALL };

/// The rules for a container: everything is denied, then the configuration's rules, then the defaults.
pub fn rules(configured: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let mut rules = vec![DENY_ALL];
    for (index, device) in configured.iter().enumerate() {
        let rule = rule(device).map_err(|e| e.wrap(format!("linux.resources.devices[{index}]")))?;
        // A rule about everything makes those before it void.
        if rule.kind == 'a' && rule.major.is_none() && rule.minor.is_none() && rule.access == ALL {
            rules.clear();
        }
        rules.push(rule);
    }
    rules.extend(DEFAULTS);
    Ok(rules)
}

fn rule(device: &LinuxDeviceCgroup) -> Result<Rule> {
    let invalid = |what: String| Error::new(ErrorKind::InvalidBundle, what);
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n).map(Some).map_err(|_| invalid(format!("invalid device number {n}"))),
    };
    let kind = match device.typ() {
        None | Some(LinuxDeviceType::A) => 'a',
        Some(LinuxDeviceType::B) => 'b',
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => 'c',
        Some(LinuxDeviceType::P) => return Err(invalid("a fifo is no device".to_owned())),
    };
    let mut access = 0;
    for letter in device.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(invalid(format!("invalid access '{letter}'"))),
        };
    }
    let (major, minor) = (number(device.major())?, number(device.minor())?);
    if kind == 'a' && (major.is_some() || minor.is_some()) {
        return Err(invalid("a rule for all kinds of devices cannot name a device".to_owned()));
    }
    Ok(Rule { allow: device.allow(), kind, major, minor, access: if access == 0 { ALL } else { access } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules_of(configured: serde_json::Value) -> Result<Vec<String>> {
        let configured: Vec<LinuxDeviceCgroup> = serde_json::from_value(configured).unwrap();
        rules(&configured).map(|rules| rules.iter().map(|r| format!("{} {r}", r.allow)).collect())
    }

    #[test]
    fn rules_are_written_as_the_kernel_reads_them() {
        let rules = rules_of(json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ]))
        .unwrap();
        assert_eq!(rules[..3], ["false a", "true c 10:229 rw", "true c *:* m"]);
        assert_eq!(rules.len(), 2 + DEFAULTS.len());
    }

    #[test]
    fn a_privileged_container_may_use_everything() {
        assert_eq!(rules_of(json!([{"allow": true, "type": "a", "access": "rwm"}])).unwrap()[0], "true a");
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        for wrong in
            [json!([{"allow": true, "access": "x"}]), json!([{"allow": true, "type": "c", "major": -7}])]
        {
            assert!(rules_of(wrong).unwrap_err().message().starts_with("linux.resources.devices[0]: "));
        }
    }
}
