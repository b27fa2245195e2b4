//! WebAssembly modules in images: artifacts and images for `wasi/wasm`, pulled, compiled ahead, run, and put together in pods.
mod common;

use common::pods::{WAIT, container, manifest};
use common::{Layer, Layout, Output, Pods, RegistryAuth, RegistryServer, Runtime, finish};
use common::{names_in, probe};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// Compiles like a module, and imports what nobody has.
const UNLINKED: &[u8] = br#"(module (import "env" "nowhere" (func)) (func (export "_start")))"#;

/// A layout of WebAssembly images.
struct Images {
    layout: Layout,
}

impl Images {
    fn new(runtime: &Runtime) -> Self {
        Self { layout: Layout::new(&runtime.path("modules")) }
    }

    /// Adds an artifact: a configuration that says nothing, and a module.
    fn artifact(&mut self, tag: &str, module: &[u8]) -> String {
        let config = self.layout.blob("application/vnd.wasm.config.v0+json", b"{}");
        let layer = self.layout.blob("application/wasm", module);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        self.layout.add_manifest(tag, manifest.to_string().as_bytes());
        self.layout.image(tag)
    }

    /// Adds an image for `wasi/wasm` with a module as its entrypoint.
    fn image(&mut self, tag: &str, module: &[u8], args: &[&str]) -> String {
        let layer = Layer::new().dir("app", 0o755).entry("app/main.wasm", module, |_| {}).into_bytes();
        let diff_id = magikrun::storage::blobs::Digest::of(&layer).to_string();
        let blob = self.layout.blob("application/vnd.oci.image.layer.v1.tar", &layer);
        let entrypoint = [&["/app/main.wasm"], args].concat();
        let config = json!({"architecture": "wasm", "os": "wasi", "config": {"Entrypoint": entrypoint},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
        let config =
            self.layout.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [blob]});
        self.layout.add_manifest(tag, manifest.to_string().as_bytes());
        self.layout.image(tag)
    }
}

/// The name that an image of the layout has in the store.
fn stored(tag: &str) -> String {
    format!("localhost/modules:{tag}")
}

fn module() -> Vec<u8> {
    fs::read(probe()).expect("the probe")
}

/// Where compiled code is kept.
fn code(runtime: &Runtime) -> PathBuf {
    runtime.path("code")
}

/// An operator's configuration with a store of compiled code of this runtime's own.
fn config(runtime: &Runtime) -> PathBuf {
    runtime.file("config.toml", format!("[wasm]\nstore = '{}'\n", code(runtime).display()))
}

/// How many kinds of code a module has that is pulled: one for containers, and one for pods of modules.
const KINDS: usize = 2;

/// How many modules are compiled, each kind of code counted.
fn compiled(runtime: &Runtime) -> usize {
    names_in(&code(runtime).join("index")).iter().filter(|name| !name.contains('~')).count()
}

#[track_caller]
fn call(runtime: &Runtime, args: &[&str]) -> Output {
    let mut command = runtime.command(args);
    command.env("MAGIKRUN_STORAGE", runtime.store()).env("MAGIKRUN_CONFIG", config(runtime));
    command.env("CONTAINERS_REGISTRIES_CONF", runtime.path("none.conf")).env("HOME", runtime.dir());
    finish(command, None)
}

#[test]
fn a_module_from_a_registry_is_compiled_when_it_is_pulled_and_run_like_any_image() {
    let runtime = Runtime::new();
    let server = RegistryServer::start(&runtime.path("registry"), RegistryAuth::Open);
    let mut images = Images::new(&runtime);
    let names =
        [("artifact", images.artifact("a", &module())), ("image", images.image("i", &module(), &["show"]))];
    for (kind, local) in &names {
        let name = server.name(&format!("team/{kind}:1"));
        call(&runtime, &["image", "pull", local]).success();
        let tag = local.rsplit(':').next().expect("a tag");
        call(&runtime, &["image", "push", &stored(tag), &name]).success();
        call(&runtime, &["image", "rm", &stored(tag)]).success();
        let _ = fs::remove_dir_all(code(&runtime));
        call(&runtime, &["image", "pull", "--platform", "wasi/wasm", &name]).success();
        assert_eq!(compiled(&runtime), KINDS, "{kind}");
        let id = format!("{}-{kind}", runtime.name());
        let words: &[&str] = if *kind == "artifact" { &["show", "one"] } else { &["one"] };
        let output = call(&runtime, &[&["run", "--image", &name, &id], words].concat()).success();
        assert!(output.stdout.starts_with("arg show\narg one\n"), "{kind}: {}", output.stdout);
        assert_eq!(compiled(&runtime), KINDS, "{kind}: it was compiled again");
        // What is missing is pulled by those that need it.
        call(&runtime, &["image", "rm", &name]).success();
        call(&runtime, &["run", "--image", &name, &id, "exit", "9"]).exits(if *kind == "artifact" {
            9
        } else {
            0
        });
    }
    drop(server);
    runtime.assert_nothing_left();
}

