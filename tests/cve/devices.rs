//! Device files that are not what they seem, and a `/dev` that leads to the host.

use crate::common::{Bundle, ConsoleSocket, Output, Runtime, names_in};
use crate::race::{Attacker, ROUNDS};
use crate::{give, without_mounts};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

fn null_device(path: &Path) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3))
        .expect("these tests make devices");
}

/// A bundle with a `/dev` that is a volume, which an attacker shares.
fn with_shared_dev(runtime: &Runtime, script: &str) -> (Bundle, PathBuf) {
    let mut bundle = runtime.shell(script);
    let dev = runtime.path("dev");
    fs::create_dir_all(dev.join("pts")).expect("a volume");
    null_device(&dev.join("null"));
    bundle.edit(|config| {
        without_mounts(config, &["/dev"]);
        config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys", "/proc/timer_list"]);
    });
    bundle.mount("/dev", "bind", dev.to_str().expect("UTF-8"), &["rbind", "rw"]);
    (bundle, dev)
}

#[test]
fn paths_are_masked_by_the_null_device_or_the_container_is_refused() {
    let runtime = Runtime::new();
    let script = "for f in keys timer_list; do stat -c %t:%T /proc/$f; done; wc -c < /proc/keys";
    let (bundle, dev) = with_shared_dev(&runtime, script);
    for target in ["/proc/sys/kernel/core_pattern", "/proc/self/status"] {
        let link = dev.join("link");
        let _ = fs::remove_file(&link);
        symlink(target, &link).expect("a link");
        let attacker = Attacker::exchange(&dev.join("null"), &link);
        for _ in 0..ROUNDS {
            let output = runtime.run(&bundle);
            if output.code == 0 {
                assert_eq!(output.stdout, "1:3\n1:3\n0\n");
            }
        }
        assert!(attacker.count() > ROUNDS as u64, "the race was not run");
        drop(attacker);
        if fs::symlink_metadata(dev.join("null")).expect("its kind").is_symlink() {
            fs::rename(&link, dev.join("null")).expect("the device is put back");
        }
    }
    runtime.assert_nothing_left();
}

#[test]
fn a_null_device_that_is_none_is_not_used_as_a_mask() {
    let runtime = Runtime::new();
    let (bundle, dev) = with_shared_dev(&runtime, "cat /proc/keys");
    for target in ["/proc/sys/kernel/core_pattern", "/etc/passwd"] {
        fs::remove_file(dev.join("null")).expect("the device");
        symlink(target, dev.join("null")).expect("a link");
        let _ = runtime.run(&bundle).fails_with(1, &["unable to mask", "not the null device"]);
    }
    runtime.assert_nothing_left();
}

/// Creates, starts and deletes a container with a terminal; answers what `create` said.
fn with_terminal(runtime: &Runtime, bundle: &Bundle, number: usize) -> Output {
    let socket = ConsoleSocket::listen(runtime.dir(), &format!("console{number}"));
    let output =
        runtime.call(&["create", "--bundle", bundle.dir(), "--console-socket", socket.path(), &bundle.id]);
    if output.code == 0 {
        let mut terminal = socket.terminal();
        runtime.ok(&["start", &bundle.id]);
        terminal.read_until("end");
        runtime.ok(&["delete", "--force", &bundle.id]);
    }
    output
}

#[test]
fn the_console_is_a_terminal_or_the_container_is_refused() {
    let runtime = Runtime::new();
    let (mut bundle, dev) = with_shared_dev(&runtime, "echo end");
    let trigger = runtime.file("trigger", "of the host\n");
    bundle.mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666"]);
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    fs::write(dev.join("console"), "").expect("a mount point");
    symlink(&trigger, dev.join("link")).expect("a link");
    let attacker = Attacker::exchange(&dev.join("console"), &dev.join("link"));
    for number in 0..ROUNDS / 2 {
        let _ = with_terminal(&runtime, &bundle, number);
    }
    assert!(attacker.count() > ROUNDS as u64, "the race was not run");
    drop(attacker);
    assert_eq!(fs::read_to_string(&trigger).expect("the file of the host"), "of the host\n");
    runtime.assert_nothing_left();
}

