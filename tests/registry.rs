//! Images from registries: Debian's docker-registry, and a server of the test's own that misbehaves.
mod common;

use common::{Compression, Layer, Layout, Output, RegistryAuth, RegistryServer, Runtime, finish, names_in};
use magikrun::storage::blobs::Digest;
use serde_json::json;
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A layout with one image that runs a shell.
fn layout(runtime: &Runtime, compression: Compression) -> Layout {
    let mut layout = Layout::new(&runtime.path("layout"));
    let layers = [Layer::busybox().into_bytes(), Layer::new().file("greeting", "hello\n").into_bytes()];
    layout.add("1", &layers, compression, &json!({"Cmd": ["cat", "/greeting"]}));
    layout
}

/// `magikrun ARGS` with this store, a home directory of its own, and these credentials.
#[track_caller]
fn call(runtime: &Runtime, auth: Option<&Path>, args: &[&str]) -> Output {
    let mut command = runtime.command(args);
    command.env("MAGIKRUN_STORAGE", runtime.store()).env("HOME", runtime.dir());
    command.env("REGISTRY_AUTH_FILE", auth.unwrap_or(&runtime.path("none.json")));
    command.env("CONTAINERS_REGISTRIES_CONF", runtime.path("registries.conf"));
    finish(command, None)
}

/// Trusts the registry as `containers-certs.d(5)` says.
fn trust(runtime: &Runtime, server: &RegistryServer) {
    let dir = runtime.path(".config/containers/certs.d").join(&server.host);
    fs::create_dir_all(&dir).unwrap();
    fs::copy(server.authority(), dir.join("ca.crt")).unwrap();
}

fn credentials(runtime: &Runtime, host: &str, pair: &str) -> std::path::PathBuf {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(pair);
    runtime.file("auth.json", json!({"auths": {host: {"auth": auth}}}).to_string())
}

#[test]
fn what_skopeo_pushed_is_pulled_run_and_not_pulled_again() {
    let runtime = Runtime::new();
    let server = RegistryServer::start(&runtime.path("registry"), RegistryAuth::Open);
    let name = server.name("team/app:1");
    server.skopeo(&layout(&runtime, Compression::Gzip).image("1"), &format!("docker://{name}"));
    call(&runtime, None, &["image", "pull", &name]).success();
    let id = format!("{}-app", runtime.name());
    assert_eq!(call(&runtime, None, &["run", "--image", &name, &id]).success().stdout, "hello\n");
    let before = server.requests().len();
    call(&runtime, None, &["image", "pull", &name]).success();
    assert!(server.requests().len() <= before + 2, "{:#?}", &server.requests()[before..]);
    let _ = call(&runtime, None, &["image", "pull", &server.name("team/none")])
        .fails_with(1, &["team/none:latest", "manifest unknown"]);
    // What is missing is pulled by those that need it.
    call(&runtime, None, &["image", "rm", &name]).success();
    assert_eq!(call(&runtime, None, &["run", "--image", &name, &id]).success().stdout, "hello\n");
    drop(server);
    runtime.assert_nothing_left();
}

