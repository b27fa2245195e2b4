//! Pods with ids of their own (`hostUsers: false`), from containerd 2 on.

use crate::client::{
    ContainerConfig, ContainerLinux, Cri, IdMapping, Namespaces, PLAIN_HANDLER, PodConfig, PodLinux,
    PodSecurity, Security, Users,
};
use crate::common::poll;
use crate::log;
use crate::sandbox::{has_sandboxers, mounts};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// The first id that the pod has on the host.
const FIRST: u32 = 700_000;

fn namespaces() -> Namespaces {
    let ids = vec![IdMapping { host: FIRST, container: 0, length: 65536 }];
    Namespaces { pid: 1, users: Some(Users { mode: 0, uids: ids.clone(), gids: ids }) }
}

#[test]
fn a_pod_with_ids_of_its_own_is_nobody_on_the_host() {
    if !has_sandboxers() {
        eprintln!("unsupported: user namespaces of pods in containerd");
        return;
    }
    // The one of containerd's own snapshotters that leaves the mapping to the kernel.
    let cri = Cri::with_snapshotter("overlayfs");
    let config = cri.pod_config("pod");
    let security = Some(PodSecurity { namespaces: Some(namespaces()) });
    let linux = PodLinux { security, ..config.linux.clone().expect("a configuration") };
    let config = PodConfig { linux: Some(linux), ..config };
    // containerd 2.1 takes options for those of runc where it has a word to add about the owner of pipes.
    let pod = cri.run_pod_of(PLAIN_HANDLER, &config);
    let script =
        "id -u; stat -c %u /bin/sh /etc/hosts; touch /file; cat /proc/self/uid_map | tr -s ' '; sleep 600";
    let security = Some(Security { namespaces: Some(namespaces()) });
    let container = cri.start(
        &pod,
        &config,
        ContainerConfig {
            linux: Some(ContainerLinux { security, ..ContainerLinux::default() }),
            ..Cri::script("box", script)
        },
    );
    let expected = format!("0\n0\n0\n 0 {FIRST} 65536\n");
    poll("the log", || (log(&cri, "box.log") == expected).then_some(()));
    let (pid, _) = cri.containerd.task(&container).expect("a task");
    let owner = |path: &str| fs::metadata(format!("/proc/{pid}{path}")).expect("an owner").uid();
    // The process and what it makes; nothing was copied, so that the layers are root's as before.
    assert_eq!([owner(""), owner("/root/file"), owner("/root/bin/sh")], [FIRST; 3]);
    assert_eq!(cri.exec(&container, "id -u; echo fine > /file; exit 7").exit_code, 7);
    cri.remove_pod(&pod);
    poll("the shim to end", || cri.containerd.shims().is_empty().then_some(()));
    assert_eq!(mounts(&cri), Vec::<String>::new());
}
