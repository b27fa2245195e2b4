//! AppArmor profiles.

use crate::common::{Runtime, finish};
use serde_json::json;
use std::process::Command;

/// Allows everything but what is in `/denied`.
const PROFILE: &str = "profile NAME flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  network,
  signal,
  ptrace,
  mount,
  umount,
  pivot_root,
  unix,
  deny /denied/** rwklx,
}
";

/// A loaded profile, which is unloaded on drop.
struct Profile(String);

impl Profile {
    fn load(runtime: &Runtime) -> Self {
        let name = runtime.name().to_owned();
        Self::parser("-r", &PROFILE.replace("NAME", &name));
        Self(name)
    }

    fn parser(option: &str, text: &str) {
        let mut command = Command::new("apparmor_parser");
        command.args(["--skip-cache", option]);
        finish(command, Some(text.as_bytes())).success();
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        Self::parser("-R", &PROFILE.replace("NAME", &self.0));
    }
}

#[test]
fn a_profile_confines_the_container_and_what_is_executed_in_it() {
    let runtime = Runtime::new();
    let profile = Profile::load(&runtime);
    let mut bundle = runtime.sleeper();
    std::fs::create_dir(bundle.rootfs("denied")).expect("a folder");
    std::fs::write(bundle.rootfs("denied/secret"), "x").expect("a file");
    bundle.edit(|config| config["process"]["apparmorProfile"] = json!(profile.0));
    let pid = runtime.detach(&bundle);
    let confined = format!("{} (enforce)", profile.0);
    let current = std::fs::read_to_string(format!("/proc/{pid}/attr/current")).expect("its profile");
    assert_eq!(current.trim(), confined);
    let output = runtime.exec(&bundle.id, "cat /proc/self/attr/current; cat /denied/secret").exits(1);
    assert_eq!(output.stdout.trim(), confined);
    assert!(output.stderr.contains("Permission denied"), "{}", output.stderr);
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}

#[test]
fn a_profile_that_is_not_loaded_is_refused() {
    let runtime = Runtime::new();
    let mut bundle = runtime.bundle();
    bundle.edit(|config| config["process"]["apparmorProfile"] = json!("mkt-no-such-profile"));
    let _ = runtime.run(&bundle).fails_with(1, &["mkt-no-such-profile"]);
    runtime.assert_nothing_left();
}

#[test]
fn exec_may_name_another_profile() {
    let runtime = Runtime::new();
    let profile = Profile::load(&runtime);
    let bundle = runtime.sleeper();
    runtime.detach(&bundle);
    let output =
        runtime.ok(&["exec", "--apparmor", &profile.0, &bundle.id, "cat", "/proc/self/attr/current"]);
    assert_eq!(output.stdout.trim(), format!("{} (enforce)", profile.0));
    runtime.ok(&["delete", "--force", &bundle.id]);
    runtime.assert_nothing_left();
}