#[test]
fn what_is_pushed_and_saved_is_read_by_skopeo_and_podman() {
    let runtime = Runtime::new();
    let server = RegistryServer::start(&runtime.path("registry"), RegistryAuth::Token);
    trust(&runtime, &server);
    let layout = layout(&runtime, Compression::Gzip);
    let ok = |args: &[&str]| call(&runtime, None, args).success();
    ok(&["image", "pull", &layout.image("1")]);
    // Log in, push under another name, and let skopeo read it.
    let name = server.name("pushed/app:2");
    let auth = runtime.path("login.json");
    let mut login =
        runtime.command(&["image", "login", "--username", "alice", "--password-stdin", &server.host]);
    login.env("REGISTRY_AUTH_FILE", &auth).env("HOME", runtime.dir());
    finish(login, Some(b"open:sesame\n")).success();
    assert_eq!(fs::metadata(&auth).unwrap().mode() & 0o777, 0o600);
    assert_eq!(
        call(&runtime, Some(&auth), &["image", "push", "localhost/layout:1", &name]).success().stdout,
        format!("{name}\n")
    );
    let copy = runtime.path("copy");
    server.skopeo(&format!("docker://{name}"), &format!("oci:{}:1", copy.display()));
    ok(&["image", "rm", "localhost/layout:1"]);
    ok(&["image", "pull", &format!("oci:{}:1", copy.display())]);
    // Saved and loaded, by podman too, both ways.
    ok(&["image", "tag", "localhost/copy:1", "localhost/saved:1"]);
    let archive = runtime.path("saved.tar");
    let archive = archive.to_str().unwrap();
    ok(&["image", "save", "--output", archive, "localhost/saved:1"]);
    let podman = |args: &[&str]| {
        let mut command = std::process::Command::new(common::require_program("podman"));
        command.args(["--storage-driver", "vfs", "--root"]).arg(runtime.path("podman"));
        command.arg("--runroot").arg(runtime.path("podman-run")).args(args);
        finish(command, None).success()
    };
    assert!(podman(&["load", "--input", archive]).stdout.contains("localhost/saved:1"));
    let id = podman(&["inspect", "--format", "{{.Id}}", "localhost/saved:1"]).stdout.trim().to_owned();
    assert!(ok(&["image", "list"]).stdout.contains(&id[..12]));
    ok(&["image", "rm", &id]);
    for format in ["oci-archive", "docker-archive"] {
        let theirs = runtime.path(format);
        let theirs = theirs.to_str().unwrap();
        podman(&["save", "--format", format, "--output", theirs, "localhost/saved:1"]);
        assert!(
            ok(&["image", "load", "--input", theirs]).stdout.starts_with("localhost/saved:1 "),
            "{format}"
        );
        let id = format!("{}-{format}", runtime.name());
        assert_eq!(ok(&["run", "--image", "localhost/saved:1", &id]).stdout, "hello\n");
        // Mounted on the host; not pruned as long as that.
        let dir = runtime.path("mounted");
        fs::create_dir_all(&dir).unwrap();
        ok(&["image", "mount", "localhost/saved:1", dir.to_str().unwrap()]);
        ok(&["image", "rm", "localhost/saved:1"]);
        assert_eq!(fs::read_to_string(dir.join("greeting")).unwrap(), "hello\n");
        ok(&["image", "umount", dir.to_str().unwrap()]);
        ok(&["image", "prune"]);
        assert_eq!(names_in(&runtime.store().join("layers")), Vec::<String>::new());
    }
}

