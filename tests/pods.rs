//! Pods that run: containers, volumes, environment, namespaces, security, and the commands that look at them.
mod common;

use common::pods::{HEARS, IMAGE, TOLD, UNTIL_TOLD, WAIT, container, manifest};
use common::{Pods, poll, start};
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn a_pod_of_three_containers_shares_a_volume_runs_and_is_gone() {
    let pods = Pods::new();
    let name = pods.name("web");
    let spec = format!(
        "{{containers: [{}, {}, {}], volumes: [{{name: data, emptyDir: {{}}}}]}}",
        container(
            "writer",
            &format!("echo from-writer > /data/file; {WAIT}"),
            "volumeMounts: [{name: data, mountPath: /data}]"
        ),
        container("reader", WAIT, "volumeMounts: [{name: data, mountPath: /in, readOnly: true}]"),
        container("other", &format!("echo out; echo err >&2; {WAIT}"), ""),
    );
    let id = pods.start(&manifest(&name, &spec));
    assert_eq!(id.len(), 36, "{id}");
    let status = pods.status(&name);
    assert_eq!((&status["phase"], &status["id"]), (&Value::from("Running"), &Value::from(id.as_str())));
    assert_eq!(status["containers"].as_array().unwrap().len(), 3);
    assert!(
        status["containers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|c| c["state"] == "running" && c["ready"] == true)
    );
    poll("the file of the other container", || {
        (pods.call(&["exec", "-c", "reader", &id, "cat", "/in/file"]).stdout == "from-writer\n").then_some(())
    });
    pods.call(&["exec", "-c", "reader", &id, "touch", "/in/x"]).exits(1);
    pods.call(&["exec", &id, "sh", "-c", "exit 7"]).exits(7);
    pods.call(&["exec", &id, "/nonexistent"]).exits(255);
    pods.wait_log(&id, "other", "out\n");
    let list = pods.ok(&["list"]);
    assert!(list.lines().nth(1).unwrap().contains(&name) && list.contains("3/3"), "{list}");
    assert_eq!(pods.ok(&["list", "-q"]).trim(), id);
    let stats: Value = serde_json::from_str(&pods.ok(&["stats", "--format", "json", &id])).unwrap();
    assert!(stats["writer"]["pids"]["current"].as_u64().unwrap() >= 1, "{stats}");
    assert!(pods.ok(&["stats", &id]).contains("writer"));
    // Containers of pods are no containers of the state root.
    assert_eq!(pods.runtime.ok(&["list", "-q"]).stdout, "");
    pods.ok(&["stop", &id]);
    let status = pods.status(&id);
    assert_eq!(status["phase"], "Stopped");
    assert!(status["containers"].as_array().unwrap().iter().all(|c| c["exitCode"] == 0), "{status}");
    pods.call(&["exec", &id, "true"]).exits(255);
    pods.ok(&["delete", &id]);
    pods.call(&["status", &id]).fails_with(1, &["does not exist"]);
    pods.assert_nothing_left();
}

/// A manifest with every kind of variable and volume; one of these is the directory `host`.
fn with_everything(name: &str, host: &Path) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}}}
spec:
  hostname: inside
  subdomain: sub
  hostAliases: [{{ip: 192.0.2.7, hostnames: [seven.example]}}]
  dnsPolicy: None
  dnsConfig: {{nameservers: [192.0.2.53], searches: [example.org]}}
  securityContext: {{fsGroup: 77}}
  containers:
  - name: app
    image: {IMAGE}
    command: [sh, -c, 'echo $(GREETING) ''$$(X)''; {wait}']
    workingDir: /tmp
    env:
    - {{name: GREETING, value: 'hello $(FROM)'}}
    - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: s, key: password}}}}}}
    - {{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    envFrom: [{{configMapRef: {{name: m}}, prefix: M_}}]
    volumeMounts:
    - {{name: config, mountPath: /config}}
    - {{name: secret, mountPath: /secret/key, subPath: password}}
    - {{name: all, mountPath: /all}}
    - {{name: memory, mountPath: /memory}}
    - {{name: disk, mountPath: /disk/a, subPathExpr: 'of/$(POD)'}}
    - {{name: disk, mountPath: /disk}}
    - {{name: claim, mountPath: /claim}}
    - {{name: host, mountPath: /host}}
  volumes:
  - {{name: config, configMap: {{name: m}}}}
  - {{name: secret, secret: {{secretName: s, defaultMode: 0400}}}}
  - name: all
    projected:
      sources:
      - configMap: {{name: m, items: [{{key: KEY, path: deep/key}}]}}
      - downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}
  - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
  - {{name: disk}}
  - {{name: claim, persistentVolumeClaim: {{claimName: data}}}}
  - {{name: host, hostPath: {{path: {host}, type: DirectoryOrCreate}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: m}}
data: {{KEY: value}}
---
apiVersion: v1
kind: Secret
metadata: {{name: s}}
stringData: {{password: hunter2}}
",
        wait = WAIT.replace('\'', "''"),
        host = host.display(),
    )
}

