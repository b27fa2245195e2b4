//! The CRI of a real containerd: its gRPC API, with curl(1) for HTTP/2, and the messages that the tests need.
//!
//! Numbers of fields are those of `k8s.io/cri-api`, `runtime/v1/api.proto`.

use crate::common::{self, Containerd, Shim, require_program, unique_name};
use crate::sandbox::{HANDLER, MICROVM_HANDLER, has_sandboxers};
use prost::Message;
use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Defines messages: a name, and its fields with their prost types and numbers.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = [$($tag:tt)*],)* })*) => {
        $($(#[$doc])* #[derive(Clone, PartialEq, Message)] #[allow(missing_docs)]
        pub struct $name { $(#[prost($($tag)*)] pub $field: $type,)* })*
    };
}

messages! {
    /// An answer without fields, or whose fields do not matter.
    Empty {}
    /// A number that may be missing.
    Number { value: u64 = [uint64, tag = "1"], }
    PodMetadata {
        name: String = [string, tag = "1"],
        uid: String = [string, tag = "2"],
        namespace: String = [string, tag = "3"],
    }
    PodLinux {
        cgroup_parent: String = [string, tag = "1"],
        security: Option<PodSecurity> = [message, optional, tag = "2"],
        resources: Option<Resources> = [message, optional, tag = "5"],
    }
    PodConfig {
        metadata: Option<PodMetadata> = [message, optional, tag = "1"],
        hostname: String = [string, tag = "2"],
        log_directory: String = [string, tag = "3"],
        annotations: HashMap<String, String> = [map = "string, string", tag = "7"],
        linux: Option<PodLinux> = [message, optional, tag = "8"],
    }
    RunPod {
        config: Option<PodConfig> = [message, optional, tag = "1"],
        runtime_handler: String = [string, tag = "2"],
    }
    /// A request or an answer that is one id.
    Id { id: String = [string, tag = "1"], }
    ContainerMetadata { name: String = [string, tag = "1"], }
    Image { image: String = [string, tag = "1"], }
    Mount {
        container_path: String = [string, tag = "1"],
        host_path: String = [string, tag = "2"],
        readonly: bool = [bool, tag = "3"],
    }
    Resources {
        cpu_period: i64 = [int64, tag = "1"],
        cpu_quota: i64 = [int64, tag = "2"],
        cpu_shares: i64 = [int64, tag = "3"],
        memory_limit: i64 = [int64, tag = "4"],
    }
    /// Pid: 0 the pod's, 1 one of its own.
    Namespaces { pid: i32 = [int32, tag = "2"], users: Option<Users> = [message, optional, tag = "5"], }
    IdMapping {
        host: u32 = [uint32, tag = "1"],
        container: u32 = [uint32, tag = "2"],
        length: u32 = [uint32, tag = "3"],
    }
    /// Mode: 0 the pod's, 2 the host's.
    Users {
        mode: i32 = [int32, tag = "1"],
        uids: Vec<IdMapping> = [message, repeated, tag = "2"],
        gids: Vec<IdMapping> = [message, repeated, tag = "3"],
    }
    PodSecurity { namespaces: Option<Namespaces> = [message, optional, tag = "1"], }
    Security { namespaces: Option<Namespaces> = [message, optional, tag = "3"], }
    ContainerLinux {
        resources: Option<Resources> = [message, optional, tag = "1"],
        security: Option<Security> = [message, optional, tag = "2"],
    }
    ContainerConfig {
        metadata: Option<ContainerMetadata> = [message, optional, tag = "1"],
        image: Option<Image> = [message, optional, tag = "2"],
        command: Vec<String> = [string, repeated, tag = "3"],
        args: Vec<String> = [string, repeated, tag = "4"],
        mounts: Vec<Mount> = [message, repeated, tag = "7"],
        log_path: String = [string, tag = "11"],
        stdin: bool = [bool, tag = "12"],
        tty: bool = [bool, tag = "14"],
        linux: Option<ContainerLinux> = [message, optional, tag = "15"],
    }
    CreateContainer {
        pod: String = [string, tag = "1"],
        config: Option<ContainerConfig> = [message, optional, tag = "2"],
        pod_config: Option<PodConfig> = [message, optional, tag = "3"],
    }
    StopContainer { id: String = [string, tag = "1"], timeout: i64 = [int64, tag = "2"], }
    /// State: 0 created, 1 running, 2 exited.
    ContainerStatus {
        state: i32 = [int32, tag = "3"],
        exit_code: i32 = [int32, tag = "7"],
        reason: String = [string, tag = "10"],
    }
    ContainerStatusAnswer { status: Option<ContainerStatus> = [message, optional, tag = "1"], }
    /// State: 0 ready, 1 not ready.
    PodStatus { state: i32 = [int32, tag = "3"], network: Option<PodNetwork> = [message, optional, tag = "5"], }
    PodNetwork { ip: String = [string, tag = "1"], }
    PodStatusAnswer { status: Option<PodStatus> = [message, optional, tag = "1"], }
    ExecSync {
        id: String = [string, tag = "1"],
        command: Vec<String> = [string, repeated, tag = "2"],
        timeout: i64 = [int64, tag = "3"],
    }
    ExecSyncAnswer {
        stdout: Vec<u8> = [bytes = "vec", tag = "1"],
        stderr: Vec<u8> = [bytes = "vec", tag = "2"],
        exit_code: i32 = [int32, tag = "3"],
    }
    Exec {
        id: String = [string, tag = "1"],
        command: Vec<String> = [string, repeated, tag = "2"],
        tty: bool = [bool, tag = "3"],
        stdin: bool = [bool, tag = "4"],
        stdout: bool = [bool, tag = "5"],
        stderr: bool = [bool, tag = "6"],
    }
    Attach {
        id: String = [string, tag = "1"],
        stdin: bool = [bool, tag = "2"],
        tty: bool = [bool, tag = "3"],
        stdout: bool = [bool, tag = "4"],
        stderr: bool = [bool, tag = "5"],
    }
    PullImage { image: Option<Image> = [message, optional, tag = "1"], }
    /// What a pulled image is known by.
    Pulled { reference: String = [string, tag = "1"], }
    PortForward { pod: String = [string, tag = "1"], ports: Vec<i32> = [int32, repeated, tag = "2"], }
    Url { url: String = [string, tag = "1"], }
    CpuUsage { total: Option<Number> = [message, optional, tag = "2"], }
    MemoryUsage { working_set: Option<Number> = [message, optional, tag = "2"], }
    Stats {
        cpu: Option<CpuUsage> = [message, optional, tag = "2"],
        memory: Option<MemoryUsage> = [message, optional, tag = "3"],
    }
    StatsAnswer { stats: Option<Stats> = [message, optional, tag = "1"], }
    Update { id: String = [string, tag = "1"], linux: Option<Resources> = [message, optional, tag = "2"], }
}

/// A containerd whose CRI runs pods under our shim.
pub struct Cri {
    /// The daemon.
    pub containerd: Containerd,
    /// Parent of the cgroups.
    pub cgroup: String,
    /// After the daemon, whose containers are in them.
    _cleanup: Cleanup,
}

/// Removes the cgroups below a name when it goes away.
struct Cleanup(String);

impl Drop for Cleanup {
    fn drop(&mut self) {
        common::remove_cgroups(&self.0);
    }
}

impl Cri {
    /// A new containerd with CNI plugins and the handler `magikrun`.
    pub fn new() -> Self {
        Self::with_snapshotter("native")
    }

    /// The same, with another snapshotter.
    pub fn with_snapshotter(snapshotter: &str) -> Self {
        require_program("curl");
        let containerd = Containerd::with_config(Shim::Own, "k8s.io".to_owned(), |dir| {
            let networks = dir.join("net.d");
            fs::create_dir(&networks).expect("a folder");
            let network = format!(
                r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [{{"type": "ptp", "ipam":
                   {{"type": "host-local", "subnet": "10.88.0.0/24", "routes": [{{"dst": "0.0.0.0/0"}}], "dataDir": "{}"}}}}]}}"#,
                dir.join("addresses").display()
            );
            fs::write(networks.join("1.conflist"), network).expect("the network");
            config(&dir.display().to_string(), snapshotter)
        });
        let cgroup = unique_name();
        Self { containerd, cgroup: cgroup.clone(), _cleanup: Cleanup(cgroup) }
    }

    /// A call of the runtime service; the answer, or the message of the error.
    pub fn try_call<A: Message + Default>(&self, method: &str, request: &impl Message) -> Result<A, String> {
        let body = request.encode_to_vec();
        let mut frame = vec![0];
        frame.extend(u32::try_from(body.len()).expect("a short message").to_be_bytes());
        frame.extend(body);
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--http2-prior-knowledge",
            "--max-time",
            "300",
            "--unix-socket",
        ]);
        command.arg(self.containerd.path("sock")).args([
            "--dump-header",
            "/dev/stderr",
            "--data-binary",
            "@-",
        ]);
        command.args(["--header", "content-type: application/grpc", "--header", "te: trailers"]);
        // Images are looked after by a service of their own.
        let service = if method == "PullImage" { "ImageService" } else { "RuntimeService" };
        command.arg(format!("http://cri/runtime.v1.{service}/{method}"));
        let mut curl =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        curl.stdin.take().unwrap().write_all(&frame).expect("curl takes the request");
        let output = curl.wait_with_output().expect("curl ends");
        // The status is a trailer, which comes after the body, among the headers.
        let headers = String::from_utf8_lossy(&output.stderr).into_owned();
        let header = |name: &str| headers.lines().find_map(|line| line.strip_prefix(name));
        match header("grpc-status: ") {
            Some("0") => Ok(A::decode(&output.stdout[5..]).expect("an answer")),
            Some(code) => Err(format!("{code} {}", header("grpc-message: ").unwrap_or_default())),
            None => panic!("{method}: {} {headers}\n{}", output.status, self.containerd.log()),
        }
    }

    /// A call that must succeed.
    #[track_caller]
    pub fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> A {
        match self.try_call(method, request) {
            Ok(answer) => answer,
            Err(e) => panic!("{method}: {e}\n{}", self.containerd.log()),
        }
    }

    /// The configuration of a pod.
    pub fn pod_config(&self, name: &str) -> PodConfig {
        PodConfig {
            metadata: Some(PodMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "tests".to_owned(),
            }),
            hostname: name.to_owned(),
            log_directory: self.containerd.path("logs").display().to_string(),
            annotations: HashMap::new(),
            linux: Some(PodLinux { cgroup_parent: format!("/{}", self.cgroup), ..PodLinux::default() }),
        }
    }

    /// Runs a pod's sandbox; answers its id.
    #[track_caller]
    pub fn run_pod(&self, config: &PodConfig) -> String {
        self.run_pod_of("magikrun", config)
    }

    /// Runs a pod's sandbox for the RuntimeClass of a handler; answers its id.
    #[track_caller]
    pub fn run_pod_of(&self, handler: &str, config: &PodConfig) -> String {
        let request = RunPod { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        self.call::<Id>("RunPodSandbox", &request).id
    }

    /// Creates and starts a container; answers its id.
    #[track_caller]
    pub fn start(&self, pod: &str, pod_config: &PodConfig, config: ContainerConfig) -> String {
        let (config, pod_config) = (Some(config), Some(pod_config.clone()));
        let request = CreateContainer { pod: pod.to_owned(), config, pod_config };
        let id = self.call::<Id>("CreateContainer", &request).id;
        self.call::<Empty>("StartContainer", &Id { id: id.clone() });
        id
    }

    /// A container that runs a script.
    pub fn script(name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned() }),
            image: Some(Image { image: common::IMAGE.to_owned() }),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}.log"),
            ..ContainerConfig::default()
        }
    }

    /// The status of a container.
    pub fn status(&self, id: &str) -> ContainerStatus {
        let request = Id { id: id.to_owned() };
        self.call::<ContainerStatusAnswer>("ContainerStatus", &request).status.expect("a status")
    }

    /// Runs a script in a container.
    #[track_caller]
    pub fn exec(&self, id: &str, script: &str) -> ExecSyncAnswer {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        self.call("ExecSync", &ExecSync { id: id.to_owned(), command, timeout: 300 })
    }

    /// Stops and removes a pod with everything in it.
    #[track_caller]
    pub fn remove_pod(&self, id: &str) {
        let id = Id { id: id.to_owned() };
        self.call::<Empty>("StopPodSandbox", &id);
        self.call::<Empty>("RemovePodSandbox", &id);
    }
}

