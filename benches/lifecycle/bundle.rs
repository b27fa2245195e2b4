//! What the benchmark makes on disk and in the cgroup hierarchy, and how all of it is removed again.

use crate::runtime::{Runtime, call_quietly};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// The capabilities of the containers.
pub(crate) const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

const CGROUP_ROOT: &str = "/sys/fs/cgroup";
const PROGRAM_FILE: &str = "program";
const STATE_DIR: &str = "state";

/// The directory that holds everything the benchmark makes, and the cgroup that goes with it.
#[derive(Debug, Clone)]
pub(crate) struct Scratch {
    dir: PathBuf,
    cgroup: String,
    /// Whether the containers have a rule for devices, as those of `runc spec` do.
    pub(crate) device_rules: bool,
    /// The seccomp profile of the containers.
    pub(crate) seccomp: Option<Value>,
}

impl Scratch {
    /// Names the scratch directory of the benchmark with this pid; makes nothing.
    pub(crate) fn of_pid(pid: u32) -> Self {
        Self {
            dir: std::env::temp_dir().join(format!("mkbench-{pid}")),
            cgroup: format!("mkbench-{pid}"),
            device_rules: true,
            seccomp: None,
        }
    }

    /// Makes the directory with the root filesystem of the containers in it.
    pub(crate) fn make(&self) -> Result<(), String> {
        let busybox = static_busybox()?;
        let rootfs = self.dir.join("rootfs");
        for dir in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
            make_dir(&rootfs.join(dir))?;
        }
        make_dir(&self.dir.join("runtimes"))?;
        make_dir(&self.dir.join("bundles"))?;
        fs::copy(&busybox, rootfs.join("bin/busybox"))
            .map_err(|e| format!("copy {}: {e}", busybox.display()))?;
        for applet in ["sh", "sleep", "true"] {
            symlink("busybox", rootfs.join("bin").join(applet))
                .map_err(|e| format!("symlink {applet}: {e}"))?;
        }
        Ok(())
    }

    /// The directory that holds everything, which is a file system of its own in memory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The busybox of the root filesystem, as the host sees it.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.dir.join("rootfs/bin/busybox")
    }

    /// A path for a file of the benchmark's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes the state root of a runtime and records how to call it, for [`Scratch::sweep`].
    pub(crate) fn state_root(&self, name: &str, program: &Path) -> Result<PathBuf, String> {
        let dir = self.dir.join("runtimes").join(name);
        make_dir(&dir.join(STATE_DIR))?;
        let record = dir.join(PROGRAM_FILE);
        fs::write(&record, program.as_os_str().as_encoded_bytes())
            .map_err(|e| format!("write {}: {e}", record.display()))?;
        Ok(dir.join(STATE_DIR))
    }

    /// Makes a bundle of its own for a container.
    pub(crate) fn bundle(&self, runtime: &Runtime, id: &str, args: &[&str]) -> Result<PathBuf, String> {
        let dir = self.dir.join("bundles").join(format!("{}-{id}", runtime.name));
        make_dir(&dir)?;
        let cgroup = format!("/{}/{}-{id}", self.cgroup, runtime.name);
        let mut config = config(&self.dir.join("rootfs"), &cgroup, args, self.device_rules);
        if let Some(profile) = &self.seccomp {
            config["linux"]["seccomp"] = profile.clone();
        }
        let text = config.to_string();
        fs::write(dir.join("config.json"), text)
            .map_err(|e| format!("write {}/config.json: {e}", dir.display()))?;
        Ok(dir)
    }

    /// Removes the bundle of a container that is gone; what cannot be removed now, the sweep removes.
    pub(crate) fn drop_bundle(&self, runtime: &Runtime, id: &str) {
        let _ = fs::remove_dir_all(self.dir.join("bundles").join(format!("{}-{id}", runtime.name)));
    }

    /// The cgroup v2 in which all of the benchmark's are, as a directory.
    pub(crate) fn own_cgroup(&self) -> PathBuf {
        hierarchy("unified").join(&self.cgroup)
    }

    /// The cgroup of a container, as a directory; on hosts with several hierarchies, in one that all runtimes use.
    pub(crate) fn cgroup_of(&self, runtime: &Runtime, id: &str) -> PathBuf {
        hierarchy("pids").join(&self.cgroup).join(format!("{}-{id}", runtime.name))
    }

    /// The benchmark's cgroups in all hierarchies.
    fn own_cgroups(&self) -> impl Iterator<Item = PathBuf> {
        let hierarchies = if v2_alone() { vec![CGROUP_ROOT.into()] } else { entries(Path::new(CGROUP_ROOT)) };
        hierarchies.into_iter().map(|path: PathBuf| path.join(&self.cgroup)).filter(|path| path.exists())
    }

    /// Removes everything that is left: containers, processes, cgroups, files. Returns what could not be removed.
    pub(crate) fn sweep(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for runtime in entries(&self.dir.join("runtimes")) {
            let Ok(program) = fs::read_to_string(runtime.join(PROGRAM_FILE)) else { continue };
            let root = runtime.join(STATE_DIR);
            for container in entries(&root).iter().filter(|path| path.is_dir()) {
                let id = container.file_name().unwrap_or_default();
                call_quietly(Path::new(&program), &root, &["delete".as_ref(), "--force".as_ref(), id]);
            }
        }
        self.own_cgroups().for_each(|cgroup| remove_cgroup(&cgroup, &mut problems));
        for left in entries(&self.dir) {
            if let Err(e) = fs::remove_dir_all(&left).or_else(|_| fs::remove_file(&left)) {
                problems.push(format!("{}: {e}", left.display()));
            }
        }
        problems
    }
}

