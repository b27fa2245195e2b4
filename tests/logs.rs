//! The log: with `--debug` it tells how a container comes to be, it reaches the journal, and it never has a secret.
mod common;

#[path = "faults/tracer.rs"]
#[allow(dead_code, reason = "nothing is disturbed here")]
mod tracer;

use common::pods::{WAIT, container, manifest};
use common::{Compression, Layer, Layout, Pods, RegistryAuth, RegistryServer, Runtime, finish, runtime_path};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

#[test]
fn a_create_can_be_followed() {
    let host = Runtime::new();
    let mut bundle = host.sleeper();
    bundle.edit(|config| config["hooks"] = serde_json::json!({"createRuntime": [{"path": "/bin/true"}]}));
    let output = host.ok(&["--debug", "create", "--bundle", bundle.dir(), &bundle.id]);
    let pid = host.pid(&bundle.id).to_string();
    let mut rest = output.stderr.as_str();
    for step in [
        "bundle '",
        "state of '",
        "cgroup '",
        &format!("first process is {pid}"),
        "limits are set",
        "root file system is mounted",
        "createRuntime hook #0: '/bin/true'",
        "first process is set up",
        "is created, and waits",
    ] {
        let at =
            rest.find(step).unwrap_or_else(|| panic!("'{step}' is missing, or too early: {}", output.stderr));
        rest = &rest[at..];
    }
    assert!(output.stderr.lines().all(|line| line.starts_with("magikrun: debug: ")), "{}", output.stderr);
    let started = host.ok(&["--debug", "start", &bundle.id]);
    assert!(started.stderr.contains("program of '"), "{}", started.stderr);
    assert_eq!(host.ok(&["list"]).stderr, "");
    host.ok(&["delete", "--force", &bundle.id]);
}

#[test]
fn no_environment_of_a_process_is_in_the_log() {
    let host = Runtime::new();
    let secret = "open-sesame-4711";
    let mut bundle = host.sleeper();
    bundle.edit(|config| {
        let env = config["process"]["env"].as_array_mut().unwrap();
        env.push(format!("TOKEN={secret}").into());
    });
    let mut all = String::new();
    let argument = format!("TOKEN={secret}");
    for args in [
        &["create", "--bundle", bundle.dir(), &bundle.id][..],
        &["start", &bundle.id],
        &["exec", "--env", &argument, &bundle.id, "true"],
        &["exec", "--env", &argument, &bundle.id, "/nowhere"],
        &["kill", &bundle.id, "KILL"],
        &["delete", "--force", &bundle.id],
    ] {
        let log = host.path("log");
        let mut with_log = vec!["--debug", "--log", log.to_str().unwrap()];
        with_log.extend(args);
        let output = host.call(&with_log);
        all += &output.stderr;
        all += &fs::read_to_string(&log).unwrap_or_default();
    }
    assert!(all.contains("first process is"), "{all}");
    assert!(!all.contains(secret), "{all}");
}

#[test]
fn no_secret_of_a_pod_is_in_its_log_or_events() {
    let pods = Pods::new();
    let secret = "open-sesame-4712";
    let name = pods.name("secret");
    let env = format!(
        "env: [{{name: PLAIN, value: {secret}}}, {{name: TOKEN, valueFrom: {{secretKeyRef: {{name: s, key: token}}}}}}]"
    );
    let spec = format!("{{containers: [{}]}}", container("app", WAIT, &env));
    let text = format!(
        "{}\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{token: {secret}}}\n",
        manifest(&name, &spec)
    );
    let file = pods.runtime.file("pod.yaml", text);
    let store = pods.runtime.store();
    let parent = format!("/{}", pods.runtime.name());
    let pod = ["--debug", "pod", "--storage", store.to_str().expect("a path in UTF-8")];
    let run = ["run", "--cgroup-parent", &parent, file.to_str().expect("a path in UTF-8")];
    let mut all = pods.runtime.call(&[&pod[..], &run].concat()).success().stderr;
    let seen = pods.ok(&["exec", &name, "sh", "-c", "echo $TOKEN $PLAIN"]);
    assert_eq!(seen, format!("{secret} {secret}\n"));
    all += &pods.ok(&["events", &name]);
    all += &pods.ok(&["status", "--format", "json", &name]);
    all += &pods.runtime.call(&[&pod[..], &["delete", "--force", &name]].concat()).success().stderr;
    assert!(!all.contains(secret), "{all}");
}

