//! A `/proc` that is not what it seems, and mounts over what is below it.

use crate::common::Runtime;
use crate::race::{Attacker, ROUNDS};
use crate::without_mounts;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn nothing_is_mounted_over_what_proc_tells_of_a_process() {
    let runtime = Runtime::new();
    let folder = runtime.path("folder");
    fs::create_dir_all(folder.join("attr")).expect("a folder of the attacker");
    let source = folder.to_str().expect("UTF-8");
    let targets =
        ["/proc", "/proc/self", "/proc/self/attr", "/proc/1/attr", "/proc/sys/kernel", "/link", "/link/attr"];
    for target in targets {
        for (kind, options) in [("bind", ["rbind", "rw"]), ("tmpfs", ["nosuid", "nodev"])] {
            let mut bundle = runtime.bundle();
            symlink("proc/self", bundle.rootfs("link")).expect("a link");
            bundle.mount(target, kind, source, &options);
            let _ = runtime.run(&bundle).fails_with(1, &["cannot be mounted because it is inside /proc"]);
        }
    }
    runtime.assert_nothing_left();
}

#[test]
fn a_proc_that_is_a_link_is_refused() {
    let runtime = Runtime::new();
    for (name, destination) in [("proc", "/proc"), ("sys", "/sys")] {
        for target in ["/tmp", "tmp", "../tmp", "/second", "mnt/volume"] {
            let mut bundle = runtime.bundle();
            fs::remove_dir(bundle.rootfs(name)).expect("the image's own folder");
            symlink(target, bundle.rootfs(name)).expect("a link");
            symlink("/tmp", bundle.rootfs("second")).expect("a link");
            let volume = runtime.dir().to_str().expect("UTF-8");
            bundle.mount("/mnt/volume", "bind", volume, &["rbind", "ro"]);
            let output = runtime.run(&bundle);
            let _ = output.fails_with(1, &[destination, "must be mounted on ordinary directory"]);
        }
    }
    runtime.assert_nothing_left();
}

/// Runs containers while their `/proc` is exchanged for a link to a folder that looks like one; each must fail, or print
/// `expected`. Once it is made, whoever can write to a root can move its mount points as he likes, so the containers look
/// through a second procfs, `/real`.
fn race_for_proc(script: &str, expected: &str) {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell(script);
    bundle.mount("/real", "proc", "proc", &[]);
    let fake = bundle.rootfs("fake");
    fs::create_dir_all(fake.join("sys/net/ipv4")).expect("a folder like /proc");
    fs::create_dir_all(fake.join("self/attr")).expect("a folder like /proc");
    fs::write(fake.join("sys/net/ipv4/ip_forward"), "fake\n").expect("a file like a kernel parameter");
    symlink("fake", bundle.rootfs("link")).expect("a link");
    bundle.edit(|config| config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"}));
    let attacker = Attacker::exchange(&bundle.rootfs("proc"), &bundle.rootfs("link"));
    let mut started = 0;
    for _ in 0..ROUNDS {
        let output = runtime.run(&bundle);
        if output.code == 0 {
            started += 1;
            assert_eq!(output.stdout, expected);
        }
    }
    assert!(attacker.count() > ROUNDS as u64, "the race was not run");
    drop(attacker);
    println!("{started} of {ROUNDS} containers started");
    let file = fs::read_to_string(fake.join("sys/net/ipv4/ip_forward")).expect("the fake parameter");
    assert_eq!(file, "fake\n", "a kernel parameter was written to a file of the image");
    runtime.assert_nothing_left();
}

#[test]
fn a_proc_that_is_exchanged_for_a_link_never_leads_the_mount_elsewhere() {
    race_for_proc("grep -c ' /fake ' /real/self/mountinfo; true", "0\n");
}

#[test]
fn kernel_parameters_are_written_to_the_kernel_or_not_at_all() {
    race_for_proc("cat /real/sys/net/ipv4/ip_forward", "1\n");
}

#[test]
fn without_a_proc_of_its_own_a_container_s_parameters_and_labels_are_refused() {
    let runtime = Runtime::new();
    let trap = runtime.file("trap", "untouched\n");
    for link in [false, true] {
        let mut bundle = runtime.bundle();
        let parameters = bundle.rootfs("proc/sys/net/ipv4");
        fs::create_dir_all(&parameters).expect("a folder like /proc");
        if link {
            symlink(&trap, parameters.join("ip_forward")).expect("a link");
        } else {
            fs::write(parameters.join("ip_forward"), "untouched\n").expect("a file like a kernel parameter");
        }
        bundle.edit(|config| {
            without_mounts(config, &["/proc"]);
            config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        });
        let _ = runtime.run(&bundle).fails_with(1, &["not the root of a proc file system"]);
        if !link {
            assert_eq!(fs::read_to_string(parameters.join("ip_forward")).expect("it"), "untouched\n");
        }
    }
    assert_eq!(fs::read_to_string(&trap).expect("the file of the host"), "untouched\n");
    runtime.assert_nothing_left();
}

#[test]
fn the_name_of_a_parameter_leads_nowhere_but_to_it() {
    let runtime = Runtime::new();
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a parameter of the host");
    for name in [
        "net/../kernel/core_pattern",
        "net/./../kernel/core_pattern",
        "net/ipv4/../../kernel/core_pattern",
        "net//../kernel/core_pattern",
        "kernel/shmmax/../core_pattern",
        "fs/mqueue/../../kernel/core_pattern",
        "net.//.//.kernel.core_pattern",
    ] {
        let mut bundle = runtime.bundle();
        // The value that is there already, so that an attack that succeeds harms nobody.
        bundle.edit(|config| config["linux"]["sysctl"] = json!({name: before.trim_end()}));
        let _ = runtime.run(&bundle).fails_with(1, &["sysctl"]);
    }
    runtime.assert_nothing_left();
}
