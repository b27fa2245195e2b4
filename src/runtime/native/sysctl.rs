//! Kernel parameters of a container.

use crate::error::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::io::Write as _;

/// `PROC_SUPER_MAGIC` of statfs(2).
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Writes the parameters below `/proc/sys`.
///
/// The file must really be of procfs, reached without a link or another mount: a container that shares its root with
/// another could have put something else there (CVE-2025-52881).
pub fn apply(parameters: &[(String, String)]) -> Result<()> {
    if parameters.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).context(|| "cannot open '/proc'")?;
    if rustix::fs::fstatfs(&proc).map_err(Error::from)?.f_type != PROC_SUPER_MAGIC {
        return Err(Error::new(
            ErrorKind::CreateFailed,
            "cannot set sysctl: '/proc' is not a proc file system",
        ));
    }
    for (name, value) in parameters {
        let path = format!("sys/{}", path_of(name));
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        openat2(&proc, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(Error::from)
            .and_then(|fd| Ok(std::fs::File::from(fd).write_all(value.as_bytes())?))
            .or_kind(ErrorKind::CreateFailed, || format!("open /proc/{path}"))?;
    }
    Ok(())
}

/// `net.ipv4.ip_forward` names `net/ipv4/ip_forward`; a name that holds slashes already may have dots within a part, as
/// sysctl(8) has it.
fn path_of(name: &str) -> String {
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
