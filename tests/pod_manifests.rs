//! Manifests of pods: several in one file, what is wrong with them, and the examples.
mod common;

use common::pods::{HEARS, IMAGE, TOLD, UNTIL_TOLD, WAIT, container, manifest};
use common::{Pods, start};
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn a_manifest_can_be_followed_to_its_end_and_its_pods_run_all_or_none() {
    let pods = Pods::new();
    let pod = |suffix: &str, script: &str| {
        manifest(
            &pods.name(suffix),
            &format!(
                "{{restartPolicy: Never, containers: [{}], volumes: [{TOLD}]}}",
                container("c", script, HEARS)
            ),
        )
    };
    let two = format!("echo from two; {UNTIL_TOLD}; exit 4");
    let both = format!("{}---\n{}", pod("one", "echo from one"), pod("two", &two));
    let running = start(pods.run_command(&["--attach"], &both), None);
    // They are shown when they are there.
    running.wait_stdout("from two");
    pods.tell(&pods.name("two"));
    let output = running.finish().exits(4);
    for line in [format!("{}/c: from one", pods.name("one")), format!("{}/c: from two", pods.name("two"))] {
        assert!(output.stdout.contains(&line), "{line} is missing in {}", output.stdout);
    }
    pods.ok(&["delete", &pods.name("one"), &pods.name("two")]);
    let broken = manifest(
        &pods.name("three"),
        "{initContainers: [{name: i, image: 'localhost/busybox:1', command: ['false']}], containers: [{name: c, image: 'localhost/busybox:1'}]}",
    );
    let both = format!("{}---\n{broken}", pod("one", WAIT));
    pods.run(&[], &both).fails_with(1, &["container 'i' has exited with code 1"]);
    assert_eq!(pods.ok(&["list", "-q"]), "");
    pods.assert_nothing_left();
}

#[test]
fn validate_tells_everything_and_does_nothing() {
    let pods = Pods::new();
    let good =
        pods.runtime.file("good.yaml", manifest("x", "{nodeName: n, containers: [{name: c, image: i}]}"));
    let output = pods.call(&["validate", good.to_str().unwrap()]).exits(0);
    assert!(output.stdout.starts_with("warning: Pod/x: spec.nodeName: has no effect"), "{}", output.stdout);
    let bad = pods.runtime.file(
        "bad.yaml",
        manifest("x", "{containers: [{name: c, image: i, volumeDevices: [{}], bogus: 1}]}"),
    );
    let output = pods.call(&["validate", bad.to_str().unwrap()]).exits(1);
    assert_eq!(
        output.stdout.lines().filter(|line| line.starts_with("error: ")).count(),
        2,
        "{}",
        output.stdout
    );
    let json = pods.call(&["validate", "--format", "json", bad.to_str().unwrap()]).exits(1);
    let findings: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(findings[0]["path"], "spec.containers[0].volumeDevices");
    pods.run(&[], &fs::read_to_string(bad).unwrap())
        .fails_with(1, &["spec.containers[0].bogus: unknown field"]);
    pods.assert_nothing_left();
}

/// The examples say in their first line what becomes of them: `Runs.`, `Ends: PHASE.` or `Refused: MESSAGE`.
#[test]
fn every_example_does_what_it_says() {
    let pods = Pods::new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pods");
    let names = common::names_in(&directory);
    assert!(names.len() >= 40, "{}", names.len());
    for file in names {
        let text = fs::read_to_string(directory.join(&file)).unwrap();
        let says = text.lines().next().unwrap().trim_start_matches("# ").to_owned();
        let manifest = text.replace("busybox:1.36", IMAGE);
        let output = pods.run(&[], &manifest);
        if let Some(message) = says.strip_prefix("Refused: ") {
            assert!(output.code == 1 && output.stderr.contains(message), "{file}: {output:?}");
            continue;
        }
        assert_eq!(output.code, 0, "{file}: {output:?}");
        let ids: Vec<&str> = output.stdout.split_whitespace().collect();
        for id in &ids {
            match says.strip_prefix("Ends: ").and_then(|rest| rest.split('.').next()) {
                Some(phase) => drop(pods.wait_phase(id, phase)),
                None => assert_eq!(pods.status(id)["phase"], "Running", "{file}"),
            }
        }
        pods.ok(&[vec!["delete", "--force"], ids].concat());
    }
    pods.assert_nothing_left();
}
