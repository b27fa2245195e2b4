//! Pods and user ids: of users without privileges, and with ids of their own.
mod common;

use common::pods::{USER, WAIT, container, infra, manifest, monitor, pasta};
use common::{Pods, is_alive, leftover_cgroups, poll, require_program, signal};
use rustix::process::Signal;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;

/// Enough ids for `nobody`.
const LENT: &str = "nobody:300000:65536\n";

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.write_all(b"GET /p HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer).filter(|text| text.ends_with("page\n"))
}

/// A pod with a port of the host, and volumes of every place: disk, memory, host.
fn web(name: &str, port: u16, host: &str, fields: &str) -> String {
    let mounts =
        "volumeMounts: [{name: d, mountPath: /d}, {name: m, mountPath: /m}, {name: h, mountPath: /h}]";
    let serve = format!("mkdir /www; echo page > /www/p; httpd -p 80 -h /www; echo served; {WAIT}");
    let spec = format!(
        "{{{fields} containers: [{}, {}],
           volumes: [{{name: d}}, {{name: m, emptyDir: {{medium: Memory}}}}, {{name: h, hostPath: {{path: '{host}'}}}}]}}",
        container("web", &serve, &format!("{mounts}, ports: [{{containerPort: 80, hostPort: {port}}}]")),
        container(
            "side",
            &format!("echo x > /d/f; {WAIT}"),
            &format!("lifecycle: {{postStart: {{exec: {{command: [touch, /m/hooked]}}}}}}, {mounts}")
        ),
    );
    manifest(name, &spec)
}

/// Waits until the container `side` of [`web`] has written what `web` reads.
fn await_side(pods: &Pods, pod: &str) {
    poll("what the other container writes", || {
        (pods.call(&["exec", "-c", "web", pod, "test", "-s", "/d/f"]).code == 0).then_some(())
    });
}

fn owner(path: &std::path::Path) -> (u32, u32) {
    let metadata = fs::metadata(path).expect("the file");
    (metadata.uid(), metadata.gid())
}

/// The life of a pod of a user with these lines of subuid(5).
fn life_of_a_users_pod(lent: &str) {
    require_program("pasta");
    let pods = Pods::of_user(lent, "");
    let (name, port, host) = (pods.name("mine"), free_port(), pods.runtime.path("host"));
    fs::create_dir(&host).unwrap();
    std::os::unix::fs::chown(&host, Some(USER), Some(USER)).unwrap();
    let id = pods.start(&web(&name, port, host.to_str().unwrap(), ""));
    poll("an answer of the pod", || get(port));
    await_side(&pods, &id);
    assert_eq!(pods.sh(&id, "web", "id -u; cat /d/f; echo y > /h/f; echo y > /m/f"), "0\nx\n");
    assert_eq!(pods.sh(&id, "side", "cat /m/f; ls /m"), "y\nf\nhooked\n");
    assert_eq!(owner(&host.join("f")), (USER, USER), "root of the pod is the user");
    pods.wait_log(&id, "web", "served");
    assert_eq!(pods.status(&id)["phase"], "Running");
    let probed = pods.call(&["exec", "-c", "side", &id, "sh", "-c", "exit 5"]);
    probed.exits(5);
    pods.ok(&["cp", "-c", "side", &format!("{id}:/d/f"), host.to_str().unwrap()]);
    copies_belong_to_root_of(&pods, &id, ["/d", "/m", "/h", "/root"]);
    let forward = common::start(pods.command(&["port-forward", &id, "0:80"]), None);
    forward.wait_stdout("-> 80");
    let told = forward.stdout();
    let forwarded = told.split_once(" ->").and_then(|(at, _)| at.rsplit(':').next()?.parse().ok());
    assert!(get(forwarded.expect("a port")).is_some(), "{told} {}", forward.stderr());
    signal(forward.pid(), Signal::TERM);
    forward.finish();
    pods.ok(&["stop", &id]);
    assert_eq!(pods.status(&id)["phase"], "Stopped");
    pods.ok(&["delete", &id]);
    pods.assert_nothing_left();
}

