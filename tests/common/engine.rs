//! What the tests of container engines share: how a client is called, the image that they run, and scripts.

use super::{Layer, Output, find_program, finish};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Says that it is ready, and ends with 42 when it is asked to.
pub const LISTENER: &str = "trap 'echo term; exit 42' TERM; echo ready; while :; do sleep 0.1; done";
/// Prints the limits from inside, on a host with cgroup v1 or v2.
pub const LIMITS: &str = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max; \
                          cat pids/pids.max 2>/dev/null || cat pids.max";

/// Where programs of engines are looked for: with `MAGIKRUN_TEST_ENGINES`, in that folder first, which holds the files of a newer release.
pub fn engine_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    match std::env::var("MAGIKRUN_TEST_ENGINES").ok().filter(|folder| !folder.is_empty()) {
        None => path,
        Some(folder) => {
            assert!(Path::new(&folder).is_dir(), "'{folder}' of MAGIKRUN_TEST_ENGINES does not exist");
            format!("{folder}/usr/bin:{folder}/usr/sbin:{path}")
        }
    }
}

/// A program of an engine, which must be there.
pub fn engine_program(name: &str) -> PathBuf {
    find_program(name, &engine_path())
}

/// An engine with its own storage, driven through the commands that people use.
pub trait Engine {
    /// The client with the options that lead to this engine.
    fn command(&self, args: &[&str]) -> Command;

    /// Runs the client to its end.
    #[track_caller]
    fn call(&self, args: &[&str]) -> Output {
        finish(self.command(args), None)
    }

    /// Runs the client, which must succeed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> Output {
        self.call(args).success()
    }
}

/// Removes every container and image of a podman, whatever became of its test.
pub fn remove_all(podman: &impl Engine) {
    for args in [&["rm", "--all", "--force", "--time", "0"][..], &["rmi", "--all", "--force"]] {
        let _ = podman.command(args).output();
    }
}

/// The archive of a busybox root file system.
pub fn busybox_archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| Layer::busybox().into_bytes())
}

/// Writes that archive into a folder, for an engine that imports it.
pub fn write_busybox_archive(dir: &Path) -> PathBuf {
    let path = dir.join("busybox.tar");
    fs::write(&path, busybox_archive()).expect("an archive");
    path
}
