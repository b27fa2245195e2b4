//! A real containerd with its own storage, and the images that its tests run.

use super::engine::{Engine, busybox_archive, engine_path, engine_program};
use super::{
    Compression, Layer, Layout, Output, RegistryAuth, RegistryServer, Running, names_in, poll, probe,
};
use super::{
    remove_cgroups, require_program, require_root, runtime_path, shim_folder, signal, start, unique_name,
};
use magikrun::storage::blobs::Digest;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// An image with a shell.
pub const IMAGE: &str = "example.org/test:box";
/// An image that does nothing but wait, for the sandboxes of pods.
pub const PAUSE_IMAGE: &str = "example.org/test:pause";
/// The tag of an image of a module, for another platform than this one.
const MODULE: &str = "module";

/// Which shim runs the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shim {
    /// That of runc, which comes with containerd and executes the runtime.
    Runc,
    /// Our own.
    Own,
}

/// The images with a shell, in an archive.
fn shell_images(dir: &Path) -> PathBuf {
    let mut layout = Layout::new(&dir.join("images"));
    let settings = |command: &[&str]| json!({"Env": ["PATH=/bin"], "Cmd": command});
    for (image, command) in [(IMAGE, &["sh"][..]), (PAUSE_IMAGE, &["sleep", "1000000"])] {
        layout.add(tag(image), &[busybox_archive().to_vec()], Compression::None, &settings(command));
    }
    archive(&layout, &dir.join("images.tar"))
}

/// The layout of the image that holds a module.
fn module_layout(dir: &Path) -> Layout {
    let mut layout = Layout::new(&dir.join("module"));
    let module = fs::read(probe()).expect("the module");
    let layer = Layer::new().dir("proc", 0o755).entry("probe.wasm", &module, |_| {}).into_bytes();
    let config = json!({"architecture": "wasm", "os": "wasip1",
        "config": {"Entrypoint": ["/probe.wasm"], "Cmd": ["show", "image"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]}});
    let config = layout.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let layers = [layout.blob("application/vnd.oci.image.layer.v1.tar", &layer)];
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": layers});
    layout.add_manifest(MODULE, manifest.to_string().as_bytes());
    layout
}

fn archive(layout: &Layout, path: &Path) -> PathBuf {
    let mut builder = tar::Builder::new(fs::File::create(path).expect("an archive"));
    builder
        .append_dir_all(".", layout.path())
        .and_then(|()| builder.finish())
        .expect("the archive is written");
    path.to_owned()
}

fn tag(image: &str) -> &str {
    image.rsplit(':').next().expect("a tag")
}

/// The programs of ours that containerd executes.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The runtime.
    pub runtime: PathBuf,
    /// The folder of our own shim, if it is to be found.
    pub shims: Option<PathBuf>,
}

impl Programs {
    /// The programs under test for a shim.
    fn tested(shim: Shim) -> Self {
        Self { runtime: runtime_path(), shims: (shim == Shim::Own).then(shim_folder) }
    }
}

/// A containerd with the images; everything goes away with it.
pub struct Containerd {
    dir: TempDir,
    /// The namespace, and the parent of the cgroups.
    pub name: String,
    shim: Shim,
    programs: Programs,
    host: Option<Running>,
    daemon: Option<Running>,
}

/// A process that holds the network and the mounts which containerd takes for those of the host, so that what it and its plugins make
/// of them goes away with it, and stays when containerd dies.
const HOST: &str = "ip link set lo up && for folder in /run/netns /run/containerd/s /run/containerd/magikrun; do \
    mkdir -p $folder && mount -t tmpfs none $folder || exit; done; echo ready; exec sleep infinity";

/// Executes a program with as few descriptors as a service manager lets it have at first.
const LIMITED: &str = "ulimit -S -n 1024 && exec \"$@\"";

/// The configuration without the CRI plugin.
const WITHOUT_CRI: &str =
    "disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.internal.v1.opt']\n";

