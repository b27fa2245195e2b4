//! What the black-box tests share: the runtime under test, bundles, consoles and clean-up.
//!
//! The runtime is the binary of this package, or the one that `MAGIKRUN_TEST_RUNTIME` names, so that the same
//! suite runs against runc. A missing privilege or package is a failure, never a skipped test.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test crate uses a part of this module")]

mod bundle;
mod cgroup;
mod commands;
mod console;
mod containerd;
mod engine;
pub mod faults;
mod layout;
pub mod pods;
mod process;
mod program;
mod registry;
mod shim;
mod wasm;

pub use bundle::{Bundle, busybox_rootfs};
pub use cgroup::{cgroup_dir, cgroup_value, has_controllers, leftover_cgroups, make_cgroups, remove_cgroups};
pub use commands::Commands;
pub use console::{ConsoleSocket, Terminal};
pub use containerd::{Containerd, IMAGE, PAUSE_IMAGE, Programs, Shim};
pub use engine::{Engine, LIMITS, LISTENER, engine_path, engine_program, remove_all, write_busybox_archive};
pub use layout::{Compression, Layer, Layout};
pub use pods::Pods;
pub use process::{
    DEADLINE, Output, Running, finish, inner_pid, is_alive, is_running, poll, property, readable, signal,
    start, start_with, tool, wait_dead,
};
pub use program::{copy_program, write_script};
pub use registry::{RegistryAuth, RegistryServer};
pub use shim::shim_folder;
pub use wasm::{Wasm, annotate, compile, probe};

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// The path of the runtime under test.
pub fn runtime_path() -> PathBuf {
    if let Some(path) = std::env::var_os("MAGIKRUN_TEST_RUNTIME").filter(|path| !path.is_empty()) {
        return PathBuf::from(path);
    }
    option_env!("CARGO_BIN_EXE_magikrun")
        .map(PathBuf::from)
        .expect("MAGIKRUN_TEST_RUNTIME must name the runtime when it is not built by this package")
}

/// The path of the release binary, which `make test` has built and names.
pub fn release_path() -> PathBuf {
    std::env::var_os("MAGIKRUN_RELEASE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/magikrun"), PathBuf::from)
}

/// Whether the suite runs against a runtime that does not call itself magikrun.
pub fn is_foreign_runtime() -> bool {
    static FOREIGN: OnceLock<bool> = OnceLock::new();
    *FOREIGN.get_or_init(|| {
        let mut command = bare();
        command.arg("--version");
        !finish(command, None).stdout.starts_with("magikrun ")
    })
}

/// The runtime without any global option.
pub fn bare() -> Command {
    Command::new(runtime_path())
}

/// A name no other test and no other run of the suite uses.
pub fn unique_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let nanos =
        std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos() % 1_000_000_000);
    format!("mkt-{}-{number}-{nanos}", std::process::id())
}

/// Fails the test with a clear message unless it runs as root.
pub fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "these tests make containers and must run as root");
}

/// Fails the test with a clear message unless `program` is installed.
pub fn require_program(program: &str) -> PathBuf {
    find_program(program, &std::env::var("PATH").unwrap_or_default())
}

/// The same for another PATH.
fn find_program(program: &str, path: &str) -> PathBuf {
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"])
        .map(|dir| Path::new(dir).join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("this test needs the program '{program}', which is not installed"))
}

/// The runtime with a state root, a folder of bundles and a cgroup of its own; all are removed on drop.
pub struct Runtime {
    dir: TempDir,
    name: String,
    next: AtomicU32,
}

impl Runtime {
    /// A runtime with an empty state root.
    pub fn new() -> Self {
        require_root();
        let dir = tempfile::Builder::new().prefix("mkt").tempdir().expect("a temporary folder");
        fs::create_dir(dir.path().join("state")).expect("the state root");
        // The root of a user namespace must be able to walk to its root file system.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("the folder's mode");
        Self { dir, name: unique_name(), next: AtomicU32::new(0) }
    }

