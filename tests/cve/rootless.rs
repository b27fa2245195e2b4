//! What a user without privileges must not get by way of a container.

use crate::common::{Runtime, finish, unique_name};
use serde_json::json;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A user that exists on every Debian and owns nothing.
const UID: u32 = 65534;

/// A cgroup that the user may write to, as systemd delegates them; removed on drop.
struct Delegated(PathBuf);

impl Delegated {
    fn new() -> Self {
        let unified = Path::new("/sys/fs/cgroup/unified");
        let root = if unified.exists() { unified } else { Path::new("/sys/fs/cgroup") };
        let path = root.join(unique_name());
        fs::create_dir(&path).expect("a cgroup");
        chown(&path, Some(UID), Some(UID)).expect("the cgroup's owner");
        Self(path)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.0.join("made"));
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn cgroups_of_the_user_are_read_only_below_a_read_only_sysfs() {
    let runtime = Runtime::new();
    for path in [runtime.dir().to_owned(), runtime.root()] {
        chown(path, Some(UID), Some(UID)).expect("the folder's owner");
    }
    let cgroup = Delegated::new();
    let made = cgroup.0.join("made");
    let mut bundle =
        runtime.shell(&format!("ls {} && mkdir {} && echo made", cgroup.0.display(), made.display()));
    bundle.edit(|config| {
        let linux = &mut config["linux"];
        let mapping = json!([{"containerID": 0, "hostID": UID, "size": 1}]);
        linux["uidMappings"] = mapping.clone();
        linux["gidMappings"] = mapping;
        let linux = linux.as_object_mut().expect("an object");
        linux.remove("resources");
        linux.remove("cgroupsPath");
        // In the host's network there can be no sysfs of its own, and in the host's cgroups no view of its own.
        linux["namespaces"] = json!([{"type": "user"}, {"type": "mount"}, {"type": "pid"}, {"type": "uts"}]);
        crate::without_mounts(config, &["/sys/fs/cgroup", "/dev/pts", "/dev/mqueue"]);
    });
    let mut command = Command::new("setpriv");
    let uid = UID.to_string();
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
    command.arg(crate::common::runtime_path()).arg("--root").arg(runtime.root());
    command.args(["run", "--bundle", bundle.dir(), &bundle.id]);
    let output = finish(command, None);
    assert!(!made.exists(), "a cgroup was made outside the container");
    assert!(output.stderr.contains("Read-only file system"), "{}\n{}", output.stdout, output.stderr);
    runtime.assert_nothing_left();
}
