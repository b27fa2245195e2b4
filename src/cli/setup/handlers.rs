//! The handlers for Kubernetes, one a backend: what containerd and CRI-O call a runtime, and a RuntimeClass refers to.

use super::plan::NAME;
use std::path::{Path, PathBuf};

/// What a handler is like on every node.
#[derive(Debug)]
struct Kind {
    /// Its name, which is that of the program too.
    name: &'static str,
    /// The file of our shim, and what containerd calls that.
    shim: (&'static str, &'static str),
    /// The annotations of pods that containerd hands on. Where the handler says the backend, none that says another is among them.
    annotations: &'static [&'static str],
    /// Whether a privileged container gets the devices of the host: one in a microVM could do nothing with them.
    has_devices: bool,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: NAME,
        shim: ("containerd-shim-magikrun-v2", "io.containerd.magikrun.v2"),
        annotations: &["krun.*", "module.wasm.image/variant", "org.magikrun.*", "run.oci.handler"],
        has_devices: true,
    },
    Kind {
        name: "magikrun-wasm",
        shim: ("containerd-shim-magikrun-wasm-v2", "io.containerd.magikrun-wasm.v2"),
        annotations: &["org.magikrun.wasm.*"],
        has_devices: true,
    },
    Kind {
        name: "magikrun-krun",
        shim: ("containerd-shim-magikrun-krun-v2", "io.containerd.magikrun-krun.v2"),
        annotations: &["krun.*", "org.magikrun.krun.*"],
        has_devices: false,
    },
];

/// A handler on a node.
#[derive(Debug)]
pub struct Handler {
    kind: &'static Kind,
    /// The program that has this backend by its name.
    program: Option<String>,
    /// Whether our shim is there under the name of this backend.
    has_shim: bool,
}

/// The handlers of a node where `runtime` is this program; `exists` tells of other files there.
pub fn find(runtime: &str, exists: impl Fn(&Path) -> bool) -> Vec<Handler> {
    let directory = Path::new(runtime).parent().unwrap_or(Path::new("/"));
    let libexec = directory.parent().unwrap_or(directory).join("libexec/magikrun");
    let program = |name: &str| -> Option<PathBuf> {
        [directory.join(name), libexec.join(name)].into_iter().find(|path| exists(path))
    };
    let handler = |kind: &'static Kind| Handler {
        kind,
        // The program itself need not be there yet, and may have another name.
        program: if kind.name == NAME {
            Some(runtime.to_owned())
        } else {
            program(kind.name).and_then(|path| path.into_os_string().into_string().ok())
        },
        has_shim: exists(&directory.join(kind.shim.0)),
    };
    KINDS.iter().map(handler).collect()
}

/// The names that a handler may have.
pub fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name)
}

/// What of containerd's configuration decides what ours says.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The plugin that has the runtimes.
    pub plugin: &'static str,
    /// Nobody else sets runtimes.
    pub alone: bool,
    /// Systemd makes the cgroups of runc's containers.
    pub systemd: bool,
}

/// containerd's config.toml: with our shim if it is there, else with runc's and our programs for runc. containerd knows runc by itself only
/// as long as nobody sets any runtime, and its default would be missing.
pub fn containerd(found: Found, handlers: &[Handler]) -> String {
    let mut tables = Vec::new();
    if found.alone {
        tables.push(format!("{}runtime_type = \"io.containerd.runc.v2\"\n", heading(found, "runc")));
    }
    let with_shim = handlers.iter().any(|handler| handler.kind.name == NAME && handler.has_shim);
    tables.extend(handlers.iter().filter_map(|handler| {
        let kind = handler.kind;
        let (shim, options) = match &handler.program {
            _ if with_shim => (handler.has_shim.then_some(kind.shim.1)?, String::new()),
            program => ("io.containerd.runc.v2", options(found, kind.name, program.as_ref()?)),
        };
        let devices = devices(kind);
        let annotations = kind.annotations;
        Some(format!(
            "{}runtime_type = {shim:?}\npod_annotations = {annotations:?}\n{devices}{options}",
            heading(found, kind.name)
        ))
    }));
    tables.join("\n")
}

fn heading(found: Found, name: &str) -> String {
    format!("[plugins.{:?}.containerd.runtimes.{name}]\n", found.plugin)
}

/// What runc's shim is told.
fn options(found: Found, name: &str, program: &str) -> String {
    let systemd = if found.systemd { "SystemdCgroup = true\n" } else { "" };
    format!("\n{}BinaryName = {program:?}\n{systemd}", heading(found, &format!("{name}.options")))
}

/// CRI-O's crio.conf(5). The backend is in the name of the program, for not every CRI-O has annotations for all pods of a handler, and one that
/// has none would run ordinary containers.
pub fn crio(handlers: &[Handler]) -> String {
    let tables = handlers.iter().filter_map(|handler| {
        let (name, program) = (handler.kind.name, handler.program.as_ref()?);
        let devices = devices(handler.kind);
        Some(format!(
            "[crio.runtime.runtimes.{name}]\nruntime_path = {program:?}\nruntime_type = \"oci\"\n\
             runtime_root = \"/run/magikrun\"\n{devices}"
        ))
    });
    tables.collect::<Vec<_>>().join("\n")
}

fn devices(kind: &Kind) -> &'static str {
    if kind.has_devices { "" } else { "privileged_without_host_devices = true\n" }
}
