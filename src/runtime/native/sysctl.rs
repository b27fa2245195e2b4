//! Kernel parameters of a container.

use crate::error::Result;
use crate::runtime::procfs;

/// Sets the parameters.
pub fn apply(parameters: &[(String, String)]) -> Result<()> {
    parameters.iter().try_for_each(|(name, value)| procfs::write_parameter(&path_of(name), value))
}

/// The path of a parameter below `/proc/sys`.
///
/// `net.ipv4.ip_forward` names `net/ipv4/ip_forward`; a name that holds slashes already may have dots within a part, as
/// sysctl(8) has it.
pub fn path_of(name: &str) -> String {
    match (name.find('.'), name.find('/')) {
        (Some(dot), Some(slash)) if dot < slash => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        (Some(_), None) => name.replace('.', "/"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_sysctl_does() {
        assert_eq!(path_of("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path_of("net/ipv4/conf/eth0.100/forwarding"), "net/ipv4/conf/eth0.100/forwarding");
        assert_eq!(path_of("net.ipv4.conf.eth0/100.forwarding"), "net/ipv4/conf/eth0.100/forwarding");
    }
}
