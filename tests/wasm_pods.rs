//! Pods of WebAssembly modules: one process runs all of them, and none of them notices.
mod common;

use common::pods::{HEARS, TOLD, infra, manifest, monitor};
use common::{Pods, finish, names_in, poll, probe, signal};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The image of the probe.
const IMAGE: &str = "localhost/probe";

/// Pods with the probe as an image, and a store of compiled code of their own.
fn pods() -> Pods {
    let pods = Pods::new();
    let config = format!("[wasm]\nstore = '{}'\n", pods.runtime.path("code").display());
    let pods = pods.configured(&config);
    let module = format!("wasm:{}", probe().display());
    let store = pods.runtime.store().display().to_string();
    let mut pull = pods.runtime.command(&["image", "--storage", &store, "pull", "--quiet", &module]);
    pull.env("MAGIKRUN_CONFIG", pods.runtime.path("config.toml"));
    finish(pull, None).success();
    pods
}

/// The code that is compiled, by the names of its entries in the store.
fn compiled(pods: &Pods) -> Vec<String> {
    let entries = names_in(&pods.runtime.path("code").join("index")).into_iter();
    // The others tell which module a file holds.
    entries.filter(|name| !name.contains('~')).collect()
}

/// A container that runs the probe; `fields` are added.
fn module(name: &str, args: &str, fields: &str) -> String {
    format!("{{name: {name}, image: {IMAGE}, imagePullPolicy: Never, args: [{args}]{fields}}}")
}

/// A sidecar that does so.
fn sidecar(name: &str, args: &str, fields: &str) -> String {
    module(name, args, &format!(", restartPolicy: Always{fields}"))
}

/// A sidecar that does so once it is told, see [`Pods::tell`].
fn told(name: &str, args: &str, fields: &str) -> String {
    sidecar(name, &format!("when, /told/now, {args}"), &format!(", {HEARS}{fields}"))
}

/// Processes of the pods of a test, by what they are called; those of the pod's own are left out. A process has its name, and the
/// threads of its modules, once these have written something.
fn processes(pods: &Pods) -> Vec<(i32, String)> {
    let own = format!("/{}/", pods.parent().trim_start_matches('/'));
    let read = |pid: i32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let pids = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
    let inside = pids.filter(|pid| read(*pid, "cgroup").contains(&own));
    let named = inside.map(|pid| (pid, read(pid, "comm").trim().to_owned()));
    // One that has ended and that nobody has asked about yet has no command line.
    let lives = |line: &str| !line.is_empty() && !line.starts_with("magikrun-");
    named.filter(|(pid, _)| lives(&read(*pid, "cmdline"))).collect()
}

/// Names of the threads of a process.
fn threads(pid: i32) -> Vec<String> {
    let task = format!("/proc/{pid}/task");
    let name = |thread: String| fs::read_to_string(format!("{task}/{thread}/comm")).unwrap_or_default();
    names_in(Path::new(&task)).into_iter().map(|thread| name(thread).trim().to_owned()).collect()
}

/// The time for which a thread of a process has run, and for which it wanted to and others did, by the thread's name.
fn ran(pid: i32, name: &str) -> [Duration; 2] {
    let task = PathBuf::from(format!("/proc/{pid}/task"));
    let read =
        |thread: &str, file: &str| fs::read_to_string(task.join(thread).join(file)).unwrap_or_default();
    let mut named = names_in(&task).into_iter().filter(|thread| read(thread, "comm").trim() == name);
    let thread = named.next().expect("the thread");
    let told = read(&thread, "schedstat");
    let mut times = told.split_whitespace().map(|time| Duration::from_nanos(time.parse().expect("a time")));
    [(); 2].map(|()| times.next().expect("its times"))
}

fn container<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["containers"].as_array().expect("containers");
    all.iter().find(|container| container["name"] == name).expect("the container")
}

