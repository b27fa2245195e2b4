//! Root file systems of containerd's overlayfs snapshotter.

use super::common::{Containerd, Engine, IMAGE, Shim, poll, runtime_path, shim_folder, wait_dead};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

const OVERLAY: [&str; 2] = ["--snapshotter", "overlayfs"];
/// A user namespace whose root has these ids outside.
const MAPPED: [&str; 5] = ["--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536", "--remap-labels"];
const OWNER: (u32, u32) = (100_000, 200_000);

/// What containerd says of its snapshotter.
fn snapshotter(containerd: &Containerd) -> String {
    containerd.ok(&["plugins", "list", "--detailed", "id==overlayfs"]).stdout
}

/// What is mounted below the folder of containerd, as it sees it.
fn mounts(containerd: &Containerd) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", containerd.host_pid())).expect("mounts");
    let folder = containerd.path("").display().to_string();
    text.lines().filter(|line| line.contains(&folder)).map(str::to_owned).collect()
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (metadata.uid(), metadata.gid())
}

#[test]
fn a_snapshot_may_be_an_overlay() {
    let containerd = Containerd::new(Shim::Own);
    let script = "echo written > /new; cat /new; grep ' / / ' /proc/self/mountinfo";
    let output = containerd.script(&OVERLAY, "box", script).success().stdout;
    assert!(output.starts_with("written\n") && output.contains(" - overlay "), "{output}");
    assert_eq!(mounts(&containerd), Vec::<String>::new());
}

#[test]
fn layers_are_mapped_for_a_container_with_a_user_namespace() {
    let containerd = Containerd::new(Shim::Own);
    if !snapshotter(&containerd).contains("remap-ids") {
        eprintln!("unsupported: ID-mapped snapshots of containerd or the kernel");
        return;
    }
    // `ctr` has options of a user namespace for the shim of runc only, so ours has its name.
    let own = shim_folder().join("containerd-shim-magikrun-v2");
    symlink(&own, containerd.path("containerd-shim-runc-v2")).expect("a link to the shim");
    // The root of a user namespace must get through to its bundle.
    fs::set_permissions(containerd.path(""), fs::Permissions::from_mode(0o711)).expect("permissions");
    let log = containerd.path("log");
    let uri = format!("file://{}", log.display());
    let options = [&OVERLAY[..], &MAPPED, &["--detach", "--log-uri", &uri]].concat();
    let mut args = containerd.run_args_of(Shim::Runc, &runtime_path(), &options);
    let script = "echo written > /new; ls -ln /bin/busybox /new | cut -c 11-; sleep 600";
    args.extend([IMAGE, "box", "sh", "-c", script].map(str::to_owned));
    containerd.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());

    let shims = containerd.shims();
    assert_eq!(shims.len(), 1, "{shims:?}");
    let program = fs::read_link(format!("/proc/{}/exe", shims[0])).expect("the program of the shim");
    assert_eq!(program, own.canonicalize().expect("the shim"));
    // Inside they are root's, outside those of the mapped root, and on the disk root's.
    let lines = poll("the output", || {
        let text = fs::read_to_string(&log).ok()?;
        (text.lines().count() == 2).then_some(text)
    });
    let owners: Vec<Vec<_>> =
        lines.lines().map(|line| line.split_whitespace().skip(1).take(2).collect()).collect();
    assert_eq!(owners, [["0", "0"]; 2], "{lines}");
    let (pid, _) = containerd.task("box").expect("a task");
    let root = format!("/proc/{pid}/root");
    for file in ["bin/busybox", "new"] {
        assert_eq!(owner(&Path::new(&root).join(file)), OWNER, "{file}");
    }
    let snapshots = containerd.path("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    let layers = fs::read_dir(snapshots).expect("snapshots").map(|entry| entry.expect("a snapshot").path());
    let files: Vec<_> =
        layers.map(|layer| layer.join("fs/bin/busybox")).filter(|file| file.exists()).collect();
    // No copy of the layer was made for the container.
    assert_eq!(files.iter().map(|file| owner(file)).collect::<Vec<_>>(), [(0, 0)]);
    assert_eq!(mounts(&containerd).len(), 1, "{:?}", mounts(&containerd));

    containerd.ok(&["task", "kill", "--signal", "KILL", "box"]);
    wait_dead(pid);
    containerd.ok(&["task", "delete", "--force", "box"]);
    wait_dead(shims[0]);
    assert_eq!(mounts(&containerd), Vec::<String>::new());
}
