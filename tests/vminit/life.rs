//! The life of a guest and its containers.

use crate::common::{DEADLINE, poll, signal};
use crate::machine::{Machine, container, one};
use magikrun::vm::protocol::frame::Kind;
use magikrun::vm::protocol::message::{ContainerState, Reply, Target};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn the_machine_ends_with_the_code_of_its_container() {
    let done = Machine::boot(one("echo out; echo err >&2; exit 7")).finish();
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (7, "out\n", "err\n"));
    assert_eq!(
        Machine::boot(one("kill -KILL $$; exit 3")).finish().code,
        3,
        "its own first process is immune"
    );
    assert_eq!(Machine::boot(one("sh -c 'kill -KILL $$'; exit $?")).finish().code, 137);
}

#[test]
fn much_output_comes_whole_before_the_end() {
    let done = Machine::boot(one("head -c 3000000 /dev/zero | tr '\\0' x; exit 4")).finish();
    assert_eq!((done.stdout.len(), done.code), (3_000_000, 4));
}

#[test]
fn the_consoles_input_is_that_of_the_container() {
    let machine = Machine::boot_with(one("cat; echo over"), Some(b"some input\n"), "");
    let done = machine.finish();
    assert_eq!((done.stdout.as_str(), done.code), ("some input\nover\n", 0));
}

#[test]
fn a_program_that_is_missing_is_told_to_whoever_asks_and_on_the_console() {
    let mut spec = one("true");
    spec["containers"][0]["process"]["args"] = json!(["no-such-program"]);
    let machine = Machine::boot(spec);
    let e = machine.guest().ready(DEADLINE, || true).unwrap_err();
    assert!(e.message().contains("executable file not found in $PATH"), "{e}");
    let done = machine.finish();
    assert_eq!(done.code, 127);
    assert!(done.stderr.contains("vminit: exec: \"no-such-program\""), "{}", done.stderr);
}

#[test]
fn a_specification_that_makes_no_sense_ends_the_machine_with_a_reason() {
    for (change, needle) in [
        ((|spec: &mut Value| spec["version"] = json!(77)) as fn(&mut Value), "version 77"),
        (|spec| spec["containers"][0]["surprise"] = json!(1), "surprise"),
        (|spec| spec["containers"][0]["root"] = json!("/nonexistent"), "/nonexistent"),
        (|spec| spec["mounts"] = json!([{"destination": "/mnt", "type": "nonsense"}]), "'/mnt'"),
        (|spec| spec["network"] = json!({"interface": "eth7"}), "eth7"),
    ] {
        let mut spec = one("true");
        change(&mut spec);
        let machine = Machine::boot(spec);
        let e = machine.guest().ready(DEADLINE, || true).unwrap_err();
        assert!(e.message().contains(needle), "{e}");
        assert_eq!(machine.finish().code, 125);
    }
}

#[test]
fn a_container_that_waits_for_it_is_started_on_request_and_again() {
    let mut app = container("app", "n=$(cat /n 2>/dev/null); echo run$n; echo 2 >/n; exit 3");
    app["stdio"] = json!("followed");
    app["onRequest"] = json!(true);
    let missing = json!({"name": "missing", "root": "@/missing", "onRequest": true, "process": {"args": ["nope"], "cwd": "/"}});
    let machine = Machine::ready(json!({"version": 1, "containers": [app, missing], "end": "asked"}));
    let state = || machine.guest().ping(DEADLINE).expect("a status").containers.swap_remove(0);
    assert_eq!(state().state, ContainerState::Waiting);
    for expected in ["run\n", "run2\n"] {
        machine.guest().start("app", DEADLINE).expect("it starts");
        let mut connection = machine.guest().follow("app", DEADLINE).expect("its output");
        let mut said = Vec::new();
        while let Some(frame) = connection.receive(Instant::now() + DEADLINE).expect("a frame") {
            match frame.kind {
                Kind::Stdout => said.extend(frame.body),
                _ => assert_eq!(frame.parse(), Ok(Reply::Done)),
            }
        }
        assert_eq!(String::from_utf8_lossy(&said), expected);
        assert_eq!((state().state, state().exit_code), (ContainerState::Stopped, Some(3)));
    }
    let e = machine.guest().start("missing", DEADLINE).unwrap_err();
    assert!(e.message().contains("nope"), "{e}");
    assert_ne!(machine.finish().code, 0);
}

