//! From a bundle to everything that a launch needs: all decisions, before anything is allocated.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::runtime::cgroups::{Cgroup, Driver};
use crate::runtime::foreground::Foreground;
use crate::runtime::hooks;
use crate::runtime::kernel_security::KernelSecurity;
use crate::runtime::krun::member::Member;
use crate::runtime::krun::pod::{self, Part};
use crate::runtime::krun::prepare::Vm;
use crate::runtime::krun::target::Guest;
use crate::runtime::native::init::{Beginning, InitPlan};
use crate::runtime::native::launch::privileged;
use crate::runtime::native::namespaces::{Namespaces, UserNamespace};
use crate::runtime::native::process::{Keyring, ProcessPlan};
use crate::runtime::native::program::Program;
use crate::runtime::native::target::Target;
use crate::runtime::notify::NotifyMount;
use crate::runtime::options::{CreateOptions, Host};
use crate::runtime::record::{Backend, RECORD_VERSION, Record};
use crate::runtime::rootfs::{IdMappings, PlanContext, RootfsPlan};
use crate::runtime::seccomp::{self, Filter};
use crate::runtime::terminal::{ChildEnd, ConsolePlan};
use crate::runtime::validate::{allowed, no_process, validate};
use crate::runtime::wasm::program::Program as Module;
use crate::runtime::wasm::settings::Settings;
use crate::runtime::wasm::source::{self, Source, Tree};
use crate::runtime::wasm::together::Programs;
use crate::runtime::{backend, spec, state};
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, LinuxResources, Process, Spec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A bundle whose configuration was read and found to be right.
pub struct Bundle {
    /// Absolute path, without symbolic links.
    pub path: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// The configuration.
    pub spec: Spec,
    /// The configuration as it was read.
    pub raw: Vec<u8>,
    /// The backend that it asks for.
    pub backend: Backend,
    /// The module to run, where that is WebAssembly.
    pub module: Option<Module>,
    /// The modules to run instead of one.
    pub together: Option<Programs>,
    /// The machine to become, where that is a microVM of its own.
    pub vm: Option<Vm>,
    /// The place in the microVM of its pod, where it has one.
    pub member: Option<Member>,
}

/// Reads and checks a bundle.
pub fn load(host: &Host, options: &CreateOptions) -> Result<Bundle> {
    let path = std::fs::canonicalize(&options.bundle)
        .or_kind(ErrorKind::InvalidBundle, || format!("chdir {}", options.bundle.display()))?;
    let config = options.config.clone().unwrap_or_else(|| PathBuf::from(spec::CONFIG_NAME));
    let (spec, raw) = spec::load(&path.join(config))?;
    validate(&spec, KernelSecurity::probe)?;
    allowed(&spec, &host.annotations)?;
    let rootfs = root_path(&path, &spec)?;
    let entrypoint = || entrypoint(&path, &rootfs, &spec);
    let backend = backend::select(&spec, &host.called_as, || entrypoint().is_ok_and(|e| e.has_magic()))?;
    tracing::debug!("bundle '{}', version {}, backend {backend:?}", path.display(), spec.version());
    if spec.linux().is_none() && backend != Backend::Wasm {
        return Err(missing("linux"));
    }
    let together = options.together.as_ref().filter(|_| backend == Backend::Wasm);
    let together = together.map(|together| Programs::prepare(&host.wasm, together)).transpose()?;
    let module = match backend {
        Backend::Wasm if together.is_none() => {
            let mut settings = Settings::from_spec(&spec, &host.wasm)?;
            if spec.linux().is_none() {
                settings = settings.without_cgroup();
            }
            Some(Module::prepare(&host.wasm, settings, &entrypoint()?)?)
        }
        _ => None,
    };
    let mut spec = spec;
    let member = match backend {
        Backend::Krun => member(host, options, &mut spec)?,
        _ => None,
    };
    let vm = match backend {
        Backend::Krun if member.is_none() => Some(Vm::prepare(host, options, &mut spec, &rootfs)?),
        _ => None,
    };
    Ok(Bundle { path, rootfs, spec, raw, backend, module, together, vm, member })
}

/// The place of a container in the microVM of its pod, if it is in one.
fn member(host: &Host, options: &CreateOptions, spec: &mut Spec) -> Result<Option<Member>> {
    let sandbox = match pod::part(spec) {
        Part::Member { sandbox } if pod::is_shared(spec) => sandbox.to_owned(),
        _ => return Ok(None),
    };
    Member::prepare(host, options, spec, &sandbox)
}