#[test]
fn variables_files_and_volumes_come_from_the_manifest() {
    let pods = Pods::new();
    let name = pods.name("config");
    let manifest = with_everything(&name, &pods.runtime.path("host-dir"));
    let id = pods.start(&manifest);
    let sh = |script: &str| pods.sh(&id, "app", script);
    pods.wait_log(&id, "app", "hello image $(X)");
    assert_eq!(
        sh("pwd; hostname; echo $PASSWORD $POD $IP $M_KEY"),
        format!("/tmp\ninside\nhunter2 {name} 127.0.0.1 value\n")
    );
    assert_eq!(sh("cat /config/KEY /secret/key /all/deep/key /all/labels"), "valuehunter2valueapp=\"web\"");
    assert_eq!(sh("stat -c %a:%g /secret/key"), "440:77\n");
    assert!(pods.call(&["exec", &id, "touch", "/config/x"]).code != 0, "files of a config map are read-only");
    assert!(sh("df /memory").contains("1024"), "the size limit of memory");
    assert_eq!(sh(&format!("echo x > /disk/a/f; cat /disk/of/{name}/f; stat -c %g /disk")), "x\n77\n");
    sh("echo kept > /claim/f; echo out > /host/f");
    assert_eq!(fs::read_to_string(pods.runtime.path("host-dir/f")).unwrap(), "out\n");
    let hosts = sh("cat /etc/hosts /etc/resolv.conf");
    assert!(hosts.contains("192.0.2.7\tseven.example") && hosts.contains("nameserver 192.0.2.53"), "{hosts}");
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
    let claim = pods.runtime.store().join("volumes/default_data/f");
    assert_eq!(fs::read_to_string(claim).unwrap(), "kept\n", "a claim outlives its pod");
}

