//! Images from layouts and archives: the store, the unpacked files, and containers that run from them.
mod common;

use common::{Compression, Layer, Layout, Runtime, finish, names_in};
use magikrun::image::{BundleBuilder, ImageService, OciContainerConfig, image_mount};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An image of three layers in which each changes the one below.
fn layered(runtime: &Runtime) -> Layout {
    let mut layout = Layout::new(&runtime.path("layered"));
    let second = Layer::new()
        .file("etc/.wh.group", "")
        .dir("home/", 0o755)
        .file("home/.wh..wh..opq", "")
        .file("home/new", "new")
        .file("gone/kept", "kept")
        .symlink("sub", "home")
        .file("mnt/.wh.dir", "")
        .dir("mnt/dir", 0o700);
    let third = Layer::new().file("gone/.wh.kept", "").file("top", "top").file(".wh.tmp", "");
    let first =
        Layer::busybox().file("home/old", "old").file("mnt/dir/below", "x").file("gone/first", "first");
    let layers = [first.into_bytes(), second.into_bytes(), third.into_bytes()];
    let settings = json!({"Entrypoint": ["sh", "-c"], "Cmd": ["echo default; id -u"], "User": "alice",
        "Env": ["GREETING=hello"], "WorkingDir": "/home"});
    layout.add("1.0", &layers, Compression::Gzip, &settings);
    layout
}

/// What the three layers show together.
fn check_layered(listing: &str) {
    for there in ["./home/new", "./sub", "./gone/first", "./mnt/dir", "./top", "./etc/passwd"] {
        assert!(listing.lines().any(|line| line == there), "{there} is missing in {listing}");
    }
    for gone in ["./home/old", "./etc/group", "./mnt/dir/below", "./gone/kept", "./tmp"] {
        assert!(!listing.lines().any(|line| line == gone), "{gone} is still there");
    }
    assert!(!listing.contains(".wh."), "{listing}");
}

fn layers(runtime: &Runtime) -> Vec<PathBuf> {
    let root = runtime.store().join("layers");
    names_in(&root).iter().map(|name| root.join(name).join("fs")).collect()
}

fn inspect(runtime: &Runtime, name: &str) -> Value {
    serde_json::from_str(&runtime.image(&["inspect", name]).success().stdout).expect("inspect prints JSON")
}

#[test]
fn an_image_is_pulled_once_listed_run_and_removed() {
    let runtime = Runtime::new();
    let layout = layered(&runtime);
    let pulled = runtime.image(&["pull", &layout.image("1.0")]).success();
    assert!(pulled.stdout.starts_with("localhost/layered:1.0 sha256:"), "{}", pulled.stdout);
    let again = runtime.image(&["pull", "--format", "json", &layout.image("1.0")]).success();
    let record: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(record["name"], "localhost/layered:1.0");
    let id = record["id"].as_str().unwrap()[7..19].to_owned();
    assert!(runtime.image(&["list"]).success().stdout.contains(&id));
    assert_eq!(inspect(&runtime, &id)["config"]["config"]["User"], "alice");
    assert_eq!(layers(&runtime).len(), 3);

    let output = runtime.run_image(&[], "localhost/layered:1.0", &[]).success();
    assert_eq!(output.stdout, "default\n1000\n");
    let output =
        runtime.run_image(&["--user", "0"], &id, &["cd /; find . -xdev; echo $GREETING; pwd"]).success();
    check_layered(&output.stdout);
    assert!(output.stdout.ends_with("hello\n/\n"));
    runtime.assert_nothing_left();
    assert_eq!(names_in(&runtime.store().join("bundles")), Vec::<String>::new(), "bundles are left");

    runtime.image(&["rm", &id]).success();
    assert_eq!(layers(&runtime), Vec::<PathBuf>::new());
    assert_eq!(runtime.image(&["list", "--quiet"]).success().stdout, "");
    let _ = runtime.image(&["inspect", &id]).fails_with(1, &["is not in the store"]);
}