#[test]
fn orphans_are_reaped() {
    let machine = Machine::ready(one("exec sleep 600"));
    // The shell that starts them ends at once; those in the container are reaped by its own first process or by nobody, as anywhere.
    for _ in 0..5 {
        assert_eq!(machine.sh("(sleep 0.01 &) ; exit 0").code, 0);
    }
    let own = || {
        let mut zombies = 0;
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            zombies += usize::from(stat.contains("(vminit) Z"));
        }
        zombies
    };
    poll("no zombies of the program", || (own() == 0).then_some(()));
}

#[test]
fn output_goes_on_when_what_passes_it_on_is_killed() {
    let script = "mkfifo /fifo; echo ready; while read line; do echo \"got $line\"; echo \"err $line\" >&2; done <>/fifo";
    let machine = Machine::ready(one(script));
    poll("the container to be ready", || machine.console().contains("ready").then_some(()));
    for round in 0..3 {
        assert_eq!(machine.sh(&format!("echo {round} >/fifo")).code, 0);
        for needle in [format!("got {round}"), format!("err {round}")] {
            poll("the output", || machine.console().contains(&needle).then_some(()));
        }
        // They sleep when they have passed everything on.
        let helpers = poll("both", || Some(machine.helpers()).filter(|helpers| helpers.len() == 2));
        for pid in helpers {
            signal(pid, rustix::process::Signal::KILL);
            poll("another one", || {
                (machine.helpers().len() == 2 && !machine.helpers().contains(&pid)).then_some(())
            });
        }
    }
    machine.guest().stop(Duration::ZERO, DEADLINE).unwrap();
    let done = machine.finish();
    assert_eq!((done.code, done.stdout.as_str()), (137, "ready\ngot 0\ngot 1\ngot 2\n"));
}

#[test]
fn signals_of_the_machine_and_of_the_host_reach_the_container() {
    let script =
        "trap 'echo told; exit 9' TERM; trap 'echo usr' USR1; echo ready; while :; do sleep 0.05; done";
    let machine = Machine::ready(one(script));
    poll("the container to be ready", || machine.console().contains("ready").then_some(()));
    machine.guest().signal(Target::Container("app".to_owned()), 10, false, DEADLINE).unwrap();
    poll("the signal to arrive", || machine.console().contains("usr").then_some(()));
    assert!(machine.guest().signal(Target::Container("app".to_owned()), 99, false, DEADLINE).is_err());
    machine.guest().signal(Target::Container(String::new()), 15, false, DEADLINE).unwrap();
    let done = machine.finish();
    assert_eq!(done.code, 9);
    assert!(done.stdout.contains("told"));
}

#[test]
fn stopping_asks_first_and_kills_later() {
    let machine = Machine::ready(one("trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done"));
    poll("the container to be ready", || machine.console().contains("ready").then_some(()));
    machine.guest().stop(DEADLINE, DEADLINE).unwrap();
    assert_eq!(machine.finish().code, 6);
    let machine = Machine::ready(one("exec sleep 600"));
    machine.guest().stop(Duration::from_millis(50), DEADLINE).unwrap();
    assert_eq!(machine.finish().code, 137);
}

#[test]
fn the_root_is_what_the_specification_says_whatever_its_links_are() {
    let mut spec = one("exec sleep 600");
    spec["containers"][0]["readOnly"] = json!(true);
    spec["containers"][0]["maskedPaths"] = json!(["/proc/version", "/home", "/nonexistent"]);
    spec["containers"][0]["readonlyPaths"] = json!(["/proc/sys"]);
    spec["containers"][0]["devices"] =
        json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "mode": 0o640, "uid": 7}]);
    spec["containers"][0]["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/mnt", "type": "bind", "source": "@/volume", "options": ["rbind", "ro"]}),
        json!({"destination": "/tmp", "type": "tmpfs", "options": ["size=64k", "noexec"]}),
    ]);
    let spec = {
        // The folder of the volume must be there before: a mount of the guest makes it.
        let mut spec = spec;
        spec["mounts"] = json!([{"destination": "@/volume", "type": "tmpfs"}]);
        spec
    };
    let machine = Machine::ready(spec);
    let done = machine.sh(
        "touch /x || echo root; touch /mnt/x || echo volume; touch /tmp/x && echo tmp; ls /home | wc -l; \
         wc -c < /proc/version; echo 1 > /proc/sys/vm/swappiness || echo sysctl; stat -c '%a %u %t,%T' /dev/mine; \
         ls -l /dev/stdin /dev/fd /dev/ptmx | wc -l; echo x > /dev/null && echo null",
    );
    assert_eq!(done.stdout, "root\nvolume\ntmp\n0\n0\nsysctl\n640 7 1,3\n3\nnull\n", "{done:?}");
}

