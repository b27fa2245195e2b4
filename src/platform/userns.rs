//! User namespaces: id mappings, and becoming root in one.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::small_file;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Uid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

/// Enters the user namespace of a process, in which this one has all capabilities then, unless it is in it already. A process that has
/// several threads cannot.
pub fn enter(pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/ns/user");
    let cannot = || format!("cannot enter the user namespace '{path}'");
    let namespace = File::open(&path).context(cannot)?;
    let own = std::fs::metadata("/proc/self/ns/user").context(cannot)?;
    let (own, wanted) = (own.ino(), namespace.metadata().context(cannot)?.ino());
    if own == wanted {
        return Ok(());
    }
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User)).context(cannot)
}

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

/// Becomes root of the user namespace that this process has just entered.
pub fn become_root() -> Result<()> {
    let cannot = || "cannot become root of the user namespace";
    match rustix::thread::set_thread_groups(&[]) {
        // Denied where a user without privileges mapped the ids (user_namespaces(7)).
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(e) => return Err(e).context(cannot),
    }
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).context(cannot)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).context(cannot)
}

/// What a child that was made in a new user namespace waits at until its ids are mapped.
#[derive(Debug)]
pub struct Gate {
    closed: OwnedFd,
    opener: OwnedFd,
}

impl Gate {
    /// A closed gate, made before the child.
    pub fn new() -> Result<Self> {
        let (closed, opener) = pipe_with(PipeFlags::CLOEXEC).context(|| "cannot make a pipe")?;
        Ok(Self { closed, opener })
    }

    /// In the child: waits until the ids are mapped, and becomes root of the namespace. Fails when the parent is gone.
    pub fn pass(&self) -> Result<()> {
        // The copy of the parent's end would keep the pipe open for ever.
        let _ = nix::unistd::close(self.opener.as_raw_fd());
        rustix::io::retry_on_intr(|| rustix::io::read(&self.closed, &mut [0u8]))?;
        become_root()
    }

    /// In the parent: maps the ids of the namespace that process `pid` was made in, and lets it go on; see [`write_mappings`].
    pub fn open(self, pid: i32, mappings: &IdMappings, rootless: bool) -> Result<()> {
        write_mappings(pid, &mappings.uids, &mappings.gids, rootless)
    }
}

/// True if our user ids are mapped: user_namespaces(7).
pub fn is_nested() -> bool {
    let Ok(map) = small_file::read("/proc/self/uid_map") else { return false };
    let all: Vec<&str> = map.split_whitespace().collect();
    all != ["0", "0", "4294967295"]
}

/// Id mappings of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMappings {
    /// User ids.
    pub uids: Vec<LinuxIdMapping>,
    /// Group ids.
    pub gids: Vec<LinuxIdMapping>,
}

impl IdMappings {
    /// What a user without privileges may map: root of the namespace is the user, and the ids after it are those that
    /// subuid(5) and subgid(5) lend.
    pub fn of_user() -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let names = [passwd_name(uid).unwrap_or_default(), uid.to_string()];
        let map = |own: u32, file: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            mappings(own, &lent(&text, &names))
        };
        let (uids, gids) = (map(uid, "/etc/subuid"), map(gid, "/etc/subgid"));
        if uids.len() > 1 && gids.len() > 1 && has_helpers() {
            Self { uids, gids }
        } else {
            Self { uids: mappings(uid, &[]), gids: mappings(gid, &[]) }
        }
    }
}

/// True if the user namespace that we are in has this user and this group.
pub fn has_id(id: u32) -> bool {
    ["uid_map", "gid_map"].into_iter().all(|file| {
        let text = small_file::read(format!("/proc/self/{file}")).unwrap_or_default();
        maps(&text, id)
    })
}

/// True if the text of `/proc/PID/uid_map` has an id.
fn maps(text: &str, id: u32) -> bool {
    text.lines().any(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u64>().unwrap_or_default());
        let (first, count) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        (first..first + count).contains(&u64::from(id))
    })
}

fn has_helpers() -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = |name: &str| path.split(':').any(|directory| Path::new(directory).join(name).is_file());
    found("newuidmap") && found("newgidmap")
}

fn passwd_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The ranges (first id, count) of a user in the text of subuid(5).
fn lent(text: &str, names: &[String]) -> Vec<(u32, u32)> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (names.iter().any(|known| known == name && !known.is_empty()) && count > 0).then_some((first, count))
    };
    text.lines().filter_map(range).collect()
}

/// The ranges (first id, count) that a file like `/etc/subuid` lends to a user of this name.
pub fn lent_to(file: &str, name: &str) -> Vec<(u32, u32)> {
    lent(&std::fs::read_to_string(file).unwrap_or_default(), &[name.to_owned()])
}

/// How many ids the text of subuid(5) or subgid(5) lends to a user of these names.
pub fn lent_ids(text: &str, names: &[String]) -> u32 {
    lent(text, names).iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

fn mappings(own: u32, lent: &[(u32, u32)]) -> Vec<LinuxIdMapping> {
    let mut next = 0u32;
    let ranges = std::iter::once((own, 1)).chain(lent.iter().copied());
    ranges
        .map_while(|(first, count)| {
            let start = next;
            next = next.checked_add(count)?;
            LinuxIdMappingBuilder::default().host_id(first).container_id(start).size(count).build().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_lent_follow_ones_own() {
        let text = "me:100000:65536\nyou:1:2\n1000:300000:10\nbroken\nme:x:y\n";
        let ranges = lent(text, &["me".to_owned(), "1000".to_owned()]);
        assert_eq!(ranges, [(100_000, 65536), (300_000, 10)]);
        let map: Vec<_> =
            mappings(1000, &ranges).iter().map(|m| (m.container_id(), m.host_id(), m.size())).collect();
        assert_eq!(map, [(0, 1000, 1), (1, 100_000, 65536), (65537, 300_000, 10)]);
        assert_eq!(lent(":5:5", &[String::new()]), []);
        assert_eq!(lent_ids(text, &["me".to_owned(), "1000".to_owned()]), 65546);
    }

    #[test]
    fn a_namespace_has_the_ids_that_its_map_names() {
        let text = "         0       1000          1\n         1     100000      65536\n";
        assert!([0, 1, 65536].into_iter().all(|id| maps(text, id)));
        assert!(!maps(text, 65537) && !maps("", 0));
        assert!(maps("0 0 4294967295\n", 4_294_967_294));
    }
}