#[test]
fn init_containers_run_in_order_and_a_sidecar_is_started_again() {
    let pods = Pods::new();
    let name = pods.name("init");
    let mount = "volumeMounts: [{name: v, mountPath: /v}]";
    let spec = format!(
        "{{initContainers: [{}, {}, {}], containers: [{}], volumes: [{{name: v}}]}}",
        container("one", "echo one >> /v/log", mount),
        container(
            "side",
            "echo side >> /v/log; sleep 600 & wait",
            &format!("restartPolicy: Always, {mount}")
        ),
        container("two", "echo two >> /v/log", mount),
        container("app", &format!("echo app >> /v/log; {WAIT}"), mount),
    );
    let id = pods.start(&manifest(&name, &spec));
    let log = || pods.sh(&id, "app", "cat /v/log");
    // Nobody waits for what a sidecar does first.
    let lines = poll("all to have run", || {
        Some(log()).filter(|lines| lines.contains("app") && lines.contains("side"))
    });
    assert!(lines.starts_with("one\n") && lines.find("two") < lines.find("app"), "{lines}");
    pods.call(&["exec", "-c", "side", &id, "kill", "-9", "1"]);
    pods.call(&["exec", "-c", "side", &id, "sh", "-c", "kill -TERM -1"]);
    poll("the sidecar to run again", || {
        let status = pods.status(&id);
        let side = &status["containers"][1];
        (side["restarts"].as_u64() > Some(0) && side["state"] == "running").then_some(())
    });
    assert_eq!(pods.status(&id)["phase"], "Running");
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn a_container_is_who_it_should_be_and_may_do_no_more() {
    let pods = Pods::new();
    let name = pods.name("security");
    let spec = format!(
        "{{securityContext: {{runAsUser: 1000, runAsGroup: 1001, supplementalGroups: [1002], sysctls: [{{name: net.core.somaxconn, value: '99'}}]}},
          containers: [{}, {}, {}]}}",
        container("plain", WAIT, "securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false}"),
        container("root", WAIT, "securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [NET_ADMIN]}}, resources: {limits: {memory: 64Mi, cpu: 500m}}"),
        container("all", WAIT, "securityContext: {runAsUser: 0, privileged: true}"),
    );
    let id = pods.start(&manifest(&name, &spec));
    let sh = |container: &str, script: &str| pods.sh(&id, container, script);
    assert_eq!(sh("plain", "id -u; id -g; id -G"), "1000\n1001\n1001 1002\n");
    assert!(sh("plain", "grep NoNewPrivs /proc/self/status").contains('1'));
    assert_eq!(sh("plain", "touch /x 2>/dev/null || echo denied"), "denied\n");
    assert_eq!(sh("root", "cat /proc/sys/net/core/somaxconn"), "99\n");
    assert!(sh("root", "grep CapEff /proc/self/status").contains("0000000000001000"));
    let ours = fs::read_to_string("/proc/self/status").unwrap();
    let ours = ours.lines().find(|line| line.starts_with("CapBnd")).unwrap();
    assert_eq!(sh("all", "grep CapBnd /proc/self/status").trim(), ours, "all that this host has");
    assert!(
        sh("plain", "ls /proc/kcore /proc/acpi 2>&1 | head -1; cat /proc/timer_list | wc -c").contains('0')
    );
    let stats: Value = serde_json::from_str(&pods.ok(&["stats", "--format", "json", &id])).unwrap();
    assert_eq!(stats["root"]["memory"]["usage"]["limit"], 64 << 20, "{stats}");
    assert_eq!(stats["plain"]["memory"]["usage"]["limit"], 256 << 20, "memory is limited by default");
    let inside = sh("all", "ls /dev | wc -l");
    assert!(
        inside.trim().parse::<u32>().unwrap() > 15,
        "a privileged container has the host's devices: {inside}"
    );
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
}

