//! Every example of the manual, executed in the order of its page, in namespaces where it can harm nothing.
//!
//! What is not executed has a comment before it in the page that says why: `.\" Not run: REASON`.
mod common;

use common::{Commands, Compression, Layer, Layout, finish, require_program, require_root};
use serde_json::json;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Begins a comment that says why the next example is not executed.
const NOT_RUN: &str = ".\\\" Not run: ";

/// The examples of a page, and why those are not executed that are not.
fn examples(path: &Path) -> Vec<(String, Option<String>)> {
    let text = fs::read_to_string(path).unwrap();
    let Some((_, section)) = text.split_once(".SH EXAMPLES\n") else { return Vec::new() };
    let section = section.split("\n.SH ").next().unwrap();
    let mut found = Vec::new();
    let (mut open, mut reason): (Option<String>, Option<String>) = (None, None);
    for line in section.lines() {
        match (&mut open, line) {
            (None, ".nf") => open = Some(String::new()),
            (Some(_), ".fi") => found.extend(open.take().map(|block| (block, reason.take()))),
            (Some(block), line) => {
                let _ = writeln!(block, "{}", plain(line));
            }
            (None, line) => reason = line.strip_prefix(NOT_RUN).map(str::to_owned).or(reason),
        }
    }
    assert!(reason.is_none(), "{}: nothing follows a comment: {reason:?}", path.display());
    found
}

/// A line without the escapes of troff.
fn plain(line: &str) -> String {
    line.replace("\\-", "-").replace("\\(aq", "'").replace("\\(ha", "^").replace("\\(dq", "\"")
}

/// What has to be there before the first example.
const PRELUDE: &str = r#"
set -eu
mount -t overlay -o "lowerdir=/etc,upperdir=$WORK/etc,workdir=$WORK/etc-work" overlay /etc
for place in /run /srv /var/lib /var/tmp; do mount -t tmpfs tmpfs "$place"; done
mkdir -p /etc/bash_completion.d
ip link set lo up
printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: "127.0.0.1:5000"}\n' "$WORK" \
    > "$WORK/registry.yml"
OTEL_TRACES_EXPORTER=none docker-registry serve "$WORK/registry.yml" > "$WORK/registry.log" 2>&1 &
magikrun bundle "oci:$WORK/layout:web" /srv/web
magikrun bundle "oci:$WORK/layout:1.0" /srv/job
# Whatever an example before has left, a container named web runs.
web() {
    magikrun delete --force --regex '.*' > /dev/null
    magikrun run --detach --bundle /srv/web web
}
# criu cannot bring back what leads to a pipe of ours.
quiet() { exec < /dev/null > /dev/null 2>> "$WORK/quiet.log"; }
echo '(module (func (export "_start")))' > hello.wasm
"#;

/// What has to be there before the examples of a page.
const BEFORE: &[(&str, &str)] = &[
    (
        "magikrun-annotations.7",
        "magikrun image pull wasm:hello.wasm\nmagikrun image tag localhost/hello hello\n",
    ),
    ("magikrun-bundle.8", "cp -r \"$WORK/layout\" layout\nrm -r /srv/job\n"),
    ("magikrun-checkpoint.8", "quiet\nweb\n"),
    ("magikrun-delete.8", "web\nfor n in 1 2; do magikrun create --bundle /srv/web test-$n; done\n"),
    ("magikrun-events.8", "web\n"),
    ("magikrun-exec.8", "web\n"),
    (
        "magikrun-image.8",
        "tries=0\nuntil skopeo copy --quiet --dest-tls-verify=false \"oci:$WORK/layout:1.0\" docker://127.0.0.1:5000/app:1.0; do\n\
         tries=$((tries + 1)); [ $tries -lt 100 ]; sleep 1\ndone\n",
    ),
    // Paused, it does not end by the first signal before the second is sent.
    ("magikrun-kill.8", "web\nmagikrun pause web\n"),
    ("magikrun-list.8", "web\n"),
    ("magikrun-pause.8", "web\n"),
    (
        "magikrun-pod.8",
        "magikrun image pull \"oci:$WORK/layout:web\" > name\nmagikrun image tag \"$(cut -d ' ' -f 1 name)\" localhost/web\n\
         cat > pod.yaml <<'EOF'\napiVersion: v1\nkind: Pod\nmetadata: {name: web}\n\
         spec: {containers: [{name: server, image: localhost/web, imagePullPolicy: Never}]}\nEOF\n",
    ),
    ("magikrun-ps.8", "web\n"),
    (
        "magikrun-restore.8",
        "quiet\nweb\nmagikrun checkpoint --image-path /var/tmp/web web\nmagikrun delete web\n",
    ),
    ("magikrun-resume.8", "web\nmagikrun pause web\n"),
    ("magikrun-setup.8", "mkdir image\n"),
    ("magikrun-spec.8", "mkdir web\n"),
    ("magikrun-start.8", "magikrun create --bundle /srv/web web\n"),
    ("magikrun-state.8", "web\n"),
    ("magikrun-update.8", "web\nlimits() { echo '{\"pids\": {\"limit\": 20}}'; }\n"),
    (
        "magikrun.8",
        "tar -C /srv/job/rootfs -cf rootfs.tar .\nmagikrun --root /run/engine create --bundle /srv/web web\n",
    ),
];

