//! Images and guests that mean harm.

use crate::common::{Runtime, finish};
use crate::{microvm, programs};
use std::os::unix::fs::symlink;
use std::process::Command;

#[test]
fn no_file_of_the_image_is_written_or_followed() {
    let runtime = Runtime::new();
    let bundle = microvm(&runtime, "ls /; test -e /.krun_config.json && echo there");
    let host = runtime.path("host");
    for name in [".krun_config.json", "init.krun", "pod", "containers"] {
        symlink(&host, bundle.rootfs(name)).expect("a link to the host");
    }
    let output = runtime.run(&bundle);
    assert!(output.stdout.contains("init.krun"), "{} {}", output.stdout, output.stderr);
    assert!(!host.exists(), "a file was made on the host");
    symlink(&host, bundle.rootfs(".krun_vm.json")).expect("a link to the host");
    runtime.run(&bundle).fails_with(1, &[".krun_vm.json", "symbolic link"]);
    assert!(!host.exists(), "a file was made on the host");
    runtime.assert_nothing_left();
}

#[test]
fn no_mount_point_of_the_image_leads_to_the_host() {
    let runtime = Runtime::new();
    for name in ["dev", "sys"] {
        let bundle = microvm(&runtime, "true");
        let host = runtime.path("host");
        std::fs::create_dir_all(&host).expect("a folder of the host");
        std::fs::remove_dir(bundle.rootfs(name)).expect("an empty folder");
        symlink(&host, bundle.rootfs(name)).expect("a link to the host");
        let output = runtime.run(&bundle);
        let found: Vec<_> = std::fs::read_dir(&host).expect("the folder").collect();
        assert!(found.is_empty(), "{name}: {found:?} {}", output.stderr);
        runtime.assert_nothing_left();
    }
}

#[test]
fn a_guest_that_answers_nonsense_is_no_danger_and_ends() {
    let runtime = Runtime::new();
    let init = crate::common::runtime_path().with_file_name("hostile_guest");
    let program = programs(&runtime, &init).join("magikrun");
    let bundle = microvm(&runtime, "true");
    let config = runtime.file("patience.toml", "[vm]\nstart_timeout = 400\nanswer_timeout = 5\n");
    let call = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.env("MAGIKRUN_CONFIG", &config);
        command.arg("--root").arg(runtime.root()).args(args);
        finish(command, None)
    };
    call(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]).success();
    call(&["exec", &bundle.id, "true"]).fails_with(255, &["the guest"]);
    for _ in 0..3 {
        call(&["ps", &bundle.id]).fails_with(1, &["the guest"]);
    }
    // It does not answer from here on.
    call(&["exec", &bundle.id, "true"]).fails_with(255, &["the guest does not answer"]);
    assert_eq!(runtime.status(&bundle.id), "running");
    call(&["kill", &bundle.id, "TERM"]).success();
    runtime.wait_status(&bundle.id, "stopped");
    runtime.ok(&["delete", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn the_guest_sees_neither_the_hosts_kernel_nor_its_monitor() {
    let runtime = Runtime::new();
    // Below what the guest mounts lies what the host shares.
    let mut bundle = microvm(
        &runtime,
        "umount -l /dev/pts /dev/shm /dev /proc /sys/fs/cgroup /sys; ls -A /dev /proc /sys | grep -v :; echo end",
    );
    bundle.edit(|config| {
        let all = serde_json::json!(["CAP_SYS_ADMIN"]);
        config["process"]["capabilities"] =
            serde_json::json!({"bounding": all, "effective": all, "permitted": all});
    });
    let output = runtime.output(&bundle);
    let lines: Vec<_> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, ["end"], "{output}");
    runtime.assert_nothing_left();
}
