//! WebAssembly where there is no container: a configuration without `linux`, and the library.
mod common;

use common::{Bundle, Wasm, annotate, start};
use magikrun::ErrorKind;
use magikrun::runtime::container::Status;
use magikrun::runtime::{OciRuntime, Signal, WasmtimeRuntime};
use magikrun::storage::config::Config;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

/// A bundle of the probe without a container around it.
fn direct(wasm: &Wasm, args: &[&str]) -> Bundle {
    let mut bundle = wasm.probe(args);
    bundle.edit(|config| {
        config["linux"] = Value::Null;
        config["process"]["env"] = serde_json::json!(["A=b"]);
    });
    bundle
}

#[test]
fn a_configuration_without_linux_runs_a_module_and_nothing_else() {
    let wasm = Wasm::new();
    let output = wasm.run(&direct(&wasm, &["show", "one"])).success();
    assert!(output.stdout.starts_with("arg show\narg one\nenv A=b\n"), "{}", output.stdout);
    wasm.run(&direct(&wasm, &["exit", "5"])).exits(5);
    wasm.run(&direct(&wasm, &["trap"])).exits(110);
    let mut native = direct(&wasm, &[]);
    native.edit(|config| config["annotations"] = Value::Null);
    wasm.run(&native).fails_with(1, &["linux must be specified"]);
    let mut other = direct(&wasm, &["show"]);
    other.edit(|config| config["process"]["user"]["uid"] = 1000.into());
    wasm.run(&other).fails_with(1, &["process.user.uid is 1000"]);
    wasm.runtime.assert_nothing_left();
}

#[test]
fn without_a_cgroup_fuel_ends_what_does_not_end_itself() {
    let wasm = Wasm::new();
    let output = wasm.run(&direct(&wasm, &["loop"])).exits(111);
    assert!(output.stderr.contains("org.magikrun.wasm.fuel"), "{}", output.stderr);
}

#[test]
fn files_are_those_of_the_bundle_and_of_its_bind_mounts() {
    let wasm = Wasm::new();
    let says = |args: &[&str], change: &dyn Fn(&mut Bundle)| {
        let mut bundle = direct(&wasm, args);
        change(&mut bundle);
        wasm.run(&bundle)
    };
    let source = wasm.runtime.path("source");
    fs::create_dir_all(&source).expect("a folder");
    fs::write(source.join("file"), "of the host").expect("a file");
    let mounted = |bundle: &mut Bundle| {
        bundle.mount("/data", "bind", source.to_str().expect("UTF-8"), &["bind", "ro"]);
    };
    assert_eq!(says(&["read", "/data/file"], &mounted).success().stdout, "of the host");
    assert_eq!(says(&["write", "/data/file", "x"], &mounted).code, 1);
    assert_eq!(says(&["write", "/tmp/a", "x"], &mounted).success().stdout, "ok\n");
    assert_eq!(
        says(&["write", "/tmp/a", "x"], &|bundle| {
            bundle.edit(|config| config["root"]["readonly"] = true.into());
        })
        .code,
        1
    );
    assert_eq!(says(&["read", "/etc/hostname"], &mounted).code, 1);
    let kernel = |bundle: &mut Bundle| {
        bundle.mount("/host", "bind", "/", &["rbind"]);
    };
    says(&["list", "/host"], &kernel).fails_with(1, &["shows the kernel"]);
}

#[test]
fn its_life_is_that_of_a_container() {
    let wasm = Wasm::new();
    let bundle = direct(&wasm, &["sleep", "600"]);
    let id = bundle.id.as_str();
    wasm.ok(&["create", "--bundle", bundle.dir(), id]);
    assert_eq!(wasm.runtime.status(id), "created");
    wasm.ok(&["start", id]);
    assert_eq!(wasm.runtime.status(id), "running");
    wasm.call(&["exec", id, "/app/probe.wasm", "exit", "9"]).exits(9);
    wasm.call(&["exec", id, "/bin/sh"]).fails_with(255, &["not a WebAssembly module"]);
    wasm.ok(&["kill", id, "TERM"]);
    wasm.runtime.wait_status(id, "stopped");
    wasm.ok(&["delete", id]);
    wasm.runtime.assert_nothing_left();
}

#[test]
fn a_user_without_privileges_can_do_it() {
    let wasm = Wasm::new();
    let bundle = direct(&wasm, &["show", "unprivileged"]);
    for path in [wasm.runtime.root(), bundle.path("")] {
        std::os::unix::fs::chown(&path, Some(1000), Some(1000)).expect("the owner");
    }
    let config = wasm.runtime.path("config.toml");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("the mode");
    let home = tempfile::tempdir().expect("a home");
    std::os::unix::fs::chown(home.path(), Some(1000), Some(1000)).expect("the owner");
    fs::write(&config, "").expect("a configuration");
    // The built one may be where only root gets.
    let program = wasm.runtime.path("magikrun");
    common::copy_program(&common::runtime_path(), &program);
    let run = || {
        let mut command = std::process::Command::new(&program);
        command.arg("--root").arg(wasm.runtime.root()).args(["run", "--bundle", bundle.dir(), &bundle.id]);
        command.env("MAGIKRUN_CONFIG", &config).env("HOME", home.path()).env_remove("XDG_DATA_HOME");
        command.uid(1000).gid(1000);
        common::finish(command, None).success().stdout
    };
    for _ in 0..2 {
        assert!(run().starts_with("arg show\narg unprivileged\n"));
    }
    assert!(home.path().join(".local/share/magikrun/wasm/index").is_dir());
}

