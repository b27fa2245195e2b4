//! WebAssembly programs for tests, and runtimes with a store of compiled code of their own.

use super::{Bundle, Output, Runtime, finish};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// Compiles a C program of `tests/programs` with Debian's clang and wasi-libc.
pub fn compile(name: &str, to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name);
    let mut command = Command::new("clang");
    command.args(["--target=wasm32-wasi", "-O1", "-Wall", "-Werror", "-o"]).arg(to).arg(source);
    finish(command, None).success();
}

/// The program `probe.c`, compiled once.
pub fn probe() -> &'static Path {
    static PROBE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let made = || {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("probe.wasm");
        compile("probe.c", &path);
        (dir, path)
    };
    &PROBE.get_or_init(made).1
}

/// A runtime with a store of compiled code of its own.
pub struct Wasm {
    /// The runtime.
    pub runtime: Runtime,
    config: PathBuf,
}

impl Wasm {
    /// A runtime with an empty store.
    pub fn new() -> Self {
        Self::with("")
    }

    /// A runtime with further lines in the table `[wasm]` of the operator's configuration.
    pub fn with(lines: &str) -> Self {
        let runtime = Runtime::new();
        let store = runtime.path("store");
        let config = runtime.file("config.toml", format!("[wasm]\nstore = '{}'\n{lines}\n", store.display()));
        Self { runtime, config }
    }

    /// Where compiled code is kept.
    pub fn store(&self) -> PathBuf {
        self.runtime.path("store")
    }

    /// A command of the runtime.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.runtime.command(args);
        command.env("MAGIKRUN_CONFIG", &self.config);
        command
    }

    /// Runs a command of the runtime to its end.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        finish(self.command(args), None)
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Output {
        self.call(args).success()
    }

    /// A bundle that runs the probe with these arguments.
    pub fn probe(&self, args: &[&str]) -> Bundle {
        self.bundle(&fs::read(probe()).expect("the probe"), "/app/probe.wasm", args)
    }

    /// A bundle that runs a module, which has the path `name` in it.
    pub fn bundle(&self, module: &[u8], name: &str, args: &[&str]) -> Bundle {
        let mut bundle = self.runtime.bundle();
        let path = bundle.rootfs(name.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder of the module");
        fs::write(path, module).expect("the module");
        let args: Vec<&str> = [name].iter().chain(args).copied().collect();
        bundle.args(&args);
        annotate(&mut bundle, "org.magikrun.backend", "wasm");
        bundle
    }

    /// Runs a bundle in the foreground.
    #[track_caller]
    pub fn run(&self, bundle: &Bundle) -> Output {
        self.call(&["run", "--bundle", bundle.dir(), &bundle.id])
    }

    /// What the probe prints for these arguments in a bundle that `change` has changed.
    #[track_caller]
    pub fn says(&self, args: &[&str], change: impl FnOnce(&mut Bundle)) -> String {
        let mut bundle = self.probe(args);
        change(&mut bundle);
        self.run(&bundle).stdout
    }
}

/// Adds an annotation.
pub fn annotate(bundle: &mut Bundle, name: &str, value: &str) {
    bundle.edit(|config: &mut Value| {
        if config["annotations"].is_null() {
            config["annotations"] = json!({});
        }
        config["annotations"][name] = json!(value);
    });
}
