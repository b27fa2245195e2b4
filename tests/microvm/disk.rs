//! Guests whose root is on a disk.

use crate::common::{Bundle, Runtime, busybox_rootfs, finish, require_program};
use crate::microvm;
use serde_json::json;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes an ext4 file system with busybox in it.
pub fn image(runtime: &Runtime) -> PathBuf {
    let (tree, image) = (runtime.path("tree"), runtime.path("disk.img"));
    busybox_rootfs(&tree);
    symlink("../run", tree.join("var/run")).expect("a link");
    std::fs::write(tree.join("etc/motd"), "of the disk\n").expect("a file");
    let mut command = Command::new(require_program("mke2fs"));
    command.args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&image).arg("32M");
    finish(command, None).success();
    image
}

/// A bundle whose own root has nothing but the disk, and a volume.
pub fn bundle(runtime: &Runtime, disk: &Path, script: &str) -> Bundle {
    let mut bundle = microvm(runtime, script);
    std::fs::remove_dir_all(bundle.rootfs("")).expect("the root");
    for name in ["run", "var"] {
        std::fs::create_dir_all(bundle.rootfs(name)).expect("a folder of the root");
    }
    // The way to the volume has a link, in this root as on the disk.
    symlink("../run", bundle.rootfs("var/run")).expect("a link");
    bundle.mount("/disk.img", "bind", disk.to_str().expect("UTF-8"), &["bind"]);
    let volume = runtime.path("volume");
    std::fs::create_dir_all(&volume).expect("a folder");
    bundle.mount("/var/run/volume", "bind", volume.to_str().expect("UTF-8"), &["bind"]);
    bundle.edit(|config| {
        config["annotations"]["org.magikrun.krun.root-disk"] = json!("/disk.img");
        config["process"]["cwd"] = json!("/home");
    });
    bundle
}

/// A block device whose bytes are those of a file.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn of(file: &Path) -> Self {
        // Where it is built into the kernel there is no module.
        let _ = Command::new("modprobe").arg("loop").output();
        let mut command = Command::new(require_program("losetup"));
        command.args(["--find", "--show"]).arg(file);
        Self(finish(command, None).success().stdout.trim().into())
    }

    /// Makes it the device `/dev/disk` of a container, which is its root instead of the file.
    fn give(&self, bundle: &mut Bundle) {
        let number = std::fs::metadata(&self.0).expect("a device").rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        bundle.edit(|config| {
            config["annotations"]["org.magikrun.krun.root-disk"] = json!("/dev/disk");
            let mounts = config["mounts"].as_array_mut().expect("mounts");
            mounts.retain(|mount| mount["destination"] != "/disk.img");
            config["linux"]["devices"] =
                json!([{"path": "/dev/disk", "type": "b", "major": major, "minor": minor}]);
            let rules = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "b", "major": major, "minor": minor, "access": "rw"}]);
            config["linux"]["resources"]["devices"] = rules;
        });
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_guest_has_its_root_on_a_disk_which_keeps_what_it_writes_unless_it_is_read_only() {
    let runtime = Runtime::new();
    let disk = image(&runtime);
    let script = "trap 'exit 7' TERM; cat /etc/motd; grep ' / ' /proc/mounts; pwd; echo kept >/home/kept; \
                  echo written >/run/volume/out; ls /disk.img; echo up; while :; do usleep 200000; done";
    let writer = bundle(&runtime, &disk, script);
    let args = ["run", "--bundle", writer.dir(), &writer.id];
    let running = crate::common::start(runtime.command(&args), None);
    running.wait_stdout("up\n");
    let said = running.stdout();
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines[1].starts_with("/dev/root / ext4 rw") || lines[1].starts_with("/dev/vda / ext4 rw"),
        "{said}"
    );
    assert_eq!([lines[0], lines[2], lines[3]], ["of the disk", "/home", "up"], "{said}");
    let found = runtime.ok(&["exec", &writer.id, "cat", "/home/kept", "/etc/motd"]);
    assert_eq!(found.stdout, "kept\nof the disk\n");
    // One machine that writes is all that a file system can take.
    let other = bundle(&runtime, &disk, "true");
    runtime.run(&other).fails_with(1, &["root-disk", "'/disk.img'", "it is in use"]);
    runtime.ok(&["kill", &writer.id, "TERM"]);
    running.finish().exits(7);
    let written = std::fs::read_to_string(runtime.path("volume/out"));
    assert_eq!(written.expect("a file of the volume"), "written\n");
    // Without a clean end the file system would have to be repaired before it can be mounted to read it.
    let mut reader =
        bundle(&runtime, &disk, "cat /home/kept; echo lost >/home/lost; mount | grep -c vda; exit 5");
    let device = LoopDevice::of(&disk);
    device.give(&mut reader);
    reader.edit(|config| config["root"]["readonly"] = json!(true));
    std::fs::create_dir_all(reader.rootfs("run/volume")).expect("a mount point");
    for name in ["proc", "sys", "dev"] {
        std::fs::create_dir_all(reader.rootfs(name)).expect("a mount point");
    }
    let output = runtime.run(&reader).exits(5);
    assert!(output.stdout.starts_with("kept\n"), "{} {}", output.stdout, output.stderr);
    assert!(output.stderr.contains("Read-only file system"), "{}", output.stderr);
    runtime.assert_nothing_left();
}

#[test]
fn what_is_no_disk_is_refused_when_the_container_is_made() {
    let runtime = Runtime::new();
    let fails = |disk: &Path, path: &str, why: &str| {
        let mut bundle = bundle(&runtime, disk, "true");
        bundle.edit(|config| config["annotations"]["org.magikrun.krun.root-disk"] = json!(path));
        let args = ["create", "--bundle", bundle.dir(), &bundle.id];
        runtime.call(&args).fails_with(1, &["org.magikrun.krun.root-disk", why]);
    };
    let small = runtime.file("small", "small");
    fails(&small, "/disk.img", "too small");
    fails(&small, "/missing", "no such file");
    fails(&small, "/run/volume", "neither a regular file nor a block device");
    fails(&small, "disk.img", "no absolute path");
    // What a link of the container leads to is in the container.
    let zeros = runtime.file("zeros", vec![0; 1 << 20]);
    fails(&zeros, "/disk.img", "no file system that the guest's kernel has");
    symlink(&zeros, runtime.path("volume/link")).expect("a link");
    fails(&small, "/run/volume/link", "no such file");
    runtime.assert_nothing_left();
}