#[test]
fn a_multiplexer_that_is_none_gives_no_terminal() {
    let runtime = Runtime::new();
    let (mut bundle, dev) = with_shared_dev(&runtime, "echo end");
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    for target in ["/proc/sysrq-trigger", "/dev/null", "/etc/passwd"] {
        for name in ["pts/ptmx", "ptmx"] {
            let _ = fs::remove_file(dev.join(name));
            symlink(target, dev.join(name)).expect("a link");
        }
        let output = with_terminal(&runtime, &bundle, 100 + target.len());
        assert_eq!(output.code, 1, "a terminal was made from {target}");
    }
    runtime.assert_nothing_left();
}

/// A bundle whose image has a `/dev` that is a link to a folder of the host, and no mount over it.
fn with_dev_link(runtime: &Runtime, target: &str, terminal: bool) -> Bundle {
    let mut bundle = runtime.shell("echo end");
    fs::remove_dir(bundle.rootfs("dev")).expect("the image's own folder");
    symlink(target, bundle.rootfs("dev")).expect("a link");
    bundle.edit(|config| {
        without_mounts(config, &["/dev"]);
        config["process"]["terminal"] = json!(terminal);
    });
    bundle
}

#[test]
fn a_dev_that_is_a_link_makes_and_removes_nothing_on_the_host() {
    let runtime = Runtime::new();
    let host = runtime.path("host");
    fs::create_dir(&host).expect("a folder of the host");
    for name in ["ptmx", "null", "console", "fd"] {
        fs::write(host.join(name), "of the host\n").expect("a file of the host");
    }
    let path = host.to_str().expect("UTF-8");
    let up = format!("../../../../../../../../../..{path}");
    for (number, target) in [path, &up].into_iter().enumerate() {
        for terminal in [false, true] {
            let bundle = with_dev_link(&runtime, target, terminal);
            if terminal {
                let _ = with_terminal(&runtime, &bundle, number);
            } else {
                let _ = runtime.run(&bundle);
            }
            assert_eq!(names_in(&host), ["console", "fd", "null", "ptmx"]);
            for name in ["ptmx", "null", "console", "fd"] {
                assert_eq!(fs::read_to_string(host.join(name)).expect("a file of the host"), "of the host\n");
            }
        }
    }
    runtime.assert_nothing_left();
}

#[test]
fn a_console_or_null_device_that_is_a_link_leads_to_nothing_on_the_host() {
    let runtime = Runtime::new();
    let (made, given) = (runtime.path("made"), runtime.file("given", "of the host\n"));
    for (number, read_only) in [false, true].into_iter().enumerate() {
        let mut bundle = runtime.shell("echo end");
        symlink(&made, bundle.rootfs("dev/console")).expect("a link");
        symlink(&given, bundle.rootfs("dev/null")).expect("a link");
        bundle.edit(|config| {
            without_mounts(config, &["/dev"]);
            config["root"]["readonly"] = json!(read_only);
            config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        });
        // With standard descriptors that are the null device.
        let mut command = runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let _ = command.status().expect("the runtime runs");
        bundle.edit(|config| config["process"]["terminal"] = json!(true));
        bundle.mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666"]);
        let _ = with_terminal(&runtime, &bundle, number);
        assert!(!made.exists(), "a file was made on the host");
        let metadata = fs::metadata(&given).expect("the file of the host");
        assert_eq!((metadata.uid(), metadata.len()), (0, 12), "the host's file was changed");
    }
    runtime.assert_nothing_left();
}

#[test]
fn devices_are_denied_when_the_configuration_has_no_rules() {
    let runtime = Runtime::new();
    // 1:11 is the kernel's log, which reading takes CAP_SYSLOG too; 1:3 is the null device.
    let script =
        "mknod /tmp/log c 1 11; mknod /tmp/null c 1 3; (: < /tmp/log) 2>&1; : < /tmp/null && echo null";
    for resources in [json!({}), json!({"devices": []}), json!({"devices": null})] {
        let mut bundle = runtime.shell(script);
        bundle.edit(|config| {
            config["linux"]["resources"] = resources;
            give(config, &["CAP_MKNOD", "CAP_SYSLOG", "CAP_SYS_ADMIN"]);
        });
        let output = runtime.run(&bundle).success();
        assert!(output.stdout.contains("Operation not permitted"), "{}", output.stdout);
        assert!(output.stdout.ends_with("null\n"), "{}", output.stdout);
    }
    runtime.assert_nothing_left();
}
