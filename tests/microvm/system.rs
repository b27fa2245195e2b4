//! A libkrun that is a library of the system.

use crate::common::{Runtime, finish, runtime_path};
use crate::{children, microvm};
use std::fs;
use std::process::Command;

#[test]
fn a_guest_boots_by_a_libkrun_of_the_system() {
    let runtime = Runtime::new();
    let own = runtime_path();
    let system = own.with_file_name("system");
    let folder = runtime.path("programs");
    fs::create_dir(&folder).expect("a folder");
    for (name, of) in [
        ("magikrun", &*own),
        ("vminit", &own.with_file_name("vminit")),
        ("magikrun-krun", &system.join("magikrun-krun")),
    ] {
        fs::hard_link(of, folder.join(name)).expect("a link to a program");
    }
    let bundle = microvm(&runtime, "uname -r; trap 'exit 9' TERM; echo up; while :; do usleep 200000; done");
    let command = |args: &[&str]| {
        let mut command = Command::new(folder.join("magikrun"));
        command.arg("--root").arg(runtime.root()).args(args);
        command
    };
    // Without the library the program does not even start.
    let run = ["run", "--bundle", bundle.dir(), &bundle.id];
    let output = finish(command(&run), None);
    assert_ne!(output.code, 0);
    assert!(output.stderr.contains("libkrun.so.1"), "{}", output.stderr);
    let mut with_library = command(&run);
    with_library.env("LD_LIBRARY_PATH", &system);
    let running = crate::common::start(with_library, None);
    running.wait_stdout("up\n");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    assert_ne!(running.stdout().lines().next(), Some(release.trim()));
    let monitor = *children(runtime.pid(&bundle.id)).last().expect("a monitor");
    let maps = fs::read_to_string(format!("/proc/{monitor}/maps")).expect("what the monitor has mapped");
    assert!(maps.contains("libkrun.so.1"), "{maps}");
    runtime.call(&["exec", &bundle.id, "sh", "-c", "exit 3"]).exits(3);
    runtime.ok(&["kill", &bundle.id, "TERM"]);
    running.finish().exits(9);
    runtime.assert_nothing_left();
}
