//! Interrupted, crowded, starved and damaged: whatever happens, `delete --force` leaves nothing.
mod common;

use common::{Bundle, Runtime, finish, poll, require_program, start};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Starts a command and kills it after a moment, wherever it is by then.
fn kill_after(mut command: Command, moment: Duration) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the runtime starts");
    let begin = Instant::now();
    // Waiting busily: a sleep is not exact enough to hit every step.
    while begin.elapsed() < moment {
        std::hint::spin_loop();
    }
    let _ = child.kill();
    child.wait().expect("the runtime ends");
}

/// Moments from 0 to 12 ms, which is longer than any of the commands takes.
fn moments() -> impl Iterator<Item = Duration> {
    (0..60).map(|step| Duration::from_micros(step * 200))
}

#[test]
fn a_create_that_is_killed_at_any_moment_leaves_nothing_after_delete_by_force() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    for moment in moments() {
        kill_after(runtime.command(&["create", "--bundle", bundle.dir(), &bundle.id]), moment);
        runtime.ok(&["delete", "--force", &bundle.id]);
        runtime.assert_nothing_left();
    }
}

#[test]
fn a_create_after_a_killed_create_works_at_once() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    for moment in moments().step_by(3) {
        kill_after(runtime.command(&["create", "--bundle", bundle.dir(), &bundle.id]), moment);
        let output = runtime.call(&["create", "--bundle", bundle.dir(), &bundle.id]);
        // Killed after its work was done, it has made the container.
        if output.code != 0 {
            let _ = output.fails_with(1, &["container with given ID already exists"]);
        }
        runtime.ok(&["delete", "--force", &bundle.id]);
    }
    runtime.assert_nothing_left();
}

#[test]
fn a_delete_that_is_killed_at_any_moment_is_finished_by_the_next() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    for moment in moments().step_by(2) {
        runtime.create(&bundle);
        kill_after(runtime.command(&["delete", "--force", &bundle.id]), moment);
        runtime.ok(&["delete", "--force", &bundle.id]);
        runtime.assert_nothing_left();
    }
}

#[test]
fn a_start_or_exec_that_is_killed_at_any_moment_leaves_a_container_that_can_be_deleted() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    for moment in moments().step_by(3) {
        runtime.create(&bundle);
        kill_after(runtime.command(&["start", &bundle.id]), moment);
        let status = runtime.status(&bundle.id);
        assert!(matches!(status.as_str(), "created" | "running" | "stopped"), "{status}");
        if status == "running" {
            kill_after(runtime.command(&["exec", &bundle.id, "true"]), moment);
        }
        runtime.ok(&["delete", "--force", &bundle.id]);
        // What the exec has begun may have found no container, and be about to say so.
        poll("what the exec has begun to end", || runtime.processes().is_empty().then_some(()));
        runtime.assert_nothing_left();
    }
}

#[test]
fn a_container_is_deleted_where_nobody_reaps_what_an_exec_has_left() {
    require_program("unshare");
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    // The first process of this machine reaps nothing, so that the one of the container cannot be gone.
    let script = format!(
        "(\"$@\" run --detach --bundle {} {id} && \"$@\" exec --detach {id} sleep 600 && \"$@\" delete --force {id}; \
         echo $? >{}/code) & exec sleep 600",
        bundle.dir(),
        bundle.dir(),
        id = bundle.id
    );
    let called = runtime.command::<&str>(&[]);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script, "sh"]);
    command.arg(called.get_program()).args(called.get_args());
    command.envs(called.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let machine = start(command, None);
    let code = poll("the end of the commands", || {
        fs::read_to_string(bundle.path("code")).ok().filter(|code| code.ends_with('\n'))
    });
    assert_eq!(code, "0\n", "{}", machine.stderr());
    common::signal(machine.pid(), rustix::process::Signal::KILL);
    let _ = machine.finish();
    runtime.assert_nothing_left();
}

#[test]
fn a_hundred_containers_run_at_once() {
    let runtime = Runtime::new();
    let bundles: Vec<Bundle> = (0..100).map(|_| runtime.shell("exit 3")).collect();
    let running: Vec<_> = bundles
        .iter()
        .map(|bundle| start(runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None))
        .collect();
    for one in running {
        let _ = one.finish().exits(3);
    }
    runtime.assert_nothing_left();
}

#[test]
fn operations_on_one_container_at_once_do_not_harm_it() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let id = &bundle.id;
    for _ in 0..5 {
        let calls: Vec<Vec<&str>> = vec![
            vec!["exec", id, "true"],
            vec!["state", id],
            vec!["exec", id, "true"],
            vec!["update", "--pids-limit", "100", id],
            vec!["list"],
            vec!["ps", "--format", "json", id],
        ];
        let running: Vec<_> = calls.iter().map(|args| start(runtime.command(args), None)).collect();
        for one in running {
            let _ = one.finish().success();
        }
    }
    assert_eq!(runtime.status(id), "running");
    runtime.ok(&["delete", "--force", id]);
    runtime.assert_nothing_left();
}

