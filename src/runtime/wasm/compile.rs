//! Compiling modules and components, and saying what is wrong with them.

use super::instance;
use super::program::Kind;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::memory;
use crate::platform::sys::clone::{CloneArgs, clone3};
use crate::runtime::native::channel::{self, Message};
use crate::runtime::native::launch::{drop_copy, kill_and_reap};
use std::borrow::Cow;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use wasmtime::component::Component;
use wasmtime::{Engine, ExternType, Module};

/// What the first eight bytes of a core module are.
const MODULE: &[u8; 8] = b"\0asm\x01\0\0\0";
/// What the first eight bytes of a component are: version 13, layer 1.
const COMPONENT: &[u8; 8] = b"\0asm\x0d\0\x01\0";

/// Compiles a module or component, binary or text, and checks that it is a program that can run here. `what` is how messages
/// call it.
///
/// Several threads work on it.
pub fn compile(engine: &Engine, bytes: &[u8], what: &str) -> Result<(Vec<u8>, Kind)> {
    let compiled = binary(bytes).and_then(|bytes| match bytes.first_chunk() {
        Some(MODULE) => module(engine, &bytes),
        Some(COMPONENT) => component(engine, &bytes),
        Some(other) => invalid(format!("unknown version {:?} of the binary format", &other[4..])),
        None => invalid("it is truncated: a module has at least 8 bytes"),
    });
    compiled.map_err(|e| e.wrap(format!("cannot compile '{what}'")))
}

/// Compiles in a process of its own, so that this one keeps a single thread and none of the compiler's memory.
pub fn apart(engine: &Engine, bytes: &[u8], what: &str) -> Result<(File, Kind)> {
    let mut code = memory::file()?;
    let (ours, theirs) = channel::pair()?;
    let child = clone3(&CloneArgs::default(), || {
        drop_copy(&ours);
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        let done = compile(engine, bytes, what)
            .and_then(|(compiled, kind)| {
                code.write_all(&compiled).context(|| format!("cannot keep the code of '{what}'"))?;
                Ok(kind)
            })
            .and_then(|kind| theirs.send(&Message::Compiled(kind)));
        if let Err(e) = done {
            theirs.send_error(&e);
        }
        0
    })?;
    drop(theirs);
    let received = ours.receive();
    kill_and_reap(&child);
    match received? {
        Some(Message::Compiled(kind)) => {
            code.rewind()?;
            Ok((code, kind))
        }
        _ => crate::bail!(CreateFailed, "cannot compile '{what}': the compiler died (out of memory?)"),
    }
}

/// Compiles in this process.
pub fn here(engine: &Engine, bytes: &[u8], what: &str) -> Result<(File, Kind)> {
    let (compiled, kind) = compile(engine, bytes, what)?;
    let mut code = memory::file()?;
    code.write_all(&compiled)
        .and_then(|()| code.rewind())
        .context(|| format!("cannot keep the code of '{what}'"))?;
    Ok((code, kind))
}

fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::InvalidBundle, message))
}

/// The binary form of what may be text.
fn binary(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    if bytes.starts_with(&MODULE[..4]) {
        return Ok(Cow::Borrowed(bytes));
    }
    let text = std::str::from_utf8(bytes).ok().filter(|text| {
        let text = text.trim_start();
        text.starts_with('(') || text.starts_with(";;")
    });
    match text {
        Some(text) => wat::parse_str(text).map(Cow::Owned).or_else(|e| invalid(one_line(&e.to_string()))),
        None if bytes.is_empty() => invalid("it is empty"),
        None => invalid(format!(
            "it is not a WebAssembly module: it starts with \"{}\"",
            bytes[..bytes.len().min(8)].escape_ascii()
        )),
    }
}

/// The parser's message has several lines: the fault, the place, and a picture of it.
fn one_line(message: &str) -> String {
    let fault = message.lines().next().unwrap_or_default().trim();
    let place = message.lines().find_map(|line| line.trim().strip_prefix("--> <anon>:"));
    match place.and_then(|place| place.split_once(':')) {
        Some((line, column)) => format!("line {line}, column {column}: {fault}"),
        None => fault.to_owned(),
    }
}

fn fault(e: &wasmtime::Error) -> Error {
    Error::new(ErrorKind::InvalidBundle, format!("{e:#}").replace('\n', " "))
}

/// A part of the message for what the linker does not have.
fn missing(e: &wasmtime::Error) -> Error {
    Error::new(ErrorKind::MissingImport, format!("{e:#}").replace('\n', " "))
}

fn module(engine: &Engine, bytes: &[u8]) -> Result<(Vec<u8>, Kind)> {
    let module = Module::new(engine, bytes).map_err(|e| fault(&e))?;
    match module.get_export("_start") {
        Some(ExternType::Func(f)) if f.params().len() == 0 && f.results().len() == 0 => {}
        Some(_) => return invalid("its export '_start' is not a function without parameters and results"),
        None => return invalid("it is not a command: it exports no function '_start'"),
    }
    instance::module_linker(engine)?.instantiate_pre(&module).map_err(|e| missing(&e))?;
    Ok((module.serialize().map_err(|e| fault(&e))?, Kind::Command))
}

fn component(engine: &Engine, bytes: &[u8]) -> Result<(Vec<u8>, Kind)> {
    let component = Component::new(engine, bytes).map_err(|e| fault(&e))?;
    let exports: Vec<String> =
        component.component_type().exports(engine).map(|(name, _)| name.to_owned()).collect();
    let exports = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
    let kind = if exports("wasi:cli/run@0.2.") {
        Kind::Component
    } else if exports("wasi:http/incoming-handler@0.2.") {
        Kind::Proxy
    } else {
        return invalid(
            "it is a component of no known world: it exports neither wasi:cli/run nor wasi:http/incoming-handler of version 0.2",
        );
    };
    instance::component_linker(engine, &component)?.instantiate_pre(&component).map_err(|e| missing(&e))?;
    Ok((component.serialize().map_err(|e| fault(&e))?, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::wasm::engine;
    use crate::runtime::wasm::settings::CodeSettings;

    #[test]
    fn the_place_of_a_fault_is_in_one_line() {
        let message = "expected `(`\n     --> <anon>:3:7\n      |\n    3 | nonsense\n      | ^";
        assert_eq!(one_line(message), "line 3, column 7: expected `(`");
        assert_eq!(one_line("no place"), "no place");
    }

    #[test]
    fn a_program_is_told_from_what_is_none() {
        let engine = engine::compiling(CodeSettings::default()).unwrap();
        let kind = |text: &str| compile(&engine, text.as_bytes(), "x").map(|(_, kind)| kind);
        assert_eq!(kind("(module (func (export \"_start\")))").unwrap(), Kind::Command);
        for (text, message) in [
            ("(module)", "cannot compile 'x': it is not a command: it exports no function '_start'"),
            ("(module (func (export \"_start\") (param i32)))", "not a function without parameters"),
            ("(component)", "of no known world"),
            ("#!/bin/sh", "it starts with \"#!/bin/s\""),
        ] {
            assert!(kind(text).unwrap_err().message().contains(message), "{text}");
        }
        let import = "(module (import \"env\" \"f\" (func)) (func (export \"_start\")))";
        assert_eq!(kind(import).unwrap_err().kind(), ErrorKind::MissingImport);
    }
}
