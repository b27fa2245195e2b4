//! What the process of a container sees of files: mounts, masks, devices, and what it must not reach.
mod common;

use common::Runtime;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Stdio;

fn push_mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().expect("mounts").push(mount);
}

fn bind(source: &str, options: &[&str]) -> Value {
    json!({"destination": "/mnt", "type": "bind", "source": source, "options": options})
}

/// A folder of the host with one file in it.
fn host_folder(runtime: &Runtime) -> String {
    let dir = runtime.path("host");
    fs::create_dir(&dir).expect("a folder");
    fs::write(dir.join("file"), "of the host\n").expect("a file");
    dir.to_str().expect("UTF-8").to_owned()
}

#[test]
fn masked_paths_are_empty_and_readonly_paths_cannot_be_written() {
    let script = "wc -c < /proc/keys; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/hostname; \
                  mount | grep -c '/proc/sys '";
    let runtime = Runtime::new();
    let mut bundle = runtime.shell(script);
    bundle.edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
        }
    });
    let output = runtime.run(&bundle).success();
    assert_eq!(output.stdout, "0\n0\n1\n");
    assert!(output.stderr.contains("Read-only file system"), "{}", output.stderr);
}

#[test]
fn masked_files_and_folders_of_the_rootfs_hide_their_contents() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("cat /etc/secret; ls /var; echo x > /etc/passwd; ls /etc/absent");
    fs::write(bundle.rootfs("etc/secret"), "secret\n").expect("a file");
    fs::write(bundle.rootfs("var/secret"), "secret\n").expect("a file");
    bundle.edit(|config| {
        config["linux"]["maskedPaths"] = json!(["/etc/secret", "/var", "/etc/absent"]);
        config["linux"]["readonlyPaths"] = json!(["/etc/passwd", "/etc/absent"]);
    });
    let output = runtime.run(&bundle).exits(1);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.contains("Read-only file system"), "{}", output.stderr);
    assert!(output.stderr.contains("/etc/absent: No such file"), "{}", output.stderr);
    assert_eq!(fs::read_to_string(bundle.rootfs("etc/secret")).expect("the file"), "secret\n");
}

#[test]
fn a_readonly_rootfs_cannot_be_written_but_its_mounts_can() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("touch /tmp/x; touch /dev/shm/x && echo shm");
    bundle.edit(|config| config["root"]["readonly"] = json!(true));
    let output = runtime.run(&bundle).success();
    assert_eq!(output.stdout, "shm\n");
    assert!(output.stderr.contains("Read-only file system"), "{}", output.stderr);
    assert!(!bundle.rootfs("tmp/x").exists());
}

#[test]
fn a_bind_mount_shows_the_host_and_is_read_only_where_asked() {
    let runtime = Runtime::new();
    let host = host_folder(&runtime);
    let script = "cat /mnt/file; touch /mnt/new 2>/dev/null && echo written";
    let text = runtime.inside(script, |config| push_mount(config, bind(&host, &["bind", "rw"])));
    assert_eq!(text, "of the host\nwritten\n");
    let script = "cat /mnt/file; touch /mnt/newer 2>&1; true";
    let text = runtime.inside(script, |config| push_mount(config, bind(&host, &["rbind", "ro"])));
    assert_eq!(text, "of the host\ntouch: /mnt/newer: Read-only file system\n");
}

#[test]
fn a_file_is_bound_over_a_destination_that_is_made() {
    let runtime = Runtime::new();
    let file = runtime.file("resolv", "nameserver\n");
    let mount =
        json!({"destination": "/etc/deep/resolv.conf", "type": "bind", "source": file, "options": ["bind"]});
    let text = runtime.inside("cat /etc/deep/resolv.conf", |config| push_mount(config, mount));
    assert_eq!(text, "nameserver\n");
}

#[test]
fn a_relative_bind_source_is_below_the_bundle() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("cat /mnt/file");
    fs::create_dir(bundle.path("share")).expect("a folder");
    fs::write(bundle.path("share/file"), "shared\n").expect("a file");
    bundle.mount("/mnt", "bind", "share", &["bind"]);
    assert_eq!(runtime.output(&bundle), "shared\n");
}

#[test]
fn mount_flags_are_those_of_the_options() {
    let runtime = Runtime::new();
    let host = host_folder(&runtime);
    let script = "grep ' /mnt ' /proc/self/mountinfo";
    let options = ["bind", "ro", "nosuid", "nodev", "noexec", "noatime"];
    let text = runtime.inside(script, |config| push_mount(config, bind(&host, &options)));
    for option in ["ro", "nosuid", "nodev", "noexec", "noatime"] {
        let flags = text.split_whitespace().nth(5).expect("the flags");
        assert!(flags.split(',').any(|flag| flag == option), "{option} is missing in: {text}");
    }
}

