//! What a WebAssembly module can reach: files, directories, mounts, clocks, random numbers, and what it must not reach.
mod common;

use common::{Bundle, Wasm, poll, start};
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn files_and_directories_are_those_of_the_container() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&[]);
    let mut says = |args: &[&str]| {
        bundle.args(&[&["/app/probe.wasm"], args].concat());
        wasm.run(&bundle).stdout
    };
    assert_eq!(says(&["write", "/tmp/a", "text"]), "ok\n");
    assert_eq!(says(&["read", "/tmp/a"]), "text");
    assert_eq!(says(&["stat", "/tmp/a"]), "size 4 ok\n");
    assert_eq!(says(&["mkdir", "/tmp/d"]), "ok\n");
    assert_eq!(says(&["rename", "/tmp/a", "/tmp/d/b"]), "ok\n");
    assert_eq!(says(&["link", "b", "/tmp/d/l"]), "ok\n");
    assert_eq!(says(&["read", "/tmp/d/l"]), "text");
    let mut names: Vec<String> = says(&["list", "/tmp/d"]).lines().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, [".", "..", "b", "l"]);
    assert_eq!(says(&["remove", "/tmp/d/b"]), "ok\n");
    assert_eq!(says(&["read", "/tmp/d/b"]), "No such file or directory\n");
    assert!(fs::symlink_metadata(bundle.rootfs("tmp/d/l")).is_ok());
}

#[test]
fn mounts_are_seen_and_what_is_read_only_stays_so() {
    let wasm = Wasm::new();
    let source = wasm.runtime.path("source");
    fs::create_dir(&source).expect("a folder");
    fs::write(source.join("file"), "of the host").expect("a file");
    let folder = source.to_str().expect("UTF-8").to_owned();
    let file = source.join("file").display().to_string();
    let mounted = |bundle: &mut Bundle| {
        bundle.mount("/rw", "bind", &folder, &["rbind", "rw"]);
        bundle.mount("/ro", "bind", &folder, &["rbind", "ro"]);
        bundle.mount("/etc/one", "bind", &file, &["bind", "ro"]);
        bundle.mount("/scratch", "tmpfs", "tmpfs", &["size=1m"]);
    };
    assert_eq!(wasm.says(&["read", "/ro/file"], mounted), "of the host");
    assert_eq!(wasm.says(&["read", "/etc/one"], mounted), "of the host");
    // The engine knows no EROFS.
    assert_eq!(wasm.says(&["write", "/ro/new", "x"], mounted), "I/O error\n");
    assert_eq!(wasm.says(&["write", "/etc/one", "x"], mounted), "I/O error\n");
    assert!(!source.join("new").exists());
    assert_eq!(wasm.says(&["write", "/rw/new", "x"], mounted), "ok\n");
    assert_eq!(fs::read_to_string(source.join("new")).expect("the new file"), "x");
    assert_eq!(wasm.says(&["write", "/scratch/new", "x"], mounted), "ok\n");
    let read_only = |bundle: &mut Bundle| {
        mounted(bundle);
        bundle.edit(|config| config["root"]["readonly"] = true.into());
    };
    assert_eq!(wasm.says(&["write", "/tmp/new", "x"], read_only), "I/O error\n");
    assert_eq!(wasm.says(&["write", "/rw/newer", "x"], read_only), "ok\n");
}

#[test]
fn nothing_that_shows_the_kernel_or_other_processes_is_there() {
    let wasm = Wasm::new();
    // A second procfs, in an odd place, as a monitoring agent has one.
    let hostile = |bundle: &mut Bundle| {
        bundle.mount("/data/of the host", "bind", "/proc", &["rbind", "ro"]);
        bundle.mount("/mnt/version", "bind", "/proc/version", &["bind", "ro"]);
    };
    for path in ["/proc", "/sys", "/dev/pts", "/dev/mqueue", "/data/of the host"] {
        assert_eq!(wasm.says(&["list", path], hostile), ".\n..\n", "{path}");
    }
    for path in ["/proc/self/mem", "/proc/1/mem", "/proc/self/environ", "/data/of the host/1/environ"] {
        assert_eq!(wasm.says(&["read", path], hostile), "No such file or directory\n", "{path}");
    }
    assert_eq!(wasm.says(&["read", "/mnt/version"], hostile), "");
    assert_ne!(wasm.says(&["write", "/proc/self/mem", "x"], hostile), "ok\n");
    // Native programs of the same container have theirs.
    let mut bundle = wasm.probe(&["sleep", "600"]);
    hostile(&mut bundle);
    let running = start(wasm.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None);
    running.wait_stdout("sleeping");
    let native = wasm.ok(&["exec", &bundle.id, "sh", "-c", "cat /proc/1/comm; ls /proc/self/mem"]);
    assert_eq!(native.stdout, "probe.wasm\n/proc/self/mem\n");
    assert_eq!(wasm.ok(&["exec", &bundle.id, "/app/probe.wasm", "list", "/proc"]).stdout, ".\n..\n");
    wasm.ok(&["kill", &bundle.id, "KILL"]);
    running.finish().exits(137);
}

