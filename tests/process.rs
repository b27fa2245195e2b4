//! What the process of a container sees of itself: identity, privileges, limits, names and descriptors.
mod common;

use common::{Bundle, Runtime, finish};
use serde_json::{Value, json};
use std::process::Command;

/// What `script` prints with the default configuration changed by `change`.
#[track_caller]
fn inside(script: &str, change: impl FnOnce(&mut Value)) -> String {
    Runtime::new().inside(script, change)
}

/// One line of /proc/self/status.
fn status(field: &str) -> String {
    format!("sed -n 's/^{field}:[[:space:]]*//p' /proc/self/status")
}

fn with_user(uid: u32, gid: u32) -> impl FnOnce(&mut Value) {
    move |config| config["process"]["user"] = json!({"uid": uid, "gid": gid})
}

#[test]
fn the_user_the_groups_and_the_umask_are_those_of_the_config() {
    let text = inside("id -u; id -g; id -G; umask", |config| {
        config["process"]["user"] =
            json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 60], "umask": 0o027});
    });
    assert_eq!(text, "1000\n1001\n1001 5 60\n0027\n");
}

#[test]
fn the_umask_is_0022_by_default_and_no_group_is_inherited() {
    assert_eq!(inside("umask; id -G", |_| {}), "0022\n0\n");
}

#[test]
fn exec_takes_a_user_and_groups() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let args =
        ["exec", "--user", "1000:1001", "--additional-gids", "7", &bundle.id, "sh", "-c", "id -u; id -G"];
    assert_eq!(runtime.ok(&args).stdout, "1000\n1001 7\n");
}

/// setresuid(2) takes -1 as "leave it as it is": such a process would be root.
#[test]
fn an_id_of_minus_one_is_refused_and_never_root() {
    let runtime = Runtime::new();
    let refused = |code, args: &[&str]| drop(runtime.call(args).fails_with(code, &["4294967295 is no id"]));
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        let mut bundle = runtime.bundle();
        bundle.edit(with_user(uid, gid));
        refused(1, &["create", "--bundle", bundle.dir(), &bundle.id]);
        runtime.assert_nothing_left();
    }
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    for option in ["--user=4294967295", "--user=0:4294967295", "--additional-gids=4294967295"] {
        refused(255, &["exec", option, &bundle.id, "id"]);
    }
}

#[test]
fn the_working_directory_and_the_environment_are_those_of_the_config() {
    let text = inside("pwd; env | grep -v SHLVL | sort", |config| {
        config["process"]["cwd"] = json!("/tmp");
        config["process"]["env"] = json!(["PATH=/bin", "A=1 2", "B=", "HOME=/custom"]);
    });
    assert_eq!(text, "/tmp\nA=1 2\nB=\nHOME=/custom\nPATH=/bin\nPWD=/tmp\n");
}

#[test]
fn a_missing_working_directory_is_made() {
    assert_eq!(inside("pwd", |config| config["process"]["cwd"] = json!("/new/dir")), "/new/dir\n");
}

#[test]
fn home_comes_from_the_passwd_file_of_the_image() {
    assert_eq!(inside("echo $HOME", |_| {}), "/root\n");
    assert_eq!(inside("echo $HOME", with_user(1000, 1000)), "/home\n");
    assert_eq!(inside("echo $HOME", with_user(4321, 4321)), "/\n");
}

#[test]
fn the_environment_of_the_runtime_does_not_come_in() {
    let runtime = Runtime::new();
    let bundle = runtime.shell("env");
    let mut command = runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
    command.env("SECRET_OF_THE_HOST", "1");
    let text = finish(command, None).success().stdout;
    assert!(!text.contains("SECRET") && !text.contains("_LIBCONTAINER"), "{text}");
}

#[test]
fn capabilities_are_those_of_the_config_in_every_set() {
    let script = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(status).join("; ");
    let text = inside(&script, |_| {});
    let kill_bind_audit = "0000000020000420";
    let none = "0000000000000000";
    assert_eq!(text, format!("{none}\n{kill_bind_audit}\n{kill_bind_audit}\n{kill_bind_audit}\n{none}\n"));
    assert_eq!(inside(&status("CapEff"), with_user(1000, 1000)).trim(), none);
}