#[test]
fn of_many_deletes_at_once_all_succeed_by_force() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let running: Vec<_> =
        (0..8).map(|_| start(runtime.command(&["delete", "--force", &bundle.id]), None)).collect();
    for one in running {
        let _ = one.finish().success();
    }
    runtime.assert_nothing_left();
}

#[test]
fn a_full_disk_is_reported_and_leaves_nothing() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    // A file system of two pages in a mount namespace of its own: one is the directory's, the other is soon full.
    let script = r#"
        mount -t tmpfs -o size=8k,mode=700 tmpfs "$1" && head -c 8192 /dev/zero > "$1/lock~"
        "$2" --root "$1" create --bundle "$3" "$4"
        code=$?
        ls "$1" | grep -v '^lock~$'
        exit $code"#;
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(runtime.root()).arg(common::runtime_path()).arg(bundle.dir()).arg(&bundle.id);
    let output = finish(command, None).fails_with(1, &["no space left on device"]);
    assert_eq!(output.stdout, "", "the state root is not empty");
    runtime.assert_nothing_left();
}

#[test]
fn a_damaged_state_record_is_named_and_can_be_deleted_by_force() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle();
    runtime.ok(&["run", "--keep", "--bundle", bundle.dir(), &bundle.id]);
    let cgroups = common::leftover_cgroups(runtime.name());
    fs::write(runtime.root().join(&bundle.id).join("state.json"), "{\"version\": 1, garbage").unwrap();
    let _ = runtime.call(&["state", &bundle.id]).fails_with(1, &["state.json", "damaged state record"]);
    let _ = runtime.call(&["delete", &bundle.id]).fails_with(1, &["damaged state record"]);
    let listed = runtime.ok(&["list", "--format", "json"]);
    assert!(listed.stderr.contains("damaged state record"), "{}", listed.stderr);
    runtime.ok(&["delete", "--force", &bundle.id]);
    assert_eq!(runtime.state_entries(), Vec::<String>::new());
    drop(cgroups);
}

#[test]
fn a_record_of_a_newer_version_is_refused() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.create(&bundle);
    let path = runtime.root().join(&bundle.id).join("state.json");
    let before = fs::read_to_string(&path).unwrap();
    fs::write(&path, before.replacen("\"version\":1", "\"version\":99", 1)).unwrap();
    let _ = runtime.call(&["state", &bundle.id]).fails_with(1, &["version 99"]);
    let _ = runtime.call(&["delete", "--force", &bundle.id]).fails_with(1, &["version 99"]);
    fs::write(&path, before).unwrap();
    runtime.ok(&["delete", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn the_limit_of_containers_is_that_of_the_configuration() {
    let runtime = Runtime::new();
    let config = runtime.file("config.toml", "[limits]\nmax_containers = 1\n");
    let (first, second) = (runtime.sleeper(), runtime.sleeper());
    let create = |bundle: &Bundle| {
        let mut command = runtime.command(&["create", "--bundle", bundle.dir(), &bundle.id]);
        command.env("MAGIKRUN_CONFIG", &config);
        finish(command, None)
    };
    let _ = create(&first).success();
    let _ = create(&second).fails_with(1, &["1 containers exist already, the limit is 1"]);
    runtime.ok(&["delete", &first.id]);
    runtime.assert_nothing_left();
    fs::write(&config, "[limits]\nmax_contaners = 1\n").unwrap();
    let _ = create(&first).fails_with(1, &["config.toml", "line 2", "max_contaners"]);
}

#[test]
fn a_container_whose_process_is_killed_from_outside_is_stopped() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    let pid = runtime.detach(&bundle);
    common::signal(pid, rustix::process::Signal::KILL);
    poll("the container to be stopped", || (runtime.status(&bundle.id) == "stopped").then_some(()));
    runtime.ok(&["delete", &bundle.id]);
    runtime.assert_nothing_left();
}

/// The rules of cgroup v1 begin with a denial of all devices. A process that made its devices meanwhile got the host's instead.
#[test]
fn devices_are_the_containers_own_however_long_setting_the_limits_takes() {
    require_program("strace");
    let runtime = Runtime::new();
    let bundle = runtime.shell("grep -c ' /dev/null ' /proc/self/mountinfo");
    let plain = runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
    // The command itself is slow, and not what it makes.
    let mut slow = Command::new("strace");
    slow.args(["-o", "/dev/null", "-e", "trace=write", "-e", "inject=write:delay_exit=5000"])
        .arg(plain.get_program())
        .args(plain.get_args());
    let output = finish(slow, None);
    assert_eq!(output.stdout, "0\n", "{}", output.stderr);
    runtime.assert_nothing_left();
}
