//! Commands on images that are killed, or whose disk is full, at any moment: nothing partial is ever visible, and the next command
//! repairs what is left. The moments follow from a seed, which is printed and can be given as `MAGIKRUN_SEED`.
mod common;

use common::{Compression, Layer, Layout, Runtime, finish, names_in, poll, require_root, start};
use rustix::process::Signal;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Commands of each kind that are killed.
const KILLS: usize = 8;
/// Sizes of the disk on which a pull is tried.
const DISKS: usize = 10;
const NAME: &str = "localhost/image:1";

fn random() -> fastrand::Rng {
    let seed = common::faults::fresh_seed();
    println!("seed {seed}");
    fastrand::Rng::with_seed(seed)
}

/// An image whose layers take some time and space: a megabyte that cannot be compressed, and many small files.
fn image(runtime: &Runtime) -> Layout {
    let mut noise = vec![0u8; 1 << 20];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    let many =
        (0..300).fold(Layer::new().dir("many", 0o755), |layer, n| layer.file(&format!("many/{n}"), "x"));
    let large = Layer::new().entry("noise", &noise, |_| {});
    let top = Layer::new().file("etc/.wh.group", "").file("many/.wh.7", "").file("greeting", "hello\n");
    let layers = [Layer::busybox(), many, large, top].map(Layer::into_bytes);
    let mut layout = Layout::new(&runtime.path("image"));
    layout.add("1", &layers, Compression::Gzip, &json!({"Cmd": ["cat", "/greeting"]}));
    layout
}

/// What must hold after whatever has happened: what is listed is whole, and no process is at work any more.
fn check_visible(runtime: &Runtime, shown: &str) {
    poll("the workers of the killed command to end", || runtime.processes().is_empty().then_some(()));
    let listed = runtime.image(&["list", "--format", "json"]).success().stdout;
    assert!(!listed.contains("\"size\":null"), "{shown}: an image that is not whole is visible: {listed}");
    let output = runtime.image(&["verify", "--deep"]);
    assert_eq!(output.code, 0, "{shown}: {}{}", output.stdout, output.stderr);
}