#[test]
fn no_capabilities_in_the_config_are_no_capabilities() {
    let text = inside(&format!("{}; {}", status("CapEff"), status("CapBnd")), |config| {
        config["process"]["capabilities"] = json!({});
    });
    assert_eq!(text, "0000000000000000\n0000000000000000\n");
}

#[test]
fn ambient_capabilities_reach_an_unprivileged_process() {
    let text = inside(&status("CapEff"), |config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        let capabilities = json!(["CAP_NET_BIND_SERVICE"]);
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            config["process"]["capabilities"][set] = capabilities.clone();
        }
    });
    assert_eq!(text.trim(), "0000000000000400");
}

#[test]
fn exec_adds_the_capabilities_it_is_told_and_no_others() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    assert_eq!(runtime.exec(&bundle.id, &status("CapEff")).success().stdout.trim(), "0000000020000420");
    let script = status("CapEff");
    let args = ["exec", "--cap", "CAP_CHOWN", &bundle.id, "sh", "-c", script.as_str()];
    assert_eq!(runtime.ok(&args).stdout.trim(), "0000000020000421");
}

#[test]
fn no_new_privileges_is_set_only_where_asked() {
    for (value, expected) in [(true, "1\n"), (false, "0\n")] {
        let text =
            inside(&status("NoNewPrivs"), |config| config["process"]["noNewPrivileges"] = json!(value));
        assert_eq!(text, expected);
    }
}

#[test]
fn resource_limits_are_those_of_the_config_also_in_exec() {
    let runtime = Runtime::new();
    let mut bundle = runtime.sleeper();
    bundle.edit(|config| {
        config["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}
        ]);
    });
    runtime.detach(&bundle);
    let limits =
        std::fs::read_to_string(format!("/proc/{}/limits", runtime.pid(&bundle.id))).expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["100", "200"]);
    let text = runtime.exec(&bundle.id, "ulimit -Sn; ulimit -Hn; ulimit -c").success().stdout;
    assert_eq!(text, "100\n200\n0\n");
}

#[test]
fn the_oom_score_is_that_of_the_config() {
    let text = inside("cat /proc/self/oom_score_adj", |config| config["process"]["oomScoreAdj"] = json!(321));
    assert_eq!(text, "321\n");
}

#[test]
fn the_host_and_domain_names_are_those_of_the_config() {
    let text = inside("hostname; cat /proc/sys/kernel/domainname", |config| {
        config["hostname"] = json!("box");
        config["domainname"] = json!("example.org");
    });
    assert_eq!(text, "box\nexample.org\n");
}

#[test]
fn kernel_parameters_are_those_of_the_config() {
    let text = inside("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced", |config| {
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"});
    });
    assert_eq!(text, "1\n1\n");
}

#[test]
fn a_kernel_parameter_outside_the_namespaces_is_refused() {
    let runtime = Runtime::new();
    let mut bundle = runtime.bundle();
    bundle.edit(|config| config["linux"]["sysctl"] = json!({"vm.swappiness": "60"}));
    let _ = runtime.run(&bundle).fails_with(1, &["vm.swappiness"]);
    bundle.namespace("network", None);
    bundle.edit(|config| config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"}));
    let _ = runtime.run(&bundle).fails_with(1, &["net.ipv4.ip_forward"]);
    runtime.assert_nothing_left();
}

fn no_mkdir(config: &mut Value) {
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
            {"names": ["no_such_syscall_at_all"], "action": "SCMP_ACT_ERRNO"}
        ]
    });
}

