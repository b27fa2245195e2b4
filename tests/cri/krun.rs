//! Pods whose containers share a microVM, on a kernel that boots it: see `conformance containerd`.

use crate::client::{
    Attach, ContainerConfig, ContainerLinux, Cri, Empty, Mount, Namespaces, PodConfig, PodLinux, PortForward,
    Resources, Security, StatsAnswer, StopContainer, Update, Url,
};
use crate::common::{leftover_cgroups, names_in, poll, signal};
use crate::sandbox::{MICROVM_HANDLER, has_sandboxers};
use crate::websocket::WebSocket;
use crate::{id, log, volumes};
use rustix::process::Signal;
use std::fs;
use std::path::Path;

/// What a container may use.
const MEMORY: i64 = 48 << 20;

fn limited(memory: i64) -> Resources {
    Resources { memory_limit: memory, ..Resources::default() }
}

/// A pod as large as three such containers: the machine has little.
fn pod_config(cri: &Cri) -> PodConfig {
    let config = cri.pod_config("pod");
    let linux =
        PodLinux { resources: Some(limited(3 * MEMORY)), ..config.linux.clone().expect("a configuration") };
    PodConfig { linux: Some(linux), ..config }
}

/// A container with the volume of the pod, and processes of its own as those of the kubelet have.
pub(crate) fn member(cri: &Cri, name: &str, script: &str) -> ContainerConfig {
    let security = Security { namespaces: Some(Namespaces { pid: 1, users: None }) };
    let volume = cri.containerd.path("volume").display().to_string();
    ContainerConfig {
        mounts: vec![Mount { container_path: "/volume".to_owned(), host_path: volume, readonly: false }],
        linux: Some(ContainerLinux { resources: Some(limited(MEMORY)), security: Some(security) }),
        ..Cri::script(name, script)
    }
}

/// The virtual machine monitors that run: whoever has a machine of the hypervisor.
fn monitors() -> Vec<i32> {
    let pids = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
    let has_machine = |pid: &i32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut files = files.filter_map(|file| fs::read_link(file.path()).ok());
        files.any(|path| path == Path::new("anon_inode:kvm-vm"))
    };
    pids.filter(has_machine).collect()
}

#[test]
#[ignore = "needs a /dev/kvm that guests boot on"]
fn containers_of_a_pod_share_a_microvm() {
    if !volumes::in_guest() {
        pod_of("magikrun-krun", "sleep 1000000");
    }
}

#[test]
#[ignore = "needs a /dev/kvm that guests boot on"]
fn containers_of_a_pod_share_the_microvm_that_the_shim_makes_its_sandbox() {
    if has_sandboxers() {
        pod_of(MICROVM_HANDLER, "/sandbox become-sandbox");
    } else {
        eprintln!("unsupported: sandboxers of containerd");
    }
}

