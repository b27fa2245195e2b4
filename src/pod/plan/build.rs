//! Planning a pod.

use super::cgroup::PodCgroup;
use super::users::Users;
use super::volumes::volume;
use super::{
    ContainerPlan, ImageFacts, Input, MountPlan, Network, PodPlan, PortPlan, Propagation, Role, SubPath,
    VolumePlan, dns, env, microvm, probes, resources, security, wasm,
};
use crate::error::Result;
use crate::image::bundle::MODULE;
use crate::platform::confinement::Profile;
use crate::pod::manifest::types::{Container, Mount, RestartPolicy, Spec, Strings};
use crate::pod::manifest::{self, Findings, MICROVM, PodSpec, modules};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Longest host name that the kernel takes, in bytes: `HOST_NAME_MAX` of sethostname(2).
const MAX_HOSTNAME: usize = 64;

/// What a plan depends on beside the manifest.
#[derive(Debug, Default)]
pub struct Context {
    /// Id of the pod.
    pub id: String,
    /// Cgroup that the pod's own is below: absolute, or relative to that of who makes the pod; or a slice.
    pub cgroup_parent: String,
    /// systemd manages cgroups: the pod is a slice.
    pub systemd: bool,
    /// Whose user and group ids pods have, unless a manifest asks for its own.
    pub users: Users,
    /// Network asked for; none to follow from the manifest.
    pub network: Option<Network>,
    /// Facts of each image, by its reference in the manifest.
    pub images: BTreeMap<String, ImageFacts>,
    /// Name of the host.
    pub node_name: String,
    /// `/etc/resolv.conf` of the host.
    pub resolv_conf: String,
    /// Processors of the host, for limits that are not set.
    pub cpus: u64,
    /// Memory of the host in bytes, for limits that are not set.
    pub memory: u64,
    /// Memory of a container whose manifest does not limit it, in bytes; 0: no limit.
    pub default_memory: u64,
    /// Seconds between SIGTERM and SIGKILL, if the manifest does not say so.
    pub grace_seconds: u32,
    /// The seccomp profile of each type that a container asks for, by the name of the profile; `""` is the default one.
    pub seccomp: BTreeMap<String, Profile>,
    /// Programs that extend the infra container.
    pub extensions: Vec<PathBuf>,
}

/// Plans a pod.
pub fn plan(pod: &PodSpec, context: &Context) -> Result<PodPlan> {
    let spec = &pod.spec;
    if pod.is_microvm() {
        // The library's interface changes the class of what was checked before.
        let mut findings = Findings::default();
        manifest::microvm(spec, &mut findings);
        findings.to_result()?;
    }
    check_privileges(pod, context)?;
    let ports = if spec.host_network { Vec::new() } else { ports(spec) };
    let network = network(pod, context, &ports)?;
    let containers = containers(pod, context)?;
    let mut plan = PodPlan {
        id: context.id.clone(),
        metadata: pod.metadata.clone(),
        hostname: hostname(pod, &context.node_name),
        share_pid: spec.share_process_namespace,
        host_pid: spec.host_pid,
        host_ipc: spec.host_ipc,
        sysctls: spec.security_context.sysctls.iter().map(|s| (s.name.clone(), s.value.clone())).collect(),
        cgroup: if context.systemd {
            PodCgroup::slice(&context.cgroup_parent, &context.id)
        } else {
            PodCgroup::directory(&context.cgroup_parent, &context.id)
        },
        users: users(pod, context),
        resources: resources::pod(&spec.resources, users(pod, context)),
        volumes: spec
            .volumes
            .iter()
            .map(|v| Ok(VolumePlan { name: v.name.clone(), source: volume(pod, v, context)? }))
            .collect::<Result<_>>()?,
        containers,
        ports,
        host_aliases: spec.host_aliases.iter().map(|a| (a.ip.clone(), a.hostnames.clone())).collect(),
        resolv_conf: dns::resolv_conf(pod, &network, &context.resolv_conf),
        name_server: dns::name_server(spec, &network, &context.resolv_conf),
        subdomain: given(spec.subdomain.as_ref()),
        network,
        fs_group: spec.security_context.fs_group,
        grace_seconds: spec.termination_grace_period_seconds.unwrap_or(context.grace_seconds),
        deadline_seconds: spec.active_deadline_seconds,
        restart_policy: spec.restart_policy.unwrap_or(RestartPolicy::Always),
        extensions: context.extensions.clone(),
        vm: None,
        wasm: None,
    };
    if pod.is_microvm() {
        microvm::enclose(pod, &mut plan, context.cpus)?;
    } else {
        wasm::enclose(&mut plan);
    }
    Ok(plan)
}

/// Whose ids the pod has. Without privileges it is in a namespace of its user's in any case.
fn users(pod: &PodSpec, context: &Context) -> Users {
    match (context.users, pod.spec.host_users) {
        (Users::Host, Some(false)) => Users::Own,
        (users, _) => users,
    }
}

