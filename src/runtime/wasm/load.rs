//! Compiled code becomes executable here, and nowhere else.
#![allow(unsafe_code)]

use crate::error::{Context as _, Error, ErrorKind, Result};
use std::fs::File;
use std::io::Read as _;
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

/// Maps the code of a core module.
///
/// `code` must come from [`super::store`] or from [`super::compile`] by a descriptor that nobody else could choose: see
/// the module [`super::store`] for why its content is what the compiler wrote.
pub fn module(engine: &Engine, code: File) -> Result<Module> {
    // SAFETY: the content is what this version of the compiler wrote for this engine (wasmtime checks version, settings and
    // processor features again), since the descriptor was opened by the runtime on a file that only its user can write,
    // and that had the digest that was recorded when it was written. It does not change under the mapping: files of
    // the store are replaced by rename and never written to, and a file in memory is sealed.
    unsafe { Module::deserialize_open_file(engine, code) }.map_err(cannot)
}

/// Maps or copies the code of a component; the same holds as for [`module`].
pub fn component(engine: &Engine, mut code: File) -> Result<Component> {
    if let Some(path) = path_of(&code) {
        // SAFETY: as for `module`. The path leads to the open file itself: it is in a procfs, which `path_of` checks.
        return unsafe { Component::deserialize_file(engine, path) }.map_err(cannot);
    }
    let mut bytes = Vec::new();
    code.read_to_end(&mut bytes).context(|| "cannot read compiled code")?;
    // SAFETY: as for `module`; this is a copy.
    unsafe { Component::deserialize(engine, bytes) }.map_err(cannot)
}

fn cannot(e: wasmtime::Error) -> Error {
    Error::new(ErrorKind::RuntimeUnavailable, format!("cannot load compiled code: {e:#}"))
}

/// The path of an open file, if there is a procfs at `/proc` that leads there.
fn path_of(file: &File) -> Option<String> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let proc = rustix::fs::statfs("/proc").ok()?;
    let readable = rustix::fs::access(&path, rustix::fs::Access::READ_OK).is_ok();
    (proc.f_type == rustix::fs::PROC_SUPER_MAGIC && readable).then_some(path)
}
