//! The store of compiled modules: what is compiled when, and at which cost.
mod common;

use common::{Bundle, Wasm, annotate, poll, start};
use rustix::process::Signal;
use std::fs;

/// The time in nanoseconds at which the store's code for the probe was last written.
fn written(wasm: &Wasm) -> Vec<(String, std::time::SystemTime)> {
    let mut found = Vec::new();
    for directory in fs::read_dir(wasm.store().join("sha256")).into_iter().flatten().flatten() {
        for file in fs::read_dir(directory.path()).expect("a folder").flatten() {
            let time = file.metadata().and_then(|m| m.modified()).expect("a time");
            found.push((file.path().display().to_string(), time));
        }
    }
    found
}

#[test]
fn a_module_is_compiled_once() {
    let wasm = Wasm::new();
    let bundle = wasm.probe(&["exit", "3"]);
    wasm.run(&bundle).exits(3);
    let first = written(&wasm);
    assert_eq!(first.len(), 1);
    wasm.run(&bundle).exits(3);
    wasm.run(&wasm.probe(&["exit", "4"])).exits(4);
    assert_eq!(written(&wasm), first);
    let mut fuel = wasm.probe(&["exit", "5"]);
    annotate(&mut fuel, "org.magikrun.wasm.fuel", "1000000");
    wasm.run(&fuel).exits(5);
    assert_eq!(written(&wasm).len(), 2);
}

#[test]
fn hostile_or_damaged_code_is_compiled_again_and_never_run() {
    let wasm = Wasm::new();
    let bundle = wasm.probe(&["exit", "3"]);
    wasm.run(&bundle).exits(3);
    let (path, _) = written(&wasm).remove(0);
    let good = fs::read(&path).expect("the code");
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let damages: [&[u8]; 4] = [b"", b"\x7fELF", &flipped, &good[..good.len() - 1]];
    for damage in damages {
        fs::write(&path, damage).expect("the damage");
        let output = wasm.run(&bundle).exits(3);
        assert!(output.stderr.contains("compiling again"), "{}", output.stderr);
        assert_eq!(fs::read(&path).expect("the code"), good);
    }
    // Code that somebody else could have written.
    std::os::unix::fs::chown(&path, Some(1000), None).expect("another owner");
    wasm.run(&bundle).exits(3);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&path).expect("the code")), 0);
}

#[test]
fn a_store_that_cannot_be_written_costs_time_and_nothing_else() {
    let wasm = Wasm::new();
    fs::write(wasm.store(), "a file in its place").expect("a file");
    let output = wasm.run(&wasm.probe(&["exit", "3"])).exits(3);
    assert!(output.stderr.contains("is not kept"), "{}", output.stderr);
}

#[test]
fn many_start_at_once_from_an_empty_store() {
    let wasm = Wasm::new();
    let bundles: Vec<Bundle> = (0..20).map(|n| wasm.probe(&["exit", &(n + 2).to_string()])).collect();
    let running: Vec<_> = bundles
        .iter()
        .map(|bundle| start(wasm.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None))
        .collect();
    for (n, one) in running.into_iter().enumerate() {
        one.finish().exits(n as i32 + 2);
    }
    assert_eq!(written(&wasm).len(), 1);
    wasm.runtime.assert_nothing_left();
}

#[test]
fn a_compilation_that_is_killed_leaves_nothing_that_hurts() {
    let wasm = Wasm::new();
    for delay in [1, 5, 20, 60, 150] {
        let bundle = wasm.probe(&["exit", "3"]);
        let running = start(wasm.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None);
        // Any moment will do: each is another place to die at.
        std::thread::sleep(std::time::Duration::from_millis(delay));
        common::signal(running.pid(), Signal::KILL);
        drop(running);
        let _ = wasm.call(&["delete", "--force", &bundle.id]);
        wasm.run(&wasm.probe(&["exit", "3"])).exits(3);
        let _ = fs::remove_dir_all(wasm.store());
    }
}

/// The one child of a process.
fn child(pid: i32) -> Option<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.trim().parse().ok()
}

/// A soft limit out of `/proc/PID/limits`; none is one that does not limit.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A module that a compiler needs hours for: thousands of variables, each of which could come from any of hundreds of loops.
fn endless_to_compile() -> String {
    let (depth, variables) = (1000, 20_000);
    let uses = (0..variables).map(|n| format!("local.get {n} drop")).collect::<Vec<_>>().join(" ");
    let (loops, ends) = ("loop ".repeat(depth), "end ".repeat(depth));
    let locals = "i32 ".repeat(variables);
    format!("(module (func (export \"_start\") (local {locals}) {loops} {uses} {ends}))")
}

#[test]
fn what_a_module_costs_its_compiler_is_limited() {
    let wasm = Wasm::new();
    let bundle = wasm.bundle(endless_to_compile().as_bytes(), "/endless.wat", &[]);
    let running = start(wasm.command(&["create", "--bundle", bundle.dir(), &bundle.id]), None);
    // Processor time is the last that it limits.
    let limits = poll("the limits of the compiler", || {
        let compiler = child(running.pid())?;
        let limits = fs::read_to_string(format!("/proc/{compiler}/limits")).ok()?;
        limit(&limits, "Max cpu time").is_some().then_some(limits)
    });
    assert_eq!(limit(&limits, "Max cpu time"), Some(60));
    let memory = limit(&limits, "Max data size").expect("a limit of memory");
    assert!((1 << 30..2 << 30).contains(&memory), "{limits}");
    assert_eq!(limit(&limits, "Max core file size"), Some(0));
    // It dies of either as it dies here.
    let compiler = child(running.pid()).expect("the compiler");
    common::signal(compiler, Signal::XCPU);
    running.finish().fails_with(1, &["cannot compile '/endless.wat'", "60 s of processor time"]);
    common::wait_dead(compiler);
    wasm.runtime.assert_nothing_left();
}
