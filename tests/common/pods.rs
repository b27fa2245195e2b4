//! Pods for the black-box tests: a state root, an image store and a cgroup of their own, and the proof that nothing is left.

use super::{
    Compression, DEADLINE, Layer, Layout, Output, Runtime, finish, leftover_cgroups, names_in, poll, start,
};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The image that the pods of these tests are made of.
pub const IMAGE: &str = "localhost/busybox:1";

/// A runtime with an image of busybox.
pub struct Pods {
    /// The runtime.
    pub runtime: Runtime,
    /// A network namespace that stands for the host's, and the operator's configuration there.
    host: Option<(String, PathBuf)>,
}

impl Default for Pods {
    fn default() -> Self {
        Self::new()
    }
}

impl Pods {
    /// A runtime without pods, with [`IMAGE`] in its store.
    pub fn new() -> Self {
        let runtime = Runtime::new();
        let mut layout = Layout::new(&runtime.path("busybox"));
        let settings =
            json!({"Env": ["PATH=/bin", "FROM=image"], "Cmd": ["sh", "-c", "echo default; sleep 600"]});
        layout.add("1", &[Layer::busybox().into_bytes()], Compression::None, &settings);
        runtime.image(&["pull", &layout.image("1")]).success();
        Self { runtime, host: None }
    }

    /// The same with every command in a network namespace of the test's own, which takes the place of the host's network, and with
    /// this configuration of the operator's.
    pub fn on_network_of(mut self, namespace: &str, config: &str) -> Self {
        let config = self.runtime.file("config.toml", config);
        self.host = Some((format!("--net=/run/netns/{namespace}"), config));
        self
    }

    /// A name for a pod that no other test has.
    pub fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.runtime.name())
    }

    /// `magikrun pod ARGS`, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        let store = self.runtime.store();
        let mut all = vec!["pod", "--storage", store.to_str().expect("a path in UTF-8")];
        all.extend(args);
        let command = self.runtime.command(&all);
        let Some((namespace, config)) = &self.host else { return command };
        let mut inside = Command::new(super::require_program("nsenter"));
        inside.arg(namespace).arg(command.get_program()).args(command.get_args());
        inside.env("MAGIKRUN_CONFIG", config);
        inside
    }

    /// `magikrun pod ARGS`.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        finish(self.command(args), None)
    }

    /// `magikrun pod ARGS`, which must succeed; answers what it prints.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        self.call(args).success().stdout
    }

    /// `magikrun pod run`, not started, with the manifest in a file.
    pub fn run_command(&self, options: &[&str], manifest: &str) -> Command {
        let path = self.runtime.file(&format!("{}.yaml", super::unique_name()), manifest);
        let parent = format!("/{}", self.runtime.name());
        let mut args = vec!["run", "--cgroup-parent", &parent];
        args.extend(options);
        args.push(path.to_str().expect("a path in UTF-8"));
        self.command(&args)
    }

    /// `magikrun pod run`.
    #[track_caller]
    pub fn run(&self, options: &[&str], manifest: &str) -> Output {
        finish(self.run_command(options, manifest), None)
    }

    /// Runs a pod, which must succeed; answers its id.
    #[track_caller]
    pub fn start(&self, manifest: &str) -> String {
        self.run(&[], manifest).success().stdout.trim().to_owned()
    }

    /// What `status --format json` prints.
    #[track_caller]
    pub fn status(&self, pod: &str) -> Value {
        serde_json::from_str(&self.ok(&["status", "--format", "json", pod])).expect("status prints JSON")
    }

    /// Waits until the pod is in this phase.
    #[track_caller]
    pub fn wait_phase(&self, pod: &str, phase: &str) -> Value {
        poll(&format!("pod {pod} to be {phase}"), || {
            Some(self.status(pod)).filter(|status| status["phase"] == phase)
        })
    }

    /// Runs a shell script in a container of the pod, which must succeed.
    #[track_caller]
    pub fn sh(&self, pod: &str, container: &str, script: &str) -> String {
        self.ok(&["exec", "-c", container, pod, "sh", "-c", script])
    }

    /// Waits until the log of a container holds this.
    #[track_caller]
    pub fn wait_log(&self, pod: &str, container: &str, needle: &str) -> String {
        poll(&format!("'{needle}' in the log of {container}"), || {
            Some(self.ok(&["logs", pod, container])).filter(|text| text.contains(needle))
        })
    }

    /// Requires that nothing of any pod is left: no state, no file, no name, no mount, no cgroup, no process.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            // A process that has just been killed takes a moment to be gone.
            assert!(Instant::now() < deadline, "left behind: {left:#?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn left(&self) -> Vec<String> {
        let root = self.runtime.root().join("~pods");
        let mut left = Vec::new();
        for directory in [
            root.join("pods"),
            root.join("running"),
            root.join("names"),
            root.join("groups"),
            self.runtime.store().join("pods"),
        ] {
            let names = names_in(&directory).into_iter().filter(|name| name != "lock~");
            left.extend(names.map(|name| directory.join(name).display().to_string()));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
        let dir = self.runtime.dir().display().to_string();
        left.extend(mounts.lines().filter(|line| line.contains(&dir)).map(str::to_owned));
        let own = format!("/{}", self.runtime.name());
        let cgroups = leftover_cgroups(self.runtime.name());
        left.extend(
            cgroups.iter().map(|path| path.display().to_string()).filter(|path| !path.ends_with(&own)),
        );
        for pid in names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<u32>().ok()) {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let own_pod =
                line.starts_with("magikrun-") && line.contains(&format!("pod:{}", self.runtime.name()));
            if own_pod || cgroup.contains(&own) {
                left.push(format!("process {pid}: {}", line.replace('\0', " ")));
            }
        }
        left
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for id in self.call(&["list", "--quiet"]).stdout.split_whitespace() {
            self.call(&["delete", "--force", id]);
        }
        self.call(&["gc"]);
    }
}

/// Runs several commands at once.
pub fn at_once(commands: Vec<Command>) -> Vec<Output> {
    let running: Vec<_> = commands.into_iter().map(|command| start(command, None)).collect();
    running.into_iter().map(super::Running::finish).collect()
}

/// The monitor of the pod with this name.
pub fn monitor(name: &str) -> Option<i32> {
    processes("magikrun-pod", name).first().copied()
}

/// The infra container of the pod with this name.
pub fn infra(name: &str) -> Option<i32> {
    processes("magikrun-infra", name).first().copied()
}

fn processes(first: &str, name: &str) -> Vec<i32> {
    let numbers = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
    let is_it = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next() == Some(first.as_bytes()) && words.any(|word| word == format!("pod:{name}").as_bytes())
    };
    numbers.filter(is_it).collect()
}

/// A manifest with this name and `spec`, a YAML flow or block that stands on its own.
pub fn manifest(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec: {spec}\n")
}

/// A container that runs a shell script, as YAML in flow style; `fields` are added.
pub fn container(name: &str, script: &str, fields: &str) -> String {
    let script = script.replace('\'', "''");
    let more = if fields.is_empty() { String::new() } else { format!(", {fields}") };
    format!("{{name: {name}, image: '{IMAGE}', command: [sh, -c, '{script}']{more}}}")
}

/// A script that waits until it is told to end, and then ends well.
pub const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