/// The CRI plugin's part of the configuration.
fn config(dir: &str, snapshotter: &str) -> String {
    format!(
        r"disabled_plugins = ['io.containerd.internal.v1.opt']
[plugins.'io.containerd.grpc.v1.cri']
sandbox_image = '{}'
stream_server_address = '127.0.0.1'
stream_server_port = '0'
restrict_oom_score_adj = true
tolerate_missing_hugetlb_controller = true
[plugins.'io.containerd.grpc.v1.cri'.cni]
bin_dir = '/usr/lib/cni'
conf_dir = '{dir}/net.d'
[plugins.'io.containerd.grpc.v1.cri'.containerd]
snapshotter = '{snapshotter}'
default_runtime_name = 'magikrun'
{}{}{}",
        common::PAUSE_IMAGE,
        handler("magikrun", &options("magikrun", &format!("{dir}/shim.toml"))) + &handler(PLAIN_HANDLER, ""),
        ["wasm", "krun"]
            .map(|backend| {
                let name = format!("magikrun-{backend}");
                handler(&name, &options(&name, &format!("{dir}/shim-{backend}.toml")))
            })
            .concat(),
        if has_sandboxers() { sandboxers(dir) + &unpacking(snapshotter) } else { String::new() },
    )
}

/// A handler without options, as `magikrun setup` writes it.
pub const PLAIN_HANDLER: &str = "magikrun-plain";

