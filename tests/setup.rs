//! `magikrun setup`, `doctor` and `config` as people call them: on private roots, and with the engines themselves.
mod common;

use common::{Output, Runtime, bare, finish, require_program, runtime_path};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

fn setup(prefix: &Path, args: &[&str]) -> Output {
    let mut command = bare();
    command.arg("setup").args(args).arg("--prefix").arg(prefix);
    finish(command, None)
}

/// Every file below `root` with its text.
fn tree(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_printed_is_what_is_written_and_undo_leaves_what_was_there() {
    for engine in ["podman", "containerd", "docker", "crio"] {
        let root = tempfile::tempdir().unwrap();
        let config = root.path().join("etc/docker/daemon.json");
        fs::create_dir_all(config.parent().unwrap()).unwrap();
        fs::write(&config, "{\n  \"debug\": true\n}\n").unwrap();
        let before = tree(root.path());
        let shown = setup(root.path(), &[engine, "--print"]).success().stdout;
        assert_eq!(tree(root.path()), before, "{engine}");
        let said = setup(root.path(), &[engine]).success().stdout;
        assert!(said.starts_with(shown.trim_end()), "{said}");
        let after = tree(root.path());
        let (_, text) = after.iter().find(|entry| !before.contains(entry)).expect("a file");
        assert!(shown.contains(text.trim_end()), "{shown}");
        assert!(text.contains(runtime_path().to_str().unwrap()), "{text}");
        let again = setup(root.path(), &[engine]).success().stdout;
        assert!(again.contains("nothing to do"), "{again}");
        assert_eq!(tree(root.path()), after, "{engine}");
        setup(root.path(), &[engine, "--undo"]).success();
        assert_eq!(tree(root.path()), before, "{engine}");
        assert!(setup(root.path(), &[engine, "--undo"]).success().stdout.contains("nothing to do"));
    }
}

#[test]
fn what_others_wrote_is_refused_in_one_line_and_stays() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("etc/containers/containers.conf.d/magikrun.conf");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "[engine]\n").unwrap();
    let before = tree(root.path());
    for args in [&["podman"][..], &["podman", "--undo"]] {
        let output = setup(root.path(), args).fails_with(1, &["cannot set up '", "has not written it"]);
        assert_eq!(output.stderr.lines().count(), 1);
    }
    setup(root.path(), &["podman", "--runtime", "here"]).fails_with(1, &["not absolute"]);
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_link_to_a_configuration_stays_a_link_and_its_owner_and_mode_stay() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc/docker");
    fs::create_dir_all(&etc).unwrap();
    let real = root.path().join("real.json");
    fs::write(&real, "{}").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&real, Some(1), Some(2)).unwrap();
    symlink(&real, etc.join("daemon.json")).unwrap();
    setup(root.path(), &["docker"]).success();
    assert!(fs::symlink_metadata(etc.join("daemon.json")).unwrap().is_symlink());
    let metadata = fs::metadata(&real).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.uid(), metadata.gid()), (0o640, 1, 2));
    assert!(fs::read_to_string(&real).unwrap().contains("magikrun"));
}

/// A command in a mount namespace of its own, where `directory` is seen at `place`.
fn with_bound(directory: &Path, place: &str, command: &[&str]) -> Command {
    let mut all = Command::new("unshare");
    all.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"",
    ]);
    all.arg(directory).arg(place).args(command);
    all
}

#[test]
fn podman_runs_a_container_with_what_was_written() {
    require_program("podman");
    let host = Runtime::new();
    let root = host.path("root");
    fs::create_dir_all(root.join("etc/containers")).unwrap();
    fs::copy("/etc/containers/policy.json", root.join("etc/containers/policy.json")).unwrap();
    // What this machine needs: no systemd, and hard limits that cannot be raised.
    fs::write(
        root.join("etc/containers/containers.conf"),
        "[containers]\ndefault_ulimits=[\"nofile=20000:20000\",\"nproc=32768:32768\"]\n\
         [engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\n",
    )
    .unwrap();
    setup(&root, &["podman"]).success();
    let rootfs = host.path("rootfs");
    common::busybox_rootfs(&rootfs);
    let at = |name: &str| host.path(name).display().to_string();
    let (store, run, tmp) = (at("storage"), at("run"), at("tmp"));
    let parent = format!("/{}", host.name());
    let rootfs = rootfs.display().to_string();
    let podman = [
        "podman",
        "--root",
        &store,
        "--runroot",
        &run,
        "--tmpdir",
        &tmp,
        "--storage-driver",
        "vfs",
        "--runtime",
        "magikrun",
        "run",
        "--rm",
        "--network",
        "none",
        "--cgroup-parent",
        &parent,
        "--rootfs",
        &rootfs,
        "echo",
        "written",
    ];
    let output = finish(with_bound(&root.join("etc/containers"), "/etc/containers", &podman), None).success();
    assert_eq!(output.stdout, "written\n");
    common::remove_cgroups(host.name());
}

#[test]
fn containerd_reads_what_was_written() {
    require_program("containerd");
    let root = tempfile::tempdir().unwrap();
    setup(root.path(), &["containerd"]).success();
    let config = root.path().join("etc/containerd/config.toml");
    let mut dump = Command::new("containerd");
    dump.arg("--config").arg(&config).args(["config", "dump"]);
    let dump = finish(dump, None).success().stdout;
    assert!(dump.contains("containerd.runtimes.magikrun]"), "{dump}");
    assert!(dump.contains("containerd.runtimes.runc]"), "{dump}");
}