#[test]
fn a_bundle_is_a_copy_that_shows_what_the_overlay_shows() {
    let runtime = Runtime::new();
    let layout = layered(&runtime);
    let store = runtime.store();
    let store = store.to_str().unwrap();
    for (name, options) in [("copied", &[][..]), ("mounted", &["--mount"])] {
        let dir = runtime.path(name);
        let image = layout.image("1.0");
        let mut args = vec!["bundle", "--storage", store];
        args.extend(options);
        args.extend(["--user", "root", &image, dir.to_str().unwrap(), "cd /; find . -xdev"]);
        runtime.ok(&args);
        let id = format!("{}-{name}", runtime.name());
        let output = runtime.ok(&["run", "--bundle", dir.to_str().unwrap(), &id]);
        check_layered(&output.stdout);
        assert!(dir.join("config.json").exists(), "a bundle of the caller's is not removed");
    }
    assert!(runtime.path("copied/rootfs/home/new").exists());
    assert_eq!(names_in(&runtime.path("mounted/rootfs")), Vec::<String>::new());
    // The layers of a bundle stay even if the name of the image is gone, until the bundle is.
    runtime.image(&["rm", "localhost/layered:1.0"]).success();
    assert_eq!(layers(&runtime).len(), 3);
    fs::remove_dir_all(runtime.path("mounted")).unwrap();
    runtime.image(&["prune"]).success();
    assert_eq!(layers(&runtime).len(), 0);
}

#[test]
fn everything_that_a_layer_says_of_a_file_survives() {
    let runtime = Runtime::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let layer = Layer::new()
        .entry("setuid", b"x", |header| {
            header.set_mode(0o4755);
            header.set_uid(1000);
            header.set_gid(2000);
        })
        .hardlink("linked", "./setuid")
        .pax(&[("SCHILY.xattr.security.capability", &capability), ("SCHILY.xattr.user.note", b"a\nb")])
        .file("capable", "x")
        .pax(&[("path", long.as_bytes()), ("mtime", b"1234567890.123456789"), ("uid", b"4000000000")])
        .file("short", "x")
        .entry("null", b"", |header| {
            header.set_entry_type(tar::EntryType::Char);
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        })
        .entry("pipe", b"", |header| header.set_entry_type(tar::EntryType::Fifo))
        .dir("sticky", 0o1777)
        .file("sticky/inside", "x")
        .entry("zeros", &vec![0; 1 << 20], |_| {})
        .file("Case", "upper")
        .file("case", "lower");
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut layout = Layout::new(&runtime.path(&format!("kept-{compression:?}")));
        let layer = Layer::new().file("which", &format!("{compression:?}"));
        layout.add("1", &[layer.into_bytes()], compression, &json!({}));
        runtime.image(&["pull", &layout.image("1")]).success();
    }
    assert_eq!(layers(&runtime).len(), 3);
    let mut layout = Layout::new(&runtime.path("kept"));
    layout.add("1", &[layer.into_bytes()], Compression::Gzip, &json!({}));
    runtime.image(&["pull", &layout.image("1")]).success();
    let path = inspect(&runtime, "localhost/kept:1")["layers"][0]["path"].as_str().unwrap().to_owned();
    check_kept(Path::new(&path), &long);
    // And so it does in a copy.
    let bundle = runtime.path("bundle");
    let store = runtime.store();
    runtime.ok(&[
        "bundle",
        "--storage",
        store.to_str().unwrap(),
        "localhost/kept:1",
        bundle.to_str().unwrap(),
        "x",
    ]);
    check_kept(&bundle.join("rootfs"), &long);
}

fn check_kept(root: &Path, long: &str) {
    let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let setuid = stat("setuid");
    assert_eq!((setuid.mode() & 0o7777, setuid.uid(), setuid.gid()), (0o4755, 1000, 2000));
    assert_eq!(setuid.mtime(), 1_000_000_000);
    assert_eq!(setuid.ino(), stat("linked").ino());
    let attribute = |name: &str| {
        let mut value = [0u8; 64];
        let length = rustix::fs::lgetxattr(root.join("capable"), name, &mut value).expect("the attribute");
        value[..length].to_vec()
    };
    assert_eq!(attribute("security.capability")[..8], [1, 0, 0, 2, 0, 4, 0, 0]);
    assert_eq!(attribute("user.note"), b"a\nb");
    let far = stat(long);
    assert_eq!((far.mtime(), far.mtime_nsec(), far.uid()), (1_234_567_890, 123_456_789, 4_000_000_000));
    assert!(stat("null").file_type().is_char_device());
    assert_eq!(stat("null").rdev(), 0x103);
    assert!(stat("pipe").file_type().is_fifo());
    assert_eq!((stat("sticky").mode() & 0o7777, stat("sticky").mtime()), (0o1777, 1_000_000_000));
    assert_eq!(stat("zeros").len(), 1 << 20);
    assert!(stat("zeros").blocks() < 64, "zeros take space");
    assert_eq!(fs::read_to_string(root.join("Case")).unwrap(), "upper");
    assert_eq!(fs::read_to_string(root.join("case")).unwrap(), "lower");
}