#[test]
fn a_container_that_runs_out_of_memory_says_so() {
    let pods = Pods::new();
    let script = format!("{UNTIL_TOLD}; exec tail /dev/zero");
    let greedy = container("a", &script, &format!("resources: {{limits: {{memory: 16Mi}}}}, {HEARS}"));
    let spec = format!("{{containers: [{greedy}], volumes: [{TOLD}]}}");
    let id = pods.start(&manifest(&pods.name("greedy"), &spec));
    pods.tell(&id);
    pods.assert_out_of_memory(&id);
    assert!(pods.ok(&["status", &id]).contains("exited (OOMKilled)"));
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn namespaces_are_shared_as_the_manifest_says() {
    let pods = Pods::new();
    let (shared, host) = (pods.name("shared"), pods.name("host"));
    let two = format!("containers: [{}, {}]", container("a", WAIT, ""), container("b", WAIT, ""));
    let id = pods.start(&manifest(&shared, &format!("{{shareProcessNamespace: true, {two}}}")));
    let of = |pod: &str, container: &str, kind: &str| {
        pods.sh(pod, container, &format!("readlink /proc/self/ns/{kind}"))
    };
    for kind in ["net", "ipc", "uts", "pid"] {
        assert_eq!(of(&id, "a", kind), of(&id, "b", kind), "{kind}");
    }
    assert_ne!(of(&id, "a", "mnt"), of(&id, "b", "mnt"));
    assert!(
        pods.sh(&id, "a", "ps").contains("magikrun-infra"),
        "the infra container is the first of a shared namespace"
    );
    assert_eq!(pods.sh(&id, "a", "echo x > /dev/shm/x; ip -o addr show lo | grep -c 127.0.0.1"), "1\n");
    assert_eq!(pods.sh(&id, "b", "cat /dev/shm/x"), "x\n", "memory is shared");
    let spec = format!("{{hostNetwork: true, hostPID: true, hostIPC: true, {two}}}");
    let on_host = pods.start(&manifest(&host, &spec));
    for kind in ["net", "ipc", "pid"] {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_eq!(of(&on_host, "a", kind).trim(), ours.to_str().unwrap(), "{kind}");
    }
    pods.ok(&["delete", "--force", &id, &on_host]);
    pods.assert_nothing_left();
}

#[test]
fn the_end_of_containers_is_the_end_of_the_pod() {
    let pods = Pods::new();
    for (suffix, policy, scripts, phase, code) in [
        ("done", "Never", ["exit 0", "sleep 0.3"], "Succeeded", 0),
        ("failed", "Never", ["exit 3", WAIT], "Failed", 3),
        ("always", "Always", ["sleep 0.2", WAIT], "Succeeded", 0),
    ] {
        let name = pods.name(suffix);
        let containers = format!(
            "[{}, {}]",
            container("a", &format!("{UNTIL_TOLD}; {}", scripts[0]), HEARS),
            container("b", scripts[1], "")
        );
        let spec = format!("{{restartPolicy: {policy}, containers: {containers}, volumes: [{TOLD}]}}");
        let id = pods.start(&manifest(&name, &spec));
        pods.tell(&id);
        let waited = pods.call(&["wait", &id]).exits(code);
        assert_eq!(waited.stdout.trim(), phase, "{suffix}");
        let status = pods.status(&id);
        assert_eq!(status["phase"], phase, "{status}");
        if phase == "Failed" {
            assert!(
                status["reason"].as_str().unwrap().contains("container 'a' has exited with code 3"),
                "{status}"
            );
        }
        pods.ok(&["delete", &id]);
    }
    let name = pods.name("deadline");
    let spec = format!("{{activeDeadlineSeconds: 1, containers: [{}]}}", container("a", WAIT, ""));
    let id = pods.start(&manifest(&name, &spec));
    pods.call(&["wait", &id]);
    assert!(pods.status(&id)["reason"].as_str().unwrap().contains("activeDeadlineSeconds"));
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn probes_and_hooks_decide_when_a_container_has_started_works_and_has_failed() {
    let pods = Pods::new();
    let name = pods.name("probes");
    let probes = "startupProbe: {exec: {command: [test, -e, /started]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 60},
        readinessProbe: {httpGet: {path: /ready, port: web}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1},
        livenessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1},
        ports: [{name: web, containerPort: 8000}],
        lifecycle: {postStart: {exec: {command: [touch, /hooked]}}, preStop: {exec: {command: [touch, /v/stopped]}}},
        volumeMounts: [{name: v, mountPath: /v}]";
    let script = "trap 'exit 0' TERM; mkdir /www; httpd -p 8000 -h /www; until test -e /hooked; do sleep 0.1; done; touch /started; sleep 600 & wait";
    let spec = format!(
        "{{terminationGracePeriodSeconds: 20, containers: [{}], volumes: [{{name: v, hostPath: {{path: {}, type: DirectoryOrCreate}}}}]}}",
        container("app", script, probes),
        pods.runtime.path("hooks").display()
    );
    let id = pods.start(&manifest(&name, &spec));
    // The start has waited for the startup probe, which needs what the hook has made.
    pods.sh(&id, "app", "test -e /started");
    assert_eq!(pods.status(&id)["containers"][0]["ready"], false);
    pods.sh(&id, "app", "touch /www/ready");
    poll("the container to be ready", || (pods.status(&id)["containers"][0]["ready"] == true).then_some(()));
    pods.sh(&id, "app", "rm /www/ready");
    poll("the container not to be ready", || {
        (pods.status(&id)["containers"][0]["ready"] == false).then_some(())
    });
    pods.sh(&id, "app", "killall httpd");
    let status = pods.wait_phase(&id, "Failed");
    assert!(status["reason"].as_str().unwrap().contains("liveness probe of container 'app'"), "{status}");
    assert!(pods.runtime.path("hooks/stopped").exists(), "the preStop hook runs");
    let events = pods.ok(&["events", &id]);
    for event in
        ["containerStarted", "containerReady", "podStarted", "podStopping", "containerExited", "podEnded"]
    {
        assert!(events.contains(event), "{event} is missing in {events}");
    }
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn logs_are_shown_by_container_time_and_number_and_followed() {
    let pods = Pods::new();
    let name = pods.name("logs");
    let script = "for i in 1 2 3; do echo line $i; done; echo err >&2; printf part; trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done";
    let id = pods.start(&manifest(
        &name,
        &format!("{{containers: [{}, {}]}}", container("a", script, ""), container("b", WAIT, "")),
    ));
    pods.wait_log(&id, "a", "line 3");
    assert_eq!(pods.ok(&["logs", "--tail", "0", &id]), "");
    // It comes through another pipe.
    poll("what it says to standard error", || pods.call(&["logs", &id]).stderr.contains("err").then_some(()));
    assert!(pods.ok(&["logs", "--timestamps", &id, "a"]).lines().next().unwrap().starts_with("20"));
    assert_eq!(pods.ok(&["logs", "--since", "1h", &id, "b"]), "");
    pods.call(&["logs", &id, "none"]).fails_with(1, &["has no container 'none'"]);
    let follow = start(pods.command(&["logs", "-f", &id, "a"]), None);
    let attach = start(pods.command(&["attach", &id]), None);
    let events = start(pods.command(&["events", "-f", &id]), None);
    follow.wait_stdout("line 3");
    events.wait_stdout("podStarted");
    // Whoever attaches sees what comes from then on; wait until it looks.
    poll("the attached command to watch", || {
        let path = format!("/proc/{}/fd", attach.pid());
        let links = fs::read_dir(path).ok()?.flatten().filter_map(|e| fs::read_link(e.path()).ok());
        links.into_iter().any(|link| link.to_string_lossy().contains("inotify")).then_some(())
    });
    pods.ok(&["stop", &id]);
    let output = follow.finish().success();
    assert!(output.stdout.ends_with("bye\n") || output.stdout.contains("bye"), "{}", output.stdout);
    assert!(attach.finish().success().stdout.contains("a: partbye"));
    assert!(events.finish().success().stdout.contains("podEnded"));
    // In the format of CRI.
    let file = pods.runtime.store().join("pods").join(&id).join("logs/a.log");
    let text = fs::read_to_string(file).unwrap();
    assert!(
        text.lines().all(|line| line.split(' ').nth(2).is_some_and(|tag| tag == "F" || tag == "P")),
        "{text}"
    );
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

#[test]
fn files_are_copied_in_and_out_and_a_port_is_forwarded() {
    use std::io::{Read as _, Write as _};
    let pods = Pods::new();
    let name = pods.name("copy");
    let script = format!(
        "mkdir -p /d/sub; echo deep > /d/sub/f; ln -s /etc/passwd /d/link; mkdir /www; echo page > /www/p; httpd -p 80 -h /www; {WAIT}"
    );
    let id = pods.start(&manifest(&name, &format!("{{containers: [{}]}}", container("c", &script, ""))));
    poll("the files", || (pods.call(&["exec", &id, "test", "-e", "/www/p"]).code == 0).then_some(()));
    let out = pods.runtime.path("out");
    pods.ok(&["cp", &format!("{id}:/d"), out.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(out.join("sub/f")).unwrap(), "deep\n");
    assert_eq!(fs::read_link(out.join("link")).unwrap().to_str(), Some("/etc/passwd"), "links stay links");
    let file = pods.runtime.file("in", "from host");
    pods.ok(&["cp", file.to_str().unwrap(), &format!("{name}:/tmp")]);
    assert_eq!(pods.sh(&id, "c", "cat /tmp/in"), "from host");
    // A link in the container leads to the container's own files, never to the host's.
    pods.sh(&id, "c", "ln -s /etc/hostname /tmp/leak; echo own > /etc/own; ln -s /etc/own /tmp/own");
    pods.ok(&["cp", &format!("{id}:/tmp/own"), pods.runtime.path("own").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(pods.runtime.path("own")).unwrap(), "own\n");
    let forward = start(pods.command(&["port-forward", &id, "0:80"]), None);
    forward.wait_stdout("->");
    let address = forward.stdout().split_whitespace().next().unwrap().to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    stream.write_all(b"GET /p HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("200 OK") && answer.ends_with("page\n"), "{answer}");
    common::signal(forward.pid(), rustix::process::Signal::TERM);
    forward.finish();
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
}

#[test]
fn a_pod_in_a_microvm_is_refused_where_none_boots_and_never_run_as_another() {
    let pods = Pods::new();
    let spec = format!("{{runtimeClassName: microvm, containers: [{}]}}", container("a", WAIT, ""));
    pods.run(&[], &manifest(&pods.name("vm"), &spec)).fails_with(1, &["cannot run a microVM: "]);
    pods.assert_nothing_left();
}
