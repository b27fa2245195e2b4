//! WebAssembly modules as containers: their life, limits, exit codes and faults.
mod common;

use common::{Wasm, annotate, finish, poll, start};
use serde_json::json;
use std::fs;

/// Exit codes of the wasm backend.
const TRAPPED: i32 = 110;
const OUT_OF_FUEL: i32 = 111;
const OUT_OF_MEMORY: i32 = 112;
const MISSING_IMPORT: i32 = 113;

const FUEL: &str = "org.magikrun.wasm.fuel";
const PAGES: &str = "org.magikrun.wasm.max-memory-pages";

/// A profile that allows what Docker's default profile allows of the calls that matter here, and nothing that it does not.
fn docker_like() -> serde_json::Value {
    let denied = [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "pivot_root",
        "bpf",
        "ptrace",
        "keyctl",
        "add_key",
        "open_tree",
        "move_mount",
        "fsopen",
        "fsmount",
        "kexec_load",
        "reboot",
        "init_module",
        "userfaultfd",
        "perf_event_open",
    ];
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": denied, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    })
}

#[test]
fn a_module_runs_as_the_process_of_a_container() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&["show", "one", "two words"]);
    bundle.edit(|config| config["process"]["env"] = json!(["A=b", "PATH=/bin"]));
    let output = wasm.run(&bundle).success();
    assert_eq!(output.stdout, "arg show\narg one\narg two words\nenv A=b\nenv PATH=/bin\nenv HOME=/root\n");
    assert_eq!(output.stderr, "");
    wasm.runtime.assert_nothing_left();
}

#[test]
fn the_name_of_the_program_asks_for_a_module_and_the_pause_container_stays_native() {
    let wasm = Wasm::new();
    let name = wasm.runtime.path("magikrun-wasm");
    std::os::unix::fs::symlink(common::runtime_path(), &name).unwrap();
    let run = |bundle: &common::Bundle| {
        let usual = wasm.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
        let mut command = std::process::Command::new(&name);
        command.args(usual.get_args());
        command.envs(usual.get_envs().filter_map(|(name, value)| Some((name, value?))));
        finish(command, None)
    };
    let mut module = wasm.probe(&["show", "named"]);
    module.edit(|config| config["annotations"] = json!({}));
    assert!(run(&module).success().stdout.starts_with("arg show\narg named\n"));
    // The same bundle is an ordinary container by the usual name, which the kernel refuses.
    assert_ne!(wasm.run(&module).code, 0);
    let mut pause = wasm.runtime.shell("echo native");
    assert_ne!(run(&pause).code, 0, "a program is no module");
    annotate(&mut pause, "io.kubernetes.cri-o.ContainerType", "sandbox");
    assert_eq!(run(&pause).success().stdout, "native\n");
    wasm.runtime.assert_nothing_left();
}

#[test]
fn the_exit_code_is_that_of_the_module() {
    let wasm = Wasm::new();
    for code in [0, 1, 7, 125, 126, 200, 255] {
        wasm.run(&wasm.probe(&["exit", &code.to_string()])).exits(code);
    }
    assert_eq!(wasm.run(&wasm.probe(&["exit", "256"])).code, 0);
}

#[test]
fn a_trap_is_told_with_its_cause_and_has_a_code_of_its_own() {
    let wasm = Wasm::new();
    let output = wasm.run(&wasm.probe(&["trap"])).exits(TRAPPED);
    assert!(
        output.stderr.starts_with("magikrun: '/app/probe.wasm' trapped: wasm trap: "),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("unreachable"), "{}", output.stderr);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    let output = wasm.run(&wasm.probe(&["deep"])).exits(TRAPPED);
    assert!(
        output.stderr.contains("call stack exhausted") || output.stderr.contains("out of bounds"),
        "{}",
        output.stderr
    );
}