/// A library's runtime with a store of its own, and a bundle of the probe.
fn library(wasm: &Wasm, args: &[&str]) -> (WasmtimeRuntime, Bundle) {
    let mut config = Config::default();
    config.wasm.store = Some(wasm.store());
    (WasmtimeRuntime::with_config(&config), direct(wasm, args))
}

#[test]
fn the_library_runs_modules_in_threads() {
    let wasm = Wasm::new();
    let (runtime, bundle) = library(&wasm, &["exit", "7"]);
    let path = Path::new(bundle.dir());
    runtime.create("a", path).expect("created");
    assert_eq!(runtime.create("a", path).unwrap_err().kind(), ErrorKind::ContainerExists);
    assert_eq!(runtime.state("a").expect("a state").status, Status::Created);
    assert_eq!(runtime.delete("a").unwrap_err().kind(), ErrorKind::InvalidState);
    runtime.start("a").expect("started");
    assert_eq!(runtime.start("a").unwrap_err().kind(), ErrorKind::InvalidState);
    assert_eq!(runtime.wait("a").expect("an outcome").code, 7);
    assert_eq!(runtime.state("a").expect("a state").status, Status::Stopped);
    assert_eq!(runtime.kill("a", Signal::Term).unwrap_err().kind(), ErrorKind::InvalidState);
    runtime.delete("a").expect("deleted");
    assert_eq!(runtime.state("a").unwrap_err().kind(), ErrorKind::ContainerNotFound);
    assert_eq!(runtime.create("../a", path).unwrap_err().kind(), ErrorKind::InvalidContainerId);
}

#[test]
fn the_library_ends_what_loops_and_what_sleeps() {
    let wasm = Wasm::new();
    for args in [["loop", ""], ["sleep", "600"]] {
        let (runtime, mut bundle) = library(&wasm, &args);
        annotate(&mut bundle, "org.magikrun.wasm.fuel", "1000000000000");
        runtime.create("a", Path::new(bundle.dir())).expect("created");
        runtime.start("a").expect("started");
        runtime.kill("a", Signal::Term).expect("killed");
        assert_eq!(runtime.wait("a").expect("an outcome").code, 143);
    }
    // It waits in the kernel.
    let (runtime, bundle) = library(&wasm, &["read", "/fifo"]);
    rustix::fs::mkfifoat(rustix::fs::CWD, bundle.rootfs("fifo"), rustix::fs::Mode::RWXU).expect("a FIFO");
    runtime.create("a", Path::new(bundle.dir())).expect("created");
    runtime.start("a").expect("started");
    runtime.kill("a", Signal::Term).expect("killed");
    assert_eq!(runtime.wait("a").expect("an outcome").code, 143);
    let (runtime, bundle) = library(&wasm, &["loop"]);
    runtime.create("a", Path::new(bundle.dir())).expect("created");
    runtime.start("a").expect("started");
    let outcome = runtime.wait("a").expect("an outcome");
    assert_eq!(outcome.code, 111, "{outcome:?}");
}

#[test]
fn many_instances_run_side_by_side_in_one_process() {
    let wasm = Wasm::new();
    let (runtime, bundle) = library(&wasm, &["memory", "3"]);
    let ids: Vec<String> = (0..50).map(|n| format!("i{n}")).collect();
    for id in &ids {
        runtime.create(id, Path::new(bundle.dir())).expect("created");
    }
    ids.iter().for_each(|id| runtime.start(id).expect("started"));
    for id in &ids {
        assert_eq!(runtime.wait(id).expect("an outcome").code, 0);
        runtime.delete(id).expect("deleted");
    }
}

#[test]
fn a_module_can_be_compiled_ahead_of_its_first_start() {
    let wasm = Wasm::new();
    let (_, bundle) = library(&wasm, &[]);
    let mut config = Config::default();
    config.wasm.store = Some(wasm.store());
    let module = bundle.rootfs("app/probe.wasm");
    let precompile = || magikrun::runtime::wasm::precompile_file(&config.wasm, &module);
    assert!(precompile().expect("compiled"));
    assert!(!precompile().expect("found"));
    let code = fs::read_dir(wasm.store().join("sha256")).expect("code").count();
    let running = start(wasm.command(&["run", "--bundle", wasm.probe(&["exit", "4"]).dir(), "ahead"]), None);
    running.finish().exits(4);
    assert_eq!(fs::read_dir(wasm.store().join("sha256")).expect("code").count(), code);
}
