//! Images that other tools have made, and ours in their hands: the files are the same on both sides.
mod common;

use common::{Runtime, finish, require_program, require_root};
use magikrun::storage::blobs::Digest;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, mknodat, setxattr};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// CAP_NET_RAW, permitted and effective: linux/capability.h, `vfs_cap_data` of revision 2.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Everything that is hard to keep.
fn populate(root: &Path) {
    let path = |name: &str| root.join(name);
    let write = |name: &str, text: &str| {
        fs::create_dir_all(path(name).parent().expect("a parent")).expect("directories");
        fs::write(path(name), text).expect("a file");
    };
    write("bin/setuid", "x");
    chown(path("bin/setuid"), Some(1000), Some(2000)).expect("its owner");
    fs::set_permissions(path("bin/setuid"), fs::Permissions::from_mode(0o4755)).expect("its mode");
    write("bin/capable", "x");
    setxattr(path("bin/capable"), "security.capability", &CAPABILITY, XattrFlags::empty())
        .expect("a capability");
    fs::hard_link(path("bin/capable"), path("second")).expect("a hard link");
    symlink("/bin/capable", path("absolute")).expect("a link");
    symlink("nowhere", path("dangling")).expect("a link");
    let sparse = fs::File::create(path("sparse")).expect("a file");
    sparse.set_len(8 << 20).and_then(|()| sparse.write_all_at(b"end", (8 << 20) - 3)).expect("a sparse file");
    let node =
        |name: &str, kind, device| mknodat(CWD, path(name), kind, Mode::from(0o640), device).expect("a node");
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("pipe", FileType::Fifo, 0);
    write("replaced/old", "old");
    write("emptied/one", "1");
    write("emptied/deep/two", "2");
    write("file", "becomes a directory");
    write("directory/x", "becomes a file");
    write(&format!("long/{}/{}", "d".repeat(130), "n".repeat(200)), "long");
    fs::create_dir(path("sticky")).expect("a directory");
    fs::set_permissions(path("sticky"), fs::Permissions::from_mode(0o1777)).expect("its mode");
}

/// What a further layer changes.
fn change(root: &Path) {
    let path = |name: &str| root.join(name);
    for gone in ["replaced", "emptied/deep", "directory"] {
        fs::remove_dir_all(path(gone)).expect("removed");
    }
    for gone in ["emptied/one", "file"] {
        fs::remove_file(path(gone)).expect("removed");
    }
    for made in ["replaced", "file"] {
        fs::create_dir(path(made)).expect("a directory");
        fs::write(path(made).join("new"), "new").expect("a file");
    }
    fs::write(path("directory"), "a file").expect("a file");
    // umoci rounds to the nearest second.
    for made in ["replaced/new", "file/new", "directory"] {
        let file = fs::File::options().write(true).open(path(made)).expect("a file");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000)).expect("its time");
    }
    fs::set_permissions(path("sparse"), fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// Everything below `root`, without what tools do not keep: times of directories.
fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry")) {
            let (path, stat) = (entry.path(), entry.metadata().expect("metadata"));
            let kind = stat.file_type();
            let mut text = format!("{:o} {}:{}", stat.mode(), stat.uid(), stat.gid());
            if kind.is_dir() {
                waiting.push(path.clone());
            } else if kind.is_symlink() {
                text += &format!(" -> {}", fs::read_link(&path).expect("its target").display());
            } else if kind.is_char_device() {
                text += &format!(" device {:x}", stat.rdev());
            } else if kind.is_file() {
                let content = Digest::of(&fs::read(&path).expect("its content"));
                let mut value = [0u8; 64];
                let capability = lgetxattr(&path, "security.capability", &mut value).unwrap_or(0);
                text += &format!(" {content} {} {:?} {}", stat.nlink(), &value[..capability], stat.mtime());
            }
            found.insert(path.strip_prefix(root).expect("below the root").to_owned(), text);
        }
    }
    found
}

#[track_caller]
fn same(ours: &Path, theirs: &BTreeMap<PathBuf, String>) {
    let ours = describe(ours);
    for (path, text) in theirs {
        assert_eq!(ours.get(path), Some(text), "{}", path.display());
    }
    let more: Vec<_> = ours.keys().filter(|path| !theirs.contains_key(*path)).collect();
    assert!(more.is_empty(), "there is more: {more:?}");
}