#[test]
fn fuel_ends_a_module_and_the_message_names_the_setting() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&["loop"]);
    annotate(&mut bundle, FUEL, "10000000");
    let output = wasm.run(&bundle).exits(OUT_OF_FUEL);
    assert_eq!(output.stdout, "looping\n");
    assert!(output.stderr.contains(FUEL) && output.stderr.contains("wasm.fuel"), "{}", output.stderr);
    let limited = Wasm::with("fuel = 10000000");
    limited.run(&limited.probe(&["loop"])).exits(OUT_OF_FUEL);
    let mut bundle = limited.probe(&["loop"]);
    annotate(&mut bundle, FUEL, "10000001");
    limited.run(&bundle).fails_with(1, &["wasm.fuel", "10000000"]);
}

#[test]
fn memory_is_limited_by_pages_and_by_the_cgroup() {
    let wasm = Wasm::new();
    let run = |pages: Option<&str>, limit: Option<u64>, megabytes: &str| {
        let mut bundle = wasm.probe(&["memory", megabytes]);
        if let Some(pages) = pages {
            annotate(&mut bundle, PAGES, pages);
        }
        if let Some(limit) = limit {
            bundle.edit(|config| config["linux"]["resources"]["memory"] = json!({"limit": limit}));
        }
        wasm.run(&bundle)
    };
    assert_eq!(run(None, None, "100").success().stdout, "took 100\n");
    // The program hears that there is no more, and goes on.
    let output = run(Some("320"), None, "100").exits(3);
    assert!(output.stdout.starts_with("no more after 1"), "{}", output.stdout);
    // Below the limit of the cgroup, so that the kernel does not kill it.
    let output = run(None, Some(64 << 20), "100").exits(3);
    assert!(output.stdout.starts_with("no more after 5"), "{}", output.stdout);
    // It cannot even start.
    let output = run(Some("1"), None, "1").exits(OUT_OF_MEMORY);
    assert!(output.stderr.contains("out of memory") && output.stderr.contains("65536"), "{}", output.stderr);
    run(Some("65537"), None, "1").fails_with(1, &["wasm.max_memory_pages"]);
}

#[test]
fn text_is_compiled_too_and_its_faults_have_line_and_column() {
    let wasm = Wasm::new();
    let text = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") i32.const 9 call $exit))"#;
    wasm.run(&wasm.bundle(text.as_bytes(), "/nine.wat", &[])).exits(9);
    let faulty = wasm.bundle(b"(module\n  (func i32.nonsense))", "/faulty.wat", &[]);
    wasm.run(&faulty).fails_with(1, &["'/faulty.wat'", "line 2, column 9"]);
    wasm.runtime.assert_nothing_left();
}

#[test]
fn what_is_no_program_is_one_clear_error_before_anything_is_made() {
    let wasm = Wasm::new();
    let probe = fs::read(common::probe()).expect("the probe");
    let import = br#"(module (import "env" "nowhere" (func)) (func (export "_start")))"#;
    let component = b"(component)";
    let library = b"(module (func (export \"add\")))";
    let cases: [(&str, &[u8], i32, &str); 9] = [
        ("elf", b"\x7fELF\x02\x01\x01", 1, "not a WebAssembly module"),
        ("empty", b"", 1, "it is empty"),
        ("short", b"\0asm\x01", 1, "truncated"),
        ("version", b"\0asm\x07\0\0\0", 1, "unknown version"),
        ("cut", &probe[..probe.len() / 2], 1, "unexpected end"),
        ("garbage", b"\0asm\x01\0\0\0\xff\xff\xff\xff", 1, "offset"),
        ("import", import, MISSING_IMPORT, "env::nowhere"),
        ("component", component, 1, "component of no known world"),
        ("library", library, 1, "_start"),
    ];
    for (name, module, code, needle) in cases {
        let path = format!("/{name}");
        let bundle = wasm.bundle(module, &path, &[]);
        for command in ["create", "run"] {
            let output = wasm.call(&[command, "--bundle", bundle.dir(), &bundle.id]);
            let output = output.fails_with(code, &[&path, needle]);
            assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        }
    }
    let mut large = wasm.probe(&["show"]);
    annotate(&mut large, "org.magikrun.wasm.max-module-size", "1000");
    wasm.run(&large).fails_with(1, &["1000 bytes", "max-module-size"]);
    let mut missing = wasm.probe(&[]);
    missing.args(&["/app/nosuch.wasm"]);
    wasm.run(&missing).fails_with(1, &["no such file or directory"]);
    let mut unknown = wasm.probe(&["show"]);
    annotate(&mut unknown, "org.magikrun.wasm.nonsense", "1");
    wasm.run(&unknown).fails_with(1, &["org.magikrun.wasm.nonsense"]);
    wasm.runtime.assert_nothing_left();
}

