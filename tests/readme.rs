//! Every command of the README, executed in its order, in namespaces where it can harm nothing.
//!
//! The root file system is the machine's with what is written kept apart; the network is a loopback device and a pair of virtual
//! devices; a registry on it stands in for the one that short names mean.
mod common;

use common::{Commands, finish, require_program, require_root, runtime_path, shim_folder};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// A fenced block: its language, its text, and the line before it.
struct Block {
    language: String,
    text: String,
    before: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let (mut open, mut before): (Option<Block>, String) = (None, String::new());
    for line in markdown.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block {
                    language: language.to_owned(),
                    text: String::new(),
                    before: before.clone(),
                });
            }
            (None, None) if !line.is_empty() => line.clone_into(&mut before),
            (None, None) => {}
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(block), None) => {
                let _ = writeln!(block.text, "{line}");
            }
        }
    }
    found
}

fn is_make(block: &Block) -> bool {
    block.text.lines().all(|line| line.starts_with("make"))
}

/// What has to be there before the first command of the README.
const PRELUDE: &str = r#"
set -eu
mount -t overlay -o "lowerdir=/etc,upperdir=$WORK/etc,workdir=$WORK/etc-work" overlay /etc
for place in /run /var/lib /var/cache; do mount -t tmpfs tmpfs "$place"; done
ip link set lo up
ip link add v0 type veth peer name v1
ip addr add 10.99.0.1/24 dev v0
ip link set v0 up
ip link set v1 up
ip route add default via 10.99.0.2
printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: "127.0.0.1:5000"}\n' "$WORK" \
    > "$WORK/registry.yml"
OTEL_TRACES_EXPORTER=none docker-registry serve "$WORK/registry.yml" > "$WORK/registry.log" 2>&1 &
mkdir -p /etc/containers/registries.conf.d
printf '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "127.0.0.1:5000"\ninsecure = true\n' \
    > /etc/containers/registries.conf.d/stand-in.conf
printf '{"default": [{"type": "insecureAcceptAnything"}]}' > /etc/containers/policy.json
printf '[containers]\ndefault_ulimits=["nofile=20000:20000","nproc=32768:32768"]\nnetns="none"\n[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\n' \
    > /etc/containers/containers.conf
printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' \
    > /etc/containers/storage.conf
printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n' > /etc/containerd/config.toml
containerd > "$WORK/containerd.log" 2>&1 &
tries=0
until skopeo copy --quiet --dest-tls-verify=false "oci:$WORK/layout:box" docker://127.0.0.1:5000/library/busybox:1.36 \
    && ctr version > /dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || exit 1
    sleep 1
done 2> "$WORK/waiting.log"
echo "== the README begins"
"#;

/// The whole script: each block is announced, so that a failure names it.
fn script() -> String {
    let mut script = String::from(PRELUDE);
    for block in blocks(&readme()) {
        let name =
            block.before.split('`').nth(1).filter(|name| name.ends_with(".yaml") && !name.contains(' '));
        match (block.language.as_str(), name) {
            ("sh", _) if is_make(&block) => {}
            ("sh", _) => {
                let title = block.text.lines().next().unwrap_or_default().replace('\'', "");
                // A person takes longer to ask than a server to listen.
                let text = block.text.replace("curl ", "curl --retry 5 --retry-all-errors ");
                let _ = write!(script, "echo '== {title}'\n{text}");
            }
            ("yaml", Some(name)) => {
                let _ = write!(script, "cat > {name} <<'EOF-YAML'\n{}EOF-YAML\n", block.text);
            }
            _ => {}
        }
    }
    script.push_str("echo '== the README ends'\n");
    script
}

#[test]
fn every_command_does_what_the_readme_says() {
    require_root();
    for program in [
        "podman",
        "containerd",
        "ctr",
        "skopeo",
        "docker-registry",
        "clang",
        "ip",
        "curl",
        "pasta",
        "unshare",
    ] {
        require_program(program);
    }
    let commands = Commands::new();
    let at = |name: &str| commands.at(name);
    symlink(shim_folder().join("containerd-shim-magikrun-v2"), at("bin/containerd-shim-magikrun-v2"))
        .unwrap();
    let command = serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    common::Layout::new(&at("layout")).add(
        "box",
        &[common::Layer::busybox().into_bytes()],
        common::Compression::Gzip,
        &command,
    );
    let output = commands.execute(&script());
    let log = |name: &str| {
        let text = fs::read_to_string(at(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    };
    assert!(
        output.stdout.contains("== the README ends") && output.stdout.contains("== status 0"),
        "{}\n{}\nregistry: {}\ncontainerd: {}\nwaiting: {}",
        output.stdout,
        output.stderr,
        log("registry.log"),
        log("containerd.log"),
        log("waiting.log"),
    );
    for (command, said) in [
        ("run --image busybox:1.36 demo echo hello", "hello"),
        ("run --image wasm:hello.wasm", "hello from a module"),
    ] {
        assert!(readme().contains(command), "{command}");
        assert!(output.stdout.contains(said), "{said}: {}", output.stdout);
    }
}

#[test]
fn every_target_of_make_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
    for document in ["README.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let fenced = blocks(&text);
        let inline = text.split('`').skip(1).step_by(2);
        let lines = fenced.iter().flat_map(|block| block.text.lines()).chain(inline);
        let targets = lines.filter_map(|line| line.strip_prefix("make ")?.split_whitespace().next());
        for target in targets.filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-')) {
            assert!(makefile.contains(&format!("\n{target}:")), "{document}: make {target}");
        }
    }
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = fs::read_dir(root).unwrap().chain(fs::read_dir(root.join("docs")).unwrap());
    for path in documents.map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|end| end != "md") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.contains(' ') {
                assert!(path.with_file_name(file).exists(), "{}: {link}", path.display());
            }
        }
    }
}

#[test]
fn the_programs_of_the_readme_are_examples() {
    let examples: Vec<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for block in blocks(&readme()).iter().filter(|block| block.language == "rust") {
        assert!(examples.iter().any(|example| example.contains(&block.text)), "{}", block.text);
    }
}

#[test]
fn the_table_of_the_readme_is_what_the_programs_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    symlink(runtime_path(), dir.path().join("magikrun")).unwrap();
    let mut compare = Command::new(root.join("tools/compare.sh"));
    compare.args(["magikrun", "runc", "crun"]);
    compare.env("PATH", format!("{}:{}:/usr/sbin", dir.path().display(), std::env::var("PATH").unwrap()));
    for line in finish(compare, None).success().stdout.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).take(5).collect();
        let found =
            readme().lines().any(|known| known.split('|').map(str::trim).take(5).eq(cells.iter().copied()));
        assert!(found, "the README has no such row: {line}");
    }
}