#[test]
fn a_tmpfs_has_its_size_and_mode() {
    let runtime = Runtime::new();
    let mount = json!({"destination": "/fresh", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "size=1024k", "mode=1755"]});
    let script = "grep -o 'size=[0-9]*k' /proc/mounts | grep 1024; stat -c %a /fresh; \
                  dd if=/dev/zero of=/fresh/big bs=64k count=32 2>&1 | grep -c 'No space'";
    let text = runtime.inside(script, |config| push_mount(config, mount));
    assert_eq!(text, "size=1024k\n1755\n1\n");
}

#[test]
fn a_tmpfs_with_tmpcopyup_keeps_what_the_image_has() {
    let runtime = Runtime::new();
    let mount = json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
    let text = runtime.inside("cat /etc/group; touch /etc/new", |config| push_mount(config, mount));
    assert!(text.contains("root:x:0:"), "{text}");
}

#[test]
fn the_propagation_of_a_mount_is_that_of_its_options() {
    let runtime = Runtime::new();
    let host = host_folder(&runtime);
    let script = "grep ' /mnt ' /proc/self/mountinfo";
    let shared = runtime.inside(script, |config| push_mount(config, bind(&host, &["bind", "rshared"])));
    assert!(shared.contains("shared:"), "{shared}");
    let private = runtime.inside(script, |config| push_mount(config, bind(&host, &["bind", "rprivate"])));
    assert!(!private.contains("shared:") && !private.contains("master:"), "{private}");
}

#[test]
fn the_propagation_of_the_rootfs_is_that_of_the_config() {
    let script = "awk '$5 == \"/\"' /proc/self/mountinfo";
    for propagation in ["private", "rprivate"] {
        let text = Runtime::new().inside(script, |config| {
            config["linux"]["rootfsPropagation"] = json!(propagation);
        });
        assert!(!text.contains("shared:") && !text.contains("master:"), "{text}");
    }
    let runtime = Runtime::new();
    let mut bundle = runtime.bundle();
    bundle.edit(|config| config["linux"]["rootfsPropagation"] = json!("sideways"));
    let _ = runtime.run(&bundle).fails_with(1, &["rootfsPropagation", "sideways"]);
    runtime.assert_nothing_left();
}

#[test]
fn mounts_of_the_container_do_not_show_on_the_host() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.mount("/mnt", "tmpfs", "mkt-hidden", &[]);
    runtime.detach(&bundle);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    assert!(!mounts.contains(bundle.dir()), "a mount of the bundle shows on the host");
    assert!(runtime.exec(&bundle.id, "cat /proc/mounts").stdout.contains("mkt-hidden"));
}

#[test]
fn a_symlink_in_the_rootfs_does_not_let_a_mount_escape() {
    let runtime = Runtime::new();
    let outside = runtime.path("outside");
    fs::create_dir(&outside).expect("a folder");
    let mut bundle = runtime.shell("touch /mnt/link/dir/x /mnt/up/dir/y && echo done");
    symlink(&outside, bundle.rootfs("mnt/link")).expect("a link");
    symlink(
        "../../../../../../../../..".to_owned() + outside.to_str().expect("UTF-8"),
        bundle.rootfs("mnt/up"),
    )
    .expect("a link");
    bundle.mount("/mnt/link/dir", "tmpfs", "tmpfs", &[]).mount("/mnt/up/dir", "tmpfs", "tmpfs", &[]);
    assert_eq!(runtime.output(&bundle), "done\n");
    assert_eq!(common::names_in(&outside), Vec::<String>::new(), "the mount escaped the rootfs");
    assert!(bundle.rootfs(outside.join("dir").to_str().expect("UTF-8").trim_start_matches('/')).is_dir());
}

#[test]
fn a_proc_that_is_a_symlink_is_refused() {
    let runtime = Runtime::new();
    let bundle = runtime.shell("true");
    fs::remove_dir(bundle.rootfs("proc")).expect("the removal");
    symlink("/tmp", bundle.rootfs("proc")).expect("a link");
    let _ = runtime.run(&bundle).fails_with(1, &["/proc"]);
    runtime.assert_nothing_left();
}

