//! Pods under faults: whatever is killed or missing, and whenever, either nothing is left or a pod that is entirely there.
mod common;

use common::pods::{WAIT, at_once, container, infra, manifest, monitor, pasta};
use common::{DEADLINE, Pods, finish, inner_pid, is_alive, names_in, poll, signal, start};
use rustix::process::Signal;
use std::process::Command;
use std::time::{Duration, Instant};

/// A pod of three containers with an init container and volumes.
fn three(name: &str) -> String {
    let spec = format!(
        "{{terminationGracePeriodSeconds: 1, initContainers: [{}], containers: [{}, {}, {}],
           volumes: [{{name: v}}, {{name: m, emptyDir: {{medium: Memory}}}}]}}",
        container("i", "true", ""),
        container("a", WAIT, "volumeMounts: [{name: v, mountPath: /v}, {name: m, mountPath: /m}]"),
        container("b", WAIT, ""),
        container("c", WAIT, ""),
    );
    manifest(name, &spec)
}

#[test]
fn what_is_missing_or_fails_leaves_nothing_and_is_named() {
    let pods = Pods::new();
    let name = pods.name("x");
    let missing = "{name: c, image: 'oci:/nonexistent:1'}";
    let (a, b) = (container("a", WAIT, ""), container("b", WAIT, ""));
    for (third, needles) in [
        (missing.to_owned(), vec!["container 'c'", "/nonexistent"]),
        (
            container("c", WAIT, "imagePullPolicy: Never").replace("busybox:1", "other:1"),
            vec!["container 'c'", "other"],
        ),
        (
            "{name: c, image: 'localhost/busybox:1', command: [/nonexistent]}".to_owned(),
            vec!["container 'c'", "/nonexistent"],
        ),
        (
            "{name: c, image: 'localhost/busybox:1', workingDir: /etc/passwd}".to_owned(),
            vec!["container 'c'"],
        ),
        (
            container("c", WAIT, "lifecycle: {postStart: {exec: {command: ['false']}}}"),
            vec!["postStart hook of container 'c'", "exit code 1"],
        ),
        (
            container(
                "c",
                WAIT,
                "startupProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1}",
            ),
            vec!["startup probe of container 'c'"],
        ),
    ] {
        let spec = format!("{{containers: [{a}, {b}, {third}]}}");
        pods.run(&[], &manifest(&name, &spec)).fails_with(1, &needles);
        pods.assert_nothing_left();
    }
    let volume = "volumes: [{name: v, hostPath: {path: /nonexistent, type: Directory}}]";
    pods.run(&[], &manifest(&name, &format!("{{containers: [{a}], {volume}}}")))
        .fails_with(1, &["volume 'v'", "/nonexistent"]);
    let init = format!("{{initContainers: [{}], containers: [{a}]}}", container("i", "exit 9", ""));
    pods.run(&[], &manifest(&name, &init)).fails_with(1, &["container 'i' has exited with code 9"]);
    pods.run(&["--extension", "/bin/false"], &manifest(&name, &format!("{{containers: [{a}]}}")))
        .fails_with(1, &["extension 'false'"]);
    pods.assert_nothing_left();
}

#[test]
fn exactly_one_of_several_pods_with_the_same_name_wins() {
    let pods = Pods::new();
    let name = pods.name("same");
    let manifest = manifest(&name, &format!("{{containers: [{}]}}", container("a", WAIT, "")));
    let outputs = at_once((0..6).map(|_| pods.run_command(&[], &manifest)).collect());
    let (won, lost): (Vec<_>, Vec<_>) = outputs.iter().partition(|output| output.code == 0);
    assert_eq!(won.len(), 1, "{outputs:?}");
    assert!(
        lost.iter().all(|output| output.stderr.contains("a pod with this name exists already")),
        "{lost:?}"
    );
    assert_eq!(pods.status(&name)["id"], won[0].stdout.trim());
    pods.run(&[], &manifest).fails_with(1, &["exists already"]);
    pods.ok(&["delete", "--force", &name]);
    pods.assert_nothing_left();
    pods.start(&manifest);
    pods.ok(&["delete", "--force", &name]);
    pods.assert_nothing_left();
}

