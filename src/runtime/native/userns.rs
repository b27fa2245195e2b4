//! Id mappings of a new user namespace.

use crate::error::{Context as _, Error, ErrorKind, Result};
use oci_spec::runtime::LinuxIdMapping;
use std::process::Command;

/// Maps the ids of the user namespace that process `pid` was made in.
///
/// With privileges the kernel is told directly. Without, newuidmap(1) and newgidmap(1) are asked, which know what
/// `/etc/subuid` and `/etc/subgid` allow; if they are missing, one's own id can still be mapped.
pub fn write_mappings(
    pid: i32,
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
    rootless: bool,
) -> Result<()> {
    if rootless {
        write_rootless(pid, "gid", "newgidmap", gids, rustix::process::getegid().as_raw())?;
        return write_rootless(pid, "uid", "newuidmap", uids, rustix::process::geteuid().as_raw());
    }
    write_direct(pid, "gid", gids)?;
    write_direct(pid, "uid", uids)
}

fn lines(mappings: &[LinuxIdMapping]) -> String {
    let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
    mappings.iter().map(line).collect()
}

fn write_direct(pid: i32, kind: &str, mappings: &[LinuxIdMapping]) -> Result<()> {
    let path = format!("/proc/{pid}/{kind}_map");
    std::fs::write(&path, lines(mappings))
        .or_kind(ErrorKind::CreateFailed, || format!("cannot write '{path}'"))
}

fn write_rootless(pid: i32, kind: &str, tool: &str, mappings: &[LinuxIdMapping], own: u32) -> Result<()> {
    let only_own = matches!(mappings, [m] if m.host_id() == own && m.size() == 1);
    if only_own {
        if kind == "gid" {
            // user_namespaces(7): without privileges the group list must be frozen before a group is mapped.
            std::fs::write(format!("/proc/{pid}/setgroups"), "deny")
                .context(|| "cannot deny setgroups in the user namespace")?;
        }
        return write_direct(pid, kind, mappings);
    }
    let mut command = Command::new(tool);
    command.arg(pid.to_string());
    for m in mappings {
        command.args([m.container_id(), m.host_id(), m.size()].map(|id| id.to_string()));
    }
    let output = command.output().or_kind(ErrorKind::CreateFailed, || {
        format!("cannot map several {kind}s: cannot execute '{tool}' (Debian package uidmap)")
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(ErrorKind::CreateFailed, format!("{tool} failed: {}", said.trim())));
    }
    Ok(())
}