#[test]
fn the_default_devices_are_there_and_work() {
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
                  for l in fd stdin ptmx; do readlink /dev/$l; done; head -c 4 /dev/zero | wc -c; echo x > /dev/null; \
                  ls /dev | wc -w";
    let text = Runtime::new().inside(script, |_| {});
    assert!(text.starts_with("/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n4\n"), "{text}");
    let count: u32 = text.lines().last().and_then(|line| line.parse().ok()).expect("a number");
    assert!(count <= 16, "{count} entries in /dev");
}

/// As callers start a container in the background: a checkpoint is made only of files that the container's own mounts have.
#[test]
fn a_null_device_as_a_standard_stream_is_that_of_the_container() {
    let script = "for fd in 0 2; do id=$(awk '/^mnt_id/ { print $2 }' /proc/self/fdinfo/$fd); \
                  awk -v id=$id '$1 == id { print $5 }' /proc/self/mountinfo; done; readlink /proc/self/fd/0";
    let runtime = Runtime::new();
    let bundle = runtime.shell(script);
    let path = runtime.path("said");
    let said = fs::File::create(&path).expect("a file");
    let mut command = runtime.command(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    let status = command.stdin(Stdio::null()).stdout(said).stderr(Stdio::null()).status();
    assert!(status.expect("the runtime").success());
    runtime.wait_status(&bundle.id, "stopped");
    assert_eq!(fs::read_to_string(path).expect("what it said"), "/dev\n/dev\n/dev/null\n");
    runtime.ok(&["delete", &bundle.id]);
}

#[test]
fn a_device_of_the_config_is_made_with_its_owner_and_mode() {
    let script = "stat -c '%F %t:%T %a %u %g' /dev/own /dev/deep/own; head -c 2 /dev/own | wc -c";
    let text = Runtime::new().inside(script, |config| {
        config["linux"]["devices"] = json!([
            {"path": "/dev/own", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/deep/own", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600}
        ]);
        config["linux"]["resources"]["devices"]
            .as_array_mut()
            .expect("rules")
            .push(json!({"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"}));
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_DAC_OVERRIDE"]);
        }
    });
    assert_eq!(text, "character special file 1:5 640 7 8\ncharacter special file 1:5 600 0 0\n2\n");
}

#[test]
fn a_device_has_the_group_of_the_config_and_not_that_of_its_directory() {
    let runtime = Runtime::new();
    let mut bundle = runtime.shell("stat -c %g /given/own");
    let directory = bundle.rootfs("given");
    fs::create_dir(&directory).expect("a directory");
    std::os::unix::fs::chown(&directory, None, Some(5)).expect("its group");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o2755)).expect("its mode");
    bundle.edit(|config| {
        config["linux"]["devices"] = json!([{"path": "/given/own", "type": "c", "major": 1, "minor": 3}]);
    });
    assert_eq!(runtime.output(&bundle), "0\n");
}

#[test]
fn a_fifo_of_the_config_is_made_whatever_its_numbers_say() {
    let text = Runtime::new().inside("test -p /dev/pipe && stat -c %a /dev/pipe", |config| {
        config["linux"]["devices"] =
            json!([{"path": "/dev/pipe", "type": "p", "major": 8, "minor": 666, "fileMode": 0o640}]);
    });
    assert_eq!(text, "640\n");
}

#[test]
fn a_device_that_no_rule_allows_cannot_be_opened() {
    let device = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}]);
    let script = "head -c 1 /dev/kmsg 2>&1; true";
    // Reading the kernel's log also takes a capability.
    let with_device = |config: &mut Value| {
        config["linux"]["devices"] = device;
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_SYSLOG"]);
        }
    };
    let text = Runtime::new().inside(script, with_device.clone());
    assert!(text.contains("Operation not permitted"), "{text}");
    let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"});
    let script = "(: < /dev/kmsg) && echo open; true";
    let text = Runtime::new().inside(script, |config| {
        with_device(config);
        config["linux"]["resources"]["devices"].as_array_mut().expect("rules").push(rule);
    });
    assert!(text.starts_with("open\n"), "{text}");
}

#[test]
fn the_rootfs_of_the_host_is_out_of_reach() {
    let runtime = Runtime::new();
    let marker = runtime.file("marker", "x");
    let script =
        format!("ls {0} /../..{0} /proc/1/root{0} 2>/dev/null; ls / | sort | tr '\\n' ' '", marker.display());
    let text = runtime.inside(&script, |_| {});
    assert_eq!(text, "bin dev etc home mnt proc root run sys tmp var ");
}