/// The pages of commands, in the order of their names. Those of formats have no commands in their examples.
fn pages() -> Vec<String> {
    let man = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let names = fs::read_dir(man).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.ends_with(".5")).collect();
    names.sort();
    names
}

/// Pages whose examples need criu to work with the kernel.
const CRIU: [&str; 2] = ["magikrun-checkpoint.8", "magikrun-restore.8"];

/// Whether criu can dump processes of this kernel; says so if it cannot.
fn criu_works() -> bool {
    let mut check = Command::new(require_program("criu"));
    check.arg("check");
    let works = finish(check, None).code == 0;
    if !works {
        eprintln!("unsupported: checkpoint (criu check)");
    }
    works
}

/// The whole script: each page is announced, so that a failure names it.
fn script() -> String {
    let mut script = String::from(PRELUDE);
    let criu = criu_works();
    for name in pages().into_iter().filter(|name| criu || !CRIU.contains(&name.as_str())) {
        let blocks = examples(&Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(&name));
        if blocks.iter().all(|(_, reason)| reason.is_some()) {
            continue;
        }
        let before = BEFORE.iter().find(|(page, _)| *page == name).map_or("", |(_, before)| before);
        let _ = write!(script, "echo '== {name}'\n(\nmkdir {name}\ncd {name}\ncp ../hello.wasm .\n{before}");
        for (block, _) in blocks.iter().filter(|(_, reason)| reason.is_none()) {
            script.push_str(block);
        }
        script.push_str(")\nmagikrun delete --force --regex '.*' > /dev/null\n");
        script.push_str("magikrun --root /run/engine delete --force --regex '.*' > /dev/null\n");
    }
    script.push_str("echo '== the manual ends'\n");
    script
}

#[test]
fn every_example_of_the_manual_works() {
    require_root();
    for program in ["criu", "docker-registry", "ip", "jq", "runc", "skopeo", "unshare"] {
        require_program(program);
    }
    let commands = Commands::new();
    let mut layout = Layout::new(&commands.at("layout"));
    let serve = "trap 'exit 0' TERM; while :; do sleep 1; done";
    for (tag, command) in [("1.0", json!(["true"])), ("web", json!(["sh", "-c", serve]))] {
        let settings = json!({"Cmd": command, "Env": ["PATH=/bin"]});
        layout.add(tag, &[Layer::busybox().into_bytes()], Compression::Gzip, &settings);
    }
    let output = commands.execute(&script());
    assert!(
        output.stdout.contains("== the manual ends") && output.stdout.contains("== status 0"),
        "{}\n{}",
        output.stdout,
        output.stderr
    );
}

#[test]
fn what_is_prepared_is_for_pages_that_have_examples() {
    let man = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    for (page, _) in BEFORE {
        let run = examples(&man.join(page)).iter().filter(|(_, reason)| reason.is_none()).count();
        assert!(run > 0, "{page} has no example that is executed");
    }
    for name in pages() {
        for (block, reason) in examples(&man.join(&name)) {
            assert!(reason.is_none_or(|reason| reason.len() > 10), "{name}: no reason for {block}");
        }
    }
}
