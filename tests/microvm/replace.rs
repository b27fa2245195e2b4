//! The program with libkrun, in the place of the one that was called.

use crate::common::{Runtime, finish, runtime_path};
use crate::microvm;
use serde_json::json;
use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn the_program_with_libkrun_is_protected_as_soon_as_it_is_executed() {
    let runtime = Runtime::new();
    let folder = runtime.path("programs");
    fs::create_dir(&folder).expect("a folder");
    let program = folder.join("magikrun-krun");
    fs::hard_link(runtime_path(), folder.join("magikrun")).expect("a link to the program");
    // Says what it is called with, and stays.
    fs::copy("/bin/busybox", &program).expect("a program");
    let bundle = microvm(&runtime, "true");
    let command = || {
        let mut command = Command::new(folder.join("magikrun"));
        command.arg0("yes").arg("--root").arg(runtime.root());
        command.args(["run", "--bundle", bundle.dir(), &bundle.id]);
        command
    };
    let mut child = command().stdout(Stdio::piped()).spawn().expect("the program");
    let mut said = [0; 6];
    let read = child.stdout.as_mut().expect("its output").read_exact(&mut said);
    let of = Path::new("/proc").join(child.id().to_string());
    let exe = fs::read_link(of.join("exe"));
    let environment = fs::read(of.join("environ"));
    child.kill().expect("its end");
    child.wait().expect("its status");
    read.expect("what it says");
    assert_eq!(&said, b"--root");
    // That of a mount without a place.
    assert_eq!(exe.expect("its executable"), Path::new("/"));
    let told = format!("_MAGIKRUN_EXE={}", program.display());
    let environment = String::from_utf8(environment.expect("its environment")).expect("text");
    assert!(environment.split('\0').any(|variable| variable == told), "{environment:?}");

    // What the kernel must find by its path is executed by that.
    fs::write(&program, "#!/bin/sh\nexit 7\n").expect("a script");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("its mode");
    finish(command(), None).exits(7);
}

/// It is in reach of a hostile guest, and each page of it that has to be relocated costs time and memory: what it never runs is not in it.
#[test]
fn the_program_with_libkrun_has_nothing_of_webassembly() {
    let runtime = Runtime::new();
    let mut bundle = runtime.bundle();
    bundle.edit(|config| config["annotations"] = json!({"run.oci.handler": "wasm"}));
    let program = runtime_path().with_file_name("magikrun-krun");
    let run = |program: &Path| {
        let mut command = Command::new(program);
        command.arg("--root").arg(runtime.root()).args(["run", "--bundle", bundle.dir(), &bundle.id]);
        finish(command, None)
    };
    run(&program).fails_with(1, &["cannot run WebAssembly", "call 'magikrun'"]);
    run(&runtime_path()).fails_with(1, &["is not a WebAssembly module"]);
    let contains = |text: &str| {
        let bytes = fs::read(&program).expect("the program");
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    assert!(contains("libkrunfw.so.5") && !contains("cranelift-codegen"));
    runtime.assert_nothing_left();
}
