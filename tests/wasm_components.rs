//! Components: commands of WASI 0.2, and services over HTTP.
mod common;

use common::{Wasm, annotate, poll, start};
use std::fs;
use std::path::Path;

const HTTP: &str = "org.magikrun.wasm.http";
const SOCKETS: &str = "org.magikrun.wasm.sockets";

/// A program of `tests/programs` in the text format.
fn text(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)).expect("a program")
}

#[test]
fn a_command_has_arguments_and_output_and_says_whether_it_failed() {
    let wasm = Wasm::new();
    let run = |args: &[&str]| wasm.run(&wasm.bundle(&text("command.wat"), "/command.wat", args));
    assert_eq!(run(&["one", "two words"]).success().stdout, "/command.wat\none\ntwo words\n");
    let output = run(&["one", "two", "three"]).exits(1);
    assert_eq!(output.stdout.lines().count(), 4, "{output:?}");
}

/// The command with other code in place of what it does.
fn command_that(code: &str) -> Vec<u8> {
    let text = String::from_utf8(text("command.wat")).expect("text");
    let changed = text.replace(";; Here it does something.", code);
    assert_ne!(changed, text);
    changed.into_bytes()
}

#[test]
fn a_command_is_killed_and_limited_like_a_module() {
    let wasm = Wasm::new();
    let endless = command_that("(loop $again (br $again))");
    let bundle = wasm.bundle(&endless, "/endless.wat", &[]);
    wasm.ok(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    // It takes its name when it runs already.
    poll("the name of the process", || {
        (wasm.ok(&["exec", &bundle.id, "cat", "/proc/1/comm"]).stdout == "endless.wat\n").then_some(())
    });
    wasm.ok(&["kill", &bundle.id, "TERM"]);
    wasm.runtime.wait_status(&bundle.id, "stopped");
    wasm.ok(&["delete", &bundle.id]);
    let mut bundle = wasm.bundle(&endless, "/endless.wat", &[]);
    annotate(&mut bundle, "org.magikrun.wasm.fuel", "10000000");
    wasm.run(&bundle).fails_with(111, &["org.magikrun.wasm.fuel"]);
    wasm.run(&wasm.bundle(&command_that("unreachable"), "/trap.wat", &[])).fails_with(110, &["trapped"]);
    let mut bundle = wasm.bundle(&text("command.wat"), "/command.wat", &[]);
    annotate(&mut bundle, "org.magikrun.wasm.max-instances", "1");
    let output = wasm.run(&bundle);
    assert!(output.code == 115 && output.stderr.contains("instance"), "{output:?}");
    let import = String::from_utf8(text("command.wat"))
        .expect("text")
        .replace("wasi:cli/stdout@", "other:cli/stdout@");
    let foreign = wasm.bundle(import.as_bytes(), "/foreign.wat", &[]);
    wasm.run(&foreign).fails_with(113, &["other:cli/stdout"]);
    wasm.runtime.assert_nothing_left();
}

#[test]
fn sockets_are_there_only_where_an_annotation_says_so() {
    let wasm = Wasm::new();
    for (value, code) in [(None, 1), (Some("none"), 1), (Some("udp"), 1), (Some("tcp"), 0), (Some("all"), 0)]
    {
        let mut bundle = wasm.bundle(&text("sockets.wat"), "/sockets.wat", &[]);
        if let Some(value) = value {
            annotate(&mut bundle, SOCKETS, value);
        }
        wasm.run(&bundle).exits(code);
    }
}

#[test]
fn a_service_answers_over_http_in_the_network_of_its_container() {
    let wasm = Wasm::new();
    let mut bundle = wasm.bundle(&text("http.wat"), "/http.wat", &[]);
    wasm.run(&bundle).fails_with(1, &[HTTP]);
    annotate(&mut bundle, HTTP, "127.0.0.1:8080");
    let id = bundle.id.as_str();
    let running = start(wasm.command(&["run", "--bundle", bundle.dir(), id]), None);
    poll("the service", || {
        let answer = wasm.call(&["exec", id, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/any"]);
        (answer.stdout == "hello over http\n").then_some(())
    });
    for _ in 0..20 {
        wasm.ok(&["exec", id, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]);
    }
    wasm.ok(&["kill", id, "TERM"]);
    running.finish().exits(143);
    let mut command = wasm.bundle(&text("command.wat"), "/command.wat", &[]);
    annotate(&mut command, HTTP, "127.0.0.1:8080");
    wasm.run(&command).fails_with(1, &["wasi:http/proxy"]);
    let mut taken = wasm.bundle(&text("http.wat"), "/http.wat", &[]);
    annotate(&mut taken, HTTP, "192.0.2.1:80");
    wasm.run(&taken).fails_with(115, &["cannot serve HTTP on 192.0.2.1:80"]);
}

#[test]
fn requests_that_compute_without_an_end_do_not_keep_others_from_being_answered() {
    let wasm = Wasm::new();
    let finish = "(call $finish (local.get $text) (i32.const 0) (i32.const 0) (i32.const 128))";
    let program = String::from_utf8(text("http.wat")).expect("text");
    let endless = program.replace(finish, &format!("{finish} (loop $ever (br $ever))"));
    assert_ne!(program, endless);
    let mut bundle = wasm.bundle(endless.as_bytes(), "/http.wat", &[]);
    annotate(&mut bundle, HTTP, "127.0.0.1:8080");
    let id = bundle.id.as_str();
    let running = start(wasm.command(&["run", "--bundle", bundle.dir(), id]), None);
    // Each answer leaves one more request behind that computes.
    for _ in 0..5 {
        poll("the service", || {
            let ask = ["exec", id, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"];
            (wasm.call(&ask).stdout == "hello over http\n").then_some(())
        });
    }
    wasm.ok(&["kill", id, "TERM"]);
    running.finish().exits(143);
}

#[test]
fn a_request_that_traps_is_an_error_of_the_server_and_not_its_end() {
    let wasm = Wasm::new();
    let trapping = String::from_utf8(text("http.wat")).expect("text").replace(
        "(local.set $answer (call $response (call $fields)))",
        "unreachable (local.set $answer (call $response (call $fields)))",
    );
    let mut bundle = wasm.bundle(trapping.as_bytes(), "/http.wat", &[]);
    annotate(&mut bundle, HTTP, "127.0.0.1:8080");
    let id = bundle.id.as_str();
    let running = start(wasm.command(&["run", "--bundle", bundle.dir(), id]), None);
    for _ in 0..3 {
        poll("an error of the server", || {
            let answer = wasm.call(&["exec", id, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]);
            answer.stderr.contains("500").then_some(())
        });
    }
    assert!(running.stderr().contains("trapped"), "{}", running.stderr());
    wasm.ok(&["kill", id, "KILL"]);
    running.finish().exits(137);
}

#[cfg(feature = "wasi-p3")]
#[test]
fn components_of_wasi_0_3_are_run_and_served() {
    let wasm = Wasm::new();
    let command = wasm.bundle(&text("command-p3.wat"), "/command.wat", &[]);
    assert_eq!(wasm.run(&command).success().stdout, "hello of 0.3\n");
    let mut service = wasm.bundle(&text("http-p3.wat"), "/http.wat", &[]);
    annotate(&mut service, HTTP, "127.0.0.1:8080");
    let id = service.id.as_str();
    let running = start(wasm.command(&["run", "--bundle", service.dir(), id]), None);
    for _ in 0..3 {
        poll("the service", || {
            let answer = wasm.call(&["exec", id, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/any"]);
            (answer.stdout == "hello over http\n").then_some(())
        });
    }
    wasm.ok(&["kill", id, "TERM"]);
    running.finish().exits(143);
}

#[cfg(not(feature = "wasi-p3"))]
#[test]
fn components_of_wasi_0_3_are_refused_where_they_are_not_built_in() {
    let wasm = Wasm::new();
    for name in ["command-p3.wat", "http-p3.wat"] {
        wasm.run(&wasm.bundle(&text(name), "/new.wat", &[])).fails_with(1, &["cannot compile '/new.wat'"]);
    }
}
