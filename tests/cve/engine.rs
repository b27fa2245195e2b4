//! Attacks on the WebAssembly engine, by modules that run in the backend; and the version that is locked against the table.

use crate::common::{Bundle, Wasm};
use std::fs;

/// Runs a module in the text format, which must end with this exit code.
#[track_caller]
fn runs(text: &str, code: i32) {
    let wasm = Wasm::new();
    wasm.run(&wasm.bundle(text.as_bytes(), "/attack.wat", &[])).exits(code);
    wasm.runtime.assert_nothing_left();
}

/// A module with a memory whose `_start` traps unless each of these conditions holds.
fn checks(conditions: &[&str]) -> String {
    let condition = |c: &&str| ["(if (i32.eqz ", *c, ") (then unreachable))\n"].concat();
    let body: String = conditions.iter().map(condition).collect();
    format!("(module (memory (export \"memory\") 1) (func (export \"_start\") {body}))")
}

#[test]
fn operations_that_were_compiled_wrongly_compute_what_they_should() {
    runs(
        &checks(&[
            // i8x16 chosen from two that are the same.
            "(i32.eq (i32.const 0x01010101) (i32x4.extract_lane 0 (v128.bitselect (i32x4.splat (i32.const 0x01010101))
                (i32x4.splat (i32.const 0x01010101)) (i32x4.splat (i32.const 0x55555555)))))",
            "(i32.eq (i32.const 7) (i8x16.extract_lane_u 3 (i8x16.swizzle (i8x16.splat (i32.const 7)) (i8x16.splat (i32.const 2)))))",
            // i64x2 shifted by a constant.
            "(i64.eq (i64.const -1) (i64x2.extract_lane 1 (i64x2.shr_s (i64x2.splat (i64.const -4)) (i32.const 2))))",
            "(i64.eq (i64.const -1) (i64x2.extract_lane 0 (i64x2.shr_s (v128.const i64x2 0x8000000000000000 0) (i32.const 63))))",
            // Operands at the end of memory, where too wide a load leaves it.
            "(f64.eq (f64.const 0) (f64.copysign (f64.load (i32.const 65528)) (f64.load (i32.const 65528))))",
            "(f64.eq (f64.const 0) (f64x2.extract_lane 1 (f64x2.splat (f64.load (i32.const 65528)))))",
        ]),
        0,
    );
}