/// Copies a directory into these of the container `web`, where it and its file belong to root.
#[track_caller]
fn copies_belong_to_root_of(pods: &Pods, pod: &str, places: [&str; 4]) {
    let source = pods.runtime.path("source");
    if !source.exists() {
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "copied").unwrap();
        std::os::unix::fs::symlink("file", source.join("link")).unwrap();
    }
    for place in places {
        pods.sh(pod, "web", &format!("mkdir -p {place}"));
        pods.ok(&["cp", "-c", "web", source.to_str().unwrap(), &format!("{pod}:{place}")]);
        let script = format!("cd {place}/source; stat -c %u:%g . file link | sort -u; cat link");
        assert_eq!(pods.sh(pod, "web", &script), "0:0\ncopied", "{place}");
    }
}

#[test]
fn a_user_with_one_id_runs_pods() {
    life_of_a_users_pod("");
}

#[test]
fn a_user_with_lent_ids_runs_pods() {
    life_of_a_users_pod(LENT);
}

#[test]
fn a_users_pod_may_be_who_it_wants_to_be_among_the_ids_that_are_lent() {
    let spec = format!(
        "{{securityContext: {{runAsUser: 1000, runAsGroup: 1000, fsGroup: 77}}, shareProcessNamespace: true,
           containers: [{}], volumes: [{{name: v}}]}}",
        container("a", WAIT, "volumeMounts: [{name: v, mountPath: /v}]")
    );
    let pods = Pods::of_user(LENT, "");
    let name = pods.name("ids");
    let id = pods.start(&manifest(&name, &spec));
    assert_eq!(pods.sh(&id, "a", "id -u; id -g; touch /v/f; stat -c %u:%g /v/f"), "1000\n1000\n1000:77\n");
    let file = pods.runtime.store().join("pods").join(&id).join("volumes/v/f");
    assert_eq!(owner(&file), (300_999, 300_076));
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
    let alone = Pods::of_user("", "");
    let refused = alone.run(&[], &manifest(&alone.name("ids"), &spec));
    refused.fails_with(1, &["id 1000 is not among the 1 that the pod can have", "/etc/subuid"]);
    alone.assert_nothing_left();
}

#[test]
fn files_are_copied_between_pods_of_a_user() {
    let pods = Pods::of_user(LENT, "");
    let script =
        format!("mkdir -p /d/sub; echo secret > /d/sub/f; chmod 600 /d/sub/f; chmod 700 /d/sub; {WAIT}");
    let of = |name: &str, fields: &str| {
        let spec = format!(
            "{{{fields} containers: [{}], volumes: [{{name: d}}]}}",
            container("a", &script, "volumeMounts: [{name: d, mountPath: /d}]")
        );
        pods.start(&manifest(&pods.name(name), &spec))
    };
    let root = of("root", "");
    let other = of("other", "securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000},");
    for pod in [&root, &other] {
        poll("the files", || (pods.call(&["exec", pod, "cat", "/d/sub/f"]).code == 0).then_some(()));
    }
    for (from, to) in [(&other, &root), (&root, &other)] {
        pods.ok(&["cp", &format!("{from}:/d/sub"), &format!("{to}:/tmp")]);
    }
    assert_eq!(
        pods.sh(&root, "a", "cat /tmp/sub/f; stat -c %u:%a /tmp/sub /tmp/sub/f"),
        "secret\n0:700\n0:600\n"
    );
    assert_eq!(pods.sh(&other, "a", "stat -c %u:%a /tmp/sub"), "0:700\n", "root of the pod has made it");
    for pod in [root, other] {
        pods.ok(&["delete", "--force", &pod]);
    }
    pods.assert_nothing_left();
}

#[test]
fn what_needs_root_is_refused_to_a_user_by_name() {
    let pods = Pods::of_user(LENT, "");
    let name = pods.name("refused");
    for (spec, needle) in [
        ("hostPID: true,", "spec.hostPID: needs root"),
        ("resources: {limits: {memory: 64Mi}},", "rootless needs no limits"),
    ] {
        let spec = format!("{{{spec} containers: [{}]}}", container("a", WAIT, ""));
        pods.run(&[], &manifest(&name, &spec)).fails_with(1, &[needle]);
        pods.assert_nothing_left();
    }
}

