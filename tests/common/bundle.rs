//! Bundles with a busybox rootfs and the configuration that `runc spec` writes.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A bundle on disk and the id of the container that it becomes.
pub struct Bundle {
    /// The id, unique on this machine.
    pub id: String,
    path: PathBuf,
    config: Value,
}

fn applets() -> &'static [String] {
    static APPLETS: OnceLock<Vec<String>> = OnceLock::new();
    APPLETS.get_or_init(|| {
        let output = Command::new("/bin/busybox")
            .arg("--list")
            .output()
            .expect("the tests need Debian's busybox-static as /bin/busybox");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    })
}

/// Makes a root file system with a static busybox and the usual folders.
pub fn busybox_rootfs(rootfs: &Path) {
    for dir in ["bin", "proc", "sys", "dev", "etc", "tmp", "root", "home", "mnt", "var", "run"] {
        fs::create_dir_all(rootfs.join(dir)).expect("a folder in the rootfs");
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("the tests need Debian's busybox-static");
    for applet in applets().iter().filter(|name| *name != "busybox") {
        symlink("busybox", rootfs.join("bin").join(applet)).expect("a link to busybox");
    }
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home:/bin/sh\n")
        .expect("etc/passwd");
    fs::write(rootfs.join("etc/group"), "root:x:0:\nalice:x:1000:\n").expect("etc/group");
}

fn default_mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
         "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs",
         "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
    ])
}

fn default_config(cgroup: &str) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "magikrun",
        "mounts": default_mounts(),
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"}
            ],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

impl Bundle {
    pub(super) fn new(parent: &Path, prefix: &str, number: u32) -> Self {
        let id = format!("{prefix}-c{number}");
        let path = parent.join(format!("bundle{number}"));
        fs::create_dir(&path).expect("the folder of the bundle");
        busybox_rootfs(&path.join("rootfs"));
        let bundle = Self { config: default_config(&format!("/{prefix}/{id}")), id, path };
        bundle.save();
        bundle
    }

    /// The bundle's folder as an argument.
    pub fn dir(&self) -> &str {
        self.path.to_str().expect("a path in UTF-8")
    }

    /// A path below the bundle's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A path below the root file system.
    pub fn rootfs(&self, name: &str) -> PathBuf {
        self.path.join("rootfs").join(name)
    }

    /// The configuration as it is on disk.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Changes the configuration and writes it.
    pub fn edit(&mut self, change: impl FnOnce(&mut Value)) -> &mut Self {
        change(&mut self.config);
        self.save();
        self
    }

    /// Sets the arguments of the process.
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.edit(|config| config["process"]["args"] = json!(args))
    }

    /// Adds one mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> &mut Self {
        let mount = json!({"destination": destination, "type": kind, "source": source, "options": options});
        self.edit(|config| config["mounts"].as_array_mut().expect("mounts").push(mount))
    }

    /// Replaces one namespace by `value`, or removes it if there is none.
    pub fn namespace(&mut self, kind: &str, value: Option<Value>) -> &mut Self {
        self.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != kind);
            namespaces.extend(value);
        })
    }

    /// Makes it one for a user without privileges: in a user namespace, in the host's network, without limits.
    pub fn for_user(&mut self, uid: u32) -> &mut Self {
        self.edit(|config| {
            let linux = &mut config["linux"];
            let mapping = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
            linux["uidMappings"] = mapping.clone();
            linux["gidMappings"] = mapping;
            let linux = linux.as_object_mut().expect("an object");
            linux.remove("resources");
            linux.remove("cgroupsPath");
            let namespaces = linux["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != "network" && namespace["type"] != "cgroup");
            namespaces.push(json!({"type": "user"}));
            for mount in config["mounts"].as_array_mut().expect("mounts") {
                if let Some(options) = mount["options"].as_array_mut() {
                    options
                        .retain(|option| !option.as_str().is_some_and(|option| option.starts_with("gid=")));
                }
            }
            config["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["type"] != "cgroup");
        })
    }

    /// Writes the process for `exec --process`, changed by `change`.
    pub fn process_file(&self, name: &str, args: &[&str], change: impl FnOnce(&mut Value)) -> PathBuf {
        let mut process = self.config["process"].clone();
        process["args"] = json!(args);
        change(&mut process);
        let path = self.path(name);
        fs::write(&path, process.to_string()).expect("the process file");
        path
    }

    fn save(&self) {
        fs::write(self.path.join("config.json"), self.config.to_string()).expect("config.json is written");
    }
}