#[test]
fn a_link_in_the_root_leads_no_mount_out_of_it() {
    let machine = {
        let mut spec = one("exec sleep 600");
        spec["containers"][0]["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/escape/here", "type": "tmpfs"}));
        // Made by a first machine, so that the second one finds it.
        let machine = Machine::boot_with(
            spec,
            None,
            "ln -s ../../../../../../../../.. \"$(dirname \"$3\")/app/escape\"",
        );
        machine.guest().ready(DEADLINE, || true).unwrap();
        machine
    };
    assert_eq!(machine.sh("grep -c ' /here tmpfs' /proc/mounts").stdout, "1\n");
}

#[test]
fn several_containers_start_in_order_and_end_together() {
    let mut spec = json!({
        "version": 1,
        "end": "asked",
        "containers": [
            container("first", "echo first > /shared/log; exit 0"),
            container("second", "cat /shared/log; echo second >> /shared/log; exit 0"),
            container("left", "cat /shared/log; exec sleep 600"),
            container("right", "exit 5"),
        ],
        "mounts": [{"destination": "@/shared", "type": "tmpfs"}],
    });
    for container in spec["containers"].as_array_mut().unwrap() {
        let name = container["name"].as_str().unwrap().to_owned();
        container["init"] = json!(["first", "second"].contains(&name.as_str()));
        container["stdio"] = json!("log");
        container["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/shared", "type": "bind", "source": "@/shared"}));
    }
    let machine = Machine::ready(spec);
    let status = poll("the last container to end", || {
        let status = machine.guest().ping(DEADLINE).unwrap();
        (status.containers[3].state == ContainerState::Stopped).then_some(status)
    });
    let codes: Vec<_> = status.containers.iter().map(|container| container.exit_code).collect();
    assert_eq!(codes, [Some(0), Some(0), None, Some(5)]);
    assert_eq!(machine.guest().logs("second", DEADLINE).unwrap(), b"first\n");
    poll("the log of the one that runs", || {
        (machine.guest().logs("left", DEADLINE).unwrap() == b"first\nsecond\n").then_some(())
    });
    assert!(machine.start(crate::machine::shell("true")).unwrap_err().message().contains("no container ''"));
    machine.guest().stop(Duration::from_millis(50), DEADLINE).unwrap();
    assert_eq!(machine.finish().code, 137);
}

#[test]
fn an_init_container_that_fails_ends_everything() {
    let mut spec =
        json!({"version": 1, "containers": [container("early", "exit 4"), container("late", "echo never")]});
    spec["containers"][0]["init"] = json!(true);
    let machine = Machine::boot(spec);
    let e = machine.guest().ready(DEADLINE, || true).unwrap_err();
    assert!(e.message().contains("init container 'early' exited 4"), "{e}");
    let done = machine.finish();
    assert_eq!(done.code, 4);
    assert!(!done.stdout.contains("never"));
}

#[test]
fn the_network_is_set_up_statically() {
    let mut spec = one("exec sleep 600");
    spec["network"] = json!({
        "interface": "eth0", "addresses": ["192.0.2.2/24", "fd00:7::2/64"], "gateways": ["192.0.2.1", "fd00:7::1"],
        "mtu": 1400, "resolvConf": "nameserver 192.0.2.53\n", "hosts": "192.0.2.2 guest\n",
    });
    let machine =
        Machine::boot_with(spec, None, "ip link add eth0 type veth peer name other && ip link set other up");
    machine.guest().ready(DEADLINE, || true).unwrap();
    let done = machine
        .sh("ip addr; ip route; ip -6 route; cat /etc/resolv.conf /etc/hosts; ping -c 1 -w 5 127.0.0.1");
    for needle in [
        "inet 192.0.2.2/24",
        "inet6 fd00:7::2/64",
        "mtu 1400",
        "default via 192.0.2.1 dev eth0",
        "default via fd00:7::1 dev eth0",
        "nameserver 192.0.2.53",
        "192.0.2.2 guest",
        "1 packets received",
    ] {
        assert!(done.stdout.contains(needle), "'{needle}' is missing: {done:?}");
    }
}
