//! What files become, and that it can be taken back.

use super::bodies;
use super::plan::{self, Change};

const PATH: &str = "/usr/bin/magikrun";

fn written(change: Change) -> String {
    match change {
        Change::Write(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_of_ours_is_made_kept_renewed_and_removed() {
    let text = written(plan::own_file(None, &bodies::crio(PATH)).unwrap());
    let document: toml::Table = toml::from_str(&text).unwrap();
    assert_eq!(document["crio"]["runtime"]["runtimes"]["magikrun"]["runtime_path"].as_str(), Some(PATH));
    assert_eq!(plan::own_file(Some(&text), &bodies::crio(PATH)).unwrap(), Change::Nothing);
    let moved = written(plan::own_file(Some(&text), &bodies::crio("/opt/magikrun")).unwrap());
    assert!(moved.contains("/opt/magikrun") && !moved.contains(PATH));
    assert_eq!(plan::undo_own_file(Some(&moved)).unwrap(), Change::Remove);
    assert_eq!(plan::undo_own_file(None).unwrap(), Change::Nothing);
}

#[test]
fn a_file_of_others_or_one_that_they_changed_is_left_alone() {
    let text = written(plan::own_file(None, &bodies::crio(PATH)).unwrap());
    for theirs in ["[crio]\n".to_owned(), text.replace("oci", "vm"), format!("{text}[crio.image]\n")] {
        plan::own_file(Some(&theirs), &bodies::crio(PATH)).unwrap_err();
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
    let body = |plugin: &str, alone: bool| bodies::containerd(plugin, PATH, false, alone);
    let text = written(plan::containerd(Some(theirs), body).unwrap());
    assert!(text.starts_with(theirs) && text.matches("runtimes.runc]").count() == 1);
    let document: toml::Table = toml::from_str(&text).unwrap();
    let runtimes = &document["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"];
    assert_eq!(runtimes["magikrun"]["options"]["BinaryName"].as_str(), Some(PATH));
    assert!(runtimes.get("runc").is_some());
    assert_eq!(plan::containerd(Some(&text), body).unwrap(), Change::Nothing);
    assert_eq!(plan::undo_containerd(Some(&text)).unwrap(), Change::Write(theirs.to_owned()));
    // The other way of calling us replaces the block and nothing else.
    let shim = |plugin: &str, alone: bool| bodies::containerd(plugin, PATH, true, alone);
    let changed = written(plan::containerd(Some(&text), shim).unwrap());
    assert!(changed.starts_with(theirs) && changed.contains("io.containerd.magikrun.v2"));
    assert!(!changed.contains("BinaryName"));
}

#[test]
fn containerds_version_decides_the_plugin_and_what_is_not_ours_is_refused() {
    let body = |plugin: &str, alone: bool| bodies::containerd(plugin, PATH, true, alone);
    let three = written(plan::containerd(Some("version = 3\n"), body).unwrap());
    assert!(three.contains("[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.magikrun]"));
    assert!(three.contains("runtimes.runc]"), "the default is still known");
    let own = written(plan::containerd(None, body).unwrap());
    assert!(own.contains("runtimes.runc]"), "the default is still known");
    assert!(toml::from_str::<toml::Table>(&own).unwrap()["version"].as_integer() == Some(2));
    assert_eq!(plan::containerd(Some(&own), body).unwrap(), Change::Nothing);
    assert_eq!(plan::undo_containerd(Some(&own)).unwrap(), Change::Remove);
    let taken = format!("version = 2\n{}", body("io.containerd.grpc.v1.cri", false));
    for (text, cause) in [("root = \"/x\"\n", "migrate"), ("x = [", "TOML"), (&*taken, "has not written")] {
        let e = plan::containerd(Some(text), body).unwrap_err();
        assert!(e.message().contains(cause), "{e}");
    }
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
