//! What the operator's configuration changes: pods, bundles, and who is asked for images.
mod common;

use common::pods::{IMAGE, WAIT, container, manifest};
use common::{Compression, Layer, Layout, Pods, RegistryAuth, RegistryServer, Runtime, finish};
use std::fs;
use std::time::Instant;

/// `magikrun pod run` with the operator's configuration.
#[track_caller]
fn run(pods: &Pods, config: &str, manifest: &str) -> common::Output {
    let mut command = pods.run_command(&[], manifest);
    command.env("MAGIKRUN_CONFIG", pods.runtime.file("config.toml", config));
    finish(command, None)
}

/// The memory limit of the container `app` of a pod, as its configuration has it.
fn memory_limit(pods: &Pods, id: &str) -> serde_json::Value {
    let path = pods.runtime.store().join("pods").join(id).join("bundles/app/config.json");
    let text = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    config["linux"]["resources"]["memory"]["limit"].clone()
}

#[test]
fn pods_have_the_operators_most_memory_and_times() {
    let pods = Pods::new();
    let spec = |script: &str| format!("{{containers: [{}]}}", container("app", script, ""));
    let config = "[limits]\nmax_pods = 1\ndefault_memory = 33554432\n[timeouts]\ngrace = 1\n";
    let stubborn = spec("trap '' TERM; while :; do sleep 1; done");
    let id = run(&pods, config, &manifest(&pods.name("one"), &stubborn)).success().stdout;
    let id = id.trim();
    assert_eq!(memory_limit(&pods, id), 32 << 20);
    run(&pods, config, &manifest(&pods.name("two"), &spec(WAIT)))
        .fails_with(1, &["1 pods exist already", "limits.max_pods"]);
    let begin = Instant::now();
    pods.ok(&["stop", id]);
    assert!(begin.elapsed().as_secs() < 20, "it had the usual time: {:?}", begin.elapsed());
    pods.ok(&["delete", id]);
    let unlimited = run(&pods, "[limits]\ndefault_memory = 0\n", &manifest(&pods.name("three"), &spec(WAIT)));
    let id = unlimited.success().stdout;
    assert!(memory_limit(&pods, id.trim()).is_null());
    pods.ok(&["delete", "--force", id.trim()]);
    pods.assert_nothing_left();
}

#[test]
fn a_start_that_takes_longer_than_the_operator_allows_is_no_start() {
    let pods = Pods::new();
    // The sandbox is made within it too.
    let config = "[timeouts]\nstart = 5\n";
    let hook = "lifecycle: {postStart: {exec: {command: [sleep, '60']}}}";
    let spec = format!("{{containers: [{}]}}", container("app", WAIT, hook));
    let begin = Instant::now();
    run(&pods, config, &manifest(&pods.name("slow"), &spec)).fails_with(1, &["postStart hook"]);
    assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
    pods.assert_nothing_left();
}

#[test]
fn bundles_have_the_operators_memory_unless_they_are_told_another() {
    let pods = Pods::new();
    let runtime = &pods.runtime;
    let file = runtime.file("config.toml", "[limits]\ndefault_memory = 33554432\n");
    let limit = |name: &str, more: &[&str]| {
        let directory = runtime.path(name);
        let mut args = vec!["bundle", IMAGE, directory.to_str().expect("a path in UTF-8")];
        args.extend(more);
        let mut command = runtime.command(&args);
        command.env("MAGIKRUN_CONFIG", &file).env("MAGIKRUN_STORAGE", runtime.store());
        finish(command, None).success();
        let config = fs::read(directory.join("config.json")).expect("a configuration");
        let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
        config["linux"]["resources"]["memory"]["limit"].clone()
    };
    assert_eq!(limit("default", &[]), 32 << 20);
    let directory = runtime.path("told");
    let mut command = runtime.command(&["bundle", "--memory", "64m", IMAGE]);
    command.arg(&directory).env("MAGIKRUN_CONFIG", &file).env("MAGIKRUN_STORAGE", runtime.store());
    finish(command, None).success();
    assert!(fs::read_to_string(directory.join("config.json")).expect("it").contains("67108864"));
}

#[test]
fn the_operators_mirror_stands_in_for_a_registry() {
    let runtime = Runtime::new();
    let server = RegistryServer::start(&runtime.path("registry"), RegistryAuth::Open);
    let mut layout = Layout::new(&runtime.path("layout"));
    layout.add("app", &[Layer::new().file("a", "a").into_bytes()], Compression::Gzip, &serde_json::json!({}));
    server.skopeo(&layout.image("app"), &format!("docker://{}", server.name("cache/app:1"))).success();
    // The name leads nowhere but to the mirror.
    let text = format!("[mirrors]\n\"registry.invalid\" = [\"{}/cache\"]\n", server.host);
    let file = runtime.file("config.toml", text);
    let call = |args: &[&str]| {
        let mut command = runtime.command(args);
        command.env("MAGIKRUN_CONFIG", &file).env("MAGIKRUN_STORAGE", runtime.store());
        command.env("CONTAINERS_REGISTRIES_CONF", runtime.path("none.conf")).env("HOME", runtime.dir());
        finish(command, None)
    };
    call(&["image", "pull", "registry.invalid/app:1"]).success();
    assert!(call(&["image", "list"]).success().stdout.contains("registry.invalid/app:1"));
    let shown = call(&["config"]).success().stdout;
    assert!(shown.contains("mirrors.registry.invalid") && shown.contains("config.toml:2"), "{shown}");
}