    /// The folder that goes away with this runtime.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The state root, the value of `--root`.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The name that every id and cgroup of this runtime starts with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path in the temporary folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the temporary folder.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).expect("a file in the temporary folder");
        path
    }

    /// The runtime with `--root`.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        let mut command = bare();
        command.arg("--root").arg(self.root()).args(args);
        command
    }

    /// The image store of this runtime.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// `magikrun image ARGS` with this runtime's store.
    #[track_caller]
    pub fn image(&self, args: &[&str]) -> Output {
        let store = self.store();
        let mut all = vec!["image", "--storage", store.to_str().expect("a path in UTF-8")];
        all.extend(args);
        self.call(&all)
    }

    /// `magikrun run --image IMAGE ID ARGS` with this runtime's store.
    #[track_caller]
    pub fn run_image(&self, options: &[&str], image: &str, args: &[&str]) -> Output {
        let id = format!("{}-i{}", self.name, self.next.fetch_add(1, Ordering::Relaxed));
        let store = self.store();
        let mut all = vec!["run", "--storage", store.to_str().expect("a path in UTF-8"), "--image", image];
        all.extend(options);
        all.push(&id);
        all.extend(args);
        self.call(&all)
    }

    /// Runs one command to its end, with standard input closed.
    #[track_caller]
    pub fn call<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Output {
        finish(self.command(args), None)
    }

    /// Runs one command to its end and requires that it succeeds.
    #[track_caller]
    pub fn ok<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Output {
        self.call(args).success()
    }

    /// A new bundle that runs `true`, with an id of its own.
    pub fn bundle(&self) -> Bundle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Bundle::new(self.dir.path(), &self.name, number)
    }

    /// A new bundle that runs `script` in a shell.
    pub fn shell(&self, script: &str) -> Bundle {
        let mut bundle = self.bundle();
        bundle.args(&["sh", "-c", script]);
        bundle
    }

    /// A new bundle whose process sleeps until it is killed.
    pub fn sleeper(&self) -> Bundle {
        let mut bundle = self.bundle();
        bundle.args(&["sleep", "600"]);
        bundle
    }

    /// `run --bundle B ID` in the foreground.
    #[track_caller]
    pub fn run(&self, bundle: &Bundle) -> Output {
        self.call(&["run", "--bundle", bundle.dir(), &bundle.id])
    }

    /// The output of a container that must succeed.
    #[track_caller]
    pub fn output(&self, bundle: &Bundle) -> String {
        self.run(bundle).success().stdout
    }

    /// `create --bundle B ID`, which must succeed.
    pub fn create(&self, bundle: &Bundle) -> Output {
        self.ok(&["create", "--bundle", bundle.dir(), &bundle.id])
    }

    /// `run --detach --bundle B ID`, which must succeed; answers the pid of the container.
    pub fn detach(&self, bundle: &Bundle) -> i32 {
        self.ok(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
        self.pid(&bundle.id)
    }

    /// The record that `state` prints.
    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id]).stdout).expect("state prints JSON")
    }

    /// The status in the record that `state` prints.
    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().expect("a status").to_owned()
    }

    /// The host's pid of the container's process.
    pub fn pid(&self, id: &str) -> i32 {
        i32::try_from(self.state(id)["pid"].as_i64().expect("a pid")).expect("a pid that fits")
    }

    /// Waits until `state` says `status`.
    pub fn wait_status(&self, id: &str, status: &str) {
        poll(&format!("container {id} to be {status}"), || (self.status(id) == status).then_some(()));
    }

    /// What `script` prints in a container whose configuration `change` has changed.
    #[track_caller]
    pub fn inside(&self, script: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut bundle = self.shell(script);
        bundle.edit(change);
        self.output(&bundle)
    }

    /// Runs a shell script in a running container.
    pub fn exec(&self, id: &str, script: &str) -> Output {
        self.call(&["exec", id, "sh", "-c", script])
    }

    /// Names of folders in the state root: containers, and what a half-done command left, but no caches, whose names
    /// begin with a tilde, or in crun's case with a dot.
    pub fn state_entries(&self) -> Vec<String> {
        let mut names = names_in(&self.root());
        names.retain(|name| !name.starts_with(['~', '.']) && self.root().join(name).is_dir());
        names
    }

    /// Requires that nothing is left of `bundle`: no state, no cgroup, no process.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.state_entries(), Vec::<String>::new(), "the state root is not empty");
        let cgroups = leftover_cgroups(&self.name);
        let leaves: Vec<_> = cgroups.iter().filter(|path| !path.ends_with(&self.name)).collect();
        assert!(leaves.is_empty(), "cgroups were left behind: {leaves:?}");
        let processes = self.processes();
        assert!(processes.is_empty(), "processes were left behind: {processes:?}");
    }

    /// Processes whose command line names this runtime's folder or whose cgroup carries its name.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let dir = self.dir.path().to_string_lossy().into_owned();
        let own = i32::try_from(std::process::id()).expect("a pid that fits");
        let numbers = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
        numbers
            .filter(|pid| *pid != own)
            .filter_map(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                let is_ours = line.contains(&dir) || cgroup.contains(&self.name);
                (is_ours && is_running(pid)).then_some((pid, line))
            })
            .collect()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        for id in self.state_entries() {
            let _ = self
                .command(&["delete", "--force", &id])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .status();
        }
        remove_cgroups(&self.name);
    }
}

/// The names in a folder, sorted; none if the folder does not exist.
pub fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The records of a JSON log, one a line.
pub fn log_records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("a log line is not JSON: {error}: {line}"))
        })
        .collect()
}

/// The message of the last record of a JSON log, which must be an error with a time.
pub fn last_log_error(path: &Path) -> String {
    let record = log_records(path).pop().expect("the log has a record");
    assert_eq!(record["level"], "error", "the last record is not an error: {record}");
    assert!(
        record["time"].as_str().is_some_and(|time| time.contains('T')),
        "the record has no time in RFC 3339: {record}"
    );
    record["msg"].as_str().expect("the record has a message").to_owned()
}