/// The life of a pod of a handler, whose sandbox executes this.
fn pod_of(handler: &str, sandbox: &str) {
    let cri = Cri::new();
    fs::create_dir(cri.containerd.path("volume")).expect("the volume");
    let config = pod_config(&cri);
    let pod = cri.run_pod_of(handler, &config);
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let script = format!(
        "trap 'exit 42' TERM; mkdir /www; echo answer >/www/file; echo mine >/dev/shm/file; httpd -p 8080 -h /www; \
         {boot}; uname -r; hostname; cat /etc/hostname; while :; do sleep 0.2; done"
    );
    let web = cri.start(&pod, &config, member(&cri, "web", &script));
    let printed = poll("the log", || Some(log(&cri, "web.log")).filter(|text| text.lines().count() == 4));
    let (kernel, rest) = printed.split_once('\n').expect("lines");
    // It has a kernel of its own, and what the pod shares.
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    assert!(!rest.starts_with(host.trim()) && rest.ends_with("\npod\npod\n"), "{printed}");

    let script = format!(
        "{boot}; cat /dev/shm/file; wget -q -O - http://127.0.0.1:8080/file; ls / | grep -c www; echo told >/volume/told; \
         cat /proc/1/comm; exit 4"
    );
    let short = cri.start(&pod, &config, member(&cri, "short", &script));
    poll("the end of the short one", || (cri.status(&short).state == 2).then_some(()));
    assert_eq!((cri.status(&short).exit_code, cri.status(&web).state), (4, 1));
    // The same kernel and network, and a root and processes of its own.
    let expected = format!("{kernel}\nmine\nanswer\n0\nsh\n");
    poll("the log", || (log(&cri, "short.log") == expected).then_some(()));
    assert_eq!(fs::read_to_string(cri.containerd.path("volume").join("told")).expect("a file"), "told\n");
    assert_eq!((cri.containerd.shims().len(), monitors().len()), (1, 1));

    let answer = cri.exec(&web, "hostname; cat /volume/told; echo err >&2; exit 6");
    assert_eq!(
        (answer.stdout.as_slice(), answer.stderr.as_slice(), answer.exit_code),
        (&b"pod\ntold\n"[..], &b"err\n"[..], 6)
    );
    let stats = cri.call::<StatsAnswer>("ContainerStats", &id(&web)).stats.unwrap();
    assert!(
        stats.memory.unwrap().working_set.unwrap().value > 0 && stats.cpu.unwrap().total.unwrap().value > 0
    );
    let update = Update { id: web.clone(), linux: Some(limited(2 * MEMORY)) };
    cri.call::<Empty>("UpdateContainerResources", &update);
    let limit = cri.exec(&web, "cat /sys/fs/cgroup/memory.max").stdout;
    assert_eq!(String::from_utf8_lossy(&limit), format!("{}\n", 2 * MEMORY));
    let url = cri.call::<Url>("PortForward", &PortForward { pod: pod.clone(), ports: vec![8080] }).url;
    let mut stream = WebSocket::open(&url, cri.containerd.host_pid());
    stream.send(0, b"GET /file HTTP/1.0\r\n\r\n");
    assert!(
        stream.receive_until(0, "answer\n").contains("answer\n"),
        "{} {}",
        stream.text(0),
        stream.text(1)
    );

    cri.call::<Empty>("StopContainer", &StopContainer { id: web.clone(), timeout: 200 });
    assert_eq!((cri.status(&web).state, cri.status(&web).exit_code), (2, 42));
    cri.call::<Empty>("RemoveContainer", &id(&web));
    what_runs_out_of_memory_is_told_of(&cri, &pod, &config);
    volumes::is_one_for_all_containers(&cri, &pod, &config);
    a_terminal_is_the_guests(&cri, &pod, &config);
    processes_are_shared_where_the_pod_says_so(&cri, &pod, &config, sandbox);
    killed_processes_end_what_they_stand_for(&cri, &pod, &config);
    cri.remove_pod(&pod);
    poll("the shim to end", || cri.containerd.shims().is_empty().then_some(()));
    let left = leftover_cgroups(&cri.cgroup);
    assert!(left.iter().all(|path| path.ends_with(&cri.cgroup)), "{left:?}");
    let root = names_in(&cri.containerd.runtime_root());
    assert!(root.iter().all(|name| name.ends_with('~') || name.starts_with('~')), "{root:?}");
}

/// By the limit that holds in the guest.
fn what_runs_out_of_memory_is_told_of(cri: &Cri, pod: &str, config: &PodConfig) {
    let linux = Some(ContainerLinux { resources: Some(limited(24 << 20)), security: None });
    let greedy = ContainerConfig { linux, ..member(cri, "greedy", "exec tail /dev/zero") };
    let greedy = cri.start(pod, config, greedy);
    poll("its end", || (cri.status(&greedy).state == 2).then_some(()));
    // The event may be heard after that.
    poll("the reason", || (cri.status(&greedy).reason == "OOMKilled").then_some(()));
    assert_eq!(cri.status(&greedy).exit_code, 137);
}

