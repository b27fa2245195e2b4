//! Containers of an ordinary user to whom systemd has delegated cgroups.

use crate::as_user;
use crate::common::{Bundle, Runtime, cgroup_dir};
use serde_json::json;
use std::os::unix::fs::chown;

const UID: u32 = 1000;

fn runtime() -> Runtime {
    let runtime = Runtime::new();
    for path in [runtime.dir().to_owned(), runtime.root()] {
        chown(path, Some(UID), Some(UID)).expect("the folder's owner");
    }
    runtime
}

/// A bundle of the user's, with limits.
fn bundle(runtime: &Runtime, path: Option<String>) -> Bundle {
    let mut bundle = runtime.sleeper();
    bundle.for_user(UID);
    bundle.edit(|config| {
        config["linux"]["resources"] = json!({
            "memory": {"limit": 67_108_864}, "pids": {"limit": 50},
            "cpu": {"quota": 50_000, "period": 100_000},
        });
        if let Some(path) = path {
            config["linux"]["cgroupsPath"] = json!(path);
        }
    });
    bundle
}

fn assert_limits(pid: i32) -> std::path::PathBuf {
    let dir = cgroup_dir(pid, "memory");
    assert!(
        dir.starts_with("/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service"),
        "{}",
        dir.display()
    );
    for (file, value) in [("memory.max", "67108864"), ("pids.max", "50"), ("cpu.max", "50000 100000")] {
        let text = std::fs::read_to_string(dir.join(file)).expect("a cgroup file");
        assert_eq!(text.trim(), value, "{file}");
    }
    dir
}

#[test]
fn a_user_has_limits_by_the_users_systemd() {
    if !crate::has_unified() {
        return;
    }
    let runtime = runtime();
    let bundle = bundle(&runtime, Some(format!("user.slice:mkt:{}", runtime.name())));
    let id = bundle.id.as_str();
    let ok = |args: &[&str]| as_user(&runtime, &[], &[&["--systemd-cgroup"], args].concat()).success();
    ok(&["run", "--detach", "--bundle", bundle.dir(), id]);
    let dir = assert_limits(runtime.pid(id));
    assert_eq!(ok(&["exec", id, "id", "-u"]).stdout, "0\n");
    ok(&["update", "--pids-limit", "33", id]);
    assert_eq!(std::fs::read_to_string(dir.join("pids.max")).expect("pids.max").trim(), "33");
    ok(&["pause", id]);
    ok(&["resume", id]);
    ok(&["delete", "--force", id]);
    assert!(!dir.exists(), "{} was left", dir.display());
    runtime.assert_nothing_left();
}

#[test]
fn a_user_has_limits_in_a_delegated_scope_without_systemds_help() {
    if !crate::has_unified() {
        return;
    }
    let runtime = runtime();
    let bundle = bundle(&runtime, None);
    let id = bundle.id.as_str();
    // Processes are in the leaves alone, so the caller makes one for itself.
    let script = "c=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $c/caller && \
                  echo $$ >$c/caller/cgroup.procs && exec \"$@\"";
    let scope =
        ["systemd-run", "--user", "--quiet", "--scope", "--property=Delegate=yes", "sh", "-c", script, "sh"];
    as_user(&runtime, &scope, &["run", "--detach", "--bundle", bundle.dir(), id]).success();
    let dir = assert_limits(runtime.pid(id));
    as_user(&runtime, &[], &["delete", "--force", id]).success();
    assert!(!dir.exists(), "{} was left", dir.display());
    runtime.assert_nothing_left();
}