#[test]
fn an_archive_is_compiled_when_it_is_loaded() {
    let runtime = Runtime::new();
    let local = Images::new(&runtime).image("i", &module(), &["exit", "3"]);
    call(&runtime, &["image", "pull", &local]).success();
    let archive = runtime.path("archive.tar");
    let archive = archive.to_str().expect("a path in UTF-8");
    call(&runtime, &["image", "save", "--output", archive, &stored("i")]).success();
    call(&runtime, &["image", "rm", &stored("i")]).success();
    fs::remove_dir_all(code(&runtime)).expect("the compiled code");
    call(&runtime, &["image", "load", "--input", archive]).success();
    assert_eq!(compiled(&runtime), KINDS);
    let id = format!("{}-loaded", runtime.name());
    call(&runtime, &["run", "--image", &stored("i"), &id]).exits(3);
}

#[test]
fn a_big_module_is_told_of_and_a_faulty_one_is_a_warning_until_it_is_to_run() {
    let runtime = Runtime::new();
    let mut images = Images::new(&runtime);
    let big = [module(), custom_section(1 << 20)].concat();
    let output = call(&runtime, &["image", "pull", &images.artifact("big", &big)]).success();
    assert!(output.stderr.contains("compiling a module of 1."), "{}", output.stderr);
    let quiet = call(&runtime, &["image", "pull", "--quiet", &images.artifact("big", &big)]).success();
    assert_eq!(quiet.stderr, "");
    let output = call(&runtime, &["image", "pull", &images.artifact("bad", UNLINKED)]).success();
    assert!(
        output.stderr.contains("env::nowhere") && output.stderr.contains("modules:bad"),
        "{}",
        output.stderr
    );
    let id = format!("{}-bad", runtime.name());
    call(&runtime, &["run", "--image", &stored("bad"), &id]).fails_with(113, &["env::nowhere"]);
    runtime.assert_nothing_left();
}

#[test]
fn a_module_in_a_file_is_run_and_becomes_a_bundle_without_an_image_around_it() {
    let runtime = Runtime::new();
    let file = runtime.path("hello.wasm");
    fs::copy(probe(), &file).expect("the probe");
    let location = format!("wasm:{}", file.display());
    let id = format!("{}-file", runtime.name());
    let output = call(&runtime, &["run", "--image", &location, &id, "show", "one"]).success();
    assert!(output.stdout.starts_with("arg show\narg one\n"), "{}", output.stdout);
    assert!(call(&runtime, &["image", "list"]).success().stdout.contains("localhost/hello:latest"));
    let bundle = runtime.path("bundle");
    let bundle = bundle.to_str().expect("a path in UTF-8");
    call(&runtime, &["bundle", &location, bundle, "exit", "7"]).success();
    call(&runtime, &["run", "--bundle", bundle, &id]).exits(7);
    // What is in the file now is run, whatever the store has under its name.
    fs::write(&file, "(module (func (export \"_start\") unreachable))").expect("another module");
    let output = call(&runtime, &["run", "--image", &location, &id]);
    assert!(output.stderr.contains("unreachable"), "{}", output.stderr);
    fs::write(&file, "no module").expect("no module");
    call(&runtime, &["run", "--image", &location, &id]).fails_with(1, &["module"]);
    fs::remove_file(&file).expect("the file");
    call(&runtime, &["run", "--image", &location, &id])
        .fails_with(1, &["cannot read module '", "no such file"]);
    runtime.assert_nothing_left();
}