/// The file that the process of a bundle names.
fn entrypoint(bundle: &Path, rootfs: &Path, spec: &Spec) -> Result<Source> {
    let process = spec.process().as_ref().ok_or_else(no_process)?;
    source::find(&Tree::of_bundle(bundle, rootfs, spec)?, process)
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::InvalidBundle, format!("{what} must be specified"))
}

fn root_path(bundle: &Path, spec: &Spec) -> Result<PathBuf> {
    let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    let path = bundle.join(root);
    let real = std::fs::canonicalize(&path)
        .or_kind(ErrorKind::InvalidBundle, || format!("invalid rootfs: stat {}", path.display()))?;
    if !real.is_dir() {
        crate::bail!(InvalidBundle, "invalid rootfs: {} is not a directory", real.display());
    }
    Ok(real)
}

/// What the parent of a launch works with.
pub struct Preparation {
    /// Record of the container, without its first process.
    pub record: Record,
    /// Namespaces.
    pub namespaces: Rc<Namespaces>,
    /// Limits for the cgroup.
    pub resources: LinuxResources,
    /// Filter, compiled, for later use by `exec`.
    pub seccomp: Option<Filter>,
}

/// Decides everything for a new container.
pub fn prepare<'a>(
    host: &Host,
    options: &CreateOptions,
    bundle: &Bundle,
    target: Target,
    console: Option<ChildEnd>,
    notify: Option<&NotifyMount>,
    foreground: Option<&'a Foreground>,
) -> Result<(Preparation, InitPlan<'a>)> {
    let spec = &bundle.spec;
    let none = no_linux()?;
    let linux = spec.linux().as_ref().unwrap_or(&none);
    let in_container = spec.linux().is_some();
    let idle = idle_process()?;
    let process = spec.process().as_ref().unwrap_or(&idle);
    let namespaces = Rc::new(Namespaces::from_linux(linux)?);
    let driver = if in_container { host.cgroup_driver } else { Driver::Disabled };
    let cgroup = Cgroup::locate(
        driver,
        linux.cgroups_path().as_deref(),
        &options.id,
        host.rootless,
        spec.annotations().as_ref(),
    )?;
    let record =
        Record { membership: target.membership(), ..record(host, options, bundle, &namespaces, cgroup) };
    let (listen_fds, mut extra_env) = listen_fds();
    let mut rootfs = None;
    if in_container {
        let context = context(options, linux, &namespaces, &record, process);
        let mut plan = RootfsPlan::from_spec(spec, &bundle.path, context)?;
        if let Some(notify) = notify {
            plan.add_directory(&notify.source, &notify.target);
            extra_env.push(notify.variable.clone());
        }
        plan.open_sources()?;
        rootfs = Some(plan);
    }
    let profile = linux.seccomp().as_ref();
    let seccomp = profile.map(|profile| seccomp::filter(&host.root, profile)).transpose()?;
    let hooks = hooks::Hooks::new(spec);
    let process_plan = if in_container {
        ProcessPlan::new(
            process,
            linux.personality().as_ref(),
            linux.memory_policy().as_ref(),
            keyring(options.no_new_keyring, &options.id, true),
        )?
    } else {
        ProcessPlan::inherited(process)?
    };
    let route = namespaces.route(privileged());
    let init = InitPlan {
        route,
        namespaces: Rc::clone(&namespaces),
        rootfs,
        process: process_plan,
        program: Program::new(process, &extra_env)?,
        target,
        hostname: spec.hostname().clone().filter(|name| in_container && !name.is_empty()),
        domainname: spec.domainname().clone().filter(|name| in_container && !name.is_empty()),
        sysctl: linux.sysctl().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
        console: console.map(|end| ConsolePlan::new(end, process)),
        seccomp: seccomp.clone(),
        runtime_hooks: hooks.runtime(),
        create_container: hooks.create_container,
        start_container: hooks.start_container,
        hook_state: state::hook_state(&record),
        preserve_fds: listen_fds + options.preserve_fds,
        foreground,
        beginning: Beginning::WhenTold,
    };
    let resources = linux.resources().clone().unwrap_or_default();
    Ok((Preparation { record, namespaces, resources, seccomp }, init))
}

/// What the first process of a bundle becomes.
pub fn target(bundle: &mut Bundle) -> Result<Target> {
    if let Some(vm) = bundle.vm.take() {
        return Guest::new(vm).map(|guest| Target::Vm(Box::new(guest)));
    }
    if let Some(member) = bundle.member.take() {
        return Ok(Target::Member(Box::new(member)));
    }
    let Some(process) = bundle.spec.process() else { return Ok(Target::Nothing) };
    if let Some(programs) = bundle.together.take() {
        return Target::modules(programs);
    }
    let Some(module) = bundle.module.take() else { return Ok(Target::native()) };
    let mut namespaces = bundle.spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    let own_mounts = |n: &LinuxNamespace| n.typ() == LinuxNamespaceType::Mount && n.path().is_none();
    if bundle.spec.linux().is_some() && !namespaces.any(own_mounts) {
        // What a module must not see is covered by mounts.
        crate::bail!(InvalidBundle, "a WebAssembly container needs a mount namespace of its own");
    }
    Target::module(module, process, &bundle.spec, &bundle.path, &bundle.rootfs)
}