#[test]
fn damage_is_found_and_mended() {
    let runtime = Runtime::new();
    let layout = layout(&runtime, Compression::Gzip);
    let ok = |args: &[&str]| call(&runtime, None, args).success();
    ok(&["image", "pull", &layout.image("1")]);
    assert_eq!(ok(&["image", "verify"]).stdout, "no damage\n");
    let manifest: serde_json::Value =
        serde_json::from_str(&ok(&["image", "inspect", "localhost/layout:1"]).stdout).unwrap();
    let digest: Digest = manifest["manifest"]["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    let blob = runtime.store().join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex());
    fs::write(&blob, "damaged").unwrap();
    let _ = call(&runtime, None, &["image", "verify", "--repair"]).fails_with(1, &["damaged in 1 place"]);
    assert!(!blob.exists());
    ok(&["image", "pull", &layout.image("1")]);
    assert_eq!(ok(&["image", "verify"]).stdout, "no damage\n");
}

#[test]
fn a_pull_that_is_killed_leaves_nothing_that_the_next_does_not_remove() {
    let runtime = Runtime::new();
    let (mut answers, layer) = served(&layout(&runtime, Compression::None));
    // Half of the layer comes, and then nothing.
    let whole = answers[&layer][0].clone();
    let stalled = vec![
        ("content-length".to_owned(), whole.2.len().to_string()),
        ("x-stall".to_owned(), "1".to_owned()),
    ];
    answers.insert(layer, vec![(200, stalled, whole.2[..whole.2.len() / 2].to_vec()), whole]);
    let server = Misbehaving::start(answers);
    let name = format!("{}/app:1", server.host);
    let mut command = runtime.command(&["image", "pull", &name]);
    command.env("MAGIKRUN_STORAGE", runtime.store());
    let running = common::start(command, None);
    let work = runtime.store().join("work");
    common::poll("the layer to be unpacked", || {
        let lease = work.join(names_in(&work).first()?);
        let layer = names_in(&lease).into_iter().find(|name| name.len() > 64 && !name.starts_with('.'))?;
        (!names_in(&lease.join(layer).join("fs")).is_empty()).then_some(())
    });
    common::signal(running.pid(), rustix::process::Signal::KILL);
    let _ = running.finish().exits(137);
    assert!(!names_in(&work).is_empty(), "it was killed too late to tell anything");
    call(&runtime, None, &["image", "pull", &name]).success();
    assert_eq!(names_in(&work), Vec::<String>::new());
    assert_eq!(call(&runtime, None, &["image", "verify"]).success().stdout, "no damage\n");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let runtime = Runtime::new();
    let layout = layout(&runtime, Compression::Gzip);
    let script = format!(
        "mount -t tmpfs -o size=1500k none {0} && {1} --root {2} image --storage {0} pull {3}; echo $?; ls {0}/work {0}/layers; mount -o remount,size=100m {0} && {1} --root {2} image --storage {0} pull {3}",
        runtime.path("store").display(),
        common::runtime_path().display(),
        runtime.root().display(),
        layout.image("1"),
    );
    fs::create_dir(runtime.path("store")).unwrap();
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let output = finish(command, None).success();
    assert!(output.stderr.contains("no space left on device"), "{}", output.stderr);
    assert!(output.stdout.starts_with("1\n"), "{}", output.stdout);
    assert!(
        !output.stdout.contains("fs") && output.stdout.contains("localhost/layout:1"),
        "{}",
        output.stdout
    );
}

#[test]
fn host_names_are_looked_up_without_loading_code() {
    let runtime = Runtime::new();
    // A name service that tells when it is loaded.
    let source = "#include <fcntl.h>\n#include <stdlib.h>\n__attribute__((constructor)) void loaded(void) { open(getenv(\"MARK\"), O_CREAT | O_WRONLY, 0600); }\n";
    let source = runtime.file("evil.c", source);
    let library = runtime.path("libnss_evil.so.2");
    let mut compile = std::process::Command::new(common::require_program("gcc"));
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    finish(compile, None).success();
    let nsswitch =
        runtime.file("nsswitch.conf", "hosts: evil files\npasswd: evil files\ngroup: evil files\n");
    let script = format!(
        "mount --bind {} /etc/nsswitch.conf; {} --root {} image pull name.invalid/app:1",
        nsswitch.display(),
        common::runtime_path().display(),
        runtime.root().display(),
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    command.env("LD_LIBRARY_PATH", runtime.dir()).env("MARK", runtime.path("mark"));
    command.env("MAGIKRUN_STORAGE", runtime.store());
    let _ = finish(command, None).fails_with(1, &["name.invalid"]);
    assert!(!runtime.path("mark").exists(), "a module was loaded");
}

#[test]
fn credentials_and_certificates_are_those_of_podman() {
    for auth in [RegistryAuth::Password, RegistryAuth::Token] {
        let runtime = Runtime::new();
        let server = RegistryServer::start(&runtime.path("registry"), auth);
        let name = server.name("app:1");
        server.skopeo(&layout(&runtime, Compression::Zstd).image("1"), &format!("docker://{name}"));
        let pull = |auth: Option<&Path>| call(&runtime, auth, &["image", "pull", &name]);
        let _ = pull(None).fails_with(1, &["certs.d", &server.host]);
        trust(&runtime, &server);
        let _ = pull(None).fails_with(1, &["credentials"]);
        let wrong = credentials(&runtime, &server.host, "alice:wrong");
        let _ = pull(Some(&wrong)).fails_with(1, &["user 'alice'", "auth.json"]);
        let right = credentials(&runtime, &server.host, "alice:open:sesame");
        pull(Some(&right)).success();
        // And by a helper program.
        let helper = "#!/bin/sh\nread host\nprintf '{\"ServerURL\":\"%s\",\"Username\":\"alice\",\"Secret\":\"open:sesame\"}' \"$host\"\n";
        common::write_script(&runtime.path("docker-credential-mkt"), helper);
        let file = runtime.file("helper.json", json!({"credHelpers": {&server.host: "mkt"}}).to_string());
        call(&runtime, None, &["image", "rm", &name]).success();
        let mut command = runtime.command(&["image", "pull", &name]);
        let path = format!("{}:{}", runtime.dir().display(), std::env::var("PATH").unwrap_or_default());
        command.env("MAGIKRUN_STORAGE", runtime.store()).env("HOME", runtime.dir()).env("PATH", path);
        finish(
            {
                command.env("REGISTRY_AUTH_FILE", file);
                command
            },
            None,
        )
        .success();
    }
}

#[test]
fn a_pod_pulls_with_the_secrets_of_its_manifest_and_runs_no_program_that_they_name() {
    let runtime = Runtime::new();
    let server = RegistryServer::start(&runtime.path("registry"), RegistryAuth::Password);
    let image = server.name("app:1");
    server.skopeo(&layout(&runtime, Compression::Zstd).image("1"), &format!("docker://{image}"));
    trust(&runtime, &server);
    let name = format!("{}-secret", runtime.name());
    let run = |auths: serde_json::Value| {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "restartPolicy": "Never", "imagePullSecrets": [{"name": "s"}], "containers": [{"name": "a", "image": image}]}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
            "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": auths.to_string()}});
        let file = runtime.file("pod.json", format!("{pod}{secret}"));
        let parent = format!("/{}", runtime.name());
        call(&runtime, None, &["pod", "run", "--cgroup-parent", &parent, file.to_str().unwrap()])
    };
    let _ = run(json!({"auths": {}})).fails_with(1, &["container 'a'", "credentials"]);
    let _ =
        run(json!({"credHelpers": {&server.host: "mkt"}})).fails_with(1, &["container 'a'", "credentials"]);
    let wrong = json!({"auths": {&server.host: {"username": "alice", "password": "wrong"}}});
    let _ = run(wrong).fails_with(1, &["user 'alice'", "secret 's' of the manifest"]);
    run(json!({"auths": {&server.host: {"username": "alice", "password": "open:sesame"}}})).success();
    call(&runtime, None, &["pod", "delete", "--force", &name]).success();
}

