//! The processes of a container, as procfs shows them: those in its pid namespace, or in its mount namespace where it shares the other.

use crate::failure::{Context as _, Result};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use vm_protocol::message::{MAX_COMMAND, MAX_PROCESSES, ProcessInfo, Stats};

/// A namespace that all processes of a container are in, and those of no other container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    kind: &'static str,
    number: u64,
}

impl Namespace {
    /// That of a process, which may share its pid namespace with other containers.
    pub fn of(pid: i32, shares_pids: bool) -> Option<Self> {
        let kind = if shares_pids { "mnt" } else { "pid" };
        number(pid, kind).map(|number| Self { kind, number })
    }
}

fn number(pid: i32, kind: &str) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|found| found.ino())
}

/// The pids in a namespace.
pub fn pids(namespace: Namespace) -> Result<Vec<i32>> {
    let all = std::fs::read_dir("/proc").context(|| "cannot read '/proc'")?;
    let mut pids: Vec<i32> = all
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| number(*pid, namespace.kind) == Some(namespace.number))
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The processes in a namespace; at most as many as a message takes.
pub fn list(namespace: Namespace) -> Result<Vec<ProcessInfo>> {
    let boot = boot_time();
    let ticks = rustix::param::clock_ticks_per_second();
    Ok(pids(namespace)?
        .into_iter()
        .filter_map(|pid| {
            let directory = Path::new("/proc").join(pid.to_string());
            let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
            let uid = std::fs::metadata(&directory).ok()?.uid();
            let command = std::fs::read(directory.join("cmdline")).unwrap_or_default();
            info(pid, uid, &stat, &command, boot, ticks)
        })
        .take(MAX_PROCESSES)
        .collect())
}

/// What can be told without cgroups.
pub fn stats(namespace: Namespace) -> Result<Stats> {
    let mut stats = Stats::default();
    let page = rustix::param::page_size() as u64;
    for pid in pids(namespace)? {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, fields)) = split(&stat) else { continue };
        let number =
            |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let microseconds = |ticks: u64| ticks * 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
        stats.cpu_user += microseconds(number(USER));
        stats.cpu_system += microseconds(number(SYSTEM));
        stats.memory += number(RESIDENT) * page;
        stats.pids += number(THREADS);
    }
    stats.cpu_usage = stats.cpu_user + stats.cpu_system;
    Ok(stats)
}

// Places of fields after the name: proc(5) counts the state as field 3.
const PARENT: usize = 1;
const TTY: usize = 4;
const USER: usize = 11;
const SYSTEM: usize = 12;
const THREADS: usize = 17;
const START: usize = 19;
const RESIDENT: usize = 21;

/// The name of a process and the fields after it. The name may have anything in it.
fn split(stat: &str) -> Option<(&str, Vec<&str>)> {
    let (head, fields) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    Some((name, fields.split_whitespace().collect()))
}

fn info(pid: i32, uid: u32, stat: &str, command: &[u8], boot: u64, ticks: u64) -> Option<ProcessInfo> {
    let (name, fields) = split(stat)?;
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let ticks = ticks.max(1);
    let command = match command {
        [] => format!("[{name}]"),
        _ => String::from_utf8_lossy(command).trim_end_matches('\0').replace('\0', " "),
    };
    let mut end = command.len().min(MAX_COMMAND);
    while !command.is_char_boundary(end) {
        end -= 1;
    }
    Some(ProcessInfo {
        pid,
        parent: fields.get(PARENT)?.parse().ok()?,
        uid,
        state: fields.first()?.chars().next()?,
        cpu: (number(USER) + number(SYSTEM)) * 1000 / ticks,
        started: boot + number(START) / ticks,
        tty: terminal(number(TTY)),
        command: command[..end].to_owned(),
    })
}

/// The name of a terminal by its number: major in the second byte, minor in the others.
fn terminal(number: u64) -> String {
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match major {
        0 => String::new(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        229 => format!("hvc{minor}"),
        _ => format!("{major}:{minor}"),
    }
}

/// When the guest's kernel was started, in seconds since the epoch.
fn boot_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "7 (a) (b) S 1 7 7 34816 7 0 0 0 0 0 150 50 0 0 20 0 3 0 500 9 12";
        let info = info(7, 5, stat, b"sh\0-c\0x\0", 1000, 100).unwrap();
        assert_eq!((info.parent, info.state, info.cpu, info.started), (1, 'S', 2000, 1005));
        assert_eq!((info.tty.as_str(), info.command.as_str()), ("pts/0", "sh -c x"));
        assert_eq!(split(stat).unwrap().1[THREADS], "3");
        assert_eq!(split(stat).unwrap().1[RESIDENT], "12");
    }

    #[test]
    fn a_long_command_is_cut_between_characters() {
        let command = "ü".repeat(200);
        let info = info(1, 0, "1 (x) R 0", command.as_bytes(), 0, 100).unwrap();
        assert_eq!(info.command.len(), MAX_COMMAND);
    }
}
