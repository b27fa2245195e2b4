//! `vminit` without a virtual machine: the real program as the first process of new namespaces, with a unix socket for control.

use crate::common::{self, DEADLINE, Output, Running, busybox_rootfs};
use magikrun::vm::protocol::frame::Kind;
use magikrun::vm::protocol::message::{Exec, Reply};
use magikrun::vm::protocol::spec::{Capabilities, Process};
use magikrun::vm::{Guest, client::Started};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;
use tempfile::TempDir;

/// What a command in the guest has become.
#[derive(Debug)]
pub struct Executed {
    /// Exit code.
    pub code: u8,
    /// Standard output, or what came from its terminal.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A guest, and the folder with its root file systems.
pub struct Machine {
    dir: TempDir,
    running: Option<Running>,
    guest: Guest,
}

/// The program: the one that `MAGIKRUN_VMINIT` names, or one that is built now as cargo builds this test.
pub fn vminit() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        if let Some(path) = std::env::var_os("MAGIKRUN_VMINIT").filter(|path| !path.is_empty()) {
            return PathBuf::from(path);
        }
        let output = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--package", "vminit", "--message-format", "json"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut paths = text.lines().filter_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            message["executable"].as_str().map(PathBuf::from)
        });
        paths.next_back().expect("cargo names the program that it has built")
    };
    PATH.get_or_init(build).clone()
}

/// The mounts of a container as engines ask for them.
pub fn mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc"},
        {"destination": "/dev", "type": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "ptmxmode=0666", "gid=5"]},
        {"destination": "/sys", "type": "sysfs", "options": ["ro"]},
    ])
}

/// A process that runs a script in a shell, as root with all capabilities.
pub fn shell(script: &str) -> Process {
    let all = u64::MAX;
    Process {
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        capabilities: Capabilities {
            bounding: all,
            effective: all,
            permitted: all,
            inheritable: 0,
            ambient: 0,
        },
        ..Process::default()
    }
}

/// A container that runs a script.
pub fn container(name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "root": format!("@/{name}"),
        "mounts": mounts(),
        "process": serde_json::to_value(shell(script)).expect("a process"),
    })
}

/// A specification of one container.
pub fn one(script: &str) -> Value {
    json!({"version": 1, "hostname": "guest", "containers": [container("app", script)]})
}

impl Machine {
    /// Boots. In the specification `@` at the beginning of a path is the folder of this machine.
    pub fn boot(spec: Value) -> Self {
        Self::boot_with(spec, None, "")
    }

