//! Foreign input of any kind ends in a clean error, or in a container that can be deleted.
//!
//! The functions of the fuzz targets are driven here too, without a fuzzer: by mutations of their corpus. The seed is printed
//! and can be given as `MAGIKRUN_SEED`; `MAGIKRUN_FUZZ` multiplies the work.
#[path = "../common/mod.rs"]
mod common;
mod layers;
mod mutate;
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use common::faults::fresh_seed as seed;
use common::{Runtime, finish};
use magikrun::storage::config::Limits;
use mutate::Mutator;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Inputs for each target.
const INPUTS: usize = 6000;
/// Bundles that are made containers of.
const BUNDLES: usize = 120;

fn work(amount: usize) -> usize {
    amount * std::env::var("MAGIKRUN_FUZZ").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// The committed inputs of a target.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
        .map(|all| all.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    let all: Vec<_> = paths.iter().map(|path| fs::read(path).expect("an input")).collect();
    assert!(!all.is_empty(), "{} is empty", directory.display());
    all
}

#[test]
fn whatever_is_parsed_ends_without_a_panic() {
    let seed = seed();
    println!("seed {seed}");
    for (name, target) in targets::ALL {
        let corpus = corpus(name);
        let mut mutator = Mutator::new(seed);
        corpus.iter().for_each(|input| target(input));
        for number in 0..work(INPUTS) {
            let input = mutator.bytes(&corpus[number % corpus.len()]);
            let shown = String::from_utf8_lossy(&input).into_owned();
            let ended = std::panic::catch_unwind(|| target(&input));
            assert!(ended.is_ok(), "seed {seed}: {name} panics: {shown}");
        }
    }
}

#[test]
fn valid_inputs_of_the_corpus_are_accepted() {
    for input in corpus("config") {
        let spec = magikrun::runtime::spec::parse(&input, "config.json").expect("a configuration");
        magikrun::runtime::validate::validate(
            &spec,
            magikrun::runtime::kernel_security::KernelSecurity::probe,
        )
        .expect("a valid configuration");
    }
    for input in corpus("reference") {
        let text = std::str::from_utf8(&input).expect("text").trim();
        text.parse::<magikrun::image::Location>().unwrap_or_else(|e| panic!("{text}: {e}"));
    }
    for input in corpus("manifest") {
        magikrun::image::manifest::parse(&input).expect("a manifest");
    }
    for input in corpus("layer") {
        magikrun::image::extract::read_through(input.as_slice(), &Limits::default()).expect("a layer");
    }
    for input in corpus("filter") {
        magikrun::runtime::seccomp::Filter::decode(&input).expect("a filter");
    }
}

/// Makes a mutated configuration one that can harm only what the test has made: its cgroup, its root file system, folders of its
/// own as sources of mounts, and no programs of the host.
fn tame(config: &mut Value, cgroup: &str, own: &str) {
    let Some(object) = config.as_object_mut() else { return };
    object.remove("hooks");
    if object.contains_key("root") {
        object.insert("root".to_owned(), json!({"path": "rootfs"}));
    }
    if let Some(process) = object.get_mut("process").and_then(Value::as_object_mut) {
        process.insert("args".to_owned(), json!(["/bin/true"]));
    }
    for mount in object.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        let absolute =
            mount["source"].as_str().is_some_and(|source| source.starts_with('/') || source.contains(".."));
        if absolute {
            mount["source"] = json!(own);
        }
    }
    if let Some(linux) = object.get_mut("linux").and_then(Value::as_object_mut) {
        linux.insert("cgroupsPath".to_owned(), json!(cgroup));
        for dangerous in ["netDevices", "intelRdt"] {
            linux.remove(dangerous);
        }
        // A namespace of the host would be joined, and its limits and names changed.
        for namespace in linux.get_mut("namespaces").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(namespace) = namespace.as_object_mut() {
                namespace.remove("path");
            }
        }
    }
}

/// Runs the runtime; it must end by itself, with a code of its own, and without a panic.
#[track_caller]
fn clean(runtime: &Runtime, args: &[&str], shown: &str) -> i32 {
    let output = finish(runtime.command(args), None);
    let own = matches!(output.code, 0 | 1 | 255);
    assert!(own && !output.stderr.contains("panicked"), "exit {}: {}\n{shown}", output.code, output.stderr);
    if output.code != 0 {
        assert!(!output.stderr.trim().is_empty(), "an error without a word\n{shown}");
    }
    output.code
}