#[test]
fn all_modules_of_a_pod_are_threads_of_one_process() {
    let pods = pods();
    let spec = format!(
        "{{initContainers: [{}, {}], containers: [{}, {}], volumes: [{{name: data, emptyDir: {{}}}}]}}",
        module(
            "first",
            "write, /data/file, from-the-first",
            ", volumeMounts: [{name: data, mountPath: /data}]"
        ),
        sidecar("beside", "sleep, '600'", ""),
        module("one", "sleep, '600'", ", volumeMounts: [{name: data, mountPath: /data}]"),
        module("two", "sleep, '600'", ", resources: {limits: {memory: 32Mi}}"),
    );
    let id = pods.start(&manifest(&pods.name("threads"), &spec));
    for name in ["beside", "one", "two"] {
        pods.wait_log(&id, name, "sleeping");
    }
    let all = processes(&pods);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].1, "wasm");
    let threads = threads(all[0].0);
    assert!(
        ["beside", "one", "two"].iter().all(|name| threads.iter().any(|thread| thread == name)),
        "{threads:?}"
    );
    assert!(!threads.iter().any(|thread| thread == "first"), "{threads:?}");
    assert_eq!(pods.ok(&["exec", "-c", "one", &id, "/module.wasm", "read", "/data/file"]), "from-the-first");
    let stats: Value = serde_json::from_str(&pods.ok(&["stats", "--format", "json", &id])).expect("JSON");
    for name in ["beside", "one", "two"] {
        assert!(stats[name]["memory"]["usage"]["usage"].as_u64().is_some_and(|bytes| bytes > 0), "{stats}");
        assert!(stats[name]["cpu"]["usage"]["total"].as_u64().is_some_and(|time| time > 0), "{stats}");
    }
    assert_eq!(stats["two"]["memory"]["usage"]["limit"], 32 << 20);
    assert!(stats["first"].is_null(), "{stats}");
    // Those that have ended are not there any more, to whoever asks.
    pods.call(&["exec", "-c", "first", &id, "/module.wasm", "show"])
        .fails_with(255, &["'first'", "does not run"]);
    pods.ok(&["stop", &id]);
    let status = pods.status(&id);
    assert_eq!(status["phase"], "Stopped");
    assert_eq!(container(&status, "one")["exitCode"], 143);
    assert_eq!(container(&status, "first")["exitCode"], 0);
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn the_first_pod_after_a_pull_compiles_nothing() {
    let pods = pods();
    let pulled = compiled(&pods);
    assert!(!pulled.is_empty());
    // In one process, and in one each.
    for (name, terminal) in [("together", ""), ("apart", ", tty: true")] {
        let spec = format!(
            "{{containers: [{}, {}]}}",
            module("a", "sleep, '600'", terminal),
            module("b", "sleep, '600'", "")
        );
        let id = pods.start(&manifest(&pods.name(name), &spec));
        assert_eq!(compiled(&pods), pulled, "{name}");
        pods.ok(&["delete", "--force", &id]);
    }
    pods.assert_nothing_left();
}

#[test]
fn a_module_that_traps_exits_or_has_no_more_memory_leaves_the_others_alone() {
    let pods = pods();
    let spec = format!(
        "{{initContainers: [{}, {}, {}], containers: [{}], volumes: [{TOLD}]}}",
        told("trapping", "trap", ""),
        told("leaving", "exit, '3'", ""),
        told("greedy", "memory, '100'", ", resources: {limits: {memory: 24Mi}}"),
        module("calm", "sleep, '600'", ""),
    );
    let id = pods.start(&manifest(&pods.name("faults"), &spec));
    pods.wait_log(&id, "calm", "sleeping");
    let before = processes(&pods);
    pods.tell(&id);
    for (name, code) in [("trapping", 110), ("leaving", 3)] {
        poll(&format!("'{name}' to have ended"), || {
            (container(&pods.status(&id), name)["exitCode"] == code).then_some(())
        });
        poll(&format!("'{name}' to be started again"), || {
            container(&pods.status(&id), name)["restarts"].as_u64().filter(|restarts| *restarts >= 2)
        });
    }
    let said = pods.call(&["logs", &id, "trapping"]).success().stderr;
    assert!(said.contains("trapped"), "{said}");
    let log = poll("what memory the greedy one got", || {
        Some(pods.ok(&["logs", &id, "greedy"])).filter(|text| !text.is_empty())
    });
    let megabytes = log.split_whitespace().find_map(|word| word.parse::<u64>().ok());
    assert!(megabytes.is_some_and(|got| got <= 16), "{log}");
    let status = pods.status(&id);
    assert_eq!(
        (&status["phase"], &container(&status, "calm")["state"]),
        (&"Running".into(), &"running".into())
    );
    assert_eq!(processes(&pods), before);
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
}