#[test]
fn annotations_of_others_choose_the_backend_too() {
    let wasm = Wasm::new();
    let with = |name: &str, value: &str, args: &[&str]| {
        let mut bundle = wasm.probe(&["exit", "5"]);
        bundle.edit(|config| config["annotations"] = json!({}));
        annotate(&mut bundle, name, value);
        bundle.args(args);
        bundle
    };
    let module = ["/app/probe.wasm", "exit", "5"];
    for (name, value) in [
        ("run.oci.handler", "wasm"),
        ("run.oci.handler", "wasm-smart"),
        ("module.wasm.image/variant", "compat"),
        ("module.wasm.image/variant", "compat-smart"),
    ] {
        wasm.run(&with(name, value, &module)).exits(5);
    }
    for (name, value) in [("run.oci.handler", "wasm-smart"), ("module.wasm.image/variant", "compat-smart")] {
        wasm.run(&with(name, value, &["sh", "-c", "exit 6"])).exits(6);
    }
    wasm.run(&with("run.oci.handler", "wasm", &["sh"])).fails_with(1, &["not a WebAssembly module"]);
    let mut sandbox = with("run.oci.handler", "wasm", &["sh", "-c", "exit 4"]);
    annotate(&mut sandbox, "io.kubernetes.cri.container-type", "sandbox");
    wasm.run(&sandbox).exits(4);
}

#[test]
fn every_command_of_the_life_cycle_works() {
    let wasm = Wasm::new();
    let bundle = wasm.probe(&["sleep", "600"]);
    let id = bundle.id.as_str();
    let created = wasm.ok(&["create", "--bundle", bundle.dir(), id]);
    assert_eq!(wasm.runtime.status(id), "created");
    assert_eq!(created.stdout_now(), "");
    wasm.ok(&["start", id]);
    created.wait_stdout("sleeping");
    assert_eq!(wasm.runtime.status(id), "running");
    assert!(wasm.ok(&["ps", id]).stdout.contains("/app/probe.wasm sleep 600"));
    wasm.ok(&["pause", id]);
    assert_eq!(wasm.runtime.status(id), "paused");
    wasm.ok(&["resume", id]);
    wasm.ok(&["update", "--memory", "100M", id]);
    assert!(wasm.ok(&["list"]).stdout.contains(id));
    wasm.ok(&["events", "--stats", id]);
    wasm.call(&["start", id]).fails_with(1, &["already running"]);
    wasm.ok(&["kill", id, "KILL"]);
    wasm.runtime.wait_status(id, "stopped");
    wasm.ok(&["delete", id]);
    wasm.runtime.assert_nothing_left();
}

#[test]
fn a_signal_ends_a_module_with_128_and_its_number_whatever_it_does() {
    let wasm = Wasm::new();
    for (args, ready) in [(["loop", ""], "looping"), (["sleep", "600"], "sleeping")] {
        for (name, number) in [("TERM", 15), ("INT", 2), ("KILL", 9), ("USR1", 10), ("RTMIN+1", 35)] {
            let bundle = wasm.probe(&args);
            let running = start(wasm.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None);
            running.wait_stdout(ready);
            wasm.ok(&["kill", &bundle.id, name]);
            running.finish().exits(128 + number);
        }
    }
    wasm.runtime.assert_nothing_left();
}

