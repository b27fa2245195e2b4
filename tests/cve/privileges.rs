//! Capabilities, users and configurations that give more than was asked for.

use crate::common::Runtime;
use serde_json::json;

const SETS: &str = "grep -E '^Cap(Inh|Amb)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '";
const NONE: &str = "CapInh:0000000000000000 CapAmb:0000000000000000 ";

#[test]
fn no_capability_is_inheritable_unless_the_configuration_says_so() {
    let runtime = Runtime::new();
    let bundle = runtime.shell(&format!("{SETS}; sleep 600"));
    let output = runtime.ok(&["run", "--detach", "--bundle", bundle.dir(), &bundle.id]);
    output.wait_stdout(NONE);
    let exec = |options: &[&str]| {
        let args = [&["exec"], options, &[&bundle.id, "sh", "-c", SETS]].concat();
        runtime.ok(&args).stdout
    };
    assert_eq!(exec(&[]), NONE);
    assert_eq!(exec(&["--cap", "CAP_NET_RAW", "--cap", "CAP_SYS_ADMIN"]), NONE);
    let file = bundle.process_file("process.json", &["sh", "-c", SETS], |_| ());
    let args = ["exec", "--process", file.to_str().expect("UTF-8"), &bundle.id];
    assert_eq!(runtime.ok(&args).stdout, NONE);
}

#[test]
fn capabilities_added_to_an_exec_are_not_kept_by_another_user() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let script = "grep -E '^Cap(Eff|Prm)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '";
    let args = ["exec", "--user", "1000:1000", "--cap", "CAP_SYS_ADMIN", &bundle.id, "sh", "-c", script];
    assert_eq!(runtime.ok(&args).stdout, "CapPrm:0000000000000000 CapEff:0000000000000000 ");
}

#[test]
fn the_configuration_that_spec_writes_has_no_inheritable_capabilities() {
    let runtime = Runtime::new();
    for options in [&["spec"][..], &["spec", "--rootless"]] {
        let dir = runtime.path(&options.len().to_string());
        std::fs::create_dir(&dir).expect("a folder");
        runtime.ok(&[options, &["--bundle", dir.to_str().expect("UTF-8")]].concat());
        let text = std::fs::read(dir.join("config.json")).expect("config.json");
        let config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let capabilities = config["process"]["capabilities"].as_object().expect("capabilities");
        let names = capabilities.get("inheritable").and_then(|names| names.as_array());
        assert!(names.is_none_or(Vec::is_empty), "{names:?}");
    }
}

#[test]
fn a_user_given_by_number_is_that_user() {
    let runtime = Runtime::new();
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let script = "echo $(id -u) $(id -g)";
    for (user, expected) in
        [("1", "1 0\n"), ("0", "0 0\n"), ("1:2", "1 2\n"), ("65534", "65534 0\n"), ("0:5", "0 5\n")]
    {
        assert_eq!(runtime.ok(&["exec", "--user", user, &bundle.id, "sh", "-c", script]).stdout, expected);
        assert_eq!(runtime.ok(&["exec", "-u", user, &bundle.id, "sh", "-c", script]).stdout, expected);
    }
    for nonsense in ["", ":", "1:", ":1", "-1", "1:-1", "4294967296", "1 ", "0x1", "root", "1:2:3"] {
        let output = runtime.call(&["exec", &format!("--user={nonsense}"), &bundle.id, "true"]);
        assert_eq!(output.code, 255, "'{nonsense}' was taken as a user");
    }
}

#[test]
fn long_strings_in_a_configuration_take_no_namespace_away() {
    let runtime = Runtime::new();
    let host: Vec<_> = ["pid", "mnt", "net", "ipc", "uts"]
        .map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace"))
        .into();
    // More than what fits the 16 bits of a length, and chosen to wrap to something small.
    for length in [65_535, 65_536, 65_540, 131_072] {
        let mut bundle = runtime.shell("for n in pid mnt net ipc uts; do readlink /proc/self/ns/$n; done");
        let long = "a".repeat(length);
        bundle.edit(|config| {
            config["annotations"] = json!({"note": long});
            config["process"]["env"].as_array_mut().expect("env").push(json!(format!("LONG={long}")));
            config["mounts"][0]["source"] = json!(&long[..200]);
            config["linux"]["maskedPaths"]
                .as_array_mut()
                .expect("paths")
                .push(json!(format!("/{}", &long[..4000])));
        });
        let output = runtime.run(&bundle);
        if output.code == 0 {
            let own: Vec<_> = output.stdout.lines().map(std::path::PathBuf::from).collect();
            assert_eq!(own.len(), host.len(), "{}", output.stdout);
            assert!(own.iter().zip(&host).all(|(own, host)| own != host), "{}", output.stdout);
        }
    }
    runtime.assert_nothing_left();
}

#[test]
fn a_container_that_asks_for_a_virtual_machine_is_never_made_without_one() {
    let runtime = Runtime::new();
    for (name, value) in [("run.oci.handler", "krun"), ("org.magikrun.backend", "krun")] {
        let mut bundle = runtime.bundle();
        let host = runtime.path("host");
        for file in [".krun_config.json", ".krun_vm.json"] {
            std::os::unix::fs::symlink(&host, bundle.rootfs(file)).expect("a link to the host");
        }
        bundle.edit(|config| config["annotations"] = json!({name: value, "krun.use_passt": "1"}));
        runtime.run(&bundle).fails_with(1, &["'/.krun_vm.json' of the image", "symbolic link"]);
        assert!(!host.exists(), "a file was made on the host");
        // Nor where the image is harmless: here are no guests that boot, or no program that boots them.
        std::fs::remove_file(bundle.rootfs(".krun_vm.json")).expect("the link is removed");
        runtime.run(&bundle).fails_with(1, &["cannot run a microVM: "]);
        assert!(!host.exists(), "a file was made on the host");
    }
    runtime.assert_nothing_left();
}
