//! The checks over machines that are made up.

use super::*;
use crate::platform::detect::{Arch, Capability, Os, Platform};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Machine {
    _dir: TempDir,
    host: Host,
}

impl Machine {
    /// A machine with nothing on it, for its user with this id.
    fn empty(privileged: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            root: dir.path().to_owned(),
            platform: Platform { os: Os::Linux, arch: Arch::Amd64, capabilities: Vec::new() },
            seccomp_flags: Vec::new(),
            uid: rustix::process::geteuid().as_raw(),
            privileged,
            path: vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/sbin")],
            home: Some(PathBuf::from("/home/me")),
            config_fault: None,
            store: PathBuf::from("/var/lib/magikrun"),
        };
        Self { _dir: dir, host }
    }

    /// A machine on which containers work.
    fn usual(privileged: bool) -> Self {
        let mut machine = Self::empty(privileged);
        machine.host.platform.capabilities = vec![Capability::NativeContainers, Capability::Seccomp];
        machine.host.seccomp_flags = vec!["SECCOMP_FILTER_FLAG_TSYNC"];
        for name in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
            machine.file(&format!("proc/self/ns/{name}"), "");
        }
        machine.file("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
        machine.file("proc/sys/user/max_user_namespaces", "15000\n");
        machine.file("proc/self/cgroup", "0::/user.slice\n");
        machine.file("proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/sda rw\n");
        machine.file("proc/filesystems", "nodev\tsysfs\n\text4\nnodev\toverlay\n");
        machine.file("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
        machine.file("sys/fs/cgroup/user.slice/cgroup.procs", "");
        machine
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.host.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.host.root.join(path)).unwrap();
    }

    fn check(&self, name: &str) -> Finding {
        CHECKS.iter().find(|(known, _)| *known == name).expect(name).1(&self.host)
    }

    fn verdict(&self, name: &str) -> Verdict {
        let all = verdicts(&examine(&self.host));
        all.into_iter().find(|verdict| verdict.name == name).expect(name)
    }
}

#[test]
fn on_an_empty_machine_nothing_works_and_each_check_says_why() {
    let machine = Machine::empty(false);
    let findings = examine(&machine.host);
    assert!(findings.iter().all(|(_, finding)| !finding.detail.is_empty()));
    let all = verdicts(&findings);
    for verdict in &all {
        assert_ne!(verdict.state, State::Works, "{verdict:?}");
    }
    assert_eq!(status(&all, &[]), NOT_ALL_WORKS);
    let shown = text(&findings, &all).unwrap();
    assert!(shown.lines().any(|line| line.starts_with("native ") && line.contains(" missing ")), "{shown}");
}

#[test]
fn on_a_usual_machine_what_is_missing_is_named_with_its_command() {
    let machine = Machine::usual(true);
    for name in ["native", "wasm", "images"] {
        let verdict = machine.verdict(name);
        assert_eq!((verdict.state, &verdict.missing[..]), (State::Works, &[][..]), "{name}");
    }
    assert_eq!(machine.verdict("checkpoint").missing, ["criu"]);
    assert_eq!(machine.verdict("checkpoint").mend, ["apt-get install criu"]);
    let pods = machine.verdict("pods");
    assert_eq!(pods.state, State::Works);
    assert_eq!(pods.without[0], "without pasta: no hostPort and no outgoing connections");
    let krun = machine.verdict("krun");
    assert_eq!(krun.missing, ["kvm", "magikrun-krun", "libkrunfw"]);
    let all = verdicts(&examine(&machine.host));
    assert_eq!(status(&all, &[]), 0);
    assert_eq!(status(&all, &["wasm".to_owned(), "krun".to_owned()]), NOT_ALL_WORKS);
    machine.file("usr/sbin/criu", "");
    assert_eq!(machine.verdict("checkpoint").state, State::Works);
}

#[test]
fn every_backend_refers_to_checks_that_exist() {
    let machine = Machine::empty(true);
    let findings: BTreeMap<_, _> = examine(&machine.host).into_iter().collect();
    for backend in &BACKENDS {
        for name in backend.needs.iter().chain(backend.wants.iter().map(|(name, _)| name)) {
            assert!(findings.contains_key(name), "{}: {name}", backend.name);
        }
    }
}

#[test]
fn an_old_kernel_and_a_missing_kind_of_namespace_are_named() {
    let machine = Machine::usual(true);
    machine.file("proc/sys/kernel/osrelease", "4.19.0-27\n");
    assert_eq!(machine.check("kernel").detail, "Linux 4.19.0-27 is older than 5.6");
    machine.remove("proc/self/ns/user");
    assert!(machine.check("namespaces").detail.ends_with("kinds: user"));
    assert_eq!(machine.verdict("native").missing, ["kernel", "namespaces"]);
}

#[test]
fn a_root_that_is_no_mount_is_a_chroot_in_which_nothing_can_be_enclosed() {
    let machine = Machine::usual(true);
    assert_eq!(machine.check("root").state, State::Works);
    machine.file("proc/self/mountinfo", "2 1 0:5 / /proc rw - proc proc rw\n");
    assert!(machine.check("root").detail.contains("chroot"));
    assert_eq!(machine.verdict("images").missing, ["root"]);
}

#[test]
fn a_command_that_mends_several_things_is_shown_once() {
    let machine = Machine::usual(true);
    let findings = examine(&machine.host);
    let shown = text(&findings, &verdicts(&findings)).unwrap();
    assert_eq!(shown.matches("apt-get install passt").count(), 1, "{shown}");
    assert!(shown.contains("passt, pasta "), "{shown}");
}