#[test]
fn an_address_that_is_shifted_stays_in_the_sandbox() {
    for index in ["0x1fffffff", "0x10000000", "0x7fffffff"] {
        let text = format!(
            "(module (memory 1) (global $i (mut i32) (i32.const {index}))
               (func (export \"_start\") (i32.store offset=0xfffffff0 (i32.shl (global.get $i) (i32.const 3)) (i32.const 1))))"
        );
        runs(&text, 110);
    }
}

#[test]
fn tail_calls_of_what_ends_the_program_end_it() {
    runs(
        "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))
           (memory (export \"memory\") 1)
           (func $end (param i32) (return_call $exit (local.get 0)))
           (func (export \"_start\") (return_call $end (i32.const 9))))",
        9,
    );
}

#[test]
fn renumbering_descriptors_neither_ends_the_engine_nor_eats_its_memory() {
    runs(
        "(module (import \"wasi_snapshot_preview1\" \"fd_renumber\" (func $renumber (param i32 i32) (result i32)))
           (memory (export \"memory\") 1)
           (func (export \"_start\") (local $n i32)
             (drop (call $renumber (i32.const 3) (i32.const -1)))
             (drop (call $renumber (i32.const -1) (i32.const 3)))
             (loop $again
               (drop (call $renumber (i32.const 3) (i32.const 3)))
               (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100000))))))",
        0,
    );
}

#[test]
fn times_that_no_clock_has_are_an_error_to_the_module() {
    let call = |time: &str| {
        format!(
            "(call $set (i32.const 3) (i32.const 1) (i32.const 8) (i32.const 1) (i64.const {time}) (i64.const {time}) (i32.const 5))"
        )
    };
    let calls: String = ["-1", "0x7fffffffffffffff", "0x8000000000000000"]
        .map(|time| format!("(drop {})\n", call(time)))
        .concat();
    runs(
        &format!(
            "(module (import \"wasi_snapshot_preview1\" \"path_filestat_set_times\"
               (func $set (param i32 i32 i32 i32 i64 i64 i32) (result i32)))
             (memory (export \"memory\") 1) (data (i32.const 8) \".\") (func (export \"_start\") {calls}))"
        ),
        0,
    );
}

#[test]
fn what_the_engine_is_built_without_is_refused() {
    let wasm = Wasm::new();
    for text in [
        // Memory that threads share, which no limit of ours counts.
        "(module (memory (export \"memory\") 1 2 shared) (func (export \"_start\")))",
        // Structures of a garbage collector.
        "(module (type $s (struct (field i32))) (func (export \"_start\") (drop (struct.new $s (i32.const 1)))))",
        // The first preview of WASI.
        "(module (import \"wasi_unstable\" \"poll_oneoff\" (func (param i32 i32 i32 i32) (result i32))) (func (export \"_start\")))",
    ] {
        let output = wasm.run(&wasm.bundle(text.as_bytes(), "/attack.wat", &[]));
        assert!(matches!(output.code, 1 | 113), "{text}: {output:?}");
        assert!(output.stderr.contains("cannot compile"), "{output:?}");
    }
    wasm.runtime.assert_nothing_left();
}

#[test]
fn a_table_larger_than_the_address_space_is_an_error() {
    let wasm = Wasm::new();
    for text in [
        "(module (table 0xffffffff funcref) (func (export \"_start\")))",
        "(module (table i64 0xffffffffffffffff funcref) (func (export \"_start\")))",
    ] {
        let output = wasm.run(&wasm.bundle(text.as_bytes(), "/attack.wat", &[]));
        assert!(matches!(output.code, 1 | 112 | 115), "{text}: {output:?}");
    }
}

/// A bundle without a container that runs the probe, with a directory of the host as `/data`, read-only.
fn beside_a_directory(wasm: &Wasm, args: &[&str], directory: &str) -> Bundle {
    let mut bundle = wasm.probe(args);
    bundle.edit(|config| config["linux"] = serde_json::Value::Null);
    bundle.mount("/data", "bind", directory, &["bind", "ro"]);
    bundle
}

#[test]
fn a_directory_that_is_read_only_is_not_changed_by_truncating_linking_or_renaming() {
    let wasm = Wasm::new();
    let data = wasm.runtime.path("data");
    fs::create_dir(&data).expect("a folder");
    fs::write(data.join("file"), "content").expect("a file");
    let directory = data.to_str().expect("a path in UTF-8");
    for args in [
        &["write", "/data/file", "x"][..],
        &["write", "/data/new", "x"],
        &["rename", "/app/probe.wasm", "/data/moved"],
        &["rename", "/data/file", "/app/moved"],
        &["rename", "/data/file", "/data/moved"],
        &["link", "file", "/data/link"],
        &["mkdir", "/data/folder"],
        &["remove", "/data/file"],
    ] {
        let output = wasm.run(&beside_a_directory(&wasm, args, directory));
        assert_ne!(output.code, 0, "{args:?}: {output:?}");
    }
    assert_eq!(fs::read_to_string(data.join("file")).expect("the file"), "content");
    assert_eq!(fs::read_dir(&data).expect("the folder").count(), 1);
}

#[test]
fn links_and_paths_with_slashes_at_their_end_stay_in_the_sandbox() {
    let wasm = Wasm::new();
    let outside = wasm.runtime.path("outside");
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("secret"), "secret").expect("a file");
    let up = format!("../../../../../../../../../..{}", outside.display());
    for (target, path) in [
        (format!("{up}/"), "/escape/secret"),
        (format!("{up}//"), "/escape//secret"),
        (format!("{}/", outside.display()), "/escape/secret"),
        (format!("{up}/secret/"), "/escape"),
        (format!("{up}/secret"), "/escape/"),
        (format!("{up}/./"), "/escape/./secret"),
    ] {
        for args in [["read", path], ["list", "/escape/"]] {
            let mut bundle = wasm.probe(&args);
            bundle.edit(|config| config["linux"] = serde_json::Value::Null);
            std::os::unix::fs::symlink(&target, bundle.rootfs("escape")).expect("a link");
            let output = wasm.run(&bundle);
            assert!(output.code != 0 && !output.stdout.contains("secret"), "{target} {args:?}: {output:?}");
        }
    }
}

/// Numbers of a version such as `48.0.4`.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map(|part| part.parse().expect("a number")).collect()
}

#[test]
fn the_engine_is_newer_than_every_fix_in_the_table() {
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).expect("Cargo.lock");
    let locked = |name: &str| {
        let entry = lock.split(&format!("name = \"{name}\"\nversion = \"")).nth(1).expect("the crate");
        numbers(entry.split('"').next().expect("its version"))
    };
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cve.md")).expect("docs/cve.md");
    let fixed: Vec<&str> = table
        .split("fixed in ")
        .skip(1)
        .map(|rest| rest.split([' ', '|', ',', ';']).next().expect("a version"))
        .collect();
    assert!(fixed.len() > 30, "{} fixes", fixed.len());
    for name in ["wasmtime", "wasmtime-wasi", "wasmtime-wasi-http"] {
        for version in &fixed {
            assert!(locked(name) >= numbers(version), "{name} is older than {version}");
        }
    }
}