fn write_configuration(dir: &Path, runtime: &Path, plugins: &str) {
    let at = |name: &str| dir.join(name).display().to_string();
    let write =
        |name: &str, text: String| fs::write(dir.join(name), text).expect("a file of the configuration");
    let (root, state, socket, events) = (at("root"), at("state"), at("sock"), at("ttrpc"));
    let config = format!(
        "version = 2\nroot = '{root}'\nstate = '{state}'\n{plugins}[grpc]\naddress = '{socket}'\n[ttrpc]\naddress = '{events}'\n"
    );
    write("config.toml", config);
    let options = format!("Root = '{}'\nBinaryName = '{}'\n", at("runtime-root"), runtime.display());
    for backend in ["wasm", "krun"] {
        write(&format!("shim-{backend}.toml"), format!("{options}Backend = '{backend}'\n"));
    }
    write("shim.toml", options);
    // microVMs start in an emulated machine too.
    write("magikrun.toml", format!("[wasm]\nstore = '{}'\n[vm]\nstart_timeout = 400\n", at("wasm")));
}

impl Containerd {
    /// A containerd whose containers a shim runs.
    pub fn new(shim: Shim) -> Self {
        Self::with_config(shim, unique_name(), |_| WITHOUT_CRI.to_owned())
    }

    /// A containerd that executes these programs.
    pub fn with_programs(shim: Shim, programs: Programs) -> Self {
        Self::with(shim, programs, unique_name(), |_| WITHOUT_CRI.to_owned())
    }

    /// A containerd for `namespace` with the configuration that `config` makes for its folder.
    pub fn with_config(shim: Shim, namespace: String, config: impl FnOnce(&Path) -> String) -> Self {
        Self::with(shim, Programs::tested(shim), namespace, config)
    }

    fn with(shim: Shim, programs: Programs, namespace: String, config: impl FnOnce(&Path) -> String) -> Self {
        require_root();
        ["unshare", "nsenter", "ip"].into_iter().for_each(|name| drop(require_program(name)));
        ["containerd", "ctr", "containerd-shim-runc-v2"]
            .into_iter()
            .for_each(|name| drop(engine_program(name)));
        let dir = tempfile::Builder::new().prefix("mkd").tempdir().expect("a temporary folder");
        write_configuration(dir.path(), &programs.runtime, &config(dir.path()));
        let images = shell_images(dir.path());
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", HOST]);
        let host = start(command, None);
        host.wait_stdout("ready");
        let mut containerd = Self { dir, name: namespace, shim, programs, host: Some(host), daemon: None };
        containerd.start();
        containerd.import(&images);
        containerd
    }

    /// A registry in the network of this containerd, and the name of an image in it that holds a module.
    pub fn serve_module(&self) -> (RegistryServer, String) {
        let mut registry = RegistryServer::start(&self.path("registry"), RegistryAuth::Open);
        let name = registry.name("module:1");
        let layout = module_layout(self.dir.path());
        registry.skopeo(&layout.image(MODULE), &format!("docker://{name}"));
        registry.move_to(self.host_pid());
        (registry, name)
    }

    fn import(&self, archive: &Path) {
        let archive = archive.to_str().expect("UTF-8");
        // Later versions have two ways, of which one knows no other snapshotter than its default.
        let import = ["image", "import"];
        let local = self.ok(&[&import[..], &["--help"]].concat()).stdout.contains("--local");
        let local = if local { &["--local"][..] } else { &[] };
        let names = ["--base-name", "example.org/test", "--snapshotter", "native", archive];
        self.ok(&[&import[..], local, &names].concat());
    }

