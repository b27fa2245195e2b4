//! The bundles, modules and containers of the benchmark; they go away with it.

use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Functions of the large module: enough for a megabyte.
const FUNCTIONS: usize = 9000;

/// What a container runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// The native `true`.
    True,
    /// A C program that prints a line.
    Hello,
    /// A module of 1 MB.
    Large,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::True => "true",
            Self::Hello => "hello",
            Self::Large => "large",
        }
    }
}

/// Everything that is made.
pub(crate) struct Bundles {
    dir: tempfile::TempDir,
    program: PathBuf,
    name: String,
}

const HELLO: &str = "#include <stdio.h>\nint main(void) { return puts(\"hello\") < 0; }\n";
const SLEEPER: &str = "#include <unistd.h>\nint main(void) { return (int)sleep(1000); }\n";

impl Bundles {
    pub(crate) fn make(program: &Path) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("mkbench").tempdir().map_err(|e| e.to_string())?;
        let made = Self { dir, program: program.to_owned(), name: format!("mkbench-{}", std::process::id()) };
        let rootfs = made.at("rootfs");
        for folder in ["bin", "dev", "proc", "sys", "tmp"] {
            fs::create_dir_all(rootfs.join(folder)).map_err(|e| e.to_string())?;
        }
        fs::copy("/bin/busybox", rootfs.join("bin/true")).map_err(|e| format!("busybox-static: {e}"))?;
        for (name, source) in [("hello", HELLO), ("sleeper", SLEEPER)] {
            let file = made.at(&format!("{name}.c"));
            fs::write(&file, source).map_err(|e| e.to_string())?;
            let mut clang = Command::new("clang");
            clang
                .args(["--target=wasm32-wasi", "-O2", "-o"])
                .arg(rootfs.join(format!("{name}.wasm")))
                .arg(file);
            super::timed(&mut clang)?;
        }
        let large = wat::parse_str(large()).map_err(|e| e.to_string())?;
        assert!(large.len() >= 1 << 20, "the large module has {} bytes", large.len());
        fs::write(rootfs.join("large.wasm"), large).map_err(|e| e.to_string())?;
        fs::write(made.at("config.toml"), format!("[wasm]\nstore = '{}'\n", made.store().display()))
            .map_err(|e| e.to_string())?;
        made.bundle("true", &["/bin/true"], false)?;
        made.bundle("hello", &["/hello.wasm"], true)?;
        made.bundle("large", &["/large.wasm"], true)?;
        Ok(made)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where compiled code is kept.
    pub(crate) fn store(&self) -> PathBuf {
        self.at("store")
    }

    /// The file of a module.
    pub(crate) fn module(&self, kind: Kind) -> PathBuf {
        self.at("rootfs").join(format!("{}.wasm", kind.name()))
    }

    fn bundle(&self, name: &str, args: &[&str], wasm: bool) -> Result<PathBuf, String> {
        let dir = self.at(&format!("bundle-{name}"));
        fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        let backend = if wasm { "wasm" } else { "native" };
        let config = config(&self.at("rootfs"), &format!("/{}/{name}", self.name), args, backend);
        fs::write(dir.join("config.json"), config.to_string()).map_err(|e| e.to_string())?;
        Ok(dir)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("MAGIKRUN_CONFIG", self.at("config.toml")).arg("--root").arg(self.at("state"));
        command
    }

    /// `run` of a bundle.
    pub(crate) fn run(&self, kind: Kind) -> Command {
        let mut command = self.command();
        command.arg("run").arg("--bundle").arg(self.at(&format!("bundle-{}", kind.name()))).arg(kind.name());
        command
    }

    /// `run --detach` of a module that sleeps.
    pub(crate) fn detach(&self, id: &str) -> Result<Command, String> {
        let bundle = self.bundle(id, &["/sleeper.wasm"], true)?;
        let mut command = Command::new("sh");
        // What the container writes must not keep our pipe open.
        command.args(["-c", "exec \"$@\" 2>/dev/null", "sh"]).arg(&self.program);
        command.env("MAGIKRUN_CONFIG", self.at("config.toml")).arg("--root").arg(self.at("state"));
        command.args(["run", "--detach", "--bundle"]).arg(bundle).arg(id);
        Ok(command)
    }

    /// The pid of a container.
    pub(crate) fn pid(&self, id: &str) -> Result<i64, String> {
        let output = self.command().args(["state", id]).output().map_err(|e| e.to_string())?;
        let state: Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
        state["pid"].as_i64().ok_or_else(|| format!("{id} has no pid"))
    }
}

impl Drop for Bundles {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.at("state")).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                let _ = self.command().args(["delete", "--force"]).arg(entry.file_name()).output();
            }
        }
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(controller.path().join(&self.name));
        }
    }
}

/// The text of a module with many functions, each different, of which one is called.
fn large() -> String {
    let mut text = String::from("(module (memory (export \"memory\") 1)\n");
    for n in 0..FUNCTIONS {
        let _ = write!(text, "(func $f{n} (param i32) (result i32) (local.get 0)");
        for step in 0..12 {
            let _ = write!(
                text,
                "(i32.add (i32.mul (i32.const {})) (i32.const {}))",
                1_000_003 + n * 17 + step,
                n + step * 65_537
            );
        }
        text.push_str(")\n");
    }
    text.push_str("(func (export \"_start\") (drop (call $f0 (i32.const 1)))))");
    text
}

fn config(rootfs: &Path, cgroup: &str, args: &[&str], backend: &str) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "annotations": {"org.magikrun.backend": backend},
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}
        },
        "root": {"path": rootfs, "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