/// A section of a module that means nothing, with this many bytes.
fn custom_section(bytes: u32) -> Vec<u8> {
    let leb = |mut value: u32| {
        let mut encoded = Vec::new();
        while value >= 0x80 {
            encoded.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        encoded.push(value as u8);
        encoded
    };
    let content = [&[1, b'x'][..], &vec![0; bytes as usize]].concat();
    [vec![0], leb(content.len() as u32), content].concat()
}

/// A pod's command with a store of compiled code of its own.
#[track_caller]
fn run_pod(pods: &Pods, text: &str) -> Output {
    let mut command = pods.run_command(&[], text);
    command.env("MAGIKRUN_CONFIG", config(&pods.runtime));
    finish(command, None)
}

/// A container of a pod with a stored image; `fields` are added.
fn member(name: &str, tag: &str, fields: &str) -> String {
    format!("{{name: {name}, image: '{}', imagePullPolicy: Never, {fields}}}", stored(tag))
}

/// Pods, and images of three modules: an artifact, an image that sleeps, and one that cannot be linked.
fn pods_with_modules() -> Pods {
    let pods = Pods::new();
    let mut images = Images::new(&pods.runtime);
    for image in [
        images.artifact("artifact", &module()),
        images.image("sleeper", &module(), &["sleep"]),
        images.artifact("unlinked", UNLINKED),
    ] {
        call(&pods.runtime, &["image", "pull", "--quiet", &image]).success();
    }
    // What is in the store of compiled code from now on, pods have put there.
    let _ = fs::remove_dir_all(code(&pods.runtime));
    pods
}

#[test]
fn three_modules_run_in_one_pod() {
    let pods = pods_with_modules();
    let name = pods.name("modules");
    let volume = "volumeMounts: [{name: data, mountPath: /data}]";
    let spec = format!(
        "{{runtimeClassName: wasm, volumes: [{{name: data, emptyDir: {{}}}}], containers: [{}, {}, {}]}}",
        member("one", "artifact", "args: [sleep, '600']"),
        member("two", "sleeper", &format!("args: ['600'], {volume}")),
        member("three", "artifact", &format!("command: [any, sleep, '600'], {volume}")),
    );
    let id = run_pod(&pods, &manifest(&name, &spec)).success().stdout.trim().to_owned();
    assert_eq!(compiled(&pods.runtime), 1);
    for container in ["one", "two", "three"] {
        pods.wait_log(&id, container, "sleeping");
    }
    let status = pods.status(&id);
    assert!(status["containers"].as_array().expect("containers").iter().all(|c| c["state"] == "running"));
    // They share a volume, as far as one can be shared by what is executed in them.
    pods.ok(&["exec", "-c", "two", &id, "/app/main.wasm", "write", "/data/file", "shared"]);
    assert_eq!(pods.ok(&["exec", "-c", "three", &id, "/module.wasm", "read", "/data/file"]), "shared");
    pods.call(&["exec", "-c", "one", &id, "/module.wasm", "read", "/data/file"]).exits(1);
    pods.ok(&["stop", &id]);
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn modules_and_native_programs_stand_in_one_pod() {
    let pods = pods_with_modules();
    let volume = "volumeMounts: [{name: data, mountPath: /data}]";
    let spec = format!(
        "{{volumes: [{{name: data, emptyDir: {{}}}}], initContainers: [{}], containers: [{}, {}]}}",
        member("first", "artifact", &format!("args: [write, /data/file, from-a-module], {volume}")),
        container("native", WAIT, volume),
        member("module", "sleeper", "args: ['600']"),
    );
    let id = run_pod(&pods, &manifest(&pods.name("mixed"), &spec)).success().stdout.trim().to_owned();
    assert_eq!(pods.sh(&id, "native", "cat /data/file"), "from-a-module");
    pods.wait_log(&id, "module", "sleeping");
    pods.ok(&["delete", "--force", &id]);
    let native = format!("{{runtimeClassName: wasm, containers: [{}]}}", container("native", WAIT, ""));
    run_pod(&pods, &manifest(&pods.name("class"), &native)).fails_with(1, &["no WebAssembly module"]);
    pods.assert_nothing_left();
}

#[test]
fn a_module_reads_what_a_client_writes() {
    let pods = pods_with_modules();
    let fields = "args: [echo], stdin: true, stdinOnce: true";
    let spec = format!("{{containers: [{}]}}", member("module", "artifact", fields));
    let id = run_pod(&pods, &manifest(&pods.name("reads"), &spec)).success().stdout.trim().to_owned();
    let client = finish(pods.command(&["attach", "-i", &id]), Some(b"one\ntwo\n")).success();
    assert_eq!(client.stdout, "got one\ngot two\nend of input\n");
    pods.wait_phase(&id, "Succeeded");
    pods.ok(&["delete", &id]);
    let fields = "args: [tty], stdin: true, tty: true";
    let spec = format!("{{containers: [{}]}}", member("module", "artifact", fields));
    let id = run_pod(&pods, &manifest(&pods.name("reads"), &spec)).success().stdout.trim().to_owned();
    pods.wait_log(&id, "module", "tty 1 1 1");
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
}

#[test]
fn one_module_that_cannot_be_linked_and_none_of_its_pod_runs() {
    let pods = pods_with_modules();
    let host = pods.runtime.path("written");
    fs::create_dir(&host).expect("a folder");
    let volume = "volumeMounts: [{name: data, mountPath: /data}]";
    let spec = format!(
        "{{runtimeClassName: wasm, volumes: [{{name: data, hostPath: {{path: '{}'}}}}], containers: [{}, {}, {}]}}",
        host.display(),
        member("one", "artifact", &format!("args: [write, /data/one, x], {volume}")),
        member("two", "artifact", &format!("args: [write, /data/two, x], {volume}")),
        member("bad", "unlinked", ""),
    );
    let output = run_pod(&pods, &manifest(&pods.name("bad"), &spec));
    assert!(output.code != 0 && output.stderr.contains("env::nowhere"), "{output:?}");
    assert!(output.stderr.contains("'bad'"), "{}", output.stderr);
    assert_eq!(names_in(Path::new(&host)), Vec::<String>::new());
    pods.assert_nothing_left();
}