#[test]
fn cgroups_are_found_in_every_layout() {
    let machine = Machine::usual(true);
    assert_eq!(machine.check("cgroups").detail, "version 2: cpu memory pids");
    machine.file("sys/fs/cgroup/cgroup.controllers", "cpu pids\n");
    let finding = machine.check("cgroups");
    assert_eq!(finding.detail, "version 2 lacks memory");
    assert_eq!(finding.mend.unwrap(), "echo +memory > /sys/fs/cgroup/cgroup.subtree_control");
    machine.remove("sys/fs/cgroup/cgroup.controllers");
    assert!(machine.check("cgroups").detail.contains("nothing is mounted"));
    for name in ["cpu", "memory", "pids"] {
        machine.file(&format!("sys/fs/cgroup/{name}/cgroup.procs"), "");
    }
    assert_eq!(machine.check("cgroups").detail, "version 1: cpu memory pids");
    machine.file("sys/fs/cgroup/unified/cgroup.controllers", "hugetlb\n");
    assert!(machine.check("cgroups").detail.starts_with("version 1, with 2 beside it"));
}

#[test]
fn a_user_without_privileges_hears_what_the_administrator_has_to_do() {
    let machine = Machine::usual(false);
    let uid = machine.host.uid;
    machine.file("etc/passwd", &format!("me:x:{uid}:{uid}::/home/me:/bin/sh\n"));
    let ids = machine.check("subordinate ids");
    assert!(ids.mend.unwrap().ends_with(" me"), "{}", ids.detail);
    machine.file("etc/subuid", "me:100000:65536\n");
    assert!(machine.check("subordinate ids").detail.starts_with("/etc/subgid has 0 ids"));
    machine.file("etc/subgid", "me:100000:65536\n");
    assert_eq!(machine.check("subordinate ids").state, State::Works);
    assert_eq!(machine.check("cgroup delegation").state, State::Works);
    machine.file("proc/sys/kernel/unprivileged_userns_clone", "0\n");
    let finding = machine.check("user namespaces");
    assert_eq!(finding.mend.unwrap(), "sysctl -w kernel.unprivileged_userns_clone=1");
    assert_eq!(machine.verdict("rootless").missing, ["user namespaces"]);
}

#[test]
fn a_fault_of_the_configuration_stops_everything_and_is_shown() {
    let mut machine = Machine::usual(true);
    machine.host.config_fault = Some("line 2: limits.x: unknown field".to_owned());
    assert_eq!(machine.check("configuration").detail, "line 2: limits.x: unknown field");
    for backend in &BACKENDS {
        assert!(machine.verdict(backend.name).missing.contains(&"configuration"), "{}", backend.name);
    }
}

#[test]
fn engines_are_asked_what_they_call_magikrun() {
    let machine = Machine::usual(true);
    assert_eq!(machine.check("podman").detail, "podman is not installed");
    for program in ["podman", "containerd", "dockerd"] {
        machine.file(&format!("usr/bin/{program}"), "");
    }
    for (name, path, text) in [
        (
            "podman",
            "etc/containers/containers.conf.d/magikrun.conf",
            "[engine.runtimes]\nmagikrun = [\"/usr/bin/magikrun\"]\n",
        ),
        (
            "containerd",
            "etc/containerd/config.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.magikrun.options]\n\
             BinaryName = \"/usr/bin/magikrun\"\n",
        ),
        ("docker", "etc/docker/daemon.json", r#"{"runtimes": {"magikrun": {"path": "/usr/bin/magikrun"}}}"#),
    ] {
        let finding = machine.check(name);
        assert_eq!(finding.mend.as_deref(), Some(&*format!("magikrun setup {name}")), "{name}");
        machine.file(path, text);
        assert!(
            machine.check(name).detail.ends_with("names /usr/bin/magikrun, which does not exist"),
            "{name}"
        );
    }
    machine.file("usr/bin/magikrun", "");
    for name in ["podman", "containerd", "docker"] {
        assert_eq!(machine.check(name).state, State::Works, "{name}");
    }
}

#[test]
fn a_store_of_somebody_else_is_not_ones_own() {
    let machine = Machine::usual(true);
    assert!(machine.check("image store").detail.contains("first pull"));
    machine.file("var/lib/magikrun", "");
    assert!(machine.check("image store").detail.contains("not a directory"));
    machine.remove("var/lib/magikrun");
    std::fs::create_dir(machine.host.at(Path::new("/var/lib/magikrun"))).unwrap();
    assert_eq!(machine.check("image store").state, State::Works);
    let host = Host { uid: machine.host.uid + 1, ..machine.host };
    assert!(programs::store(&host).mend.unwrap().starts_with("chown -R "));
}

#[test]
fn the_seccomp_profile_is_ours_unless_the_operators_is_there_and_it_can_be_read() {
    let machine = Machine::usual(true);
    let profile = machine.check("seccomp profile");
    assert!(profile.state == State::Works && profile.detail.starts_with("magikrun's own"), "{profile:?}");
    machine.file("etc/containers/seccomp.json", "{}");
    assert_eq!(machine.check("seccomp profile").detail, "/etc/containers/seccomp.json");
    machine.file("etc/containers/seccomp.json", "{");
    assert_eq!(machine.verdict("pods").missing, ["seccomp profile"]);
}
