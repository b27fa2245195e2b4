//! Checks of programs, libraries and directories.

use super::check::Finding;
use super::host::Host;
use crate::platform::confinement::{OPERATORS, Profile};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The guest's kernel, loaded by libkrun under this name.
const LIBKRUNFW: &str = "libkrunfw.so.5";
/// Where the dynamic linker looks.
const LIBRARIES: [&str; 6] = [
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib",
];
/// Where distributions and Kubernetes have plugins of CNI.
const CNI: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/// A program of a Debian package.
fn program(host: &Host, name: &str, package: &str) -> Finding {
    match host.program(name) {
        Some(path) => Finding::works(path.display().to_string()),
        None => Finding::missing("not installed").mend(format!("apt-get install {package}")),
    }
}

/// The other half of magikrun, with the hypervisor's library in it.
pub fn magikrun_krun(host: &Host) -> Finding {
    let beside = ["/usr/libexec/magikrun/magikrun-krun", "/usr/local/libexec/magikrun/magikrun-krun"];
    let found = host.program("magikrun-krun");
    match found.or_else(|| beside.iter().map(|path| Path::new(path).to_owned()).find(|path| host.has(path))) {
        Some(path) => Finding::works(path.display().to_string()),
        None => Finding::missing("not installed: it is built apart from magikrun"),
    }
}

/// The kernel of guests.
pub fn libkrunfw(host: &Host) -> Finding {
    match LIBRARIES.iter().map(|directory| Path::new(directory).join(LIBKRUNFW)).find(|path| host.has(path)) {
        Some(path) => Finding::works(path.display().to_string()),
        None => Finding::missing(format!("no {LIBKRUNFW}")).mend("apt-get install libkrunfw5"),
    }
}

/// Networks of pods and of microVMs.
pub fn passt(host: &Host) -> Finding {
    program(host, "passt", "passt")
}

/// Networks of pods.
pub fn pasta(host: &Host) -> Finding {
    program(host, "pasta", "passt")
}

/// Checkpoints.
pub fn criu(host: &Host) -> Finding {
    program(host, "criu", "criu")
}

/// Id mappings for users without privileges.
pub fn newuidmap(host: &Host) -> Finding {
    match (host.program("newuidmap"), host.program("newgidmap")) {
        (Some(path), Some(_)) => Finding::works(path.display().to_string()),
        _ => Finding::missing("newuidmap or newgidmap is not installed").mend("apt-get install uidmap"),
    }
}

/// Plugins of CNI, which containerd's and podman's networks need.
pub fn cni(host: &Host) -> Finding {
    match CNI.iter().find(|directory| host.has(Path::new(directory).join("bridge"))) {
        Some(directory) => Finding::works(*directory),
        None => Finding::missing("no plugins").mend("apt-get install containernetworking-plugins"),
    }
}

/// The seccomp profile of containers for which none is named, as of pods with `RuntimeDefault`.
pub fn profile(host: &Host) -> Finding {
    if !host.has(OPERATORS) {
        return Finding::works(format!("magikrun's own; {OPERATORS} would take its place"));
    }
    match Profile::read(&host.at(Path::new(OPERATORS))) {
        Ok(_) => Finding::works(OPERATORS),
        Err(e) => Finding::missing(e.message().to_owned()),
    }
}

/// The operator's configuration.
pub fn configuration(host: &Host) -> Finding {
    match &host.config_fault {
        None => Finding::works("'magikrun config' shows what holds"),
        Some(fault) => Finding::missing(fault.clone()),
    }
}

/// The image store.
pub fn store(host: &Host) -> Finding {
    let path = host.store.display();
    let Ok(metadata) = std::fs::metadata(host.at(&host.store)) else {
        return Finding::works(format!("{path} will be made by the first pull"));
    };
    if !metadata.is_dir() {
        return Finding::missing(format!("{path} is not a directory")).mend(format!("rm {path}"));
    }
    if metadata.uid() != host.uid {
        return Finding::missing(format!("{path} belongs to user {}", metadata.uid()))
            .mend(format!("chown -R {} {path}", host.uid));
    }
    match rustix::fs::statvfs(host.at(&host.store)) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize) >> 20;
            if free == 0 {
                return Finding::missing(format!("{path}: the disk is full")).mend("magikrun image prune");
            }
            Finding::works(format!("{path}, {free} MiB free"))
        }
        Err(_) => Finding::works(path.to_string()),
    }
}
