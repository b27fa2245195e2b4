//! The life of a container that is a microVM.

use crate::common::{ConsoleSocket, Runtime, finish, poll};
use crate::microvm;
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn a_program_runs_on_a_kernel_of_its_own_as_the_user_that_it_is_to_be() {
    let runtime = Runtime::new();
    std::fs::create_dir(runtime.path("data")).expect("a folder");
    std::fs::write(runtime.path("data/in"), "from the host\n").expect("a file");
    let mut bundle = microvm(
        &runtime,
        "uname -r; id -u; id -g; pwd; echo \"$X\"; hostname; cat /data/in; cat; echo out >/data/out; ls -ln /data/out; \
         echo gone >/ro/x || echo refused; nproc; grep -c . /proc/self/status >/dev/null && echo proc; exit 42",
    );
    let data = runtime.path("data");
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("the mode");
    let data = data.to_str().expect("a path").to_owned();
    bundle.mount("/data", "bind", &data, &["bind", "rw"]).mount("/ro", "bind", &data, &["bind", "ro"]);
    bundle.edit(|config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1001});
        config["process"]["cwd"] = json!("/tmp");
        config["process"]["env"] = json!(["PATH=/bin", "X=quo\"te $d 'ä\nb"]);
    });
    let args = ["run", "--bundle", bundle.dir(), &bundle.id];
    let output = finish(runtime.command(&args), Some(b"typed\n")).exits(42);
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    let mut lines = output.stdout.lines();
    assert_ne!(lines.next().expect("a release"), host.trim());
    let rest: Vec<_> = lines.collect();
    let expected = ["1000", "1001", "/tmp", "quo\"te $d 'ä", "b", "magikrun", "from the host", "typed"];
    assert_eq!(rest[..8], expected, "{}", output.stderr);
    let fields: Vec<_> = rest[8].split_whitespace().collect();
    assert_eq!(fields[2..4], ["1000", "1001"], "{}", rest[8]);
    assert_eq!(rest[9..], ["refused", "1", "proc"]);
    assert_eq!(std::fs::read_to_string(runtime.path("data/out")).expect("the guest's file"), "out\n");
    runtime.assert_nothing_left();
}

#[test]
fn a_signal_ends_the_program_with_its_code_and_kill_ends_the_machine() {
    let runtime = Runtime::new();
    let bundle =
        microvm(&runtime, "trap 'echo term; exit 7' TERM; echo up; while :; do usleep 200000; echo .; done");
    let created = runtime.create(&bundle);
    assert_eq!(runtime.status(&bundle.id), "created");
    runtime.ok(&["start", &bundle.id]);
    assert_eq!(runtime.status(&bundle.id), "running");
    created.wait_stdout("up");
    let control = std::fs::metadata(runtime.root().join(&bundle.id).join("vm/control.sock"));
    assert_eq!(control.expect("the control socket").permissions().mode() & 0o777, 0o600);
    runtime.ok(&["pause", &bundle.id]);
    assert_eq!(runtime.status(&bundle.id), "paused");
    let before = created.stdout_now();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(created.stdout_now(), before, "the program goes on although it is paused");
    runtime.ok(&["resume", &bundle.id]);
    poll("the program to go on", || (created.stdout_now() != before).then_some(()));
    runtime.ok(&["kill", &bundle.id, "TERM"]);
    runtime.wait_status(&bundle.id, "stopped");
    assert!(created.stdout_now().contains("term"));
    runtime.ok(&["delete", &bundle.id]);
    // Not of the first process itself, which no signal of its own ends.
    let bundle = microvm(&runtime, "sh -c 'kill -KILL $$'; exit $?");
    runtime.run(&bundle).exits(137);
    runtime.assert_nothing_left();
}

#[test]
fn a_machine_is_killed_and_deleted_in_every_state_and_hooks_run() {
    let runtime = Runtime::new();
    let bundle = microvm(&runtime, "true");
    runtime.create(&bundle);
    runtime.ok(&["delete", &bundle.id]);
    runtime.create(&bundle);
    runtime.ok(&["kill", &bundle.id, "KILL"]);
    runtime.wait_status(&bundle.id, "stopped");
    runtime.ok(&["delete", &bundle.id]);
    runtime.create(&bundle);
    runtime.ok(&["delete", "--force", &bundle.id]);
    let mut bundle = microvm(&runtime, "sed -n 's/MemTotal: *//p' /proc/meminfo >/memory; sleep 600");
    let trace = runtime.path("trace");
    bundle.edit(|config| {
        // The image's wish counts within the limit, where no annotation says more.
        config["annotations"] = json!({"run.oci.handler": "krun"});
        config["linux"]["resources"]["memory"] = json!({"limit": 512 << 20});
        let hook = |name: &str| {
            let script = format!("cat >/dev/null; echo {name} >>{}", trace.display());
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
        };
        config["hooks"] = json!({"createRuntime": hook("createRuntime"), "poststart": hook("poststart"),
            "poststop": hook("poststop")});
    });
    std::fs::write(bundle.rootfs(".krun_vm.json"), r#"{"cpus": 1, "ram_mib": 160}"#).expect("a wish");
    runtime.detach(&bundle);
    let memory = poll("the guest to tell its memory", || {
        let text = std::fs::read_to_string(bundle.rootfs("memory")).unwrap_or_default();
        text.split_whitespace().next().and_then(|word| word.parse::<u32>().ok())
    });
    assert!((140 << 10..192 << 10).contains(&memory), "{memory} kB");
    runtime.call(&["delete", &bundle.id]).fails_with(1, &["not stopped"]);
    runtime.ok(&["kill", &bundle.id, "KILL"]);
    runtime.wait_status(&bundle.id, "stopped");
    runtime.ok(&["delete", &bundle.id]);
    let trace = std::fs::read_to_string(trace).expect("the hooks' trace");
    assert_eq!(trace, "createRuntime\npoststart\npoststop\n");
    runtime.assert_nothing_left();
}

#[test]
fn a_terminal_has_a_size_that_changes_and_control_characters() {
    let runtime = Runtime::new();
    let mut bundle = microvm(
        &runtime,
        "trap 'echo got-int' INT; tty; stty size; echo ready; while :; do sleep 1; stty size; done",
    );
    bundle.edit(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({"height": 20, "width": 70});
    });
    let console = ConsoleSocket::listen(runtime.dir(), "console");
    runtime.ok(&[
        "run",
        "--detach",
        "--console-socket",
        console.path(),
        "--bundle",
        bundle.dir(),
        &bundle.id,
    ]);
    let mut terminal = console.terminal();
    let said = terminal.read_until("ready");
    assert!(said.contains("20 70"), "{said}");
    terminal.write("\u{3}");
    terminal.read_until("got-int");
    terminal.resize(33, 101);
    terminal.read_until("33 101");
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn a_terminal_in_the_foreground_is_that_of_whoever_runs_it() {
    let runtime = Runtime::new();
    let mut bundle =
        microvm(&runtime, "tty; ls -l /dev/console; stty size; read line; echo \"read $line\"; exit 5");
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    let line = format!(
        "stty rows 33 cols 99; {} --root {} run --bundle {} {}",
        crate::common::runtime_path().display(),
        runtime.root().display(),
        bundle.dir(),
        bundle.id
    );
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &line, "/dev/null"]);
    let output = finish(command, Some(b"typed\n")).exits(5);
    for text in ["/dev/pts/0", "/dev/console", "33 99", "read typed"] {
        assert!(output.stdout.contains(text), "{text}: {}", output.stdout);
    }
    runtime.assert_nothing_left();
}