/// What the next command has repaired.
fn check_repaired(runtime: &Runtime, shown: &str) {
    for directory in ["work", "bundles"] {
        let left = names_in(&runtime.store().join(directory));
        assert!(left.is_empty(), "{shown}: left in {directory}: {left:?}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let own = runtime.dir().to_string_lossy().into_owned();
    assert!(!mounts.lines().any(|line| line.contains(&own)), "{shown}: a mount is left");
}

/// Runs a command and kills it after a part of the time that it takes, again and again.
fn killed(
    runtime: &Runtime,
    random: &mut fastrand::Rng,
    args: &[&str],
    prepare: impl Fn(),
    check: impl Fn(&str),
) {
    let command = || {
        let mut command = runtime.command(args);
        command.env("MAGIKRUN_STORAGE", runtime.store());
        command
    };
    prepare();
    let begin = Instant::now();
    finish(command(), None).success();
    let duration = begin.elapsed();
    for number in 0..KILLS {
        prepare();
        let after = duration.mul_f64(random.f64() * 1.1);
        let running = start(command(), None);
        std::thread::sleep(after);
        common::signal(running.pid(), Signal::KILL);
        let output = running.finish();
        check(&format!("{args:?}, kill {number} after {after:?}, exit {}", output.code));
    }
}

/// Forgets everything.
fn empty(runtime: &Runtime) {
    let output = runtime.image(&["rm", NAME]);
    assert!(output.code == 0 || output.stderr.contains("is not in the store"), "{}", output.stderr);
    runtime.image(&["prune"]).success();
}

#[test]
fn killed_at_any_moment_pull_and_load_leave_what_the_next_pull_repairs() {
    let runtime = Runtime::new();
    let mut random = random();
    let layout = image(&runtime);
    let name = layout.image("1");
    let pull = || runtime.image(&["pull", "--quiet", &name]).success();
    pull();
    let archive = runtime.path("image.tar");
    let archive = archive.to_str().expect("UTF-8");
    runtime.image(&["save", "--output", archive, NAME]).success();
    for args in [vec!["image", "pull", &name], vec!["image", "load", "--input", archive]] {
        let forget = || empty(&runtime);
        killed(&runtime, &mut random, &args, forget, |shown| {
            check_visible(&runtime, shown);
            runtime.image(&args[1..]).success();
            check_repaired(&runtime, shown);
            let output = runtime.image(&["verify", "--deep"]);
            assert_eq!(output.code, 0, "{shown}: {}", output.stdout);
        });
    }
    assert_eq!(runtime.run_image(&[], NAME, &[]).success().stdout, "hello\n");
    empty(&runtime);
    assert!(names_in(&runtime.store().join("layers")).is_empty());
}

#[test]
fn killed_at_any_moment_bundle_and_run_leave_nothing_that_the_next_one_does_not_remove() {
    let runtime = Runtime::new();
    let mut random = random();
    let layout = image(&runtime);
    runtime.image(&["pull", &layout.image("1")]).success();
    let bundle = runtime.path("bundle");
    let bundle = bundle.to_str().expect("UTF-8");
    for mode in [&[][..], &["--mount"]] {
        let args = [&["bundle"][..], mode, &[NAME, bundle]].concat();
        let remove = || drop(std::fs::remove_dir_all(bundle));
        killed(&runtime, &mut random, &args, remove, |shown| {
            poll("the workers to end", || runtime.processes().is_empty().then_some(()));
            // The same again either replaces what is half-made, or says that there is a whole one.
            let mut again = runtime.command(&args);
            again.env("MAGIKRUN_STORAGE", runtime.store());
            let again = finish(again, None);
            assert!(again.code == 0 || again.stderr.contains("it is not empty"), "{shown}: {}", again.stderr);
            let id = format!("{}-bundle", runtime.name());
            assert_eq!(runtime.ok(&["run", "--bundle", bundle, &id]).stdout, "hello\n", "{shown}");
            assert!(!Path::new(bundle).join(".magikrun-building").exists(), "{shown}");
        });
    }
    let _ = std::fs::remove_dir_all(bundle);
    let id = format!("{}-run", runtime.name());
    killed(
        &runtime,
        &mut random,
        &["run", "--image", NAME, &id],
        || {},
        |shown| {
            runtime.ok(&["delete", "--force", &id]);
            runtime.image(&["prune"]).success();
            check_visible(&runtime, shown);
            check_repaired(&runtime, shown);
        },
    );
    runtime.assert_nothing_left();
}

#[test]
fn a_full_disk_fails_in_words_and_is_repaired_once_there_is_room() {
    require_root();
    let runtime = Runtime::new();
    let mut random = random();
    let layout = image(&runtime);
    let store = runtime.path("disk");
    std::fs::create_dir(&store).expect("a folder");
    // In a mount namespace of its own the store is a small disk, which grows then.
    let script = r#"set -e
        mount -t tmpfs -o size="$3" none "$2"
        export MAGIKRUN_STORAGE="$2"
        code=0; "$1" image pull --quiet "$4" || code=$?
        # A deep look unpacks layers again, for which there is no room yet.
        "$1" image verify
        [ $code = 0 ] || ! "$1" image inspect localhost/image:1 2>/dev/null
        mount -o remount,size=64m "$2"
        "$1" image pull --quiet "$4" >/dev/null
        "$1" image verify --deep
        ls "$2/work"
        exit $((code * 42))"#;
    let mut failed = 0;
    for number in 0..DISKS {
        // From a disk on which nothing fits to one with room to spare.
        let step = 2_000;
        let size = (number as u64 * step + random.u64(8..step)) << 10;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(common::runtime_path()).arg(&store).arg(size.to_string()).arg(layout.image("1"));
        let output = finish(command, None);
        let shown = format!("disk {number} of {size} bytes: {}{}", output.stdout, output.stderr);
        assert!(matches!(output.code, 0 | 42), "exit {}: {shown}", output.code);
        failed += usize::from(output.code == 42);
        if output.code == 42 {
            assert!(output.stderr.contains("no space left"), "{shown}");
            assert!(!output.stderr.contains("panicked"), "{shown}");
        }
        let left: Vec<_> = output
            .stdout
            .lines()
            .filter(|line| !line.starts_with("sha256:") && *line != "no damage")
            .collect();
        assert!(left.is_empty(), "{shown}");
    }
    assert!(failed > 0 && failed < DISKS, "{failed} of {DISKS} disks were too small");
}

/// Ends what goes on beside a test, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn prune_takes_nothing_that_a_pull_or_a_container_needs() {
    let runtime = Runtime::new();
    let layout = image(&runtime);
    let name = layout.image("1");
    runtime.image(&["pull", &name]).success();
    let id = format!("{}-user", runtime.name());
    let store = runtime.store();
    let store = store.to_str().expect("UTF-8");
    runtime.ok(&["run", "--detach", "--storage", store, "--image", NAME, &id, "sleep", "600"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                runtime.image(&["prune"]).success();
            }
        });
        let _over = Over(&over);
        let end = Instant::now() + Duration::from_secs(6);
        let mut rounds = 0;
        while rounds < 3 || Instant::now() < end {
            runtime.image(&["rm", "--no-prune", NAME]).success();
            runtime.image(&["pull", "--quiet", &name]).success();
            let output = runtime.image(&["verify", "--deep"]);
            assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
            rounds += 1;
        }
    });
    runtime.image(&["rm", NAME]).success();
    // The container has the layers alone now, and a file of one that it has not read yet.
    assert_eq!(runtime.exec(&id, "cat /greeting; ls /many | wc -l").success().stdout, "hello\n299\n");
    runtime.ok(&["delete", "--force", &id]);
    runtime.image(&["prune"]).success();
    assert!(names_in(&runtime.store().join("layers")).is_empty());
    check_repaired(&runtime, "at the end");
    runtime.assert_nothing_left();
}