/// Compares the files of an image in our store with those that are expected: in an overlay, and in a copy.
#[track_caller]
fn check(runtime: &Runtime, image: &str, expected: &BTreeMap<PathBuf, String>) {
    let mounted = runtime.path("mounted");
    fs::create_dir_all(&mounted).expect("a folder");
    let dir = mounted.to_str().expect("UTF-8");
    runtime.image(&["mount", image, dir]).success();
    same(&mounted, expected);
    runtime.image(&["umount", dir]).success();
    let bundle = runtime.path("copied");
    let store = runtime.store();
    let args =
        ["bundle", "--storage", store.to_str().expect("UTF-8"), image, bundle.to_str().expect("UTF-8"), "x"];
    runtime.ok(&args);
    same(&bundle.join("rootfs"), expected);
    assert!(fs::metadata(bundle.join("rootfs/sparse")).expect("the file").blocks() < 64, "holes are filled");
    fs::remove_dir_all(&bundle).expect("removed");
}

#[track_caller]
fn call(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(require_program(program));
    command.args(args);
    finish(command, None).success().stdout.trim().to_owned()
}

/// A tool with a storage of its own that needs no kernel feature.
fn storage(runtime: &Runtime, program: &str, args: &[&str]) -> String {
    let (root, runroot) = (runtime.path("storage"), runtime.path("runroot"));
    let own = ["--storage-driver", "vfs", "--root", root.to_str().expect("UTF-8"), "--runroot"];
    call(program, &[&own[..], &[runroot.to_str().expect("UTF-8")], args].concat())
}

#[test]
fn what_umoci_has_packed_is_unpacked_the_same_and_what_we_save_is_unpacked_by_umoci() {
    require_root();
    let runtime = Runtime::new();
    let path = |name: &str| runtime.path(name).to_str().expect("UTF-8").to_owned();
    let (layout, image) = (path("layout"), path("layout") + ":1");
    call("umoci", &["init", "--layout", &layout]);
    call("umoci", &["new", "--image", &image]);
    call("umoci", &["unpack", "--image", &image, &path("first")]);
    populate(Path::new(&path("first/rootfs")));
    call("umoci", &["repack", "--image", &image, &path("first")]);
    call("umoci", &["unpack", "--image", &image, &path("second")]);
    let root = PathBuf::from(path("second/rootfs"));
    change(&root);
    let expected = describe(&root);
    call("umoci", &["repack", "--image", &image, &path("second")]);
    runtime.image(&["pull", &format!("oci:{image}")]).success();
    check(&runtime, "localhost/layout:1", &expected);
    // Through other formats, as skopeo writes them.
    for format in ["docker-archive", "oci-archive"] {
        let archive = path(&format!("{format}.tar"));
        let to = format!("{format}:{archive}:localhost/{format}:1");
        call("skopeo", &["--insecure-policy", "copy", "--quiet", &format!("oci:{image}"), &to]);
        runtime.image(&["load", "--input", &archive]).success();
        check(&runtime, &format!("localhost/{format}:1"), &expected);
    }
    // And back: what we save is what umoci unpacks.
    runtime.image(&["save", "--output", &path("ours.tar"), "localhost/layout:1"]).success();
    let from = format!("oci-archive:{}", path("ours.tar"));
    call("skopeo", &["--insecure-policy", "copy", "--quiet", &from, &format!("oci:{}:1", path("back"))]);
    call("umoci", &["unpack", "--image", &(path("back") + ":1"), &path("third")]);
    same(Path::new(&path("third/rootfs")), &expected);
}

#[test]
fn what_buildah_has_committed_is_unpacked_the_same_and_what_we_save_is_loaded_by_podman() {
    require_root();
    let runtime = Runtime::new();
    let path = |name: &str| runtime.path(name).to_str().expect("UTF-8").to_owned();
    let buildah = |args: &[&str]| storage(&runtime, "buildah", args);
    let first = buildah(&["from", "scratch"]);
    populate(Path::new(&buildah(&["mount", &first])));
    buildah(&["commit", "--quiet", &first, "localhost/first:1"]);
    let second = buildah(&["from", "--pull-never", "localhost/first:1"]);
    let root = PathBuf::from(buildah(&["mount", &second]));
    change(&root);
    let expected = describe(&root);
    for (format, kind) in [("docker-archive", "docker"), ("oci-archive", "oci")] {
        let to = format!("{format}:{}:localhost/built-{kind}:1", path(&format!("{kind}.tar")));
        buildah(&["commit", "--quiet", "--format", kind, &second, &to]);
        runtime.image(&["load", "--input", &path(&format!("{kind}.tar"))]).success();
        check(&runtime, &format!("localhost/built-{kind}:1"), &expected);
    }
    runtime.image(&["save", "--output", &path("ours.tar"), "localhost/built-oci:1"]).success();
    let podman = |args: &[&str]| storage(&runtime, "podman", args);
    podman(&["load", "--quiet", "--input", &path("ours.tar")]);
    let mounted = podman(&["image", "mount", "localhost/built-oci:1"]);
    same(Path::new(&mounted), &expected);
    podman(&["image", "umount", "--all"]);
    buildah(&["rm", "--all"]);
}