#[test]
fn without_a_pid_namespace_signals_work_as_well() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&["loop"]);
    bundle.namespace("pid", None);
    let running = start(wasm.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None);
    running.wait_stdout("looping");
    wasm.ok(&["kill", &bundle.id, "TERM"]);
    running.finish().exits(143);
}

#[test]
fn the_process_has_nothing_of_the_runtime() {
    let wasm = Wasm::new();
    let bundle = wasm.probe(&["sleep", "600"]);
    let mut command = wasm.command(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    command.env("SECRET_OF_THE_CALLER", "1");
    finish(command, None).success().wait_stdout("sleeping");
    let pid = wasm.runtime.pid(&bundle.id);
    let proc = |name: &str| fs::read(format!("/proc/{pid}/{name}")).expect("a file of the process");
    let environment = String::from_utf8_lossy(&proc("environ")).into_owned();
    assert!(!environment.contains("SECRET") && environment.contains("TERM=xterm"), "{environment}");
    assert_eq!(proc("cmdline"), b"/app/probe.wasm\0sleep\x00600\0");
    assert_eq!(proc("comm"), b"probe.wasm\n");
    assert_eq!(fs::read_dir(format!("/proc/{pid}/task")).expect("threads").count(), 1);
    let status = String::from_utf8_lossy(&proc("status")).into_owned();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    // CVE-2019-5736: what is executed cannot be written through this.
    let exe = rustix::fs::statvfs(format!("/proc/{pid}/exe")).expect("the executable");
    assert!(exe.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    // Neither can what it holds open: the code and the memory limit.
    let script = "for n in 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do f=/proc/1/fd/$n; \
                  [ -f $f ] && { echo found; ( : >> $f ) 2>/dev/null && echo writable $n; }; done";
    let found = wasm.call(&["exec", &bundle.id, "sh", "-c", script]).stdout;
    assert!(found.contains("found") && !found.contains("writable"), "{found}");
    wasm.ok(&["delete", "--force", &bundle.id]);
}

#[test]
fn a_user_without_privileges_under_a_filter_and_with_a_single_process_is_enough() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&["show"]);
    bundle.edit(|config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        config["process"]["capabilities"] = json!({});
        config["linux"]["seccomp"] = docker_like();
        config["linux"]["resources"]["pids"] = json!({"limit": 1});
    });
    assert!(wasm.run(&bundle).success().stdout.contains("env HOME=/home"));
    bundle.args(&["/app/probe.wasm", "list", "/"]);
    assert!(wasm.run(&bundle).success().stdout.contains("app\n"));
    bundle.args(&["/app/probe.wasm", "poll", "10"]);
    assert_eq!(wasm.run(&bundle).success().stdout, "ready 1\n");
    bundle.args(&["/app/probe.wasm", "write", "/denied", "x"]);
    assert_eq!(wasm.run(&bundle).exits(1).stdout, "Permission denied\n");
    bundle.args(&["/app/probe.wasm", "trap"]);
    wasm.run(&bundle).exits(TRAPPED);
}

#[test]
fn little_address_space_is_enough() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&["memory", "20"]);
    let limit = 300 << 20;
    bundle.edit(|config| {
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_AS", "hard": limit, "soft": limit}]);
    });
    assert_eq!(wasm.run(&bundle).success().stdout, "took 20\n");
}

