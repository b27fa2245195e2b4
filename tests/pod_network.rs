//! The networks of pods, and what extends their infra containers.
mod common;

use common::pods::{WAIT, container, manifest, pasta};
use common::{Pods, poll, require_program};
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// A port of the loopback device that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer).filter(|text| !text.is_empty())
}

fn server(port: u16) -> String {
    let script = format!("mkdir /www; echo page > /www/p; httpd -p 80 -h /www; {WAIT}");
    format!(
        "{{containers: [{}]}}",
        container("web", &script, &format!("ports: [{{containerPort: 80, hostPort: {port}}}]"))
    )
}

#[test]
fn a_port_of_the_host_leads_to_the_pod_until_that_is_gone() {
    require_program("pasta");
    let pods = Pods::new();
    let (name, port) = (pods.name("port"), free_port());
    let id = pods.start(&manifest(&name, &server(port)));
    let answer = poll("an answer of the pod", || get(port, "/p"));
    assert!(answer.ends_with("page\n"), "{answer}");
    let status = pods.ok(&["status", &id]);
    assert!(status.contains(&format!("*:{port} -> 80/tcp")), "{status}");
    let taken = pods.run(&[], &manifest(&pods.name("other"), &server(port)));
    taken.fails_with(1, &["cannot run pod", "pasta"]);
    assert_eq!(pods.ok(&["list", "-q"]).trim(), id);
    pods.ok(&["delete", &id]);
    assert!(get(port, "/p").is_none());
    pods.assert_nothing_left();
}

/// A server with a certificate of its own; it ends with the value.
struct Secure(std::process::Child, u16);

impl Secure {
    fn new(pods: &Pods) -> Self {
        let openssl = require_program("openssl");
        let (key, certificate, port) = (pods.runtime.path("key"), pods.runtime.path("cert"), free_port());
        let made = std::process::Command::new(&openssl)
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=somebody",
                "-keyout",
            ])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut server = std::process::Command::new(&openssl);
        server
            .args(["s_server", "-quiet", "-www", "-accept", &port.to_string(), "-key"])
            .arg(&key)
            .arg("-cert")
            .arg(&certificate);
        server.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let child = server.spawn().unwrap();
        poll("the server", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self(child, port)
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_probe_by_https_asks_whoever_answers() {
    let pods = Pods::new();
    let (server, name) = (Secure::new(&pods), pods.name("secure"));
    let probe = |port: u16| {
        format!(
            "readinessProbe: {{httpGet: {{scheme: HTTPS, path: /, port: {port}}}, periodSeconds: 1, timeoutSeconds: 20}}"
        )
    };
    let spec = format!(
        "{{hostNetwork: true, containers: [{}, {}]}}",
        container("good", WAIT, &probe(server.1)),
        container("bad", WAIT, &probe(free_port()))
    );
    pods.start(&manifest(&name, &spec));
    let status = poll("the first container to be ready", || {
        Some(pods.status(&name)).filter(|status| status["containers"][0]["ready"] == true)
    });
    assert_eq!(status["containers"][1]["ready"], false, "{status}");
    pods.ok(&["delete", "--force", &name]);
    pods.assert_nothing_left();
}

#[test]
fn a_pod_that_loses_pasta_has_failed() {
    let pods = Pods::new();
    let (name, port) = (pods.name("pasta"), free_port());
    let id = pods.start(&manifest(&name, &server(port)));
    common::signal(pasta(&name).unwrap(), Signal::KILL);
    let status = pods.wait_phase(&id, "Failed");
    assert!(status["reason"].as_str().unwrap().contains("pasta"), "{status}");
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn a_pod_is_alone_unless_it_is_connected() {
    let pods = Pods::new();
    let links = |options: &[&str], suffix: &str| {
        let name = pods.name(suffix);
        let spec = format!("{{containers: [{}]}}", container("c", WAIT, ""));
        pods.run(options, &manifest(&name, &spec)).success();
        let links = pods.sh(&name, "c", "ls /sys/class/net | tr '\\n' ' '");
        pods.ok(&["delete", "--force", &name]);
        links
    };
    assert_eq!(links(&[], "alone").trim(), "lo");
    let namespace = pods.name("ns");
    let run =
        |args: &[&str]| assert!(std::process::Command::new("ip").args(args).status().unwrap().success());
    run(&["netns", "add", &namespace]);
    run(&["-n", &namespace, "link", "add", "mkt0", "type", "bridge"]);
    let inside = links(&["--network", &format!("ns:/run/netns/{namespace}")], "inside");
    run(&["netns", "delete", &namespace]);
    assert!(inside.contains("mkt0"), "{inside}");
    let refused = pods.run(&["--network", "none"], &manifest(&pods.name("refused"), &server(free_port())));
    refused.fails_with(1, &["hostPort needs the network 'pasta'"]);
    pods.assert_nothing_left();
}

#[test]
fn an_extension_in_any_language_hears_of_its_pod_and_gets_a_port() {
    let pods = Pods::new();
    let (name, port) = (pods.name("extended"), free_port());
    // Where nobody, as which it runs, may read it.
    let extension = pods.runtime.path("journal.sh");
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/extensions/journal.sh");
    std::fs::copy(example, &extension).unwrap();
    let spec = format!("{{containers: [{}]}}", container("app", WAIT, ""));
    let annotated =
        manifest(&name, &spec).replace("spec:", &format!("  annotations: {{journal-port: '{port}'}}\nspec:"));
    let extension = extension.to_str().unwrap();
    let id = pods
        .run(&["--network", "pasta", "--extension", extension], &annotated)
        .success()
        .stdout
        .trim()
        .to_owned();
    let journal = pods.runtime.store().join("pods").join(&id).join("extensions/journal.sh/journal");
    poll("the extension to hear that the pod has started", || {
        std::fs::read_to_string(&journal)
            .ok()
            .filter(|text| text.contains("podStarted") && text.contains("containerStarted"))
    });
    poll("what the extension says", || {
        pods.ok(&["events", &id]).contains("the journal is open").then_some(())
    });
    pods.ok(&["stop", &id]);
    let text = std::fs::read_to_string(&journal).unwrap();
    assert!(text.contains("podStopping") && text.trim_end().ends_with("stop"), "{text}");
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn the_example_of_the_readme_does_what_it_says() {
    let pods = Pods::new();
    let (name, port) = (pods.name("readme"), free_port());
    let readme =
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split("\n## Pods\n").nth(1).expect("a section on pods");
    let yaml =
        section.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a manifest");
    let yaml = yaml
        .replace("busybox:1.36", common::pods::IMAGE)
        .replace("hostPort: 8080", &format!("hostPort: {port}"))
        .replace("name: web", &format!("name: {name}"));
    pods.start(&yaml);
    let answer = poll("the page that another container writes", || {
        get(port, "/").filter(|answer| answer.contains("200 OK") && answer.contains("20"))
    });
    assert!(answer.contains("\r\n\r\n"), "{answer}");
    assert_eq!(pods.ok(&["exec", "-c", "server", &name, "ls", "/pages"]), "index.html\n");
    pods.wait_log(&name, "reader", "20");
    assert_eq!(pods.status(&name)["containers"].as_array().unwrap().len(), 3);
    pods.ok(&["stop", "--grace", "1s", &name]);
    pods.ok(&["delete", &name]);
    pods.assert_nothing_left();
}
