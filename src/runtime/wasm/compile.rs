//! Compiling modules and components, and saying what is wrong with them.

use super::instance;
use super::program::Kind;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::limits::{
    WASM_COMPILER_MEMORY, WASM_COMPILER_MEMORY_PER_BYTE, WASM_COMPILER_SECONDS, WASM_COMPILER_SECONDS_PER_MIB,
};
use crate::platform::memory;
use crate::platform::sys::clone::fork;
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

/// What a component exports that is a command.
const COMMAND_EXPORTS: &[&str] = &[
    "wasi:cli/run@0.2.",
    #[cfg(feature = "wasi-p3")]
    super::p3::COMMAND_EXPORT,
];
/// What a component exports that serves HTTP.
const PROXY_EXPORTS: &[&str] = &[
    "wasi:http/incoming-handler@0.2.",
    #[cfg(feature = "wasi-p3")]
    super::p3::PROXY_EXPORT,
];

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

/// Compiles in a process of its own, so that this one keeps a single thread and none of the compiler's memory, and a module
/// that was made to use up memory ends nothing but its compiler.
pub fn apart(engine: &Engine, bytes: &[u8], what: &str) -> Result<(File, Kind)> {
    let mut code = memory::file()?;
    let (ours, theirs) = channel::pair()?;
    let budget = Budget::of(bytes);
    let child = fork(|| {
        drop_copy(&ours);
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        let done = budget
            .impose()
            .and_then(|()| compile(engine, bytes, what))
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
        _ => crate::bail!(
            CreateFailed,
            "cannot compile '{what}': the compiler died: it may take {} MiB of memory and {} s of processor time for a module of this size, if there is as much",
            budget.memory >> 20,
            budget.seconds
        ),
    }
}

/// What compiling one module may take: one that was made for it takes a compiler hours, or all memory of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Budget {
    /// Writable private memory, in bytes (`RLIMIT_DATA`, getrlimit(2)).
    memory: u64,
    /// Processor time of all threads, in seconds (`RLIMIT_CPU`).
    seconds: u64,
}

impl Budget {
    fn of(module: &[u8]) -> Self {
        let size = module.len() as u64;
        Self {
            memory: WASM_COMPILER_MEMORY.saturating_add(WASM_COMPILER_MEMORY_PER_BYTE.saturating_mul(size)),
            seconds: WASM_COMPILER_SECONDS + WASM_COMPILER_SECONDS_PER_MIB.saturating_mul(size >> 20),
        }
    }

    /// Holds this process to it. Memory that is refused aborts it, which is nothing to keep a core of.
    fn impose(self) -> Result<()> {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        for (resource, most) in
            [(Resource::Core, 0), (Resource::Data, self.memory), (Resource::Cpu, self.seconds)]
        {
            let Rlimit { current, maximum } = getrlimit(resource);
            let within = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
            setrlimit(resource, Rlimit { current: within(current), maximum: within(maximum) })
                .context(|| "cannot limit what the compiler takes")?;
        }
        Ok(())
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
    let exports = |names: &[&str]| names.iter().any(|name| instance::exports(engine, &component, name));
    let kind = if exports(COMMAND_EXPORTS) {
        Kind::Component
    } else if exports(PROXY_EXPORTS) {
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
    fn the_budget_of_the_compiler_grows_with_the_module() {
        assert_eq!(Budget::of(b""), Budget { memory: 1 << 30, seconds: 60 });
        assert_eq!(Budget::of(&vec![0; 2 << 20]), Budget { memory: (1 << 30) + (128 << 20), seconds: 100 });
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
