//! Links in images and volumes, still or moving, that lead mounts and mount points out of the root.

use crate::common::{Bundle, Runtime, names_in};
use crate::race::{Attacker, ROUNDS};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A folder of the host that must stay as it is: one file in it.
struct HostFolder(PathBuf);

impl HostFolder {
    fn new(runtime: &Runtime, name: &str) -> Self {
        let path = runtime.path(name);
        fs::create_dir(&path).expect("a folder of the host");
        fs::write(path.join("secret"), "of the host\n").expect("a file of the host");
        Self(path)
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(names_in(&self.0), ["secret"], "something was made in the host's folder");
        let secret = fs::read_to_string(self.0.join("secret")).expect("the file of the host");
        assert_eq!(secret, "of the host\n");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts of the host");
        assert!(!mounts.contains(self.0.to_str().expect("UTF-8")), "the host's folder was mounted over");
    }
}

/// A volume at `/volume`, and below it a mount whose way leads through `volume/way`.
fn with_volume(runtime: &Runtime, bundle: &mut Bundle, below: &str) -> PathBuf {
    let volume = runtime.path("volume");
    fs::create_dir(&volume).expect("a volume");
    fs::create_dir(volume.join("way")).expect("a folder in the volume");
    let innocent = runtime.path("innocent");
    fs::create_dir(&innocent).expect("a folder to mount");
    fs::write(innocent.join("mark"), "mounted\n").expect("a file to be seen");
    bundle.mount("/volume", "bind", volume.to_str().expect("UTF-8"), &["rbind", "rw"]);
    bundle.mount(&format!("/volume/way{below}"), "bind", innocent.to_str().expect("UTF-8"), &["bind", "rw"]);
    volume
}

#[test]
fn a_link_exchanged_under_a_mount_never_moves_it_to_the_host() {
    let runtime = Runtime::new();
    let host = HostFolder::new(&runtime, "host");
    let mut bundle = runtime.shell("ls /volume/way /volume/way/* ; cat /volume/way/secret; true");
    let volume = with_volume(&runtime, &mut bundle, "");
    symlink(&host.0, volume.join("link")).expect("a link to the host");
    let attacker = Attacker::exchange(&volume.join("way"), &volume.join("link"));
    for _ in 0..ROUNDS {
        let output = runtime.run(&bundle);
        assert!(!output.stdout.contains("of the host"), "the host is in the container: {}", output.stdout);
        assert!(!output.stdout.contains("secret"), "the host is in the container: {}", output.stdout);
    }
    assert!(attacker.count() > ROUNDS as u64, "the race was not run");
    drop(attacker);
    host.assert_untouched();
    runtime.assert_nothing_left();
}

#[test]
fn mount_points_are_never_made_outside_the_root() {
    let runtime = Runtime::new();
    let host = HostFolder::new(&runtime, "host");
    let mut bundle = runtime.shell("true");
    let volume = with_volume(&runtime, &mut bundle, "/new/deep/point");
    symlink(&host.0, volume.join("link")).expect("a link to the host");
    let file = runtime.file("one", "file\n");
    bundle.mount("/volume/way/other/file", "bind", file.to_str().expect("UTF-8"), &["bind", "ro"]);
    bundle.mount("/volume/way/fresh", "tmpfs", "tmpfs", &["ro"]);
    bundle.edit(|config| config["process"]["cwd"] = json!("/volume/way/work"));
    let attacker = Attacker::exchange(&volume.join("way"), &volume.join("link"));
    for _ in 0..ROUNDS {
        let _ = runtime.run(&bundle);
    }
    assert!(attacker.count() > ROUNDS as u64, "the race was not run");
    drop(attacker);
    host.assert_untouched();
    runtime.assert_nothing_left();
}

#[test]
fn links_of_an_image_lead_nowhere_but_into_it() {
    let runtime = Runtime::new();
    let host = HostFolder::new(&runtime, "host");
    let path = host.0.to_str().expect("UTF-8").to_owned();
    let up = format!("../../../../../../../../../..{path}");
    for target in [path.as_str(), up.as_str()] {
        let mut bundle =
            runtime.shell("cat /etc/resolv.conf; ls /work; test -e /work/secret && echo escaped; pwd");
        let file = runtime.file("resolv", "nameserver\n");
        symlink(format!("{target}/made"), bundle.rootfs("etc/resolv.conf")).expect("a link");
        symlink(target, bundle.rootfs("work")).expect("a link");
        symlink(format!("{target}/cwd"), bundle.rootfs("cwd")).expect("a link");
        bundle.mount("/etc/resolv.conf", "bind", file.to_str().expect("UTF-8"), &["bind", "ro"]);
        bundle.mount("/work/point", "tmpfs", "tmpfs", &[]);
        bundle.edit(|config| config["process"]["cwd"] = json!("/cwd"));
        let output = runtime.run(&bundle).exits(0);
        assert_eq!(output.stdout, format!("nameserver\ncwd\nmade\npoint\n{path}/cwd\n"));
        host.assert_untouched();
    }
    runtime.assert_nothing_left();
}

#[test]
fn a_device_that_is_exchanged_for_a_link_changes_nothing_on_the_host() {
    let runtime = Runtime::new();
    let target = runtime.file("shadow", "of the host\n");
    let mode =
        |path: &Path| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).expect("the file")) & 0o7777;
    fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
    let mut bundle = runtime.shell("true");
    // A volume that others write to, with a device of the configuration in it.
    let volume = runtime.path("volume");
    fs::create_dir(&volume).expect("a volume");
    bundle.mount("/volume", "bind", volume.to_str().expect("UTF-8"), &["rbind", "rw"]);
    bundle.edit(|config| {
        config["linux"]["devices"] = json!([
            {"path": "/volume/device", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 1234, "gid": 1234}
        ]);
    });
    let attacker = Attacker::replace(&volume.join("device"), &target);
    for _ in 0..ROUNDS {
        let _ = runtime.run(&bundle);
        assert_eq!(mode(&target), 0o600, "the host's file was opened to everybody");
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&target).expect("the file"));
        assert_eq!(owner, 0, "the host's file was given away");
    }
    assert!(attacker.count() > ROUNDS as u64, "the race was not run");
    drop(attacker);
    runtime.assert_nothing_left();
}