#[test]
fn a_command_that_is_killed_at_any_moment_leaves_nothing_or_a_whole_pod() {
    let pods = Pods::new();
    let name = pods.name("killed");
    let manifest = three(&name);
    let began = Instant::now();
    pods.start(&manifest);
    let whole = began.elapsed();
    pods.ok(&["delete", "--force", &name]);
    let rounds = 24;
    let mut there = 0;
    for round in 0..rounds {
        let running = start(pods.run_command(&[], &manifest), None);
        std::thread::sleep(whole * round / (rounds - 4));
        let how = if round % 3 == 0 { Signal::INT } else { Signal::KILL };
        if is_alive(running.pid()) {
            signal(running.pid(), how);
        }
        running.finish();
        // The monitor may still be at work on removing the pod.
        let settled = poll("the pod to be there or not", || {
            let half_made = names_in(&pods.runtime.root().join("~pods/pods"))
                .iter()
                .any(|n| n.ends_with('~') && n.len() > 6);
            if half_made {
                pods.ok(&["gc"]);
                return None;
            }
            Some(pods.ok(&["list", "-q"]).trim().to_owned())
        });
        if settled.is_empty() {
            pods.ok(&["gc"]);
        } else {
            there += 1;
            let status = pods.status(&name);
            assert_eq!(status["phase"], "Running", "{status}");
            for container in ["a", "b", "c"] {
                pods.sh(&name, container, "true");
            }
            pods.ok(&["delete", "--force", &name]);
        }
        pods.assert_nothing_left();
    }
    assert!(there < rounds, "some are killed in time");
}

#[test]
fn two_pods_of_one_manifest_are_there_together_or_not_at_all() {
    let pods = Pods::new();
    let (one, two) = (pods.name("one"), pods.name("two"));
    let pod = |name: &str| manifest(name, &format!("{{containers: [{}]}}", container("a", WAIT, "")));
    let both = format!("{}---\n{}", pod(&one), pod(&two));
    let ids = pods.start(&both);
    assert_eq!(ids.lines().count(), 2, "{ids}");
    for name in [&one, &two] {
        assert_eq!(pods.status(name)["phase"], "Running");
    }
    // A second pod whose name is taken takes the first one with it.
    pods.ok(&["delete", "--force", &one]);
    pods.run(&[], &both).fails_with(1, &["exists already"]);
    assert_eq!(pods.ok(&["list", "-q"]).lines().count(), 1);
    pods.ok(&["delete", "--force", &two]);
    pods.assert_nothing_left();
    // Between the places of the pods and their commit: monitors alone cannot decide, and what is killed then is removed.
    for victims in [vec![&one], vec![&one, &two]] {
        let running = start(pods.run_command(&[], &both), None);
        let monitors: Vec<i32> = victims.iter().map(|name| poll("a monitor", || monitor(name))).collect();
        signal(running.pid(), Signal::KILL);
        monitors.iter().for_each(|pid| signal(*pid, Signal::KILL));
        running.finish();
        poll("both pods to be there or none", || {
            pods.ok(&["gc"]);
            let count = pods.ok(&["list", "-q"]).lines().count();
            assert!(count == 0 || count == 2, "{count} of two pods are there");
            names_in(&pods.runtime.root().join("~pods/groups")).is_empty().then_some(())
        });
        for id in pods.ok(&["list", "-q"]).split_whitespace() {
            pods.ok(&["delete", "--force", id]);
        }
        pods.assert_nothing_left();
    }
}