/// The name of a runtime's table.
fn table(name: &str) -> String {
    format!("plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.{name}")
}

/// A runtime of the CRI plugin, with more settings.
fn handler(name: &str, more: &str) -> String {
    format!("[{}]\nruntime_type = 'io.containerd.magikrun.v2'\n{more}", table(name))
}

/// The handlers whose sandboxes the shim makes.
fn sandboxers(dir: &str) -> String {
    // containerd 2.1 takes no options there.
    let name = "containerd-shim-magikrun-v2";
    let link = format!("{dir}/containerd-shim-magikrun-krun-v2");
    std::os::unix::fs::symlink(common::shim_folder().join(name), link).expect("a link to the shim");
    let microvm = format!("[{}]\nruntime_type = 'io.containerd.magikrun-krun.v2'\n", table(MICROVM_HANDLER));
    format!("{}{microvm}sandboxer = 'shim'\n", handler(HANDLER, "sandboxer = 'shim'\n"))
}

/// Pulled images are unpacked for another snapshotter than the default, which containerd 2 has to be told.
fn unpacking(snapshotter: &str) -> String {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    format!(
        "[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nplatform = 'linux/{arch}'\nsnapshotter = '{snapshotter}'\n"
    )
}

/// The options of a runtime, in a file.
fn options(name: &str, path: &str) -> String {
    format!("[{}.options]\nConfigPath = '{path}'\n", table(name))
}
