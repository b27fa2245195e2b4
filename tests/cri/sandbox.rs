//! Pods whose sandbox our shim makes itself: the sandbox service of containerd 2.

use crate::client::{ContainerConfig, Cri, Empty, Id, PodStatusAnswer};
use crate::common::{engine_program, finish, is_alive, poll, signal, wait_dead};
use crate::{id, log};
use rustix::process::Signal;
use std::fs;
use std::process::Command;

/// The handler for such pods.
pub(crate) const HANDLER: &str = "magikrun-sandbox";
/// The one for microVMs.
pub(crate) const MICROVM_HANDLER: &str = "magikrun-krun-sandbox";
/// `PodSandboxState` of the CRI.
const READY: i32 = 0;
const NOT_READY: i32 = 1;

/// Whether containerd can leave sandboxes to shims: from version 2 on.
pub(crate) fn has_sandboxers() -> bool {
    let mut command = Command::new(engine_program("containerd"));
    command.arg("--version");
    let text = finish(command, None).success().stdout;
    let version =
        text.split_whitespace().nth(2).and_then(|version| version.trim_start_matches('v').split('.').next());
    version.and_then(|major| major.parse::<u32>().ok()).expect("a version") >= 2
}

fn state(cri: &Cri, pod: &str) -> i32 {
    cri.call::<PodStatusAnswer>("PodSandboxStatus", &id(pod)).status.expect("a status").state
}

/// What is mounted below the folder of containerd, as it sees it.
pub(crate) fn mounts(cri: &Cri) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", cri.containerd.host_pid())).expect("mounts");
    let state = cri.containerd.path("state").display().to_string();
    text.lines().filter(|line| line.contains(&state)).map(str::to_owned).collect()
}

#[test]
fn the_shim_makes_the_sandbox_where_containerd_leaves_it_to_shims() {
    if !has_sandboxers() {
        eprintln!("unsupported: sandboxers of containerd");
        return;
    }
    let mut cri = Cri::new();
    let config = cri.pod_config("pod");
    let pod = cri.run_pod_of(HANDLER, &config);
    assert_eq!(state(&cri, &pod), READY);
    let shims = cri.containerd.shims();
    assert_eq!(shims.len(), 1, "{shims:?}");
    // It is our process, and not that of a pause image.
    let (sandbox, _) = cri.containerd.task(&pod).expect("the sandbox");
    let line = || fs::read_to_string(format!("/proc/{sandbox}/cmdline")).expect("its command line");
    // It is empty for a moment after the program was executed.
    assert_eq!(
        poll("a command line", || Some(line()).filter(|it| !it.is_empty())),
        "/sandbox\0become-sandbox\0"
    );
    let start = |container: ContainerConfig| cri.start(&pod, &config, container);
    let first =
        start(Cri::script("first", "hostname; cat /etc/hostname; echo shared > /dev/shm/file; sleep 600"));
    poll("the log", || (log(&cri, "first.log") == "pod\npod\n").then_some(()));
    let second =
        start(Cri::script("second", "cat /dev/shm/file; ip addr show eth0 | grep -c 10.88.0; sleep 600"));
    poll("the log", || (log(&cri, "second.log") == "shared\n1\n").then_some(()));
    assert_eq!(cri.containerd.shims(), shims);
    let namespace =
        |pid: i32, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("a namespace");
    let (pid, _) = cri.containerd.task(&second).expect("a task");
    for name in ["net", "ipc", "uts", "pid"] {
        assert_eq!(namespace(pid, name), namespace(sandbox, name));
    }
    assert_ne!(namespace(pid, "mnt"), namespace(sandbox, "mnt"));
    // Whoever is left behind in the pod's pid namespace becomes its child.
    cri.exec(&first, "(sleep 0.2 &)");
    let children =
        || fs::read_to_string(format!("/proc/{sandbox}/task/{sandbox}/children")).expect("children");
    poll("orphans to be reaped", || children().is_empty().then_some(()));

    cri.containerd.crash();
    cri.containerd.start();
    poll("the CRI to answer", || cri.try_call::<PodStatusAnswer>("PodSandboxStatus", &id(&pod)).ok());
    assert_eq!(state(&cri, &pod), READY);
    assert_eq!(cri.exec(&first, "cat /dev/shm/file; exit 6").exit_code, 6);

    cri.call::<Empty>("StopPodSandbox", &Id { id: pod.clone() });
    assert_eq!(state(&cri, &pod), NOT_READY);
    assert!(!is_alive(sandbox) && !is_alive(pid));
    cri.call::<Empty>("RemovePodSandbox", &Id { id: pod.clone() });
    wait_dead(shims[0]);
    assert_eq!(mounts(&cri), Vec::<String>::new());
}

#[test]
fn a_sandbox_that_dies_is_not_ready_and_leaves_nothing() {
    if !has_sandboxers() {
        eprintln!("unsupported: sandboxers of containerd");
        return;
    }
    let cri = Cri::new();
    let pods = ["one", "two"].map(|name| cri.run_pod_of(HANDLER, &cri.pod_config(name)));
    let (sandbox, _) = cri.containerd.task(&pods[0]).expect("the sandbox");
    signal(sandbox, Signal::KILL);
    poll("the end to be seen", || (state(&cri, &pods[0]) == NOT_READY).then_some(()));
    cri.remove_pod(&pods[0]);
    // Of the other, the server dies.
    let shims = poll("its server to end", || Some(cri.containerd.shims()).filter(|shims| shims.len() == 1));
    let (sandbox, _) = cri.containerd.task(&pods[1]).expect("the sandbox");
    signal(shims[0], Signal::KILL);
    wait_dead(sandbox);
    // Until containerd has cleaned up, it is an error.
    poll("the end to be seen", || {
        let answer = cri.try_call::<PodStatusAnswer>("PodSandboxStatus", &id(&pods[1])).ok()?;
        answer.status.filter(|status| status.state == NOT_READY)
    });
    cri.remove_pod(&pods[1]);
    assert_eq!(mounts(&cri), Vec::<String>::new());
}