#[test]
fn a_pod_whose_monitor_or_infra_container_is_killed_ends_as_a_whole() {
    let pods = Pods::new();
    let name = pods.name("guarded");
    let manifest = three(&name);
    for victim in ["monitor", "infra", "container"] {
        pods.start(&manifest);
        let containers: Vec<i32> =
            ["a", "b", "c"].iter().map(|_| 0).chain(pids(&pods)).filter(|pid| *pid > 0).collect();
        assert!(containers.len() >= 3, "{containers:?}");
        match victim {
            "monitor" => signal(monitor(&name).unwrap(), Signal::KILL),
            "infra" => signal(infra(&name).unwrap(), Signal::KILL),
            // Not one of their `sleep`, whose end means nothing.
            _ => {
                let is_first = |pid: &&i32| inner_pid(**pid).as_deref() == Some("1");
                signal(*containers.iter().find(is_first).expect("a container"), Signal::KILL);
            }
        }
        // Nobody has to call a command for that.
        for pid in containers {
            poll(&format!("process {pid} to end after the death of the {victim}"), || {
                (!is_alive(pid)).then_some(())
            });
        }
        let status = pods.wait_phase(&name, "Failed");
        assert!(status["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{status}");
        pods.ok(&["delete", &name]);
        pods.assert_nothing_left();
    }
}

/// Without cgroup v2 there is no file that kills a pod; on hosts with both, the tests above have one.
#[test]
fn on_cgroup_v1_alone_a_pod_ends_with_its_monitor_too() {
    let pods = Pods::new()
        .configured("[pods]\nfirst_id = 800000\nids = 65536\n")
        .in_view("if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi");
    let name = pods.name("v1");
    let more = |fields: &str| {
        let forks = format!("sleep 600 & {WAIT}");
        format!("{{{fields} containers: [{}, {}]}}", container("a", &forks, ""), container("b", WAIT, ""))
    };
    for (fields, at_once) in [
        ("", true),
        ("shareProcessNamespace: true,", true),
        ("hostUsers: false,", true),
        ("hostPID: true,", false),
    ] {
        let id = pods.start(&manifest(&name, &more(fields)));
        assert_eq!(pods.sh(&id, "b", "echo works"), "works\n", "{fields}");
        let infra = infra(&name).expect("the infra container");
        let cgroups = std::fs::read_to_string(format!("/proc/{infra}/cgroup")).unwrap();
        assert!(!cgroups.lines().any(|line| line.starts_with("0::") && line.contains(&id)), "{cgroups}");
        let all = poll("all processes", || Some(pids(&pods)).filter(|all| all.len() >= 3));
        signal(monitor(&name).unwrap(), Signal::KILL);
        if !at_once {
            pods.wait_phase(&id, "Failed");
        }
        for pid in all {
            poll(&format!("process {pid} to end ({fields})"), || (!is_alive(pid)).then_some(()));
        }
        pods.wait_phase(&id, "Failed");
        pods.ok(&["delete", &id]);
        pods.assert_nothing_left();
    }
}

/// Processes in the cgroups of this runtime's pods that are none of ours.
fn pids(pods: &Pods) -> Vec<i32> {
    let own = format!("/{}/", pods.runtime.name());
    let numbers =
        names_in(std::path::Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
    numbers
        .filter(|pid| {
            let read =
                |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            // Whoever ends without a parent may stay a zombie until the machine's first process looks.
            read("cgroup").contains(&own) && !read("cmdline").starts_with("magikrun-") && is_alive(*pid)
        })
        .collect()
}

#[test]
fn whoever_of_a_pod_is_killed_before_the_commit_nothing_is_left() {
    let pods = Pods::new();
    let name = pods.name("early");
    let spec = format!(
        "{{initContainers: [{}], containers: [{}]}}",
        container("i", "sleep 600", ""),
        container("a", WAIT, "")
    );
    for victim in ["monitor", "infra", "pasta", "both"] {
        let running = start(pods.run_command(&["--network", "pasta"], &manifest(&name, &spec)), None);
        let its_monitor = poll("the monitor", || monitor(&name));
        let its_infra = poll("the infra container", || infra(&name));
        poll("pasta or the init container", || pids(&pods).first().copied());
        match victim {
            "monitor" => signal(its_monitor, Signal::KILL),
            "infra" => signal(its_infra, Signal::KILL),
            "pasta" => signal(pasta(&name).expect("pasta"), Signal::KILL),
            _ => {
                signal(running.pid(), Signal::KILL);
                signal(its_monitor, Signal::KILL);
            }
        }
        let output = running.finish();
        assert_ne!(output.code, 0);
        if victim == "both" {
            poll("the containers to end", || pids(&pods).is_empty().then_some(()));
            pods.ok(&["gc"]);
        }
        pods.assert_nothing_left();
    }
}

/// Eight at a time, while the eight before them are deleted. `MAGIKRUN_FAULTS=full` makes 200.
#[test]
fn many_pods_at_once_run_and_are_gone() {
    let pods = Pods::new();
    let count = if common::faults::full() { 200 } else { 24 };
    let names: Vec<String> = (0..count).map(|number| pods.name(&format!("many{number}"))).collect();
    // So many loops that wait would be the load of the test.
    let quiet = "trap 'exit 0' TERM; sleep 600 & wait";
    let run = |name: &String| {
        let spec = format!("{{containers: [{}, {}]}}", container("a", quiet, ""), container("b", quiet, ""));
        pods.run_command(&[], &manifest(name, &spec))
    };
    let mut before: &[String] = &[];
    for chunk in names.chunks(8).chain([&[] as &[String]]) {
        let deletions = before.iter().map(|name| pods.command(&["delete", name]));
        for output in at_once(deletions.chain(chunk.iter().map(run)).collect()) {
            output.success();
        }
        assert_eq!(pods.ok(&["list", "-q"]).lines().count(), chunk.len());
        before = chunk;
    }
    pods.assert_nothing_left();
}

#[test]
fn a_full_disk_leaves_no_pod_and_is_named() {
    let pods = Pods::new();
    let name = pods.name("full");
    let spec = format!(
        "{{containers: [{}, {}], volumes: [{{name: c, configMap: {{name: c}}}}]}}",
        container("a", WAIT, "volumeMounts: [{name: c, mountPath: /c}]"),
        container("b", WAIT, "")
    );
    let text = format!(
        "{}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{key: {}}}\n",
        manifest(&name, &spec),
        "x".repeat(20_000)
    );
    let run = pods.run_command(&[], &text);
    let [disk, state] = [pods.runtime.store().join("pods"), pods.runtime.root().join("~pods")];
    // What is full exists only in a mount namespace; everything of the pod is in it.
    let script = r#"
        set -e; disk=$1 state=$2 bytes=$3 where=$4; shift 4
        for dir in "$disk" "$state"; do
            mkdir -p "$dir"; size=16m; if [ "$dir" = "$where" ]; then size=$bytes; fi
            mount -t tmpfs -o size="$size" none "$dir"
        done
        if "$@"; then echo made; "$1" "$2" "$3" "$4" "$5" "$6" delete --force "$NAME"; fi
        "$1" "$2" "$3" "$4" "$5" "$6" gc >&2
        find "$disk" "$state" -mindepth 2 ! -name 'lock~'"#;
    let mut made = 0;
    for bytes in [4096, 8192, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 1 << 20] {
        for full in [&disk, &state] {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
            command.arg(&disk).arg(&state).arg(bytes.to_string()).arg(full);
            command.arg(run.get_program()).args(run.get_args()).env("NAME", &name);
            let output = finish(command, None).success();
            if output.stdout.contains("made") {
                made += 1;
                continue;
            }
            assert_eq!(output.stdout, "", "{bytes} bytes of {}: {}", full.display(), output.stderr);
            let said = output.stderr.to_lowercase();
            assert!(said.contains("no space left"), "{bytes} bytes of {}: {said}", full.display());
        }
    }
    assert!(made > 0 && made < 14, "some sizes are enough: {made}");
    pods.assert_nothing_left();
}

#[test]
fn a_stop_gives_the_time_that_is_asked_for_and_no_more() {
    let pods = Pods::new();
    let name = pods.name("stop");
    let stubborn = "trap '' TERM; while :; do sleep 0.05; done";
    // The first process of a container does not see a signal that it has not asked for.
    let willing = format!("trap 'exit 0' TERM; echo ready; {WAIT}");
    let spec =
        format!("{{containers: [{}, {}]}}", container("a", stubborn, ""), container("b", &willing, ""));
    pods.start(&manifest(&name, &spec));
    pods.wait_log(&name, "b", "ready");
    let began = Instant::now();
    pods.ok(&["stop", "--grace", "1s", &name]);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took < DEADLINE / 2, "{took:?}");
    let status = pods.status(&name);
    assert_eq!(
        (&status["containers"][0]["exitCode"], &status["containers"][1]["exitCode"]),
        (&137.into(), &0.into())
    );
    pods.ok(&["delete", &name]);
    // A forced deletion cuts a stop short that is under way.
    pods.start(&manifest(&name, &spec));
    let slow = start(pods.command(&["stop", &name]), None);
    poll("the pod to be stopping", || pods.ok(&["events", &name]).contains("podStopping").then_some(()));
    pods.ok(&["delete", "--force", &name]);
    slow.finish();
    pods.assert_nothing_left();
}