/// How the test's own server answers a path: a status, headers, a body.
type Answers = HashMap<String, Vec<(u16, Vec<(String, String)>, Vec<u8>)>>;

/// A server that gives each path its answers one after the other, the last for ever, and notes what it was asked.
struct Misbehaving {
    host: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Misbehaving {
    fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (asked, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(answers)));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answers) = (Arc::clone(&log), Arc::clone(&answers));
                std::thread::spawn(move || Self::serve(stream, &log, &answers));
            }
        });
        Self { host, asked }
    }

    fn serve(mut stream: TcpStream, log: &Mutex<Vec<String>>, answers: &Mutex<Answers>) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let (mut request, mut line) = (String::new(), String::new());
        reader.read_line(&mut request).ok()?;
        while reader.read_line(&mut line).ok()? > 2 {
            let line = std::mem::take(&mut line);
            if line.starts_with("authorization") || line.starts_with("range") {
                request += line.trim();
            }
        }
        log.lock().unwrap().push(request.clone());
        let path = request.split(' ').nth(1)?.to_owned();
        let (status, headers, body) = {
            let mut answers = answers.lock().unwrap();
            let list = answers.get_mut(&path);
            match list {
                None => (404, Vec::new(), Vec::new()),
                Some(list) if list.len() > 1 => list.remove(0),
                Some(list) => list.first()?.clone(),
            }
        };
        write!(stream, "HTTP/1.1 {status} x\r\nconnection: close\r\n").ok()?;
        if !headers.iter().any(|(name, _)| name == "content-length") {
            write!(stream, "content-length: {}\r\n", body.len()).ok()?;
        }
        let stalls = headers.iter().any(|(name, _)| name == "x-stall");
        for (name, value) in headers {
            write!(stream, "{name}: {value}\r\n").ok()?;
        }
        stream.write_all(b"\r\n").ok()?;
        if !request.starts_with("HEAD") {
            stream.write_all(&body).ok()?;
        }
        if stalls {
            // Until the other side goes away.
            reader.read_line(&mut line).ok()?;
        }
        Some(())
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// The answers of a well-behaved registry for the image of a layout, and the path of its first layer.
fn served(layout: &Layout) -> (Answers, String) {
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
    let digest: Digest = index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap();
    let blob = |digest: &Digest| fs::read(layout.path().join("blobs/sha256").join(digest.hex())).unwrap();
    let manifest = blob(&digest);
    let mut answers = Answers::new();
    answers.insert("/v2/app/manifests/1".to_owned(), vec![(200, Vec::new(), manifest.clone())]);
    let value: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let blobs = value["layers"].as_array().unwrap().iter().chain([&value["config"]]);
    for descriptor in blobs {
        let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
        answers.insert(format!("/v2/app/blobs/{digest}"), vec![(200, Vec::new(), blob(&digest))]);
    }
    (answers, format!("/v2/app/blobs/{}", value["layers"][0]["digest"].as_str().unwrap()))
}