/// A shell in a container of a pod with these fields has a terminal that a client types into.
fn types_into_a_terminal(pods: &Pods, fields: &str) {
    let shell = container("sh", "exec sh -i", "stdin: true, tty: true");
    let spec = format!("{{{fields} containers: [{shell}]}}");
    let id = pods.start(&manifest(&pods.name("tty"), &spec));
    let client = common::finish(pods.command(&["attach", "-i", &id]), Some(b"tty; id -u | sed s/^/user-/\n"));
    client.exits(0);
    let log = pods.wait_log(&id, "sh", "user-0");
    assert!(log.contains("/dev/"), "{log}");
    let told = pods.ok(&["exec", "-t", &id, "sh", "-c", "tty; stat -c owner-%u $(tty)"]);
    assert!(told.contains("/dev/pts/") && told.contains("owner-0"), "{told}");
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
}

#[test]
fn terminals_work_whosever_ids_the_pod_has() {
    types_into_a_terminal(&Pods::of_user("", ""), "");
    types_into_a_terminal(&Pods::of_user(LENT, ""), "shareProcessNamespace: true,");
    types_into_a_terminal(
        &Pods::new().configured("[pods]\nfirst_id = 1000000\nids = 65536\n"),
        "hostUsers: false,",
    );
}

/// Processes of a pod without a cgroup, by what its monitor is the parent of.
fn processes(name: &str) -> Vec<i32> {
    let monitor = monitor(name).expect("the monitor");
    let path = format!("/proc/{monitor}/task/{monitor}/children");
    fs::read_to_string(path).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[test]
fn a_users_pod_ends_as_a_whole_whatever_of_it_is_killed() {
    let pods = Pods::of_user(LENT, "");
    let name = pods.name("guarded");
    for victim in ["monitor", "infra", "pasta"] {
        let id = pods.start(&web(&name, free_port(), "/", ""));
        let all = processes(&name);
        assert!(all.len() >= 4, "infra container, pasta and two containers: {all:?}");
        let pid = match victim {
            "monitor" => monitor(&name),
            "infra" => infra(&name),
            _ => pasta(&name),
        };
        signal(pid.unwrap(), Signal::KILL);
        // Nobody has to call a command for that.
        for pid in all {
            poll(&format!("process {pid} to end after the death of the {victim}"), || {
                (!is_alive(pid)).then_some(())
            });
        }
        pods.wait_phase(&id, "Failed");
        pods.ok(&["delete", &id]);
        pods.assert_nothing_left();
    }
}

#[test]
fn a_user_who_was_given_a_cgroup_has_pods_in_it() {
    let script = format!(
        "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; cd /sys/fs/cgroup
         mkdir -p $NAME/own; chown {USER} $NAME $NAME/cgroup.procs $NAME/own/cgroup.procs; echo $$ > $NAME/own/cgroup.procs; cd /"
    );
    let name = common::unique_name();
    let pods = Pods::of_user(LENT, &script.replace("$NAME", &name));
    let pod = pods.name("delegated");
    let spec = format!("{{containers: [{}]}}", container("a", WAIT, ""));
    let id = pods.start(&manifest(&pod, &spec));
    let status = pods.status(&id);
    let infra = status["infra"]["pid"].as_i64().expect("the infra container");
    let cgroup = fs::read_to_string(format!("/proc/{infra}/cgroup")).unwrap();
    let expected = format!("/{name}/{}/{id}/_infra", pods.runtime.name());
    assert!(cgroup.lines().any(|line| line.starts_with("0::") && line.ends_with(&expected)), "{cgroup}");
    let statistics = pods.ok(&["stats", &id]);
    assert!(statistics.contains('a'), "{statistics}");
    pods.ok(&["delete", "--force", &id]);
    pods.assert_nothing_left();
    let left = leftover_cgroups(&name);
    assert!(!left.iter().any(|path| path.display().to_string().contains(&id)), "{left:?}");
    // Every command makes the cgroup again, also those that clean up.
    drop(pods);
    common::remove_cgroups(&name);
    assert!(leftover_cgroups(&name).is_empty());
}

#[test]
fn a_pod_with_ids_of_its_own_is_nobody_on_the_host() {
    let pods = Pods::new().configured("[pods]\nfirst_id = 700000\nids = 131072\n");
    let (port, host) = (free_port(), pods.runtime.path("host"));
    fs::create_dir(&host).unwrap();
    let (one, two, three) = (pods.name("one"), pods.name("two"), pods.name("three"));
    let id = pods.start(&web(&one, port, host.to_str().unwrap(), "hostUsers: false,"));
    poll("an answer of the pod", || get(port));
    await_side(&pods, &id);
    assert_eq!(
        pods.sh(&id, "web", "id -u; cat /d/f; cat /proc/self/uid_map | tr -s ' '"),
        "0\nx\n 0 700000 65536\n"
    );
    pods.sh(&id, "web", "echo y > /m/f; echo y > /h/f; touch /root-file; stat -c %u /etc/hosts /h /d /m | grep -qv 0 && exit 1; :");
    assert_eq!(pods.sh(&id, "side", "cat /m/f"), "y\n");
    assert_eq!(owner(&host.join("f")), (0, 0), "volumes of the host have the host's ids");
    let data = pods.runtime.store().join("pods").join(&id);
    assert_eq!(owner(&data.join("volumes/d/f")), (700_000, 700_000));
    copies_belong_to_root_of(&pods, &id, ["/d", "/m", "/h", "/root"]);
    assert_eq!(owner(&host.join("source/file")), (0, 0), "and as root on the host");
    pods.ok(&["cp", "-c", "web", &format!("{id}:/d/source"), pods.runtime.path("back").to_str().unwrap()]);
    assert_eq!(owner(&pods.runtime.path("back/file")), (0, 0));
    assert_eq!(owner(&data.join("bundles/web/upper/root-file")), (700_000, 700_000));
    let infra = pods.status(&id)["infra"]["pid"].as_i64().expect("the infra container");
    assert_eq!(fs::metadata(format!("/proc/{infra}")).unwrap().uid(), 700_000 + 65534);
    // No two pods have the same ids, and there are no more than were given.
    let plain = format!("{{hostUsers: false, containers: [{}]}}", container("a", WAIT, ""));
    let second = pods.start(&manifest(&two, &plain));
    assert!(pods.sh(&second, "a", "cat /proc/self/uid_map").contains("765536"));
    pods.run(&[], &manifest(&three, &plain))
        .fails_with(1, &["all user ids that are meant for pods are taken, by 2 pods"]);
    pods.ok(&["delete", "--force", &id, &second]);
    pods.start(&manifest(&three, &plain));
    pods.ok(&["delete", "--force", &three]);
    pods.assert_nothing_left();
}

#[test]
fn a_privileged_container_can_mount_for_the_host_where_it_is_asked_for() {
    let pods = Pods::new();
    let (name, shared) = (pods.name("shares"), pods.runtime.path("shared"));
    fs::create_dir(&shared).unwrap();
    let spec = format!(
        "{{containers: [{}], volumes: [{{name: h, hostPath: {{path: '{}'}}}}]}}",
        container(
            "a",
            &format!(
                "mkdir -p /h/m; mount -t tmpfs -o size=64k none /h/m && touch /h/m/from-pod; echo mounted; {WAIT}"
            ),
            "securityContext: {privileged: true}, volumeMounts: [{name: h, mountPath: /h, mountPropagation: Bidirectional}]"
        ),
        shared.display()
    );
    pods.run(&[], &manifest(&name, &spec)).fails_with(1, &["is not on a shared mount"]);
    pods.assert_nothing_left();
    let at = shared.to_str().unwrap();
    let mount = |args: &[&str]| {
        common::finish(
            {
                let mut c = std::process::Command::new("mount");
                c.args(args);
                c
            },
            None,
        )
        .success()
    };
    mount(&["--bind", at, at]);
    mount(&["--make-shared", at]);
    let id = pods.start(&manifest(&name, &spec));
    pods.wait_log(&id, "a", "mounted");
    let seen = shared.join("m/from-pod").exists();
    pods.ok(&["delete", "--force", &id]);
    let mut umount = std::process::Command::new("umount");
    umount.args(["--recursive", at]);
    common::finish(umount, None).success();
    assert!(seen, "the mount is seen on the host");
    pods.assert_nothing_left();
}
