//! Checks of the kernel and of what it lets the user do.

use super::check::Finding;
use super::host::Host;
use crate::platform::detect::{Capability, hypervisor_fault};
use crate::platform::userns::lent_ids;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// openat2(2), without which no path inside a root file system is resolved.
const OLDEST_KERNEL: (u32, u32) = (5, 6);
/// What containers cannot do without; `time` is younger.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// Controllers that limits of every day need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Fewer ids than an image of today's distributions has users.
const USUAL_IDS: u32 = 65_536;

/// The version of the kernel.
pub fn kernel(host: &Host) -> Finding {
    let release = host.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Finding::unknown("its version cannot be read from /proc/sys/kernel/osrelease");
    };
    let release = release.trim();
    if (major, minor) < OLDEST_KERNEL {
        let (major, minor) = OLDEST_KERNEL;
        return Finding::missing(format!("Linux {release} is older than {major}.{minor}"));
    }
    Finding::works(format!("Linux {release}"))
}

/// Whether the root directory is a mount, which pivot_root(2) asks for.
pub fn root(host: &Host) -> Finding {
    let Some(mounts) = host.text("/proc/self/mountinfo") else {
        return Finding::missing("/proc is not mounted").mend("mount -t proc proc /proc");
    };
    if mounts.lines().any(|line| line.split(' ').nth(4) == Some("/")) {
        return Finding::works("a mount");
    }
    Finding::missing("a chroot whose root is not a mount: outside of it, bind the directory to itself first")
        .mend("mount --bind DIR DIR && cd DIR && pivot_root . .")
}

/// The kinds of namespaces.
pub fn namespaces(host: &Host) -> Finding {
    let absent: Vec<&str> =
        NAMESPACES.into_iter().filter(|name| !host.has(format!("/proc/self/ns/{name}"))).collect();
    if absent.is_empty() && host.platform.supports_native_containers() {
        return Finding::works(NAMESPACES.join(" "));
    }
    Finding::missing(format!("the kernel has none of these kinds: {}", absent.join(" ")))
}

/// Version and controllers of cgroups.
pub fn cgroups(host: &Host) -> Finding {
    let unified = host.text("/sys/fs/cgroup/cgroup.controllers");
    let in_v2 = |name: &&str| unified.iter().any(|text| text.split_whitespace().any(|c| c == *name));
    let in_v1 = |name: &&str| host.has(format!("/sys/fs/cgroup/{name}/cgroup.procs"));
    let (version, has): (&str, Vec<&str>) = if unified.is_some() {
        ("2", CONTROLLERS.into_iter().filter(in_v2).collect())
    } else {
        let both = host.has("/sys/fs/cgroup/unified/cgroup.controllers");
        (if both { "1, with 2 beside it" } else { "1" }, CONTROLLERS.into_iter().filter(in_v1).collect())
    };
    let absent: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !has.contains(name)).collect();
    if absent.is_empty() {
        return Finding::works(format!("version {version}: {}", has.join(" ")));
    }
    if unified.is_none() && has.is_empty() {
        return Finding::missing("nothing is mounted at /sys/fs/cgroup")
            .mend("mount -t cgroup2 none /sys/fs/cgroup");
    }
    let finding = Finding::missing(format!("version {version} lacks {}", absent.join(" ")));
    if unified.is_some() {
        let on: Vec<String> = absent.iter().map(|name| format!("+{name}")).collect();
        return finding.mend(format!("echo {} > /sys/fs/cgroup/cgroup.subtree_control", on.join(" ")));
    }
    finding
}

/// Whether a user without privileges has cgroups of their own.
pub fn delegation(host: &Host) -> Finding {
    if host.privileged {
        return Finding::works("root needs none");
    }
    let own = host.text("/proc/self/cgroup").unwrap_or_default();
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Finding::missing("only cgroup version 2 can be delegated: containers run without limits");
    };
    let directory = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    match std::fs::metadata(host.at(&directory)) {
        Ok(metadata) if metadata.uid() == host.uid => Finding::works(directory.display().to_string()),
        _ => Finding::missing(format!("{} is not the user's: no limits", directory.display()))
            .mend("systemd-run --user --scope -p Delegate=yes magikrun ..."),
    }
}

/// Whether users may make user namespaces.
pub fn user_namespaces(host: &Host) -> Finding {
    let value = |name: &str| host.text(format!("/proc/sys/{name}")).map(|text| text.trim().to_owned());
    let switches = [
        ("user.max_user_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ];
    for (name, off, on) in switches {
        if value(&name.replace('.', "/")).as_deref() == Some(off) {
            return Finding::missing(format!("{name} is {off}")).mend(format!("sysctl -w {name}={on}"));
        }
    }
    match value("user/max_user_namespaces") {
        Some(most) => Finding::works(format!("{most} at most")),
        None => Finding::missing("the kernel has none"),
    }
}

/// The ids that subuid(5) and subgid(5) lend to the user.
pub fn subordinate_ids(host: &Host) -> Finding {
    let name = host.user_name().unwrap_or_else(|| host.uid.to_string());
    let count = |file: &str| {
        let text = host.text(file).unwrap_or_default();
        lent_ids(&text, &[name.clone(), host.uid.to_string()])
    };
    let (uids, gids) = (count("/etc/subuid"), count("/etc/subgid"));
    let (fewest, file) = if uids <= gids { (uids, "/etc/subuid") } else { (gids, "/etc/subgid") };
    if fewest >= USUAL_IDS {
        return Finding::works(format!("{uids} user ids, {gids} group ids for {name}"));
    }
    if host.privileged {
        return Finding::unknown(format!("{file} has {fewest} ids for {name}, who needs none"));
    }
    Finding::missing(format!("{file} has {fewest} ids for {name}: only one user in a container"))
        .mend(format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"))
}

/// Filters of system calls.
pub fn seccomp(host: &Host) -> Finding {
    if !host.platform.has(Capability::Seccomp) {
        return Finding::missing("the kernel has no filters (CONFIG_SECCOMP_FILTER)");
    }
    let names = host.seccomp_flags.iter().map(|flag| flag.trim_start_matches("SECCOMP_FILTER_FLAG_"));
    let flags = names.collect::<Vec<_>>().join(" ").to_ascii_lowercase();
    Finding::works(if flags.is_empty() {
        "filters, without flags".to_owned()
    } else {
        format!("filters, flags: {flags}")
    })
}

/// The file system that images are mounted with.
pub fn overlayfs(host: &Host) -> Finding {
    let known = host.text("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        return Finding::works("the kernel has it");
    }
    let release = host.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = format!("/lib/modules/{}/kernel/fs/overlayfs", release.trim());
    if host.has(&modules) {
        return Finding::unknown("a module that is loaded when it is needed").mend("modprobe overlay");
    }
    Finding::missing("the kernel has none (CONFIG_OVERLAY_FS)")
}

/// Whether a microVM boots.
pub fn kvm(host: &Host) -> Finding {
    match hypervisor_fault(&host.root) {
        None => Finding::works("/dev/kvm, and ordinary guests boot on it"),
        Some(fault) if !host.has("/dev/kvm") => Finding::missing(fault).mend("modprobe -a kvm_intel kvm_amd"),
        Some(fault) if fault.contains("permission") => {
            let name = host.user_name().unwrap_or_else(|| host.uid.to_string());
            Finding::missing(fault).mend(format!("usermod -a -G kvm {name}"))
        }
        Some(fault) => Finding::missing(fault),
    }
}