#[test]
fn a_container_in_a_user_namespace_owns_the_files_of_its_image() {
    let runtime = Runtime::new();
    let layout = layered(&runtime);
    let images = ImageService::with_root(runtime.store());
    let image = images.pull(&layout.image("1.0")).unwrap();
    let builder = BundleBuilder::with_storage(images.storage().clone()).unwrap();
    let config = OciContainerConfig {
        user: Some("0".to_owned()),
        args: Some(vec![
            "stat -c %u:%g /bin/busybox /home/new; echo x > /home/x; stat -c %u /home/x; ls /vol/home"
                .to_owned(),
        ]),
        ..OciContainerConfig::default()
    };
    let mut draft = builder.draft(&image, &config).unwrap();
    let mut mounts = draft.spec().mounts().clone().unwrap();
    let mut volume = image_mount(images.storage(), &image, "/vol").unwrap();
    let options = volume.options().iter().flatten().cloned().chain(["idmap".to_owned()]).collect();
    volume.set_options(Some(options));
    mounts.push(volume);
    draft.spec_mut().set_mounts(Some(mounts));
    let mut spec = serde_json::to_value(draft.spec()).unwrap();
    spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let mappings = json!([{"containerID": 0, "hostID": 300_000, "size": 65536}]);
    spec["linux"]["uidMappings"] = mappings.clone();
    spec["linux"]["gidMappings"] = mappings;
    *draft.spec_mut() = serde_json::from_value(spec).unwrap();
    let path = runtime.path("bundle");
    draft.write(&path).unwrap();
    let id = format!("{}-mapped", runtime.name());
    let output = runtime.ok(&["run", "--bundle", path.to_str().unwrap(), &id]);
    assert_eq!(output.stdout, "0:0\n0:0\n0\nnew\n");
    let stat = fs::metadata(path.join("upper/home/x")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (300_000, 300_000));
}

#[test]
fn a_user_without_privileges_pulls_and_runs() {
    const UID: &str = "65534";
    let runtime = Runtime::new();
    let layout = layered(&runtime);
    for path in [runtime.dir().to_owned(), runtime.root()] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    // Where the program is built the user may not be able to go.
    let program = runtime.path("magikrun");
    common::copy_program(&common::runtime_path(), &program);
    let call = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", UID, "--regid", UID, "--clear-groups", "env"]);
        command.arg(format!("MAGIKRUN_STORAGE={}", runtime.store().display()));
        command.arg(&program).arg("--root").arg(runtime.root()).args(args);
        finish(command, None)
    };
    call(&["image", "pull", &layout.image("1.0")]).success();
    let id = format!("{}-rootless", runtime.name());
    let output = call(&[
        "run",
        "--image",
        "localhost/layered:1.0",
        "-u",
        "0",
        &id,
        "cd /; id -u; echo x > new; find . -xdev",
    ]);
    let output = output.success();
    assert!(output.stdout.starts_with("0\n"), "{}", output.stdout);
    check_layered(&output.stdout);
    runtime.assert_nothing_left();
    assert_eq!(names_in(&runtime.store().join("bundles")), Vec::<String>::new());
    let bundle = runtime.path("bundle");
    call(&["bundle", "--user", "0", "localhost/layered:1.0", bundle.to_str().unwrap(), "cd /; find . -xdev"])
        .success();
    check_layered(&call(&["run", "--bundle", bundle.to_str().unwrap(), &id]).success().stdout);
}