#[test]
fn what_is_not_logged_asks_nothing_of_the_kernel() {
    let host = Runtime::new();
    // System calls of a create that do not depend on chance, and how many of them write.
    let calls = |global: &[&str]| {
        let counts = (0..3).map(|_| {
            let bundle = host.sleeper();
            let create = ["create", "--bundle", bundle.dir(), &bundle.id];
            let run = tracer::run(&host.command(&[global, &create].concat()), None, Duration::from_secs(60));
            assert_eq!(run.code, 0);
            host.ok(&["delete", "--force", &bundle.id]);
            let unsteady = [
                libc::SYS_mmap,
                libc::SYS_munmap,
                libc::SYS_mremap,
                libc::SYS_mprotect,
                libc::SYS_brk,
                libc::SYS_futex,
            ];
            let steady = run.points.iter().filter(|point| !unsteady.contains(&(point.call as i64)));
            let (writes, others): (Vec<&tracer::Point>, Vec<&tracer::Point>) =
                steady.partition(|point| point.call as i64 == libc::SYS_write);
            (others.len(), writes.len())
        });
        counts.min().expect("three runs")
    };
    let (all, quiet, loud) = (calls(&[]), calls(&["--log-level", "error"]), calls(&["--debug"]));
    // Parent and child work side by side: how often they wait for each other is chance.
    let near = |other: (usize, usize)| other.0.abs_diff(all.0) <= 8;
    assert!(near(quiet) && quiet.1 == all.1, "messages that nobody wants cost something: {all:?}, {quiet:?}");
    assert!(near(loud) && loud.1 > all.1 + 5, "a message is one write: {all:?}, with all of them {loud:?}");
}

#[test]
fn no_password_and_no_token_of_a_registry_is_in_the_log() {
    use base64::Engine as _;
    for auth in [RegistryAuth::Password, RegistryAuth::Token] {
        let host = Runtime::new();
        let registry = RegistryServer::start(&host.path("registry"), auth);
        let trusted = host.path(".config/containers/certs.d").join(&registry.host);
        fs::create_dir_all(&trusted).unwrap();
        fs::copy(registry.authority(), trusted.join("ca.crt")).unwrap();
        let mut layout = Layout::new(&host.path("layout"));
        layout.add(
            "box",
            &[Layer::new().file("a", "a").into_bytes()],
            Compression::Gzip,
            &serde_json::json!({}),
        );
        registry.skopeo(&layout.image("box"), &format!("docker://{}", registry.name("box:1"))).success();
        let authfile = host.path("auth.json");
        let password = "open:sesame";
        let secret = base64::engine::general_purpose::STANDARD.encode(format!("alice:{password}"));
        let entry = serde_json::json!({"auths": {&registry.host: {"auth": secret}}});
        fs::write(&authfile, entry.to_string()).unwrap();
        let log = host.path("log");
        let store = host.store();
        let mut pull = host.command(&[
            "--debug",
            "--log",
            log.to_str().unwrap(),
            "image",
            "--storage",
            store.to_str().unwrap(),
            "pull",
            &registry.name("box:1"),
        ]);
        pull.env("REGISTRY_AUTH_FILE", &authfile).env("HOME", host.dir());
        let output = finish(pull, None).success();
        let all = output.stderr + &output.stdout + &fs::read_to_string(&log).unwrap();
        assert!(all.contains("answers 200"), "{all}");
        for secret in [password, &secret, "Bearer ", "eyJ"] {
            assert!(!all.contains(secret), "'{secret}' is in the log: {all}");
        }
    }
}

#[test]
fn the_journal_gets_messages_with_their_level_and_name() {
    let host = Runtime::new();
    let socket = host.path("journal");
    let journal = UnixDatagram::bind(&socket).unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && touch /run/systemd/journal/socket && \
                  mount --bind \"$0\" /run/systemd/journal/socket && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(&socket)
        .arg(runtime_path());
    command.args(["--log", "journald:engine", "state", "nobody"]);
    finish(command, None).fails_with(1, &["container does not exist"]);
    let mut buffer = vec![0; 64 << 10];
    let mut seen = Vec::new();
    loop {
        let length = journal.recv(&mut buffer).unwrap_or_else(|e| panic!("{e}: {seen:?}"));
        seen = fields(&buffer[..length]);
        let is = |name: &str, value: &str| seen.iter().any(|field| field.0 == name && field.1 == value);
        if is("MESSAGE", "container does not exist") {
            assert!(is("PRIORITY", "3") && is("SYSLOG_IDENTIFIER", "engine"), "{seen:?}");
            return;
        }
    }
}

/// The fields of a message in the journal's native protocol: `NAME=value`, or the name, a line feed, eight bytes of length and
/// the value.
fn fields(mut message: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut found = Vec::new();
    while let Some(end) = message.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&message[..end], &message[end + 1..]);
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            found.push((text(&line[..equals]), text(&line[equals + 1..])));
            message = rest;
        } else {
            let length = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes"));
            let value = &rest[8..8 + usize::try_from(length).expect("a length")];
            found.push((text(line), text(value)));
            message = &rest[8 + value.len() + 1..];
        }
    }
    found
}
