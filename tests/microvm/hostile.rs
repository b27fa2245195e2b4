//! Images and guests that mean harm.

use crate::common::Runtime;
use crate::microvm;
use std::os::unix::fs::symlink;

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