#[test]
fn a_broken_download_is_resumed_and_a_busy_server_asked_again() {
    let runtime = Runtime::new();
    let (mut answers, layer) = served(&layout(&runtime, Compression::Gzip));
    let whole = answers[&layer][0].2.clone();
    let half = whole.len() / 2;
    let header = |name: &str, value: String| vec![(name.to_owned(), value)];
    answers.insert(
        layer,
        vec![
            (503, header("retry-after", "0".to_owned()), Vec::new()),
            (200, header("content-length", whole.len().to_string()), whole[..half].to_vec()),
            (
                206,
                header("content-range", format!("bytes {half}-{}/{}", whole.len() - 1, whole.len())),
                whole[half..].to_vec(),
            ),
        ],
    );
    let server = Misbehaving::start(answers);
    call(&runtime, None, &["image", "pull", &format!("{}/app:1", server.host)]).success();
    let ranged =
        server.asked().iter().filter(|asked| asked.contains(&format!("range: bytes={half}-"))).count();
    assert_eq!(ranged, 1, "{:#?}", server.asked());
}

#[test]
fn content_that_is_not_what_was_announced_leaves_nothing() {
    let runtime = Runtime::new();
    let (mut answers, layer) = served(&layout(&runtime, Compression::None));
    let mut content = answers[&layer][0].2.clone();
    let last = content.len() - 1;
    content[last] ^= 1;
    answers.insert(layer.clone(), vec![(200, Vec::new(), content)]);
    let server = Misbehaving::start(answers);
    let name = format!("{}/app:1", server.host);
    let digest = layer.rsplit('/').next().unwrap().to_owned();
    let _ = call(&runtime, None, &["image", "pull", &name]).fails_with(1, &[&name, &digest, "digest"]);
    assert_eq!(names_in(&runtime.store().join("work")), Vec::<String>::new());
    assert!(names_in(&runtime.store().join("layers")).len() <= 1, "only what was right may stay");
    assert_eq!(call(&runtime, None, &["image", "list", "--quiet"]).success().stdout, "");
}

#[test]
fn credentials_are_told_to_nobody_but_the_registry() {
    let runtime = Runtime::new();
    let (mut answers, layer) = served(&layout(&runtime, Compression::Gzip));
    let elsewhere = Misbehaving::start([("/there".to_owned(), answers[&layer].clone())].into());
    let location = vec![("location".to_owned(), format!("http://{}/there", elsewhere.host))];
    answers.insert(layer, vec![(307, location, Vec::new())]);
    let manifest = answers["/v2/app/manifests/1"][0].clone();
    let challenge = vec![("www-authenticate".to_owned(), "Basic realm=\"x\"".to_owned())];
    answers.insert("/v2/app/manifests/1".to_owned(), vec![(401, challenge, Vec::new()), manifest]);
    let server = Misbehaving::start(answers);
    let auth = credentials(&runtime, &server.host, "alice:secret");
    call(&runtime, Some(&auth), &["image", "pull", &format!("{}/app:1", server.host)]).success();
    assert!(server.asked().iter().any(|asked| asked.contains("authorization: Basic")));
    assert_eq!(elsewhere.asked().len(), 1);
    assert!(!elsewhere.asked()[0].contains("authorization"), "{:?}", elsewhere.asked());
}

#[test]
fn mirrors_are_asked_first_and_the_registry_when_they_fail() {
    let runtime = Runtime::new();
    let (answers, _) = served(&layout(&runtime, Compression::Gzip));
    let (empty, full) = (Misbehaving::start(Answers::new()), Misbehaving::start(answers));
    runtime.file("registries.conf", format!(
        "[[registry]]\nprefix = \"registry.example\"\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        full.host, empty.host
    ));
    call(&runtime, None, &["image", "pull", "registry.example/app:1"]).success();
    assert!(!empty.asked().is_empty() && !full.asked().is_empty());
    assert!(call(&runtime, None, &["image", "list"]).success().stdout.contains("registry.example/app:1"));
}