/// As containers of a pod with `shareProcessNamespace` have it.
fn processes_are_shared_where_the_pod_says_so(cri: &Cri, pod: &str, config: &PodConfig, sandbox: &str) {
    let shares = |name: &str, script: &str| {
        cri.start(pod, config, ContainerConfig { linux: None, ..member(cri, name, script) })
    };
    let seen = shares("seen", "sleep 4321 & wait");
    let look = "grep -q '432[1]' /proc/[0-9]*/cmdline";
    let script = format!("until {look}; do sleep 0.2; done; tr '\\0' ' ' </proc/1/cmdline; exit 8");
    let sees = shares("sees", &script);
    poll("its end", || (cri.status(&sees).state == 2).then_some(()));
    assert_eq!((cri.status(&sees).exit_code, cri.status(&seen).state), (8, 1));
    poll("the log", || log(cri, "sees.log").contains(sandbox).then_some(()));
    cri.call::<Empty>("StopContainer", &StopContainer { id: seen, timeout: 0 });
    let gone = shares("gone", &format!("if {look}; then exit 9; fi; exit 4"));
    poll("its end", || (cri.status(&gone).state == 2).then_some(()));
    assert_eq!(cri.status(&gone).exit_code, 4, "a process has outlived its container");
}

/// Its size, what is typed, what is shown, and how it ends.
fn a_terminal_is_the_guests(cri: &Cri, pod: &str, config: &PodConfig) {
    let script = "tty; until [ \"$(stty size)\" = '41 101' ]; do sleep 0.2; done; echo sized; read line; echo got $line; exit 5";
    let typed = ContainerConfig { tty: true, stdin: true, ..member(cri, "typed", script) };
    let typed = cri.start(pod, config, typed);
    let attach = Attach { id: typed.clone(), stdin: true, stdout: true, stderr: false, tty: true };
    let mut stream = WebSocket::open(&cri.call::<Url>("Attach", &attach).url, cri.containerd.host_pid());
    stream.send(4, br#"{"Width": 101, "Height": 41}"#);
    stream.receive_until(1, "sized");
    stream.send(0, b"line\n");
    let shown = stream.receive_until(1, "got line");
    assert!(shown.contains("line\r\ngot line\r\n"), "the terminal shows what is typed: {shown}");
    poll("its end", || (cri.status(&typed).state == 2).then_some(()));
    assert_eq!(cri.status(&typed).exit_code, 5);
    assert!(log(cri, "typed.log").starts_with("/dev/"), "{}", log(cri, "typed.log"));
}

/// The process that stands for a container, and then the monitor, which stands for all.
fn killed_processes_end_what_they_stand_for(cri: &Cri, pod: &str, config: &PodConfig) {
    let writes = |name: &str| {
        let script = format!("while :; do echo >>/volume/{name}; sleep 0.2; done");
        cri.start(pod, config, member(cri, name, &script))
    };
    let length = |name: &str| fs::metadata(cri.containerd.path("volume").join(name)).map_or(0, |it| it.len());
    let (first, second) = (writes("first"), writes("second"));
    poll("both to write", || (length("first") > 0 && length("second") > 0).then_some(()));
    let (pid, _) = cri.containerd.task(&first).expect("a task");
    signal(pid, Signal::KILL);
    poll("the end of the first", || (cri.status(&first).state == 2).then_some(()));
    assert_eq!((cri.status(&first).exit_code, cri.status(&second).state), (137, 1));
    poll("it to write no more", || {
        let before = (length("first"), length("second"));
        poll("the second to write", || (length("second") > before.1 + 5).then_some(()));
        (length("first") == before.0).then_some(())
    });
    signal(monitors()[0], Signal::KILL);
    poll("the end of the second", || (cri.status(&second).state == 2).then_some(()));
    assert_eq!(cri.status(&second).exit_code, 137);
    assert!(monitors().is_empty());
}