#[test]
fn a_user_namespace_makes_no_difference() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&["write", "/tmp/file", "text"]);
    bundle.namespace("user", Some(json!({"type": "user"})));
    bundle.edit(|config| {
        let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        config["linux"]["uidMappings"] = mapping.clone();
        config["linux"]["gidMappings"] = mapping;
    });
    fs::set_permissions(bundle.rootfs("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("the mode");
    assert_eq!(wasm.run(&bundle).success().stdout, "ok\n");
    assert_eq!(fs::read_to_string(bundle.rootfs("tmp/file")).expect("the file"), "text");
}

#[test]
fn hooks_run_as_for_any_container() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&["exit", "0"]);
    let log = wasm.runtime.path("hooks");
    let hook = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} >> {}", log.display())]}]);
    bundle.edit(|config| {
        config["hooks"] = json!({"createRuntime": hook("createRuntime"), "poststart": hook("poststart"), "poststop": hook("poststop")});
    });
    wasm.run(&bundle).success();
    assert_eq!(fs::read_to_string(log).expect("the log"), "createRuntime\npoststart\npoststop\n");
}

#[test]
fn exec_runs_modules_and_native_programs_in_the_container() {
    let wasm = Wasm::new();
    let mut bundle = wasm.probe(&["sleep", "600"]);
    bundle.mount("/shared", "tmpfs", "tmpfs", &[]);
    let running = start(wasm.command(&["run", "--bundle", bundle.dir(), &bundle.id]), None);
    running.wait_stdout("sleeping");
    let exec = |args: &[&str]| wasm.call(&[&["exec", &bundle.id], args].concat());
    assert_eq!(exec(&["/app/probe.wasm", "write", "/shared/file", "from a module"]).success().stdout, "ok\n");
    assert_eq!(exec(&["cat", "/shared/file"]).success().stdout, "from a module");
    exec(&["/app/probe.wasm", "exit", "44"]).exits(44);
    exec(&["sh", "-c", "exit 45"]).exits(45);
    exec(&["/app/probe.wasm", "trap"]).exits(TRAPPED);
    exec(&["/app/nosuch.wasm"]).fails_with(255, &["no such file or directory"]);
    fs::write(bundle.rootfs("app/bad.wasm"), b"\0asm").expect("a file");
    exec(&["/app/bad.wasm"]).fails_with(255, &["truncated"]);
    // What exec leaves is reaped by the first process, which waits for none.
    exec(&["sh", "-c", "sleep 0.1 & exit 0"]).success();
    let pid = wasm.runtime.pid(&bundle.id);
    poll("the orphan to be reaped", || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.is_empty().then_some(())
    });
    wasm.ok(&["kill", &bundle.id, "KILL"]);
    running.finish().exits(137);
}

#[test]
fn a_module_has_a_terminal_where_the_container_has_one() {
    let wasm = Wasm::new();
    assert_eq!(wasm.says(&["tty"], |_| {}), "tty 0 0 0\n");
    let mut bundle = wasm.probe(&["tty"]);
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    let output = wasm.run(&bundle).success();
    assert_eq!(output.stdout.trim_end(), "tty 1 1 1");
}

#[test]
fn input_is_read_as_it_comes() {
    let wasm = Wasm::new();
    let bundle = wasm.probe(&["echo"]);
    let command = wasm.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
    let output = finish(command, Some(b"one\ntwo\n")).success();
    assert_eq!(output.stdout, "got one\ngot two\nend of input\n");
    // A pipe that stays open: reading must not wait for its end, and polling must not find anything.
    for (args, text) in [(["echo", ""], "got line\n"), (["poll", "50"], "ready 0\n")] {
        let bundle = wasm.probe(&args);
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let mut command = wasm.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
        command.stdin(reader).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("the runtime");
        if args[0] == "echo" {
            std::io::Write::write_all(&mut writer, b"line\n").expect("a line");
        }
        let mut out = child.stdout.take().expect("its output");
        let mut seen = vec![0; text.len()];
        std::io::Read::read_exact(&mut out, &mut seen).expect("its answer");
        assert_eq!(String::from_utf8_lossy(&seen), text);
        drop(writer);
        assert!(child.wait().expect("its end").success());
    }
}