#[test]
fn a_module_that_computes_for_ever_is_ended_by_a_signal() {
    let pods = pods();
    let spec = format!(
        "{{terminationGracePeriodSeconds: 20, containers: [{}, {}]}}",
        module("busy", "loop", ""),
        module("idle", "sleep, '600'", "")
    );
    let id = pods.start(&manifest(&pods.name("busy"), &spec));
    pods.ok(&["stop", &id]);
    let status = pods.status(&id);
    let codes = ["busy", "idle"].map(|name| container(&status, name)["exitCode"].clone());
    assert_eq!(codes, [143, 143]);
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn a_module_with_a_limit_of_the_processor_keeps_to_it_and_the_others_have_the_rest() {
    let pods = pods();
    let spec = format!(
        "{{terminationGracePeriodSeconds: 60, containers: [{}, {}]}}",
        module("limited", "loop", ", resources: {limits: {cpu: 200m}}"),
        module("free", "loop", "")
    );
    let id = pods.start(&manifest(&pods.name("quota"), &spec));
    let names = ["limited", "free"];
    for name in names {
        pods.wait_log(&id, name, "looping");
    }
    let pid = processes(&pods)[0].0;
    let (before, begin) = (names.map(|name| ran(pid, name)), Instant::now());
    sleep(Duration::from_secs(2));
    let (after, took) = (names.map(|name| ran(pid, name)), begin.elapsed().as_secs_f64());
    let part = |n: usize, what: usize| after[n][what].saturating_sub(before[n][what]).as_secs_f64() / took;
    let (limited, free) = (part(0, 0), part(1, 0) + part(1, 1));
    // A period of a tenth of a second at the edge. What a busy host takes away it would have had.
    let wanted = limited + part(0, 1);
    assert!(limited < 0.26 && wanted >= 0.12, "{limited} of a processor, {after:?} after {before:?}");
    // It never sleeps, however busy the host is.
    assert!(free > 0.8, "{free} of the time, {after:?} after {before:?}");
    let stats: Value = serde_json::from_str(&pods.ok(&["stats", "--format", "json", &id])).expect("JSON");
    let told = stats["limited"]["cpu"]["usage"]["total"].as_u64().expect("a time");
    assert!(Duration::from_nanos(told) >= after[0][0], "{told} ns, and {:?} before", after[0]);
    // It sleeps most of the time, and would not look whether it is to end.
    let begin = Instant::now();
    pods.ok(&["stop", &id]);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    let status = pods.status(&id);
    assert_eq!(names.map(|name| container(&status, name)["exitCode"].clone()), [143, 143]);
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn annotations_of_a_pod_are_settings_of_all_its_modules_or_of_one() {
    let pods = pods();
    let annotated = |annotations: &str| {
        let spec = format!(
            "{{initContainers: [{}, {}], containers: [{}], volumes: [{TOLD}]}}",
            told("small", "memory, '16'", ""),
            told("large", "memory, '16'", ""),
            module("calm", "sleep, '600'", "")
        );
        let name = pods.name("settings");
        manifest(&name, &spec).replace("\nspec:", &format!("\n  annotations: {{{annotations}}}\nspec:"))
    };
    let pages = "org.magikrun.wasm.max-memory-pages";
    let good = annotated(&format!("{pages}: '64', {pages}/large: '480'"));
    let id = pods.start(&good);
    pods.tell(&id);
    pods.wait_log(&id, "large", "took 16");
    let log = pods.wait_log(&id, "small", "no more after");
    let megabytes = log.split_whitespace().find_map(|word| word.parse::<u64>().ok());
    assert!(megabytes.is_some_and(|got| got <= 4), "{log}");
    // What is executed there has the same settings.
    let exec = pods.call(&["exec", "-c", "calm", &id, "/module.wasm", "memory", "16"]);
    assert!(exec.stdout.contains("no more after"), "{exec:?}");
    pods.ok(&["delete", "--force", &id]);
    let unknown = annotated(&format!("{pages}/larg: '480'"));
    let file = pods.runtime.file("unknown.yaml", &unknown);
    let found = pods.call(&["validate", file.to_str().expect("a path")]).exits(1).stdout;
    assert!(found.contains("there is no container 'larg'"), "{found}");
    pods.run(&[], &unknown).fails_with(1, &[pages, "there is no container 'larg'"]);
    let pods = pods.configured("[annotations]\nallowed = ['org.magikrun.wasm.fuel']\n");
    pods.run(&[], &good).fails_with(1, &[pages, "annotations.allowed"]);
    pods.assert_nothing_left();
}

#[test]
fn files_of_another_module_cannot_be_reached() {
    let pods = pods();
    let bin = "{name: bin, hostPath: {path: /bin}}";
    let spec = format!(
        "{{containers: [{}, {}], volumes: [{bin}]}}",
        module("one", "sleep, '600'", ", volumeMounts: [{name: bin, mountPath: /host, readOnly: true}]"),
        module("two", "sleep, '600'", ""),
    );
    let id = pods.start(&manifest(&pods.name("files"), &spec));
    let exec = |container: &str, args: &[&str]| {
        pods.call(&[&["exec", "-c", container, &id, "/module.wasm"], args].concat())
    };
    exec("two", &["write", "/secret", "of-two"]).success();
    assert_eq!(exec("two", &["read", "/secret"]).success().stdout, "of-two");
    exec("one", &["link", "../two/secret", "/relative"]).success();
    exec("one", &["link", "/containers/two/secret", "/absolute"]);
    for path in
        ["/secret", "../two/secret", "/../two/secret", "/containers/two/secret", "/relative", "/absolute"]
    {
        let output = exec("one", &["read", path]);
        assert!(output.code != 0 && !output.stdout.contains("of-two"), "{path}: {output:?}");
    }
    // Nor can native programs that are executed there.
    let native = pods.call(&["exec", "-c", "one", &id, "/host/busybox", "ls", "/"]).success().stdout;
    assert!(native.contains("module.wasm") && native.contains("host"), "{native}");
    assert!(!native.contains("containers"), "{native}");
    let path = "/../../two/secret";
    assert!(pods.call(&["exec", "-c", "one", &id, "/host/busybox", "cat", path]).code != 0);
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
}

#[test]
fn whatever_of_a_pod_is_killed_nothing_of_it_is_left() {
    for what in ["modules", "monitor", "infra"] {
        let pods = pods();
        let name = pods.name(what);
        let spec =
            format!("{{containers: [{}, {}]}}", module("a", "sleep, '600'", ""), module("b", "loop", ""));
        let id = pods.start(&manifest(&name, &spec));
        pods.wait_log(&id, "a", "sleeping");
        let victim = match what {
            "modules" => Some(processes(&pods)[0].0),
            "monitor" => monitor(&name),
            _ => infra(&name),
        };
        signal(victim.expect("a process"), Signal::KILL);
        let status = pods.wait_phase(&id, "Failed");
        if what == "modules" {
            let reason = status["reason"].as_str().expect("a reason");
            assert!(reason.contains("the process of the pod's modules has ended"), "{reason}");
        }
        poll(&format!("the end of all processes without {what}"), || {
            processes(&pods).is_empty().then_some(())
        });
        pods.ok(&["delete", &id]);
        pods.assert_nothing_left();
    }
}

#[test]
fn modules_of_different_users_have_a_process_each() {
    let pods = pods();
    let user = |id: u32| format!(", securityContext: {{runAsUser: {id}}}");
    let spec = format!(
        "{{containers: [{}, {}]}}",
        module("a", "sleep, '600'", &user(1000)),
        module("b", "sleep, '600'", &user(1001))
    );
    let id = pods.start(&manifest(&pods.name("users"), &spec));
    for name in ["a", "b"] {
        pods.wait_log(&id, name, "sleeping");
    }
    let all = processes(&pods);
    assert_eq!(all.len(), 2, "{all:?}");
    pods.ok(&["delete", "--force", &id]);
    let spec = format!(
        "{{containers: [{}, {}]}}",
        module("a", "sleep, '600'", &user(1000)),
        module("b", "sleep, '600'", &user(1000))
    );
    let id = pods.start(&manifest(&pods.name("users"), &spec));
    pods.wait_log(&id, "b", "sleeping");
    let all = processes(&pods);
    assert_eq!(all.len(), 1, "{all:?}");
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
}