    /// Boots with an input for the console, after a script in the new namespaces.
    pub fn boot_with(mut spec: Value, input: Option<&[u8]>, before: &str) -> Self {
        common::require_root();
        common::require_program("unshare");
        let dir = tempfile::Builder::new().prefix("mkv").tempdir().expect("a temporary folder");
        let home = dir.path().to_str().expect("UTF-8").to_owned();
        for container in spec["containers"].as_array().into_iter().flatten() {
            let name = container["name"].as_str().expect("a name");
            busybox_rootfs(&dir.path().join(name));
        }
        place(&mut spec, &home);
        let path = dir.path().join("spec.json");
        std::fs::write(&path, spec.to_string()).expect("the specification");
        let socket = dir.path().join("control.sock");
        let mut command = Command::new("unshare");
        command.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--mount-proc",
            "--net",
            "--uts",
            "--ipc",
        ]);
        command.args(["--cgroup", "sh", "-c", &format!("{before}\nexec \"$@\""), "sh"]);
        command.arg(vminit()).arg("--spec").arg(&path).arg("--listen").arg(&socket);
        let running = Some(common::start(command, input));
        Self { dir, running, guest: Guest::at(socket) }
    }

    /// Boots, and waits until the containers run.
    pub fn ready(spec: Value) -> Self {
        let machine = Self::boot(spec);
        machine.guest.ready(DEADLINE, || machine.is_alive()).expect("the guest gets ready");
        machine
    }

    fn is_alive(&self) -> bool {
        self.running.as_ref().is_some_and(|running| common::is_alive(running.pid()))
    }

    /// The pids of the processes of the machine that are not its containers'.
    pub fn helpers(&self) -> Vec<i32> {
        let children = |pid: i32| {
            let text =
                std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            text.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect::<Vec<i32>>()
        };
        let is_own = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains("(vminit) S"))
        };
        let first = self.running.as_ref().map(|running| children(running.pid())).unwrap_or_default();
        first.into_iter().flat_map(children).filter(is_own).collect()
    }

    /// The folder with the root file systems.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The way in.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// What the console has shown.
    pub fn console(&self) -> String {
        self.running.as_ref().map(|running| running.stdout() + &running.stderr()).unwrap_or_default()
    }

    /// Waits for the end of the machine.
    pub fn finish(mut self) -> Output {
        // It does not end before somebody knows that it has begun.
        let _ = self.guest.ready(DEADLINE, || self.is_alive());
        self.running.take().expect("the machine runs").finish()
    }

    /// Starts a process in a container.
    pub fn start(&self, process: Process) -> magikrun::Result<Started> {
        let exec = Exec { container: String::new(), process, stdin: true, detach: false };
        self.guest.exec(exec, DEADLINE)
    }

    /// Runs a process in a container to its end, without input.
    pub fn exec(&self, process: Process) -> Executed {
        let started = self.start(process).expect("the process starts");
        send(&started, b"");
        follow(started)
    }

    /// Runs a script in a container to its end.
    pub fn sh(&self, script: &str) -> Executed {
        self.exec(shell(script))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // Its end is that of the first process, which is that of all others.
            common::signal(running.pid(), rustix::process::Signal::KILL);
            let _ = running.finish();
        }
    }
}

/// Puts the folder `home` in the place of `@` at the beginning of paths.
pub fn place(value: &mut Value, home: &str) {
    match value {
        Value::String(text) if text.starts_with("@/") => *text = format!("{home}{}", &text[1..]),
        Value::Array(all) => all.iter_mut().for_each(|value| place(value, home)),
        Value::Object(all) => all.values_mut().for_each(|value| place(value, home)),
        _ => {}
    }
}

/// Sends input to a process; nothing is its end.
pub fn send(started: &Started, data: &[u8]) {
    let deadline = Instant::now() + DEADLINE;
    let sent = started.connection.send_data(Kind::Stdin, data, deadline);
    // The process may have ended, and the guest has closed the connection: what it has said is still to be read.
    assert!(sent.as_ref().err().is_none_or(|e| e.errno() == Some(libc::EPIPE)), "{sent:?}");
}

/// Reads what a process says until its end.
pub fn follow(started: Started) -> Executed {
    follow_with(started, |_| {})
}

/// Reads what a process says until its end; `told` hears of how much of its input was taken.
pub fn follow_with(mut started: Started, mut told: impl FnMut(u32)) -> Executed {
    let deadline = Instant::now() + DEADLINE;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        let frame =
            started.connection.receive(deadline).expect("a frame").expect("no end before the exit code");
        match frame.kind {
            Kind::Stdout => stdout.extend(frame.body),
            Kind::Stderr => stderr.extend(frame.body),
            _ => match frame.parse().expect("a reply") {
                Reply::Exited { code } => {
                    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                    return Executed { code, stdout: text(stdout), stderr: text(stderr) };
                }
                Reply::Taken { bytes } => told(bytes),
                other => panic!("an unexpected answer: {other:?}"),
            },
        }
    }
}

/// Reads what a process says until it has said `needle`.
pub fn wait_for(started: &mut Started, needle: &str) -> String {
    let deadline = Instant::now() + DEADLINE;
    let mut said = String::new();
    while !said.contains(needle) {
        let frame =
            started.connection.receive(deadline).expect("a frame").expect("no end before it was said");
        match frame.kind {
            Kind::Stdout | Kind::Stderr => said.push_str(&String::from_utf8_lossy(&frame.body)),
            _ => assert!(matches!(frame.parse(), Ok(Reply::Taken { .. })), "it has ended: {said}"),
        }
    }
    said
}
