//! The namespaces of a container: new ones, those of others, and those of the host.
mod common;

use common::{Bundle, Runtime};
use serde_json::json;
use std::fs;
use std::os::unix::fs::chown;

fn link(pid: &str, namespace: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{namespace}")).expect("a namespace").to_string_lossy().into_owned()
}

const KINDS: [&str; 6] = ["pid", "net", "ipc", "uts", "mnt", "cgroup"];

#[test]
fn every_namespace_of_the_config_is_a_new_one() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let pid = runtime.detach(&bundle).to_string();
    for kind in KINDS {
        assert_ne!(link(&pid, kind), link("self", kind), "{kind} is that of the host");
    }
    assert_eq!(link(&pid, "user"), link("self", "user"));
}

#[test]
fn a_namespace_that_the_config_leaves_out_is_that_of_the_host() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| {
        config["linux"]["namespaces"] = json!([{"type": "mount"}]);
        config.as_object_mut().expect("an object").remove("hostname");
        config["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["type"] != "mqueue");
    });
    let pid = runtime.detach(&bundle).to_string();
    for kind in ["pid", "net", "ipc", "uts", "cgroup"] {
        assert_eq!(link(&pid, kind), link("self", kind), "{kind} is not that of the host");
    }
}

#[test]
fn a_namespace_is_joined_by_its_path() {
    let runtime = Runtime::new();
    let first = runtime.sleeper();
    let target = runtime.detach(&first).to_string();
    let mut second = runtime.sleeper();
    let joined = [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")];
    for (kind, file) in joined {
        let path = format!("/proc/{target}/ns/{file}");
        second.namespace(kind, Some(json!({"type": kind, "path": path})));
    }
    second.edit(|config| {
        config.as_object_mut().expect("an object").remove("hostname");
    });
    let pid = runtime.detach(&second).to_string();
    for (_, file) in joined {
        assert_eq!(link(&pid, file), link(&target, file));
    }
    assert_ne!(link(&pid, "mnt"), link(&target, "mnt"));
    let count = runtime.exec(&first.id, "ps | grep -c 'sleep 600$'").success().stdout;
    assert_eq!(count.trim(), "2");
}

#[test]
fn exec_joins_every_namespace_of_the_container() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let pid = runtime.detach(&bundle).to_string();
    for kind in KINDS {
        let text = runtime.exec(&bundle.id, &format!("readlink /proc/self/ns/{kind}")).success().stdout;
        assert_eq!(text.trim(), link(&pid, kind));
    }
}

#[test]
fn the_process_is_number_one_and_its_loopback_is_up() {
    let runtime = Runtime::new();
    let text = runtime.inside("echo $$; cat /sys/class/net/lo/flags; ls /sys/class/net", |_| {});
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "1");
    assert_eq!(lines[1], "0x9", "loopback is not up");
    assert_eq!(lines[2], "lo");
}

/// A bundle in a user namespace whose root is user 100000 of the host.
fn mapped(runtime: &Runtime, script: &str) -> Bundle {
    let mut bundle = runtime.shell(script);
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.edit(|config| {
        config["linux"]["uidMappings"] = mapping.clone();
        config["linux"]["gidMappings"] = mapping;
    });
    bundle.namespace("user", Some(json!({"type": "user"})));
    for name in ["", "tmp", "etc", "etc/passwd"] {
        chown(bundle.rootfs(name), Some(100_000), Some(100_000)).expect("the owner is changed");
    }
    bundle
}

#[test]
fn a_user_namespace_maps_the_users_and_groups() {
    let runtime = Runtime::new();
    let script = "awk '{print $1, $2, $3}' /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %u /etc/passwd; \
                  touch /tmp/mine; sleep 600";
    let bundle = mapped(&runtime, script);
    let output = runtime.ok(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    assert_eq!(output.wait_stdout("\n0\n0\n"), "0 100000 65536\n0 100000 65536\n0\n0\n");
    let pid = runtime.pid(&bundle.id);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status");
    assert!(status.contains("Uid:\t100000\t100000\t100000\t100000"), "{status}");
    assert_ne!(link(&pid.to_string(), "user"), link("self", "user"));
    assert_eq!(runtime.exec(&bundle.id, "id -u; stat -c %u /tmp/mine").success().stdout, "0\n0\n");
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn a_user_namespace_without_mappings_is_refused() {
    let runtime = Runtime::new();
    let mut bundle = runtime.bundle();
    bundle.namespace("user", Some(json!({"type": "user"})));
    let _ = runtime.run(&bundle).exits(1);
    runtime.assert_nothing_left();
}

#[test]
fn a_time_namespace_moves_the_clocks_also_in_exec() {
    let runtime = Runtime::new();
    let script = "cut -d. -f1 /proc/uptime; sleep 600";
    let mut bundle = runtime.shell(script);
    bundle.edit(|config| {
        config["linux"]["timeOffsets"] =
            json!({"boottime": {"secs": 500_000_000, "nanosecs": 0}, "monotonic": {"secs": 1000, "nanosecs": 5}});
    });
    bundle.namespace("time", Some(json!({"type": "time"})));
    let output = runtime.ok(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    let uptime: u64 = output.wait_stdout("\n").trim().parse().expect("a number");
    assert!(uptime >= 500_000_000, "{uptime}");
    let exec = runtime.exec(&bundle.id, "cut -d. -f1 /proc/uptime").success().stdout;
    assert!(exec.trim().parse::<u64>().expect("a number") >= 500_000_000, "{exec}");
    assert_ne!(link(&runtime.pid(&bundle.id).to_string(), "time"), link("self", "time"));
}

#[test]
fn a_hostname_without_a_new_uts_namespace_is_refused() {
    let runtime = Runtime::new();
    let mut bundle = runtime.bundle();
    bundle.namespace("uts", None);
    let _ = runtime.run(&bundle).exits(1);
    runtime.assert_nothing_left();
}

#[test]
fn a_duplicate_namespace_is_refused() {
    let runtime = Runtime::new();
    let mut bundle = runtime.bundle();
    bundle.edit(|config| {
        config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "ipc"}));
    });
    let _ = runtime.run(&bundle).fails_with(1, &["ipc"]);
    runtime.assert_nothing_left();
}

#[test]
fn a_process_executed_in_a_container_that_was_made_in_a_chroot_is_in_its_root() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    fs::write(bundle.rootfs("inside"), "").expect("a file");
    let chroot = runtime.path("chroot");
    fs::create_dir(&chroot).expect("a directory");
    let script = "mount --rbind / \"$0\" && mount --make-rprivate \"$0\" && exec chroot \"$0\" \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(&chroot);
    command.arg(common::runtime_path()).arg("--root").arg(runtime.root());
    command.args(["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    let _ = common::finish(command, None).success();
    let exec = runtime.exec(&bundle.id, "test -e /inside && echo inside");
    runtime.ok(&["delete", "--force", &bundle.id]);
    assert_eq!(exec.stdout, "inside\n", "{}", exec.stderr);
    runtime.assert_nothing_left();
}