#[test]
fn whatever_a_bundle_says_ends_in_a_clean_error_or_a_container_that_can_be_deleted() {
    let runtime = Runtime::new();
    let seed = seed();
    println!("seed {seed}");
    let (configs, resources, processes) = (corpus("config"), corpus("resources"), corpus("process"));
    let mut mutator = Mutator::new(seed);
    let bundle = runtime.bundle();
    let (dir, id) = (bundle.dir(), bundle.id.as_str());
    let own = runtime.path("own");
    fs::create_dir(&own).expect("a folder");
    fs::create_dir_all(bundle.path("share")).expect("a folder");
    let cgroup = format!("/{}/{id}", runtime.name());
    let passwd = fs::read(bundle.rootfs("etc/passwd")).expect("the image's users");
    let mut made = 0;
    for number in 0..work(BUNDLES) {
        let mut config: Value = serde_json::from_slice(&configs[number % configs.len()]).expect("JSON");
        mutator.value(&mut config, 1 + number % 2);
        tame(&mut config, &cgroup, own.to_str().expect("UTF-8"));
        let text = config.to_string();
        fs::write(bundle.path("config.json"), &text).expect("config.json");
        fs::write(bundle.rootfs("etc/passwd"), mutator.bytes(&passwd)).expect("the image's users");
        let shown = format!("seed {seed}, number {number}: {text}");
        if clean(&runtime, &["create", "--bundle", dir, id], &shown) == 0 {
            made += 1;
            let limits = mutator.bytes(&resources[number % resources.len()]);
            let limits = runtime.file("resources.json", limits);
            clean(&runtime, &["update", "--resources", limits.to_str().expect("UTF-8"), id], &shown);
            let process = mutator.bytes(&processes[number % processes.len()]);
            let process = runtime.file("process.json", process);
            clean(&runtime, &["exec", "--detach", "--process", process.to_str().expect("UTF-8"), id], &shown);
            clean(&runtime, &["start", id], &shown);
        }
        clean(&runtime, &["state", id], &shown);
        assert_eq!(clean(&runtime, &["delete", "--force", id], &shown), 0, "{shown}");
        runtime.assert_nothing_left();
    }
    println!("{made} of {} were made", work(BUNDLES));
    assert!(made > 0, "no configuration was good enough");
}

#[test]
fn whatever_a_state_directory_holds_a_container_can_be_deleted_by_force() {
    let runtime = Runtime::new();
    let seed = seed();
    println!("seed {seed}");
    let mut mutator = Mutator::new(seed);
    let bundle = runtime.sleeper();
    let id = bundle.id.as_str();
    for number in 0..work(BUNDLES / 4) {
        runtime.create(&bundle);
        let pid = runtime.pid(id);
        let dir = runtime.root().join(id);
        let name = ["state.json", "config.json", "seccomp.bpf"][number % 3];
        let before = fs::read(dir.join(name)).unwrap_or_default();
        // Anything but what would name processes and cgroups of others.
        let mut after = mutator.bytes(&before);
        if name == "state.json" && serde_json::from_slice::<Value>(&after).is_ok() {
            after.pop();
        }
        fs::write(dir.join(name), &after).expect("a file of the state");
        let shown = format!("seed {seed}, number {number}: {}", String::from_utf8_lossy(&after));
        for args in
            [vec!["state", id], vec!["exec", id, "true"], vec!["ps", id], vec!["start", id], vec!["list"]]
        {
            clean(&runtime, &args, &shown);
        }
        assert_eq!(clean(&runtime, &["delete", "--force", id], &shown), 0, "{shown}");
        assert_eq!(runtime.state_entries(), Vec::<String>::new());
        // With its record lost, nobody knows of the container's process any more but its parent.
        if common::is_alive(pid) {
            // It may have ended by itself meanwhile.
            let to = rustix::process::Pid::from_raw(pid).expect("a pid above 0");
            let _ = rustix::process::kill_process(to, rustix::process::Signal::KILL);
            common::wait_dead(pid);
        }
        common::remove_cgroups(runtime.name());
    }
}