#[test]
fn no_link_and_no_dot_dot_leads_out() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&[]);
    let secret = wasm.runtime.file("secret", "of the host");
    let up = "../".repeat(20);
    symlink(&secret, bundle.rootfs("absolute")).expect("a link");
    symlink(format!("{up}{}", secret.display()), bundle.rootfs("relative")).expect("a link");
    symlink("/proc/self/root", bundle.rootfs("magic")).expect("a link");
    symlink("loop", bundle.rootfs("loop")).expect("a link");
    let outside = secret.display().to_string();
    for path in [
        "/absolute".to_owned(),
        "/relative".to_owned(),
        format!("/magic{outside}"),
        "/loop".to_owned(),
        format!("/{up}{outside}"),
        format!("/tmp/{up}{outside}"),
        outside,
    ] {
        bundle.args(&["/app/probe.wasm", "read", &path]);
        let output = wasm.run(&bundle);
        assert!(output.code == 1 && !output.stdout.contains("of the host"), "{path}: {output:?}");
    }
    // Links that it makes itself.
    for target in ["/etc", "../../..", "/proc/self/root"] {
        bundle.args(&["/app/probe.wasm", "link", target, "/tmp/made"]);
        let _ = wasm.run(&bundle);
        bundle.args(&["/app/probe.wasm", "list", "/tmp/made"]);
        let output = wasm.run(&bundle);
        assert!(!output.stdout.contains("state"), "{target}: {output:?}");
        let _ = fs::remove_file(bundle.rootfs("tmp/made"));
    }
}

#[test]
fn renames_during_a_walk_lead_nowhere_else() {
    let wasm = Wasm::new();
    let bundle = wasm.probe(&["race", "20000", "/mnt/walk/file"]);
    let outside = wasm.runtime.path("outside");
    for (folder, text) in [(bundle.rootfs("mnt/walk"), "inside"), (outside.clone(), "outside")] {
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("file"), text).expect("a file");
    }
    let running = start(wasm.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None);
    // The folder and a link to the outside take turns at the place that is walked through.
    let (walk, away, link) =
        (bundle.rootfs("mnt/walk"), bundle.rootfs("mnt/away"), bundle.rootfs("mnt/link"));
    symlink(&outside, &link).expect("a link");
    poll("the module to end", || {
        for _ in 0..200 {
            fs::rename(&walk, &away).expect("a rename");
            fs::rename(&link, &walk).expect("a rename");
            fs::rename(&walk, &link).expect("a rename");
            fs::rename(&away, &walk).expect("a rename");
        }
        running.stdout().contains("escaped").then_some(())
    });
    assert_eq!(running.finish().success().stdout, "opened some escaped 0\n");
}

#[test]
fn clocks_and_random_numbers_are_real() {
    let wasm = Wasm::new();
    let clocks = wasm.says(&["clocks"], |_| {});
    assert!(clocks.starts_with("slept enough\ntime "), "{clocks}");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time").as_secs();
    let time: u64 = clocks.trim().rsplit(' ').next().and_then(|time| time.parse().ok()).expect("a time");
    assert!(time.abs_diff(now) < 120, "{clocks}");
    let [first, second] = [0, 1].map(|_| wasm.says(&["random"], |_| {}));
    assert_ne!(first, second);
    assert!(first.len() == 34 && !first.contains("0000000000000000"), "{first}");
}
