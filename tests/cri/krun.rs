//! Pods whose containers are microVMs, on a kernel that boots them: see `conformance containerd`.

use crate::client::{
    ContainerConfig, ContainerLinux, Cri, Empty, PortForward, Resources, StatsAnswer, StopContainer, Url,
};
use crate::common::{leftover_cgroups, names_in, poll};
use crate::websocket::WebSocket;
use crate::{id, log};
use std::fs;

/// What a container may use, its guest included: the machine has little.
const MEMORY: i64 = 192 << 20;

fn microvm(name: &str, script: &str) -> ContainerConfig {
    let resources = Some(Resources { memory_limit: MEMORY, ..Resources::default() });
    ContainerConfig { linux: Some(ContainerLinux { resources }), ..Cri::script(name, script) }
}

#[test]
#[ignore = "needs a /dev/kvm that guests boot on"]
fn containers_of_a_pod_are_microvms() {
    let cri = Cri::new();
    let config = cri.pod_config("pod");
    let pod = cri.run_pod_of("magikrun-krun", &config);
    let script = "trap 'exit 42' TERM; mkdir /www; echo answer >/www/file; httpd -p 8080 -h /www; uname -r; hostname; \
                  cat /etc/hostname; while :; do sleep 0.2; done";
    let web = cri.start(&pod, &config, microvm("web", script));
    let short = cri.start(&pod, &config, microvm("short", "exit 4"));
    poll("the end of the short one", || (cri.status(&short).state == 2).then_some(()));
    assert_eq!((cri.status(&short).exit_code, cri.status(&web).state), (4, 1));
    let printed = poll("the log", || Some(log(&cri, "web.log")).filter(|text| text.lines().count() == 3));
    // It has a kernel of its own, and what the pod shares.
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    assert!(!printed.starts_with(host.trim()) && printed.ends_with("\npod\npod\n"), "{printed}");
    assert_eq!(cri.containerd.shims().len(), 1);

    let answer = cri.exec(&web, "hostname; echo err >&2; exit 6");
    assert_eq!(
        (answer.stdout.as_slice(), answer.stderr.as_slice(), answer.exit_code),
        (&b"pod\n"[..], &b"err\n"[..], 6)
    );
    let stats = cri.call::<StatsAnswer>("ContainerStats", &id(&web)).stats.unwrap();
    assert!(
        stats.memory.unwrap().working_set.unwrap().value > 32 << 20
            && stats.cpu.unwrap().total.unwrap().value > 0
    );
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
    cri.remove_pod(&pod);
    poll("the shim to end", || cri.containerd.shims().is_empty().then_some(()));
    let left = leftover_cgroups(&cri.cgroup);
    assert!(left.iter().all(|path| path.ends_with(&cri.cgroup)), "{left:?}");
    let root = names_in(&cri.containerd.runtime_root());
    assert!(root.iter().all(|name| name.ends_with('~')), "{root:?}");
}