#[test]
fn damage_of_unpacked_layers_and_blobs_is_found_and_repaired() {
    let runtime = Runtime::new();
    let layout = image(&runtime);
    runtime.image(&["pull", &layout.image("1")]).success();
    let layers = runtime.store().join("layers");
    let find = |name: &str| {
        let mut all = names_in(&layers).into_iter().map(|layer| layers.join(layer).join("fs").join(name));
        all.find(|path| path.exists()).unwrap_or_else(|| panic!("no layer has {name}"))
    };
    let verify = |args: &[&str]| runtime.image(&[&["verify"], args].concat());
    verify(&["--deep"]).success();
    let whole = std::fs::read_to_string(find("greeting")).expect("a file");
    let damages: [(&str, &dyn Fn()); 4] = [
        ("removed", &|| std::fs::remove_file(find("many/9")).expect("removed")),
        ("added", &|| std::fs::write(find("many").join("new"), "").expect("added")),
        ("owner", &|| std::os::unix::fs::chown(find("greeting"), Some(5), None).expect("another owner")),
        ("hidden", &|| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(find("many"), "user.overlay.opaque", b"y", flags).expect("an attribute");
        }),
    ];
    for (what, damage) in damages {
        damage();
        let _ = verify(&[]).fails_with(1, &["damaged in 1 places"]);
        assert!(verify(&["--repair"]).success().stdout.contains("yes"), "{what}");
        assert_eq!(verify(&[]).success().stdout, "no damage\n", "{what}");
    }
    // Other content of the same size at the same time is found by reading it.
    let file = find("greeting");
    let time = std::fs::metadata(&file).and_then(|metadata| metadata.modified()).expect("its time");
    std::fs::write(&file, "HELLO\n").expect("other content");
    std::fs::File::options()
        .write(true)
        .open(&file)
        .and_then(|file| file.set_modified(time))
        .expect("its time");
    verify(&[]).success();
    let _ = verify(&["--deep"]).fails_with(1, &["damaged"]);
    verify(&["--deep", "--repair"]).success();
    verify(&["--deep"]).success();
    assert_eq!(std::fs::read_to_string(find("greeting")).expect("a file"), whole);
    // A layer that is gone comes back from its blob, and a blob from the next pull.
    std::fs::remove_dir_all(layers.join(&names_in(&layers)[0])).expect("removed");
    let _ = verify(&[]).fails_with(1, &["damaged in 1 places"]);
    verify(&["--repair"]).success();
    let blobs = runtime.store().join("blobs/sha256");
    let first = blobs.join(&names_in(&blobs)[0]);
    let blob = first.join(&names_in(&first)[0]);
    std::fs::write(&blob, "damaged").expect("a damaged blob");
    let _ = verify(&["--repair"]).fails_with(1, &["damaged"]);
    runtime.image(&["pull", &layout.image("1")]).success();
    verify(&["--deep"]).success();
    assert_eq!(runtime.run_image(&[], NAME, &[]).success().stdout, "hello\n");
}

#[test]
fn a_layer_of_another_boot_is_used_if_it_is_as_it_was_and_else_unpacked_again_without_its_source() {
    let runtime = Runtime::new();
    let layout = image(&runtime);
    runtime.image(&["pull", &layout.image("1")]).success();
    std::fs::remove_dir_all(layout.path()).expect("removed");
    let layers = runtime.store().join("layers");
    let all: Vec<_> = names_in(&layers).into_iter().map(|name| layers.join(name)).collect();
    // As if the machine had been started anew, after a crash or not.
    let start_anew = || {
        all.iter().for_each(|layer| std::fs::write(layer.join("unsynced"), "another boot").expect("a mark"));
    };
    start_anew();
    assert_eq!(runtime.run_image(&[], NAME, &[]).success().stdout, "hello\n");
    assert!(
        all.iter().all(|layer| !layer.join("unsynced").exists()),
        "what was looked at once is not looked at again"
    );
    start_anew();
    let lost =
        all.iter().map(|layer| layer.join("fs/greeting")).find(|path| path.exists()).expect("the file");
    std::fs::write(&lost, "").expect("as after a crash");
    let _ = runtime.image(&["inspect", NAME]).fails_with(1, &["is not unpacked"]);
    assert_eq!(runtime.run_image(&[], NAME, &[]).success().stdout, "hello\n");
    runtime.image(&["verify", "--deep"]).success();
}
