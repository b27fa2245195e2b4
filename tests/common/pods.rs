//! Pods for the black-box tests: a state root, an image store and a cgroup of their own, and the proof that nothing is left.

use super::{
    Compression, DEADLINE, Layer, Layout, Output, Runtime, Terminal, finish, is_alive, leftover_cgroups,
    names_in, poll, require_program, signal, start,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::Instant;

/// The image that the pods of these tests are made of.
pub const IMAGE: &str = "localhost/busybox:1";

/// A runtime with an image of busybox.
pub struct Pods {
    /// The runtime.
    pub runtime: Runtime,
    /// What every command is called by: its program and first arguments.
    prefix: Vec<OsString>,
    /// The operator's configuration.
    config: Option<PathBuf>,
    /// systemd manages the cgroups.
    systemd: bool,
}

/// The user that pods without privileges are of: one that exists on every Debian and owns nothing.
pub const USER: u32 = 65534;

/// Runs its arguments as [`USER`], with these files in place of /etc/subuid and /etc/subgid, and a /dev/net/tun as hosts with users
/// have it. In a mount namespace of its own: the host's files stay as they are.
const AS_USER: &str = r#"
    mount --bind "$1" /etc/subuid && mount --bind "$1" /etc/subgid && shift
    mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200
    exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@""#;

impl Default for Pods {
    fn default() -> Self {
        Self::new()
    }
}

impl Pods {
    /// A runtime without pods, with [`IMAGE`] in its store.
    pub fn new() -> Self {
        Self::with(Runtime::new(), Vec::new())
    }

    /// The same for [`USER`], to whom these lines of subuid(5) lend ids, and with a shell script that sets more up before the user
    /// takes over.
    pub fn of_user(lent: &str, set_up: &str) -> Self {
        let runtime = Runtime::new();
        for path in [runtime.dir().to_owned(), runtime.root()] {
            std::os::unix::fs::chown(path, Some(USER), Some(USER)).expect("the folder's owner");
        }
        // Where the program was built is nobody's business.
        super::copy_program(&super::runtime_path(), &runtime.path("magikrun"));
        let lent = runtime.file("lent", lent);
        let script = format!("{set_up}\n{AS_USER}");
        let prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script, "sh"];
        let mut prefix: Vec<OsString> = prefix.into_iter().map(OsString::from).collect();
        prefix.push(lent.into());
        Self::with(runtime, prefix)
    }

    fn with(runtime: Runtime, prefix: Vec<OsString>) -> Self {
        let pods = Self { runtime, prefix, config: None, systemd: false };
        let mut layout = Layout::new(&pods.runtime.path("busybox"));
        let settings =
            json!({"Env": ["PATH=/bin", "FROM=image"], "Cmd": ["sh", "-c", "echo default; sleep 600"]});
        layout.add("1", &[Layer::busybox().into_bytes()], Compression::None, &settings);
        finish(pods.storage_command("image", &["pull", &layout.image("1")]), None).success();
        pods
    }

    /// The same with every command in a network namespace of the test's own, which takes the place of the host's network, and with
    /// this configuration of the operator's.
    pub fn on_network_of(mut self, namespace: &str, config: &str) -> Self {
        self.prefix = vec!["nsenter".into(), format!("--net=/run/netns/{namespace}").into()];
        self.configured(config)
    }

    /// The same with every command in a mount namespace of its own, in which this shell script has run.
    pub fn in_view(mut self, script: &str) -> Self {
        let script = format!("{script}; exec \"$@\"");
        let prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script, "sh"];
        self.prefix = prefix.into_iter().map(OsString::from).collect();
        self
    }

    /// The same with cgroups that systemd manages.
    pub fn of_systemd(mut self) -> Self {
        self.systemd = true;
        self
    }

    /// What the cgroups of the pods are in.
    pub fn parent(&self) -> String {
        let name = self.runtime.name();
        // Each `-` would be a slice in a slice.
        if self.systemd { format!("{}.slice", name.replace('-', "_")) } else { format!("/{name}") }
    }

    /// The same with this configuration of the operator's.
    pub fn configured(mut self, config: &str) -> Self {
        self.config = Some(self.runtime.file("config.toml", config));
        self
    }

    /// A name for a pod that no other test has.
    pub fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.runtime.name())
    }

    /// `magikrun pod ARGS`, not started.
    pub fn command(&self, args: &[&str]) -> Command {
        self.storage_command("pod", args)
    }

    fn storage_command(&self, command: &str, args: &[&str]) -> Command {
        let store = self.runtime.store();
        let mut all: Vec<&str> = self.systemd.then_some("--systemd-cgroup").into_iter().collect();
        all.extend([command, "--storage", store.to_str().expect("a path in UTF-8")]);
        all.extend(args);
        let plain = self.runtime.command(&all);
        let copy = self.runtime.path("magikrun");
        let program = if copy.exists() { copy.as_os_str() } else { plain.get_program() };
        let mut command = match self.prefix.split_first() {
            Some((first, rest)) => {
                let mut inside = Command::new(first);
                inside.args(rest).arg(program);
                inside
            }
            None => Command::new(program),
        };
        command.args(plain.get_args());
        if let Some(config) = &self.config {
            command.env("MAGIKRUN_CONFIG", config);
        }
        command
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
        let parent = self.parent();
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

    /// Lets the containers of the pod go on that [`UNTIL_TOLD`] holds.
    #[track_caller]
    pub fn tell(&self, pod: &str) {
        let status = self.status(pod);
        let volumes =
            self.runtime.store().join("pods").join(status["id"].as_str().expect("an id")).join("volumes");
        fs::write(volumes.join("told/now"), "").expect("a file in a volume of the pod");
    }

    /// Waits until the pod is in this phase.
    #[track_caller]
    pub fn wait_phase(&self, pod: &str, phase: &str) -> Value {
        poll(&format!("pod {pod} to be {phase}"), || {
            Some(self.status(pod)).filter(|status| status["phase"] == phase)
        })
    }

    /// Waits until the pod has failed, and requires that it says so: its container `a` has run out of memory.
    #[track_caller]
    pub fn assert_out_of_memory(&self, pod: &str) {
        let status = self.wait_phase(pod, "Failed");
        let container = &status["containers"][0];
        assert_eq!(
            (&container["exitCode"], &container["reason"]),
            (&137.into(), &"OOMKilled".into()),
            "{status}"
        );
        assert_eq!(status["reason"], "container 'a' has exited with code 137: it has run out of memory");
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
        let own = format!("/{}", self.parent().trim_start_matches('/'));
        let cgroups = leftover_cgroups(&own[1..]);
        left.extend(
            cgroups.iter().map(|path| path.display().to_string()).filter(|path| !path.ends_with(&own)),
        );
        let pids = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
        // Whoever ends without a parent may stay a zombie until the machine's first process looks.
        for pid in pids.filter(|pid| is_alive(*pid)) {
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
        if self.systemd {
            let _ = Command::new("systemctl").args(["stop", &self.parent()]).status();
        }
    }
}

/// Runs several commands at once.
pub fn at_once(commands: Vec<Command>) -> Vec<Output> {
    let running: Vec<_> = commands.into_iter().map(|command| start(command, None)).collect();
    running.into_iter().map(super::Running::finish).collect()
}

/// Has a command run in a terminal of this size.
pub fn in_terminal(mut command: Command, rows: u16, columns: u16) -> (Child, Terminal) {
    let (terminal, slave) = Terminal::open();
    terminal.resize(rows, columns);
    let end = || Stdio::from(slave.try_clone().expect("a copy of the terminal"));
    let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("the command starts");
    (child, terminal)
}

/// In the shell of the container `shell`, to which a client is attached by this terminal: a new size is heard of, an interrupt goes to
/// the program and not to the client, and the client leaves when it is told to.
pub fn resize_interrupt_and_leave(pods: &Pods, id: &str, mut client: Child, terminal: &mut Terminal) {
    terminal.resize(20, 50);
    signal(i32::try_from(client.id()).expect("a pid"), Signal::WINCH);
    terminal.write("while test \"$(stty size)\" != '20 50'; do sleep 0.1; done; echo re''sized\r");
    terminal.read_until("resized");
    terminal.write("sleep 600; echo interr''upted\r");
    poll("sleep to run", || pods.sh(id, "shell", "ps").contains("sleep 600").then_some(()));
    terminal.write("\x03");
    terminal.write("echo still h''ere\r");
    terminal.read_until("still here");
    terminal.write("\x10\x11");
    assert!(client.wait().expect("the client").success());
}

/// The monitor of the pod with this name.
pub fn monitor(name: &str) -> Option<i32> {
    processes("magikrun-pod", name).first().copied()
}

/// The infra container of the pod with this name.
pub fn infra(name: &str) -> Option<i32> {
    processes("magikrun-infra", name).first().copied()
}

/// The pasta of the pod with this name.
pub fn pasta(name: &str) -> Option<i32> {
    let monitor = monitor(name)?;
    let children = fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children")).ok()?;
    // It executes the variant of itself that is the best for the processor; its arguments stay.
    let is_it = |pid: &i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split('\0').next().is_some_and(|program| program.ends_with("pasta"))
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_it)
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

/// Gives a machine without a network an interface that leads out of it, which pasta wants to see: nothing has to be at its other end.
pub fn lead_out() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another test program has made it.
        if Path::new("/sys/class/net/out0").exists() {
            return;
        }
        for line in [
            "tunctl -t out0",
            "ip address add 192.0.2.2/24 dev out0",
            "ip link set out0 up",
            "ip route add default via 192.0.2.1 dev out0",
        ] {
            let mut command = Command::new(require_program("busybox"));
            command.args(line.split(' '));
            finish(command, None).success();
        }
    });
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

/// A script that waits until the test has called [`Pods::tell`]: what ends by itself may do so before the pod is there, and is then a
/// reason why there is none. It needs the volume [`TOLD`] of the pod, and [`HEARS`] among the fields of the container.
pub const UNTIL_TOLD: &str = "until test -e /told/now; do sleep 0.05; done";

/// See [`UNTIL_TOLD`].
pub const TOLD: &str = "{name: told, emptyDir: {}}";

/// See [`UNTIL_TOLD`].
pub const HEARS: &str = "volumeMounts: [{name: told, mountPath: /told}]";