/// What needs privileges over the host, and a user without them cannot have.
fn check_privileges(pod: &PodSpec, context: &Context) -> Result<()> {
    if !context.users.is_of_user() {
        return Ok(());
    }
    if pod.spec.host_pid {
        // Without a cgroup that could be killed, a pid namespace is what ends all processes of the pod together.
        crate::bail!(NotSupported, "spec.hostPID: needs root");
    }
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let mut mounts = containers.flat_map(|container| &container.volume_mounts);
    if mounts.any(|mount| mount.mount_propagation.as_deref() == Some("Bidirectional")) {
        crate::bail!(NotSupported, "mountPropagation Bidirectional: needs root");
    }
    Ok(())
}

/// A name that may be missing or empty.
fn given(name: Option<&String>) -> Option<String> {
    name.cloned().filter(|name| !name.is_empty())
}

fn hostname(pod: &PodSpec, node_name: &str) -> String {
    let name = given(pod.spec.hostname_override.as_ref())
        .or_else(|| pod.spec.host_network.then(|| node_name.to_owned()))
        .or_else(|| given(pod.spec.hostname.as_ref()))
        .unwrap_or_else(|| pod.metadata.name.clone());
    let mut name: String = name.chars().take(MAX_HOSTNAME - 1).collect();
    while name.ends_with(['-', '.']) {
        name.pop();
    }
    name
}

fn network(pod: &PodSpec, context: &Context, ports: &[PortPlan]) -> Result<Network> {
    let network = match (&context.network, pod.spec.host_network) {
        (None | Some(Network::Host), true) => Network::Host,
        (Some(_), true) => {
            crate::bail!(InvalidManifest, "spec.hostNetwork: is true, but another network is asked for")
        }
        (Some(network), false) => network.clone(),
        (None, false) if ports.is_empty() => Network::None,
        (None, false) => Network::Pasta,
    };
    if !ports.is_empty() && !network.maps_ports() && network != Network::Host {
        if let Network::Cni(cni) = &network {
            crate::bail!(
                NotSupported,
                "spec.containers: a hostPort needs a plugin for portMappings, and CNI network '{}' has none",
                cni.name
            );
        }
        crate::bail!(
            NotSupported,
            "spec.containers: a hostPort needs the network 'pasta' or 'cni' (or 'host', where it is the container's port)"
        );
    }
    if network == Network::Host && ports.iter().any(|port| port.host_port != port.container_port) {
        crate::bail!(NotSupported, "a hostPort on the host's network must be the containerPort");
    }
    if users(pod, context) == Users::Own && matches!(network, Network::Path(_)) {
        crate::bail!(
            NotSupported,
            "spec.hostUsers: a pod with user ids of its own cannot enter an existing network namespace"
        );
    }
    if context.users.is_of_user() && matches!(network, Network::Cni(_)) {
        crate::bail!(NotSupported, "the plugins of CNI networks need root; use the network 'pasta'");
    }
    if network == Network::Host && pod.spec.security_context.sysctls.iter().any(|s| s.name.starts_with("net"))
    {
        crate::bail!(NotSupported, "spec.securityContext.sysctls: would change the host's network");
    }
    Ok(network)
}

fn ports(spec: &Spec) -> Vec<PortPlan> {
    let containers = spec.init_containers.iter().chain(&spec.containers);
    let ports = containers.flat_map(|container| &container.ports).filter_map(|port| {
        Some(PortPlan {
            host_ip: port.host_ip.clone().filter(|ip| !ip.is_empty()),
            host_port: port.host_port.filter(|port| *port != 0)?,
            container_port: port.container_port,
            udp: port.protocol.as_deref() == Some("UDP"),
        })
    });
    ports.collect()
}

fn containers(pod: &PodSpec, context: &Context) -> Result<Vec<ContainerPlan>> {
    let init = pod.spec.init_containers.iter().enumerate().map(|(n, c)| {
        let role = if c.restart_policy.is_some() { Role::Sidecar } else { Role::Init };
        (format!("spec.initContainers[{n}]"), c, role)
    });
    let apps = pod.spec.containers.iter().enumerate();
    let apps = apps.map(|(n, c)| (format!("spec.containers[{n}]"), c, Role::App));
    init.chain(apps)
        .map(|(path, c, role)| container(pod, c, role, context).map_err(|e| e.wrap(path)))
        .collect()
}

