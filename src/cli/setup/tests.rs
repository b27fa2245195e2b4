//! What files become, and that it can be taken back.

use super::bodies;
use super::handlers::{self, Found, Handler};
use super::plan::{self, Change};

const PATH: &str = "/usr/bin/magikrun";
/// Where our programs and shims are, for the backends but the native one.
const PROGRAMS: [&str; 2] = ["/usr/bin/magikrun-wasm", "/usr/libexec/magikrun/magikrun-krun"];
const SHIMS: [&str; 3] = [
    "/usr/bin/containerd-shim-magikrun-v2",
    "/usr/bin/containerd-shim-magikrun-wasm-v2",
    "/usr/bin/containerd-shim-magikrun-krun-v2",
];

/// The handlers of a node where these files are.
fn node(files: &[&str]) -> Vec<Handler> {
    handlers::find(PATH, |path| files.iter().any(|file| path.to_str() == Some(file)))
}

/// CRI-O's configuration on a node with nothing but this program, by a path.
fn crio(path: &str) -> String {
    handlers::crio(&handlers::find(path, |_| false))
}

fn written(change: Change) -> String {
    match change {
        Change::Write(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_of_ours_is_made_kept_renewed_and_removed() {
    let text = written(plan::own_file(None, &crio(PATH)).unwrap());
    let document: toml::Table = toml::from_str(&text).unwrap();
    assert_eq!(document["crio"]["runtime"]["runtimes"]["magikrun"]["runtime_path"].as_str(), Some(PATH));
    assert_eq!(plan::own_file(Some(&text), &crio(PATH)).unwrap(), Change::Nothing);
    let moved = written(plan::own_file(Some(&text), &crio("/opt/magikrun")).unwrap());
    assert!(moved.contains("/opt/magikrun") && !moved.contains(PATH));
    assert_eq!(plan::undo_own_file(Some(&moved)).unwrap(), Change::Remove);
    assert_eq!(plan::undo_own_file(None).unwrap(), Change::Nothing);
}

#[test]
fn a_file_of_others_or_one_that_they_changed_is_left_alone() {
    let text = written(plan::own_file(None, &crio(PATH)).unwrap());
    for theirs in ["[crio]\n".to_owned(), text.replace("oci", "vm"), format!("{text}[crio.image]\n")] {
        plan::own_file(Some(&theirs), &crio(PATH)).unwrap_err();
        plan::undo_own_file(Some(&theirs)).unwrap_err();
    }
}

#[test]
fn podmans_lists_keep_what_others_put_there() {
    let others = ["[engine]\nruntime_supports_json = [\"mine\"]\n".to_owned()];
    let document: toml::Table = toml::from_str(&bodies::podman(PATH, &others)).unwrap();
    let words = |key: &str| {
        document["engine"][key].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(words("runtime_supports_json"), ["mine", "magikrun"]);
    assert_eq!(words("runtime_supports_nocgroup"), ["crun", "krun", "magikrun"]);
    assert_eq!(document["engine"]["runtimes"]["magikrun"][0].as_str(), Some(PATH));
}

#[test]
fn containerds_configuration_keeps_every_line_and_undo_gives_it_back() {
    let theirs = "version = 2\n# mine\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
                  runtime_type = \"io.containerd.runc.v2\"\n";
    let runc = node(&PROGRAMS);
    let body = |found: Found| handlers::containerd(found, &runc);
    let text = written(plan::containerd(Some(theirs), body).unwrap());
    assert!(text.starts_with(theirs) && text.matches("runtimes.runc]").count() == 1);
    let document: toml::Table = toml::from_str(&text).unwrap();
    let runtimes = &document["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"];
    for (name, program) in
        [("magikrun", PATH), ("magikrun-wasm", PROGRAMS[0]), ("magikrun-krun", PROGRAMS[1])]
    {
        assert_eq!(runtimes[name]["runtime_type"].as_str(), Some("io.containerd.runc.v2"));
        assert_eq!(runtimes[name]["options"]["BinaryName"].as_str(), Some(program));
        assert!(runtimes[name]["options"].get("SystemdCgroup").is_none(), "{name}");
    }
    assert!(runtimes.get("runc").is_some());
    assert_eq!(plan::containerd(Some(&text), body).unwrap(), Change::Nothing);
    assert_eq!(plan::undo_containerd(Some(&text)).unwrap(), Change::Write(theirs.to_owned()));
    // The other way of calling us replaces the block and nothing else.
    let own = node(&SHIMS);
    let shim = |found: Found| handlers::containerd(found, &own);
    let changed = written(plan::containerd(Some(&text), shim).unwrap());
    assert!(changed.starts_with(theirs) && changed.contains("io.containerd.magikrun.v2"));
    assert!(!changed.contains("BinaryName"));
}

#[test]
fn containerds_version_decides_the_plugin_and_what_is_not_ours_is_refused() {
    let own = node(&SHIMS);
    let body = |found: Found| handlers::containerd(found, &own);
    let three = written(plan::containerd(Some("version = 3\n"), body).unwrap());
    assert!(three.contains("[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.magikrun]"));
    assert!(three.contains("runtimes.runc]"), "the default is still known");
    let own = written(plan::containerd(None, body).unwrap());
    assert!(own.contains("runtimes.runc]"), "the default is still known");
    assert!(toml::from_str::<toml::Table>(&own).unwrap()["version"].as_integer() == Some(2));
    assert_eq!(plan::containerd(Some(&own), body).unwrap(), Change::Nothing);
    assert_eq!(plan::undo_containerd(Some(&own)).unwrap(), Change::Remove);
    let plugin = "io.containerd.grpc.v1.cri";
    let taken = format!("version = 2\n{}", body(Found { plugin, alone: false, systemd: false }));
    let one = format!("version = 2\n[plugins.{plugin:?}.containerd.runtimes.magikrun-krun]\n");
    for (text, cause) in [
        ("root = \"/x\"\n", "migrate"),
        ("version = 5\n", "migrate"),
        ("x = [", "TOML"),
        (&*taken, "a runtime 'magikrun' that 'magikrun setup' has not written"),
        (&*one, "a runtime 'magikrun-krun' that 'magikrun setup' has not written"),
    ] {
        let e = plan::containerd(Some(text), body).unwrap_err();
        assert!(e.message().contains(cause), "{e}");
    }
}

/// The runtimes of a configuration of containerd.
fn runtimes<'a>(document: &'a toml::Table, plugin: &str) -> &'a toml::Table {
    document["plugins"][plugin]["containerd"]["runtimes"].as_table().unwrap()
}

#[test]
fn each_backend_has_a_handler_of_containerd_in_each_version_of_its_configuration() {
    let own = node(&SHIMS);
    let body = |found: Found| handlers::containerd(found, &own);
    let current = "io.containerd.cri.v1.runtime";
    for (version, plugin) in [(2, "io.containerd.grpc.v1.cri"), (3, current), (4, current)] {
        let theirs = format!(
            "version = {version}\n[plugins.{plugin:?}.containerd.runtimes.runc.options]\nSystemdCgroup = true\n"
        );
        let text = written(plan::containerd(Some(&theirs), body).unwrap());
        let document: toml::Table = toml::from_str(&text).unwrap();
        let all = runtimes(&document, plugin);
        assert_eq!(all.len(), 4, "{text}");
        for name in ["magikrun", "magikrun-wasm", "magikrun-krun"] {
            let kind = format!("io.containerd.{name}.v2");
            assert_eq!(all[name]["runtime_type"].as_str(), Some(&*kind));
            assert!(all[name].get("options").is_none(), "our shim finds out about systemd itself: {text}");
        }
        let without_devices = |name: &str| all[name].get("privileged_without_host_devices").is_some();
        assert!(without_devices("magikrun-krun") && !without_devices("magikrun-wasm"));
        assert_eq!(plan::undo_containerd(Some(&text)).unwrap(), Change::Write(theirs));
    }
}

#[test]
fn no_pod_of_a_class_for_one_backend_chooses_another() {
    let own = node(&SHIMS);
    let text = written(plan::containerd(None, |found| handlers::containerd(found, &own)).unwrap());
    let document: toml::Table = toml::from_str(&text).unwrap();
    let all = runtimes(&document, "io.containerd.grpc.v1.cri");
    let passed = |handler: &str, annotation: &str| {
        let patterns = all[handler]["pod_annotations"].as_array().unwrap();
        patterns.iter().map(|pattern| pattern.as_str().unwrap()).any(|pattern| {
            pattern.strip_suffix('*').map_or(pattern == annotation, |start| annotation.starts_with(start))
        })
    };
    let choices = ["org.magikrun.backend", "run.oci.handler", "module.wasm.image/variant"];
    for annotation in crate::runtime::validate::unsafe_annotations() {
        let chooses = choices.contains(&annotation);
        let of = |kind: &str| !chooses && annotation.contains(kind);
        assert!(passed("magikrun", annotation), "{annotation}");
        assert_eq!(passed("magikrun-wasm", annotation), of(".wasm."), "{annotation}");
        assert_eq!(passed("magikrun-krun", annotation), of("krun.") && !of(".wasm."), "{annotation}");
    }
}

#[test]
fn a_backend_that_is_not_there_has_no_handler() {
    let found = Found { plugin: "io.containerd.cri.v1.runtime", alone: false, systemd: true };
    let of = |files: &[&str]| handlers::containerd(found, &node(files));
    let with_shim = of(&[SHIMS[0], PROGRAMS[0], PROGRAMS[1]]);
    assert!(with_shim.contains("runtimes.magikrun]") && !with_shim.contains("magikrun-"), "{with_shim}");
    let without = of(&PROGRAMS[..1]);
    assert!(without.contains("runtimes.magikrun-wasm]") && !without.contains("krun-krun"), "{without}");
    assert_eq!(without.matches("SystemdCgroup = true").count(), 2, "as runc's containers have it: {without}");
    let document: toml::Table = toml::from_str(&handlers::crio(&node(&PROGRAMS))).unwrap();
    let all = document["crio"]["runtime"]["runtimes"].as_table().unwrap();
    for (name, program) in
        [("magikrun", PATH), ("magikrun-wasm", PROGRAMS[0]), ("magikrun-krun", PROGRAMS[1])]
    {
        assert_eq!(all[name]["runtime_path"].as_str(), Some(program));
        assert_eq!(all[name]["runtime_type"].as_str(), Some("oci"));
        assert_eq!(all[name]["runtime_root"].as_str(), Some("/run/magikrun"));
    }
    assert_eq!((all.len(), crio(PATH).matches("runtime_path").count()), (3, 1));
}

#[test]
fn the_block_of_an_older_version_is_replaced() {
    let theirs = "version = 2\nroot = \"/srv\"\n";
    let older = |_: Found| {
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.magikrun]\n\
         runtime_type = \"io.containerd.magikrun.v2\"\n"
            .to_owned()
    };
    let before = written(plan::containerd(Some(theirs), older).unwrap());
    let own = node(&SHIMS);
    let after = written(plan::containerd(Some(&before), |found| handlers::containerd(found, &own)).unwrap());
    assert!(after.starts_with(theirs) && after.contains("runtimes.magikrun-krun]"), "{after}");
    assert_eq!(after.matches("runtimes.magikrun]").count(), 1);
    assert_eq!(plan::undo_containerd(Some(&after)).unwrap(), Change::Write(theirs.to_owned()));
}

#[test]
fn dockers_configuration_keeps_its_members_their_order_and_its_indentation() {
    let theirs = "{\n    \"log-driver\": \"journald\",\n    \"runtimes\": {\n        \"crun\": {\n            \
                  \"path\": \"/usr/bin/crun\"\n        }\n    },\n    \"debug\": true\n}\n";
    let text = written(plan::docker(Some(theirs), PATH).unwrap());
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["runtimes"]["magikrun"]["path"], PATH);
    assert_eq!(document.as_object().unwrap().keys().collect::<Vec<_>>(), ["log-driver", "runtimes", "debug"]);
    assert_eq!(plan::docker(Some(&text), PATH).unwrap(), Change::Nothing);
    assert_eq!(plan::undo_docker(Some(&text)).unwrap(), Change::Write(theirs.to_owned()));
    let alone = written(plan::docker(None, PATH).unwrap());
    assert_eq!(plan::undo_docker(Some(&alone)).unwrap(), Change::Remove);
    for (text, cause) in [
        (r#"{"runtimes": {"magikrun": {"runtimeType": "x"}}}"#, "has not written"),
        (r#"{"runtimes": []}"#, "not an object"),
        ("{", "JSON"),
        ("[]", "JSON object"),
    ] {
        assert!(plan::docker(Some(text), PATH).unwrap_err().message().contains(cause), "{text}");
    }
}