/// The process of a container that has none until its start, which ends it: it may do nothing.
fn idle_process() -> Result<Process> {
    let process = r#"{"user": {"uid": 0, "gid": 0}, "args": ["none"], "cwd": "/", "noNewPrivileges": true}"#;
    Ok(serde_json::from_str(process)?)
}

/// What a configuration without `linux` says of it: nothing is isolated by the kernel.
fn no_linux() -> Result<Linux> {
    // The default of the type is a full container.
    Ok(serde_json::from_str("{}")?)
}

/// The record of a new container, without its first process.
pub fn record(
    host: &Host,
    options: &CreateOptions,
    bundle: &Bundle,
    namespaces: &Namespaces,
    cgroup: Cgroup,
) -> Record {
    let annotations: BTreeMap<String, String> =
        bundle.spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    Record {
        version: RECORD_VERSION,
        id: options.id.clone(),
        oci_version: bundle.spec.version().clone(),
        bundle: bundle.path.clone(),
        rootfs: bundle.rootfs.clone(),
        created: state::now(),
        owner: rustix::process::getuid().as_raw(),
        backend: bundle.backend,
        init: None,
        cgroup,
        own_pid_namespace: namespaces.makes(LinuxNamespaceType::Pid),
        rootless: host.rootless,
        intel_rdt: Vec::new(),
        poststop: hooks::Hooks::has_poststop(&bundle.spec),
        start_needs_config: hooks::Hooks::has_poststart(&bundle.spec)
            || has_listener(&bundle.spec)
            || bundle.spec.process().is_none(),
        owned_bundle: options.owned_bundle,
        membership: None,
        annotations,
    }
}

fn has_listener(spec: &Spec) -> bool {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    profile.is_some_and(|profile| profile.listener_path().is_some())
}

/// Whether mounts get the SELinux label of the configuration: not on a kernel on which it would protect nothing.
fn label_mounts(linux: &Linux) -> bool {
    let wanted = linux.mount_label().as_ref().is_some_and(|label| !label.is_empty());
    let can = wanted && KernelSecurity::probe().selinux;
    if wanted && !can {
        tracing::warn!("ignoring linux.mountLabel: selinux is disabled or not supported");
    }
    can
}

fn context(
    options: &CreateOptions,
    linux: &Linux,
    namespaces: &Namespaces,
    record: &Record,
    process: &Process,
) -> PlanContext {
    let mappings = match &namespaces.user {
        UserNamespace::New { uids, gids } => Some(IdMappings { uids: uids.clone(), gids: gids.clone() }),
        _ => None,
    };
    PlanContext {
        user_namespace: namespaces.has(LinuxNamespaceType::User),
        mappings,
        privileged: privileged(),
        new_mount_namespace: namespaces.makes(LinuxNamespaceType::Mount),
        own_cgroup_namespace: namespaces.has(LinuxNamespaceType::Cgroup),
        own_network_namespace: namespaces.has(LinuxNamespaceType::Network),
        cgroup: record.cgroup.mount_points(),
        label_mounts: label_mounts(linux),
        console: process.terminal().unwrap_or(false),
        no_pivot: options.no_pivot,
        inner: options
            .together
            .iter()
            .flat_map(|together| together.parts.iter().map(|part| PathBuf::from(&part.root)))
            .collect(),
    }
}

/// The session keyring of a container's processes, unless the caller wants none.
pub fn keyring(without: bool, id: &str, new: bool) -> Option<Keyring> {
    (!without).then(|| Keyring { name: format!("_ses.{id}"), new })
}

/// Descriptors that systemd passes for socket activation (`sd_listen_fds(3)`), and the variables that announce them to
/// the container's first process.
fn listen_fds() -> (u32, Vec<String>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u32>().ok());
    let ours = number("LISTEN_PID").is_none_or(|pid| pid == std::process::id());
    let count = number("LISTEN_FDS").unwrap_or(0);
    if count == 0 || !ours {
        return (0, Vec::new());
    }
    let mut env = vec![format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()];
    if let Ok(names) = std::env::var("LISTEN_FDNAMES") {
        env.push(format!("LISTEN_FDNAMES={names}"));
    }
    (count, env)
}