fn container(pod: &PodSpec, container: &Container, role: Role, context: &Context) -> Result<ContainerPlan> {
    let image = context.images.get(&container.image).cloned().unwrap_or_default();
    let mut args = args(container, &image);
    if image.wasm && args.is_empty() {
        args.push(format!("/{MODULE}"));
    }
    if args.is_empty() {
        crate::bail!(
            InvalidManifest,
            "neither the manifest nor the image '{}' has a command",
            container.image
        );
    }
    let users = users(pod, context);
    let user = security::user(pod, container, &image, users)?;
    let escalation = container.security_context.allow_privilege_escalation;
    let privileged = container.security_context.privileged;
    Ok(ContainerPlan {
        name: container.name.clone(),
        role,
        image: container.image.clone(),
        image_id: image.id.clone(),
        backend: backend(pod, &image)?,
        settings: settings(pod, container, &image)?,
        args,
        env: env::environment(pod, container, &image, context)?,
        cwd: [container.working_dir.as_deref().unwrap_or_default(), image.working_dir.as_str(), "/"]
            .into_iter()
            .find(|dir| !dir.is_empty())
            .unwrap_or("/")
            .to_owned(),
        uid: user.uid,
        gid: user.gid,
        groups: user.groups,
        capabilities: security::capabilities(container),
        no_new_privileges: escalation == Some(false),
        privileged,
        read_only_root: container.security_context.read_only_root_filesystem,
        masked: !privileged && container.security_context.proc_mount.as_deref() != Some("Unmasked"),
        seccomp: if privileged { None } else { security::seccomp(pod, container, context)? },
        apparmor: security::apparmor(pod, container),
        selinux: security::selinux(pod, container),
        mounts: container.volume_mounts.iter().map(mount).collect(),
        resources: resources::container(container, context.default_memory, users),
        startup: container.startup_probe.as_ref().map(|p| probes::probe(p, container)).transpose()?,
        readiness: container.readiness_probe.as_ref().map(|p| probes::probe(p, container)).transpose()?,
        liveness: container.liveness_probe.as_ref().map(|p| probes::probe(p, container)).transpose()?,
        post_start: container
            .lifecycle
            .post_start
            .as_ref()
            .map(|h| probes::action(h, container))
            .transpose()?,
        pre_stop: container.lifecycle.pre_stop.as_ref().map(|h| probes::action(h, container)).transpose()?,
        stop_signal: stop_signal(container, &image),
        input: match (container.stdin, container.stdin_once) {
            (false, _) => Input::None,
            (true, false) => Input::Open,
            (true, true) => Input::Once,
        },
        tty: container.tty,
    })
}

fn args(container: &Container, image: &ImageFacts) -> Vec<String> {
    let (command, args) = (&container.command, &container.args);
    match (command.is_empty(), args.is_empty()) {
        (false, _) => [command.as_slice(), args].concat(),
        (true, false) => [image.entrypoint.as_slice(), args].concat(),
        (true, true) => [image.entrypoint.as_slice(), &image.cmd].concat(),
    }
}

/// The annotation that selects a backend, where it is not the native one.
fn backend(pod: &PodSpec, image: &ImageFacts) -> Result<Option<String>> {
    let class = pod.spec.runtime_class_name.as_deref();
    match (class, image.wasm) {
        (Some(MICROVM), true) => {
            crate::bail!(NotSupported, "image: a WebAssembly module cannot be in the microVM of a pod")
        }
        (Some("wasm"), false) => {
            crate::bail!(InvalidManifest, "runtimeClassName is wasm, but the image is no WebAssembly module")
        }
        (_, true) => Ok(Some("wasm".to_owned())),
        _ => Ok(None),
    }
}

/// What the pod's annotations say about a module.
fn settings(pod: &PodSpec, container: &Container, image: &ImageFacts) -> Result<Strings> {
    let (annotations, name) = (&pod.metadata.annotations, container.name.as_str());
    if image.wasm {
        return Ok(modules::settings_of(annotations, name));
    }
    match modules::own_setting(annotations, name) {
        Some(setting) => crate::bail!(
            InvalidManifest,
            "image: is no WebAssembly module, but metadata.annotations has '{setting}/{name}'"
        ),
        None => Ok(Strings::new()),
    }
}

fn mount(mount: &Mount) -> MountPlan {
    let text = mount.sub_path.clone().filter(|path| !path.is_empty()).map(SubPath::Text);
    let template = mount.sub_path_expr.clone().filter(|path| !path.is_empty()).map(SubPath::Template);
    MountPlan {
        volume: mount.name.clone(),
        target: mount.mount_path.clone(),
        sub_path: text.or(template),
        read_only: mount.read_only,
        recursive_read_only: mount.recursive_read_only.as_deref().is_some_and(|r| r != "Disabled"),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::FromHost,
            Some("Bidirectional") => Propagation::Both,
            _ => Propagation::None,
        },
    }
}

fn stop_signal(container: &Container, image: &ImageFacts) -> i32 {
    let name = container.lifecycle.stop_signal.clone().or_else(|| image.stop_signal.clone());
    let Some(name) = name else { return libc::SIGTERM };
    let by_name = |name: &str| name.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32);
    let number = name.parse().ok().filter(|number| (1..=64).contains(number));
    number.or_else(|| by_name(&name)).or_else(|| by_name(&format!("SIG{name}"))).unwrap_or(libc::SIGTERM)
}