    /// Starts the daemon, and waits until it answers.
    pub fn start(&mut self) {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.host_pid().to_string()]);
        command.args(["sh", "-c", LIMITED, "sh"]);
        command.arg(engine_program("containerd")).arg("--config").arg(self.path("config.toml"));
        // Where it looks for shims.
        let folder = self.dir.path().display();
        let own = self.programs.shims.as_ref().map(|shims| format!("{}:{folder}:", shims.display()));
        command.env("PATH", own.unwrap_or_default() + &engine_path());
        command.env("MAGIKRUN_CONFIG", self.path("magikrun.toml"));
        self.daemon = Some(start(command, None));
        poll("containerd to answer", || (self.call(&["version"]).code == 0).then_some(()));
    }

    /// Ends the daemon as a crash would. Its shims live on.
    pub fn crash(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            signal(daemon.pid(), Signal::KILL);
            let _ = daemon.finish();
        }
    }

    /// The pid of the daemon.
    pub fn pid(&self) -> i32 {
        self.daemon.as_ref().expect("containerd runs").pid()
    }

    /// A process with the network that containerd takes for that of the host.
    pub fn host_pid(&self) -> i32 {
        self.host.as_ref().expect("the network is held").pid()
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        self.daemon.as_ref().map(Running::stderr).unwrap_or_default()
    }

    /// A path in the folder of this containerd.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The state root of the runtime.
    pub fn runtime_root(&self) -> PathBuf {
        self.path("runtime-root").join(&self.name)
    }

    /// The arguments of `ctr run` up to the image.
    pub fn run_args(&self, options: &[&str]) -> Vec<String> {
        self.run_args_of(self.shim, &self.programs.runtime, options)
    }

    /// The same for a shim, and a runtime under that of runc.
    pub fn run_args_of(&self, shim: Shim, runtime: &Path, options: &[&str]) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let (root, own) = (text(&self.path("runtime-root")), text(&self.path("shim.toml")));
        let mut args = vec!["run", "--snapshotter", "native"];
        let runtime = text(runtime);
        args.extend(match shim {
            Shim::Runc => ["--runc-binary", &runtime, "--runc-root", &root],
            Shim::Own => ["--runtime", "io.containerd.magikrun.v2", "--runtime-config-path", &own],
        });
        args.extend(options);
        args.into_iter().map(str::to_owned).collect()
    }

    /// `ctr run` with options, and what follows them.
    #[track_caller]
    pub fn run(&self, options: &[&str], rest: &[&str]) -> Output {
        let mut args = self.run_args(options);
        args.extend(rest.iter().map(|&word| word.to_owned()));
        self.call(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs a script in a container that is removed when it ends.
    #[track_caller]
    pub fn script(&self, options: &[&str], id: &str, script: &str) -> Output {
        let mut all = vec!["--rm"];
        all.extend(options);
        self.run(&all, &[IMAGE, id, "sh", "-c", script])
    }

    /// Starts a script in the background; its output goes to the answered file.
    #[track_caller]
    pub fn detached(&self, options: &[&str], id: &str, script: &str) -> PathBuf {
        let log = self.path(&format!("{id}.log"));
        let uri = format!("file://{}", log.display());
        let mut all = vec!["--detach", "--log-uri", &uri];
        all.extend(options);
        self.run(&all, &[IMAGE, id, "sh", "-c", script]).success();
        log
    }

    /// The pid and the status of a task, if there is one.
    pub fn task(&self, id: &str) -> Option<(i32, String)> {
        let list = self.ok(&["task", "list"]).stdout;
        let row = list.lines().find(|line| line.split_whitespace().next() == Some(id))?;
        let mut fields = row.split_whitespace().skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.to_owned()))
    }

    /// Waits until a task has a status.
    pub fn wait_status(&self, id: &str, status: &str) {
        poll(&format!("task {id} to be {status}"), || self.task(id).filter(|task| task.1 == status));
    }

    /// Runs a script in a container.
    #[track_caller]
    pub fn exec(&self, id: &str, exec_id: &str, script: &str) -> Output {
        self.call(&["task", "exec", "--exec-id", exec_id, id, "sh", "-c", script])
    }

    /// The metrics of a task.
    pub fn metrics(&self, id: &str) -> Value {
        let text = self.ok(&["task", "metrics", "--format", "json", id]).stdout;
        serde_json::from_str(&text).expect("the metrics are JSON")
    }

    /// Processes whose command line names the socket of this containerd: its shims.
    pub fn shims(&self) -> Vec<i32> {
        let socket = self.path("sock").display().to_string();
        let pids = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
        pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.contains("containerd-shim") && line.contains(&socket)
        })
        .collect()
    }
}

impl Engine for Containerd {
    /// `ctr` with the socket and the namespace.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(engine_program("ctr"));
        command.arg("--address").arg(self.path("sock")).args(["--namespace", &self.name]).args(args);
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let ids = self.command(&["container", "list", "--quiet"]).output();
        for id in String::from_utf8_lossy(&ids.map(|output| output.stdout).unwrap_or_default()).lines() {
            let _ = self.command(&["task", "delete", "--force", id]).output();
            let _ = self.command(&["container", "delete", id]).output();
        }
        for pid in self.shims() {
            let _ = rustix::process::Pid::from_raw(pid)
                .map(|pid| rustix::process::kill_process(pid, Signal::KILL));
        }
        for (process, end) in [(self.daemon.take(), Signal::TERM), (self.host.take(), Signal::KILL)] {
            if let Some(process) = process {
                signal(process.pid(), end);
                let _ = process.finish();
            }
        }
        remove_cgroups(&self.name);
    }
}