#[test]
fn the_seccomp_filter_holds_in_run_and_in_exec() {
    let runtime = Runtime::new();
    let script = format!("{}; mkdir /tmp/x 2>&1", status("Seccomp"));
    let mut bundle = runtime.shell(&format!("{script}; sleep 600"));
    for privileges in [true, false] {
        bundle.edit(no_mkdir).edit(|config| config["process"]["noNewPrivileges"] = json!(privileges));
        let output = runtime.ok(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
        let expected = "2\nmkdir: can't create directory '/tmp/x': Operation not supported\n";
        assert_eq!(output.wait_stdout("supported\n"), expected);
        let exec = runtime.exec(&bundle.id, &script);
        assert_eq!((exec.code, exec.stdout.as_str()), (1, expected));
        runtime.ok(&["delete", "--force", &bundle.id]);
    }
}

#[test]
fn without_a_filter_seccomp_is_off() {
    assert_eq!(inside(&status("Seccomp"), |_| {}), "0\n");
}

#[test]
fn the_personality_is_that_of_the_config() {
    let text = inside("uname -m", |config| config["linux"]["personality"] = json!({"domain": "LINUX32"}));
    assert_eq!(text, "i686\n");
}

/// Runs the runtime under a shell that has opened file `3` and `4` of the host first.
fn with_open_files(runtime: &Runtime, environment: &str, args: &[&str]) -> common::Output {
    let (third, fourth) = (runtime.file("third", "three\n"), runtime.file("fourth", "four\n"));
    let script = format!("{environment}exec \"$@\" 3<{} 4<{}", third.display(), fourth.display());
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg("sh").arg(common::runtime_path());
    command.arg("--root").arg(runtime.root()).args(args);
    finish(command, None)
}

#[test]
fn listen_fds_are_passed_on_with_their_variables() {
    let runtime = Runtime::new();
    let bundle = runtime.shell("echo $LISTEN_FDS $LISTEN_PID $$; cat <&3; cat <&4; ls /proc/self/fd | wc -l");
    let output = with_open_files(
        &runtime,
        "export LISTEN_FDS=2 LISTEN_PID=$$; ",
        &["run", "--bundle", bundle.dir(), &bundle.id],
    );
    assert_eq!(output.success().stdout, "2 1 1\nthree\nfour\n6\n");
}

#[test]
fn preserved_descriptors_are_passed_on_in_run_and_exec() {
    let runtime = Runtime::new();
    let bundle = runtime.shell("cat <&3; cat <&4; echo \"[$LISTEN_FDS]\"");
    let args = ["run", "--preserve-fds", "2", "--bundle", bundle.dir(), &bundle.id];
    assert_eq!(with_open_files(&runtime, "", &args).success().stdout, "three\nfour\n[]\n");
    let sleeper = runtime.sleeper();
    runtime.detach(&sleeper);
    let args =
        ["exec", "--preserve-fds=1", &sleeper.id, "sh", "-c", "cat <&3; test -e /proc/self/fd/4 || echo no"];
    assert_eq!(with_open_files(&runtime, "", &args).success().stdout, "three\nno\n");
}

#[test]
fn no_descriptor_of_the_runtime_or_its_caller_leaks() {
    let runtime = Runtime::new();
    let script = "for fd in $(seq 0 50); do test -e /proc/$$/fd/$fd && echo $fd; done; true";
    let bundle: Bundle = runtime.shell(script);
    let output = with_open_files(&runtime, "", &["run", "--bundle", bundle.dir(), &bundle.id]);
    assert_eq!(output.success().stdout, "0\n1\n2\n");
    let sleeper = runtime.sleeper();
    runtime.detach(&sleeper);
    let output = with_open_files(&runtime, "", &["exec", &sleeper.id, "sh", "-c", script]);
    assert_eq!(output.success().stdout, "0\n1\n2\n");
}

#[test]
fn a_descriptor_to_preserve_that_is_not_open_is_refused() {
    let runtime = Runtime::new();
    let bundle = runtime.bundle();
    let output = runtime.call(&["run", "--preserve-fds", "9", "--bundle", bundle.dir(), &bundle.id]);
    let _ = output.fails_with(1, &["fd"]);
    runtime.assert_nothing_left();
}

#[test]
fn the_binary_of_the_runtime_cannot_be_reached_from_inside() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let before = std::fs::read(common::runtime_path()).expect("the runtime");
    // An interpreter line that names /proc/self/exe is how CVE-2019-5736 overwrote the runtime.
    std::fs::write(bundle.rootfs("bin/evil"), "#!/proc/self/exe\n").expect("the script");
    finish(
        {
            let mut command = Command::new("chmod");
            command.arg("755").arg(bundle.rootfs("bin/evil"));
            command
        },
        None,
    )
    .success();
    let _ = runtime.call(&["exec", &bundle.id, "/bin/evil"]);
    assert_eq!(
        before,
        std::fs::read(common::runtime_path()).expect("the runtime"),
        "the runtime was changed"
    );
}