/// True if the cgroup v2 is the only hierarchy.
fn v2_alone() -> bool {
    Path::new(CGROUP_ROOT).join("cgroup.controllers").exists()
}

/// The hierarchy with this name, or the only one.
fn hierarchy(name: &str) -> PathBuf {
    let root = PathBuf::from(CGROUP_ROOT);
    if v2_alone() { root } else { root.join(name) }
}

/// Kills what is left in a cgroup of the benchmark's own and removes it with all below it.
fn remove_cgroup(dir: &Path, problems: &mut Vec<String>) {
    let _ = fs::write(dir.join("cgroup.kill"), "1");
    for _ in 0..200 {
        let events = fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default();
        if !events.contains("populated 1") {
            break;
        }
        sleep(Duration::from_millis(10));
    }
    remove_empty_cgroup(dir, problems);
}

fn remove_empty_cgroup(dir: &Path, problems: &mut Vec<String>) {
    for child in entries(dir).iter().filter(|path| path.is_dir()) {
        remove_empty_cgroup(child, problems);
    }
    if let Err(e) = fs::remove_dir(dir) {
        problems.push(format!("{}: {e}", dir.display()));
    }
}

/// The paths in a directory; none if it cannot be read.
fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn make_dir(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| format!("mkdir {}: {e}", dir.display()))
}

/// Finds a program on PATH.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Finds a busybox that needs no libraries.
fn static_busybox() -> Result<PathBuf, String> {
    let file = which("busybox").ok_or("busybox is not on PATH: install busybox-static")?;
    let bytes = fs::read(&file).map_err(|e| format!("read {}: {e}", file.display()))?;
    // The path of the dynamic loader stands near the beginning of a program that needs one.
    let head = &bytes[..bytes.len().min(4096)];
    if head.windows(4).any(|w| w == b"/ld-") {
        return Err(format!("{} is dynamically linked: install busybox-static", file.display()));
    }
    Ok(file)
}

/// The configuration that `runc spec` writes, without a terminal and with a cgroup path.
fn config(rootfs: &Path, cgroup: &str, args: &[&str], device_rules: bool) -> Value {
    let no_device = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
    let caps = CAPABILITIES;
    let namespaces: Vec<_> =
        ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind })).into();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": rootfs, "readonly": true },
        "hostname": "bench",
        "mounts": mounts(),
        "linux": {
            "cgroupsPath": cgroup,
            "resources": if device_rules { no_device } else { json!({}) },
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn mounts() -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ])
}