#[test]
fn a_container_of_an_image_has_a_seccomp_filter_unless_told_otherwise() {
    let runtime = Runtime::new();
    let layout = layered(&runtime);
    runtime.image(&["pull", &layout.image("1.0")]).success();
    // A new user namespace is what the profile refuses and the kernel alone does not.
    let script =
        "grep ^Seccomp: /proc/self/status | cut -f 2; unshare -U true && echo made; mkdir /made && echo made";
    let run = |options: &[&str]| {
        let options = [&["--user", "0"], options].concat();
        runtime.run_image(&options, "localhost/layered:1.0", &[script]).stdout
    };
    assert_eq!(run(&[]), "2\nmade\n");
    assert_eq!(run(&["--seccomp", "unconfined"]), "0\nmade\nmade\n");
    let rule = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"});
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    let profile = runtime.file("profile.json", profile.to_string());
    assert_eq!(run(&["--seccomp", profile.to_str().unwrap()]), "2\nmade\n");
    let missing = ["--seccomp", "/no/such/profile"];
    let output = runtime.run_image(&missing, "localhost/layered:1.0", &[]);
    let _ = output.fails_with(1, &["cannot read seccomp profile '/no/such/profile'"]);
    assert_eq!(names_in(&runtime.store().join("bundles")), Vec::<String>::new());
}

#[test]
fn a_user_with_lent_ids_gets_every_owner_of_an_image() {
    let runtime = Runtime::new();
    let layer = Layer::busybox().dir("home/", 0o755).entry("home/theirs", b"x", |header| {
        header.set_uid(1000);
        header.set_gid(2000);
        header.set_mode(0o4755);
    });
    let mut layout = Layout::new(&runtime.path("owned"));
    layout.add("1", &[layer.into_bytes()], Compression::Gzip, &json!({}));
    for path in [runtime.dir().to_owned(), runtime.root()] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let program = runtime.path("magikrun");
    common::copy_program(&common::runtime_path(), &program);
    let lent = runtime.file("lent", "nobody:300000:65536\n");
    let none = runtime.file("none", "");
    // The files of the host stay as they are: the user sees others in a mount namespace of their own.
    let script = r#"mount --bind "$1" /etc/subuid && mount --bind "$1" /etc/subgid && shift
        exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@""#;
    let call = |ids: &Path, args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(ids);
        command.arg("env").arg(format!("MAGIKRUN_STORAGE={}", runtime.store().display()));
        command.arg(&program).arg("--root").arg(runtime.root()).args(args);
        finish(command, None)
    };
    call(&lent, &["image", "pull", &layout.image("1")]).success();
    let files = layers(&runtime).remove(0);
    let owner = |path: &Path| fs::metadata(path).map(|stat| (stat.uid(), stat.gid())).unwrap();
    assert_eq!(owner(&files.join("home/theirs")), (300_999, 301_999));
    assert_eq!(owner(&files.join("etc/passwd")), (65534, 65534));
    let id = format!("{}-lent", runtime.name());
    let script = "stat -c %u:%g:%a /home/theirs /etc/passwd; echo x > /new; chown 1000:2000 /new; stat -c %u:%g /new; id -u";
    let told = "1000:2000:4755\n0:0:644\n1000:2000\n0\n";
    let run = call(&lent, &["run", "--image", "localhost/owned:1", &id, "sh", "-c", script]).success();
    assert_eq!(run.stdout, told);
    let bundle = runtime.path("bundle");
    let bundle = bundle.to_str().unwrap();
    call(&lent, &["bundle", "localhost/owned:1", bundle, "sh", "-c", script]).success();
    assert_eq!(owner(&runtime.path("bundle/rootfs/home/theirs")), (300_999, 301_999));
    assert_eq!(call(&lent, &["run", "--bundle", bundle, &id]).success().stdout, told);
    call(&lent, &["image", "verify", "--deep"]).success();
    call(&lent, &["image", "rm", "localhost/owned:1"]).success();
    assert_eq!(layers(&runtime), Vec::<PathBuf>::new(), "what belongs to lent ids is removed too");
    // With no id but one's own everything is root's, and that is said by nobody but stat.
    call(&none, &["image", "pull", &layout.image("1")]).success();
    assert_eq!(owner(&layers(&runtime).remove(0).join("home/theirs")), (65534, 65534));
    let run =
        call(&none, &["run", "--image", "localhost/owned:1", &id, "stat", "-c", "%u:%g", "/home/theirs"]);
    assert_eq!(run.success().stdout, "0:0\n");
    runtime.assert_nothing_left();
    assert_eq!(names_in(&runtime.store().join("bundles")), Vec::<String>::new());
}
