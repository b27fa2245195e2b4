//! Pods whose cgroups systemd makes, as the kubelet asks for it on most nodes: see `conformance containerd`.

use crate::client::{Cri, Empty, PodConfig, PodLinux, Resources, Update};
use crate::common::{cgroup_value, poll, property, tool};

#[test]
#[ignore = "needs systemd"]
fn a_pod_below_a_slice_is_of_units() {
    let cri = Cri::new();
    let slice = format!("{}.slice", cri.cgroup.replace('-', "_"));
    let config = cri.pod_config("pod");
    let linux = PodLinux { cgroup_parent: slice.clone(), ..config.linux.clone().expect("a configuration") };
    let config = PodConfig { linux: Some(linux), ..config };
    let pod = cri.run_pod(&config);
    let container = cri.start(&pod, &config, Cri::script("box", "sleep 600"));
    let unit = |id: &str| format!("cri-containerd-{id}.scope");
    for id in [&pod, &container] {
        let (pid, _) = cri.containerd.task(id).expect("a task");
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
        assert!(cgroups.contains(&format!("/{slice}/{}", unit(id))), "{cgroups}");
        assert_eq!(property(&unit(id), "Slice"), slice);
    }
    let limit = Resources { memory_limit: 64 << 20, ..Resources::default() };
    cri.call::<Empty>("UpdateContainerResources", &Update { id: container.clone(), linux: Some(limit) });
    // systemd would set it back to what it knows.
    let known = [property(&unit(&container), "MemoryMax"), property(&unit(&container), "MemoryLimit")];
    assert!(known.contains(&(64 << 20).to_string()), "{known:?}");
    let (pid, _) = cri.containerd.task(&container).expect("a task");
    let set = cgroup_value(pid, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(set, (64 << 20).to_string());
    cri.remove_pod(&pod);
    for id in [pod, container] {
        poll("the unit to end", || (property(&unit(&id), "ActiveState") == "inactive").then_some(()));
    }
    tool("systemctl", &["stop", &slice]);
}
