//! What pods need of the host: where state and images are, and what plans depend on.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::ImageService;
use crate::platform::confinement::Profile;
use crate::platform::small_file;
use crate::platform::userns::IdMappings;
use crate::pod::images::Images;
use crate::pod::manifest::PodSpec;
use crate::pod::plan::cgroup::is_slice;
use crate::pod::plan::users::Users;
use crate::pod::plan::{Context, PodPlan};
use crate::pod::run::{CGROUP_PARENT, PodOptions, SLICE_PARENT};
use crate::pod::store::PodStore;
use crate::runtime::cgroups::{Cgroup, Driver};
use crate::runtime::kernel_security::AppArmor;
use crate::runtime::krun::engine::Libkrun;
use crate::runtime::krun::{check, replace};
use crate::runtime::options::Host;
use crate::storage::state_root::StateRoot;
use oci_spec::runtime::LinuxIdMapping;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where seccomp profiles of type Localhost are, unless their path is absolute.
const LOCALHOST: &str = "/etc/magikrun/seccomp";

/// The host as pods see it.
#[derive(Debug)]
pub struct PodHost {
    /// State root of containers and privileges.
    pub host: Host,
    /// Images.
    pub images: ImageService,
    /// Directory for what belongs on a disk: that of the images.
    pub data: PathBuf,
    /// The pods.
    pub store: PodStore,
}

impl PodHost {
    /// The pods below a state root, with the images of a service.
    pub fn new(host: Host, images: ImageService) -> Self {
        let data = images.storage().root().to_owned();
        // Monitors have another working directory.
        let root = std::path::absolute(host.root.path()).unwrap_or_else(|_| host.root.path().to_owned());
        // The monitor of a pod stays the program that it is.
        let host = Host { root: StateRoot::new(root), libkrun: Libkrun::Absent, ..host };
        let store = PodStore::new(&host, &data);
        Self { host, images, data, store }
    }

    /// Fails where pods cannot run with these options; with `microvm`, where those in microVMs cannot.
    pub fn check(&self, options: &PodOptions, microvm: bool) -> Result<()> {
        self.cgroup_parent(options)?;
        if self.host.cgroup_driver == Driver::Systemd {
            Cgroup::check_systemd().context(|| "cannot run pods")?;
            if self.host.rootless {
                // The bus takes nobody for the user who comes from a user namespace, as the monitors of pods do.
                crate::bail!(
                    NotSupported,
                    "cannot run pods of a user by systemd (use systemd-run --user --scope -p Delegate=yes, and no --systemd-cgroup)"
                );
            }
        }
        if microvm && self.host.rootless {
            crate::bail!(
                NotSupported,
                "cannot run a microVM without privileges: it needs mounts that only root may make"
            );
        }
        if microvm {
            check::hypervisor()?;
            replace::program()?;
        }
        Ok(())
    }

    /// Fails where a pod has annotations that change how it is run, and that the operator does not allow.
    pub fn allow(&self, plan: &PodPlan) -> Result<()> {
        let of_vm = plan.vm.iter().flat_map(|vm| vm.annotations.keys());
        let of_vm = of_vm.filter(|name| plan.metadata.annotations.contains_key(*name));
        let of_modules = plan.containers.iter().flat_map(|container| container.settings.keys());
        let mut names = of_vm.chain(of_modules);
        match names.find(|name| !self.host.annotations.allows(name)) {
            Some(name) => crate::bail!(
                InvalidManifest,
                "metadata.annotations: '{name}' is not among those that annotations.allowed of the configuration allows"
            ),
            None => Ok(()),
        }
    }

    /// A user without privileges has cgroups below the own one at most.
    fn cgroup_parent(&self, options: &PodOptions) -> Result<String> {
        let wanted = options.cgroup_parent.as_deref();
        let (parent, valid, kind) = if self.host.cgroup_driver == Driver::Systemd {
            let parent = wanted.unwrap_or(SLICE_PARENT);
            (parent, is_slice(parent), "the name of a slice")
        } else {
            let parent = wanted.unwrap_or(CGROUP_PARENT);
            (parent, parent.starts_with('/'), "an absolute path")
        };
        if !valid {
            crate::bail!(Usage, "the parent of the pods' cgroups must be {kind}, not '{parent}'");
        }
        Ok(if self.host.rootless { parent.trim_start_matches('/') } else { parent }.to_owned())
    }

    fn users(&self) -> Users {
        if !self.host.rootless {
            return Users::Host;
        }
        if rustix::process::geteuid().is_root() {
            // In a namespace that somebody else has made: the kernel tells which ids are there.
            return Users::OfUser { ids: u32::MAX };
        }
        let mappings = IdMappings::of_user();
        let count =
            |all: &[LinuxIdMapping]| all.iter().map(LinuxIdMapping::size).fold(0, u32::saturating_add);
        Users::OfUser { ids: count(&mappings.uids).min(count(&mappings.gids)) }
    }

    /// What the plan of a pod depends on.
    pub fn context(&self, id: &str, pod: &PodSpec, options: &PodOptions, images: &Images) -> Result<Context> {
        if let Some(profile) = crate::pod::plan::apparmor_profile(pod)
            && AppArmor::probe() != AppArmor::Enabled
        {
            crate::bail!(
                NotSupported,
                "cannot confine by '{profile}': apparmor is not supported by this kernel"
            );
        }
        let seccomp: BTreeMap<_, _> = crate::pod::plan::seccomp_profiles(pod)
            .into_iter()
            .map(|name| Ok((name.clone(), profile(&name)?)))
            .collect::<Result<_>>()?;
        Ok(Context {
            id: id.to_owned(),
            cgroup_parent: self.cgroup_parent(options)?,
            systemd: self.host.cgroup_driver == Driver::Systemd,
            users: self.users(),
            network: options.network.clone(),
            images: images.facts(),
            node_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            resolv_conf: std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory: total_memory()?,
            default_memory: self.images.limits().default_memory,
            grace_seconds: self.host.timeouts.grace,
            seccomp,
            extensions: options.extensions.clone(),
        })
    }
}

/// The seccomp profile with a name; `""` is the host's default.
fn profile(name: &str) -> Result<Profile> {
    if name.is_empty() { Profile::of_host() } else { Profile::read(&Path::new(LOCALHOST).join(name)) }
}

/// Memory of the host in bytes: proc(5) `/proc/meminfo`.
fn total_memory() -> Result<u64> {
    let text = small_file::read("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| Error::new(ErrorKind::System, "/proc/meminfo has no MemTotal"))
}