fn doctor(args: &[&str]) -> Output {
    let mut command = bare();
    command.arg("doctor").args(args);
    finish(command, None)
}

#[test]
fn the_doctor_finds_that_containers_work_where_these_tests_run() {
    let report: Value = serde_json::from_str(&doctor(&["--format", "json"]).success().stdout).unwrap();
    let of = |list: &str, name: &str| {
        let found = report[list].as_array().unwrap().iter().find(|entry| entry["name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {report}")).clone()
    };
    for backend in ["native", "wasm", "images", "pods", "checkpoint"] {
        let verdict = of("backends", backend);
        assert_eq!(verdict["state"], "works", "{verdict}");
    }
    assert_eq!(of("checks", "criu")["state"], "works");
    for check in report["checks"].as_array().unwrap() {
        assert!(["works", "missing", "unknown"].contains(&check["state"].as_str().unwrap()), "{check}");
        assert!(!check["detail"].as_str().unwrap().is_empty(), "{check}");
    }
}

#[test]
fn the_doctors_exit_status_is_about_what_was_asked() {
    let table = doctor(&[]).success().stdout;
    assert!(table.contains("CHECK") && table.contains("BACKEND"), "{table}");
    let report: Value = serde_json::from_str(&doctor(&["-f", "json"]).success().stdout).unwrap();
    for verdict in report["backends"].as_array().unwrap() {
        let missing = verdict["state"] == "missing";
        doctor(&[verdict["name"].as_str().unwrap()]).exits(if missing { 2 } else { 0 });
    }
    doctor(&["nonsense"]).fails_with(1, &["nonsense"]);
}

fn config(file: &Path, args: &[&str], more: impl FnOnce(&mut Command)) -> Output {
    let mut command = bare();
    command.args(args).env("MAGIKRUN_CONFIG", file).env_remove("MAGIKRUN_STORAGE");
    more(&mut command);
    finish(command, None)
}

#[test]
fn the_configuration_is_shown_with_the_source_of_each_value() {
    let host = Runtime::new();
    let file = host.file("config.toml", "[limits]\nmax_layers = 7\n\n[stores]\nimages = \"/srv/images\"\n");
    let values = |more: fn(&mut Command), args: &[&str]| -> Value {
        serde_json::from_str(&config(&file, args, more).success().stdout).unwrap()
    };
    let of = |shown: &Value, key: &str| {
        let all = shown["values"].as_array().unwrap();
        let row = all.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("{key}: {shown}"));
        (row["value"].clone(), row["source"].as_str().unwrap().to_owned())
    };
    let shown = values(|_| {}, &["config", "show", "--format", "json"]);
    assert_eq!(shown["file"], file.to_str().unwrap());
    assert_eq!(of(&shown, "limits.max_layers"), (7.into(), format!("{}:2", file.display())));
    assert_eq!(of(&shown, "stores.images"), ("/srv/images".into(), format!("{}:5", file.display())));
    assert_eq!(of(&shown, "limits.max_containers"), (1024.into(), "default".to_owned()));
    let from_outside = |command: &mut Command| {
        command.env("MAGIKRUN_STORAGE", "/srv/other");
    };
    let shown = values(from_outside, &["--root", "/srv/state", "config", "show", "--format", "json"]);
    assert_eq!(
        of(&shown, "stores.images"),
        ("/srv/other".into(), "environment: MAGIKRUN_STORAGE".to_owned())
    );
    assert_eq!(of(&shown, "stores.state"), ("/srv/state".into(), "--root".to_owned()));
    let table = config(&file, &["config"], |_| {}).success().stdout;
    assert!(table.contains("limits.max_layers") && table.contains("config.toml:2"), "{table}");
}

#[test]
fn a_fault_of_the_configuration_names_file_line_and_key_and_stops_every_command() {
    let host = Runtime::new();
    let file = host.file("config.toml", "[limits]\nmax_containers = \"many\"\n");
    for args in [&["config"][..], &["list"], &["image", "list"]] {
        let output = config(&file, args, |_| {});
        output.fails_with(
            1,
            &["cannot parse configuration '", "config.toml': line 2: limits.max_containers: "],
        );
    }
}

#[test]
fn stores_are_where_the_configuration_says_and_other_annotations_are_refused() {
    let host = Runtime::new();
    let (state, images) = (host.path("elsewhere"), host.path("pictures"));
    let text = format!(
        "[stores]\nstate = {state:?}\nimages = {images:?}\n[annotations]\nallowed = [\"org.magikrun.wasm.*\"]\n"
    );
    let file = host.file("config.toml", text);
    let mut bundle = host.sleeper();
    config(&file, &["create", "--bundle", bundle.dir(), &bundle.id], |_| {}).success();
    assert!(state.join(&bundle.id).is_dir());
    config(&file, &["delete", "--force", &bundle.id], |_| {}).success();
    bundle.edit(|config| config["annotations"] = serde_json::json!({"run.oci.handler": "wasm"}));
    let id = bundle.id.clone();
    config(&file, &["create", "--bundle", bundle.dir(), &id], |_| {})
        .fails_with(1, &["'run.oci.handler' is not among those that annotations.allowed"]);
    assert!(!state.join(&id).exists());
    config(&file, &["image", "prune"], |_| {}).success();
}
