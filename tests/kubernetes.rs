//! What an operator needs for Kubernetes: that the examples, the documents and `magikrun setup` say the same, and that engines read it.
mod common;

use common::{Output, bare, engine_program, finish};
use magikrun::pod::PodSpec;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const HANDLERS: [&str; 3] = ["magikrun", "magikrun-krun", "magikrun-wasm"];
/// The plugin of containerd that has the runtimes, in versions 2 and 3 of the configuration.
const PLUGINS: [(u32, &str); 2] = [(2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.runtime")];

/// The root file system of a node that has what the package and `make install` install.
struct Node(TempDir);

impl Node {
    fn new() -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        let bin = node.path("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(node.path("usr/libexec/magikrun")).unwrap();
        for file in
            ["usr/bin/magikrun", "usr/bin/containerd-shim-magikrun-v2", "usr/libexec/magikrun/magikrun-krun"]
        {
            fs::write(node.path(file), "").unwrap();
        }
        symlink("magikrun", bin.join("magikrun-wasm")).unwrap();
        for backend in ["wasm", "krun"] {
            let name = format!("containerd-shim-magikrun-{backend}-v2");
            symlink("containerd-shim-magikrun-v2", bin.join(name)).unwrap();
        }
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn setup(&self, args: &[&str]) -> Output {
        let mut command = bare();
        command.arg("setup").args(args).arg("--prefix").arg(self.0.path());
        command.args(["--runtime", "/usr/bin/magikrun"]);
        finish(command, None).success()
    }

    /// containerd's configuration, as it becomes from what is there.
    fn containerd(&self, before: Option<&str>) -> toml::Table {
        let path = self.path("etc/containerd/config.toml");
        if let Some(text) = before {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        self.setup(&["containerd"]);
        toml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn crio(&self) -> toml::Table {
        self.setup(&["crio"]);
        toml::from_str(&fs::read_to_string(self.path("etc/crio/crio.conf.d/magikrun.conf")).unwrap()).unwrap()
    }
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The TOML documents of a document that have `word` in them.
fn snippets(document: &str, word: &str) -> Vec<toml::Table> {
    let text = read(document);
    let blocks = text.split("\n```toml\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    blocks.filter(|block| block.contains(word)).map(|block| toml::from_str(block).unwrap()).collect()
}

/// containerd's runtimes.
fn runtimes<'a>(document: &'a toml::Table, plugin: &str) -> &'a toml::Table {
    document["plugins"][plugin]["containerd"]["runtimes"].as_table().unwrap()
}

fn crios(document: &toml::Table) -> &toml::Table {
    document["crio"]["runtime"]["runtimes"].as_table().unwrap()
}

fn names(table: &toml::Table) -> BTreeSet<&str> {
    table.keys().map(String::as_str).collect()
}

/// The values of a field of the documents of a manifest.
fn fields(manifest: &str, name: &str) -> Vec<String> {
    let text = read(manifest);
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_examples_and_the_documents_have_what_setup_writes() {
    let written = Node::new().containerd(None);
    assert_eq!(toml::from_str::<toml::Table>(&read("examples/kubernetes/containerd.toml")).unwrap(), written);
    let plugin = PLUGINS[0].1;
    let mut ours = runtimes(&written, plugin).clone();
    ours.remove("runc").expect("containerd's default, which nobody else has set");
    for document in ["README.md", "docs/kubernetes.md"] {
        let shown = snippets(document, "containerd.runtimes");
        assert_eq!(shown.len(), 1, "{document}");
        assert_eq!(runtimes(&shown[0], plugin), &ours, "{document}");
        assert_eq!(shown[0]["version"], written["version"], "{document}");
    }
    let written = Node::new().crio();
    assert_eq!(toml::from_str::<toml::Table>(&read("examples/kubernetes/crio.conf")).unwrap(), written);
    assert_eq!(snippets("docs/kubernetes.md", "crio.runtime.runtimes"), [written]);
}

#[test]
fn each_class_has_a_handler_in_both_engines_and_each_handler_a_class() {
    let classes = fields("examples/kubernetes/runtimeclass.yaml", "handler");
    let handlers: BTreeSet<&str> = classes.iter().map(String::as_str).collect();
    assert_eq!(handlers, BTreeSet::from(HANDLERS));
    assert_eq!(
        fields("examples/kubernetes/runtimeclass.yaml", "name"),
        classes,
        "a class is called as its handler"
    );
    assert_eq!(fields("examples/kubernetes/runtimeclass.yaml", "kind"), ["RuntimeClass"; 3]);
    let containerd = Node::new().containerd(Some("version = 2\n"));
    let mut named = names(runtimes(&containerd, PLUGINS[0].1));
    assert!(named.remove("runc"));
    assert_eq!(named, handlers);
    assert_eq!(names(crios(&Node::new().crio())), handlers);
}

#[test]
fn there_is_a_pod_for_each_class() {
    let mut asked = BTreeSet::new();
    for name in ["pod.yaml", "pod-wasm.yaml", "pod-krun.yaml"] {
        let path = format!("examples/kubernetes/{name}");
        let class = fields(&path, "runtimeClassName").pop().unwrap();
        // Its class means something to a cluster alone; the rest is a pod here too.
        let without = read(&path).replace(&format!("  runtimeClassName: {class}\n"), "");
        let pod = PodSpec::from_yaml(&without).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(pod.name().starts_with("hello"), "{name}");
        asked.insert(class);
    }
    assert_eq!(asked.iter().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(HANDLERS));
}

#[test]
fn both_forms_of_containerds_configuration_keep_what_is_there_and_get_it_back() {
    for (version, plugin) in PLUGINS {
        let node = Node::new();
        let before = format!(
            "version = {version}\n# mine\n[plugins.{plugin:?}.containerd.runtimes.runc]\n\
             runtime_type = \"io.containerd.runc.v2\"\n[plugins.{plugin:?}.containerd.runtimes.runc.options]\n\
             SystemdCgroup = true\n"
        );
        let document = node.containerd(Some(&before));
        let all = runtimes(&document, plugin);
        assert_eq!(all["runc"]["options"]["SystemdCgroup"].as_bool(), Some(true));
        for name in HANDLERS {
            assert_eq!(all[name]["runtime_type"].as_str(), Some(&*format!("io.containerd.{name}.v2")));
        }
        assert!(node.setup(&["containerd"]).stdout.contains("nothing to do"));
        node.setup(&["containerd", "--undo"]);
        assert_eq!(fs::read_to_string(node.path("etc/containerd/config.toml")).unwrap(), before);
    }
}

#[test]
fn containerd_reads_the_handlers_in_each_form_that_it_knows() {
    let program = engine_program("containerd");
    let mut version = Command::new(&program);
    version.arg("--version");
    let said = finish(version, None).success().stdout;
    let is_2 = said.split_whitespace().any(|word| word.trim_start_matches('v').starts_with("2."));
    for (version, _) in PLUGINS.into_iter().filter(|(version, _)| *version == 2 || is_2) {
        let node = Node::new();
        node.containerd(Some(&format!("version = {version}\n")));
        let mut dump = Command::new(&program);
        dump.arg("--config").arg(node.path("etc/containerd/config.toml")).args(["config", "dump"]);
        let dump: toml::Table = toml::from_str(&finish(dump, None).success().stdout).unwrap();
        let all = runtimes(&dump, PLUGINS[usize::from(is_2)].1);
        assert!(all.contains_key("runc"), "{dump:?}");
        for name in HANDLERS {
            assert_eq!(all[name]["runtime_type"].as_str(), Some(&*format!("io.containerd.{name}.v2")));
            assert!(!all[name]["pod_annotations"].as_array().unwrap().is_empty(), "{name}");
        }
        assert_eq!(all["magikrun-krun"]["privileged_without_host_devices"].as_bool(), Some(true));
    }
}
