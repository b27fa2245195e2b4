//! What is to be done to a container's root: decided before anything is touched.

use super::options::{Options, propagation};
use super::resolve::clean;
use super::{attach, idmap, overlay};
use crate::error::{Context as _, Error, ErrorKind, Result};
pub use crate::platform::userns::IdMappings;
use oci_spec::runtime::{Linux, LinuxDevice, LinuxIdMapping, Mount, Spec};
use rustix::fd::OwnedFd;
use rustix::mount::MountPropagationFlags as Propagation;
use std::path::{Path, PathBuf};

/// One directory of the container's cgroup, and where a `cgroup` mount shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// Name below the mount, as in `cpu,cpuacct`; empty for the one directory of a pure v2 host.
    pub name: String,
    /// The container's directory on the host.
    pub directory: PathBuf,
    /// The root of the whole hierarchy on the host.
    pub root: PathBuf,
    /// Names that are links to `name`, as `cpu` and `cpuacct`.
    pub links: Vec<String>,
}

/// What else the plan depends on.
#[derive(Debug, Default)]
pub struct PlanContext {
    /// The container has a user namespace of its own.
    pub user_namespace: bool,
    /// The mappings of a user namespace that is made for it.
    pub mappings: Option<IdMappings>,
    /// We have all privileges on the host.
    pub privileged: bool,
    /// A mount namespace is made for it; otherwise nothing is mounted and its root is entered by chroot(2).
    pub new_mount_namespace: bool,
    /// The container has a cgroup namespace of its own.
    pub own_cgroup_namespace: bool,
    /// The container has a network namespace of its own.
    pub own_network_namespace: bool,
    /// Its cgroup directories.
    pub cgroup: Vec<CgroupMount>,
    /// Mounts get the SELinux label of the configuration.
    pub label_mounts: bool,
    /// Its process has a terminal.
    pub console: bool,
    /// Use `MS_MOVE` and chroot(2) instead of pivot_root(2).
    pub no_pivot: bool,
    /// Roots inside this one, absolute: what is mounted below one of them never leaves it, whatever links lead elsewhere, and
    /// each has the devices that a container has.
    pub inner: Vec<PathBuf>,
}

/// What kind of mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MountKind {
    Bind,
    Cgroup,
    Tmpfs,
    /// procfs or sysfs: must be on an ordinary directory.
    Kernel,
    Other,
}

/// One mount.
#[derive(Debug)]
pub(super) struct MountPlan {
    pub(super) kind: MountKind,
    /// File system type.
    pub(super) fs: String,
    pub(super) source: PathBuf,
    /// The inner root that it is in, if it is.
    pub(super) inner: Option<PathBuf>,
    /// Absolute inside the root, or inside the inner one.
    pub(super) destination: PathBuf,
    pub(super) options: Options,
    pub(super) mappings: Option<IdMappings>,
    /// For a bind mount that the parent had to open: a detached copy of its source.
    pub(super) tree: Option<OwnedFd>,
    /// For an overlay whose directories the parent had to open: detached copies of the mounts that they are on.
    pub(super) layers: Vec<OwnedFd>,
}

/// The plan.
#[derive(Debug)]
pub struct RootfsPlan {
    pub(super) root: PathBuf,
    /// What is mounted over `root`: the configuration's first mount, if its destination is `/`.
    pub(super) root_mount: Option<MountPlan>,
    pub(super) read_only: bool,
    pub(super) propagation: Option<(Propagation, bool)>,
    pub(super) mounts: Vec<MountPlan>,
    pub(super) devices: Vec<LinuxDevice>,
    pub(super) masked: Vec<PathBuf>,
    pub(super) read_only_paths: Vec<PathBuf>,
    pub(super) mount_label: Option<String>,
    pub(super) cwd: PathBuf,
    pub(super) context: PlanContext,
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidBundle, message)
}

impl RootfsPlan {
    /// Reads the configuration. `bundle` is what relative sources start from. Nothing is touched.
    pub fn from_spec(spec: &Spec, bundle: &Path, context: PlanContext) -> Result<Self> {
        let root = spec.root().as_ref().ok_or_else(|| invalid("root must be specified".to_owned()))?;
        let linux = spec.linux().clone().unwrap_or_default();
        let mounts = spec.mounts().iter().flatten();
        let mut mounts =
            mounts.map(|mount| mount_plan(mount, bundle, &context)).collect::<Result<Vec<_>>>()?;
        let has_root = mounts.first().is_some_and(MountPlan::is_root);
        let root_mount = has_root.then(|| mounts.remove(0));
        let paths = |paths: &Option<Vec<String>>| paths.iter().flatten().map(PathBuf::from).collect();
        Ok(Self {
            root: std::fs::canonicalize(bundle.join(root.path()))
                .or_kind(ErrorKind::InvalidBundle, || {
                    format!("invalid rootfs '{}'", root.path().display())
                })?,
            root_mount,
            read_only: root.readonly().unwrap_or(false),
            propagation: root_propagation(&linux)?,
            mounts,
            devices: linux.devices().clone().unwrap_or_default(),
            masked: paths(linux.masked_paths()),
            read_only_paths: paths(linux.readonly_paths()),
            mount_label: linux
                .mount_label()
                .clone()
                .filter(|label| !label.is_empty() && context.label_mounts),
            cwd: spec.process().as_ref().map(|process| process.cwd().clone()).unwrap_or_default(),
            context,
        })
    }

    /// Adds a read-only view of a directory of the host.
    pub fn add_directory(&mut self, source: &Path, destination: &Path) {
        self.mounts.push(MountPlan {
            kind: MountKind::Bind,
            fs: "bind".to_owned(),
            source: source.to_owned(),
            inner: None,
            destination: destination.to_owned(),
            options: Options::parse(["bind", "nosuid", "noexec", "nodev", "ro"]),
            mappings: None,
            tree: None,
            layers: Vec::new(),
        });
    }

    /// Opens the sources that only the parent can: those to be mapped to other ids, and those that root of the
    /// container's user namespace may not reach.
    pub fn open_sources(&mut self) -> Result<()> {
        let open_all = self.context.user_namespace && self.context.privileged;
        let propagation = self.default_propagation();
        for mount in self.mounts.iter_mut().filter(|mount| mount.kind == MountKind::Bind) {
            // A descriptor of this process means nothing to the child, whose mounts are others.
            let by_descriptor = mount.source.starts_with("/proc/self/fd");
            if !(open_all || by_descriptor || mount.mappings.is_some()) {
                continue;
            }
            let recursive = mount.options.bind == Some(true);
            let tree = attach::clone_path(&mount.source, recursive)
                .or_kind(ErrorKind::InvalidBundle, || mount.description())?;
            // A copy made here is a peer of the host's mount; made in the container it would have been a slave.
            attach::propagate(rustix::fd::AsFd::as_fd(&tree), propagation, true)
                .context(|| mount.description())?;
            if let Some(mappings) = &mount.mappings {
                let recursive = recursive && mount.options.idmap == Some(true);
                idmap::map(&tree, mappings, recursive).map_err(|e| e.wrap(mount.description()))?;
            }
            mount.tree = Some(tree);
        }
        let overlays = self.root_mount.iter_mut().chain(&mut self.mounts).filter(|mount| mount.is_overlay());
        for mount in overlays.filter(|mount| open_all || mount.mappings.is_some()) {
            overlay::open(mount).map_err(|e| e.wrap(mount.description()))?;
        }
        Ok(())
    }

    /// How mounts of the host propagate into the container's namespace before its root is entered.
    pub(super) fn default_propagation(&self) -> Propagation {
        match self.propagation {
            Some((Propagation::SHARED, _)) => Propagation::SHARED,
            Some((Propagation::PRIVATE, _)) => Propagation::PRIVATE,
            _ => Propagation::DOWNSTREAM,
        }
    }

    /// Where the terminal is bound to in the container.
    pub fn console_target(&self) -> Option<&'static Path> {
        (self.context.console && self.context.new_mount_namespace).then_some(Path::new("/dev/console"))
    }
}

impl MountPlan {
    /// True for a mount that is the root file system.
    fn is_root(&self) -> bool {
        self.kind == MountKind::Other && self.destination == Path::new("/")
    }

    /// True for an overlay.
    pub(super) fn is_overlay(&self) -> bool {
        self.kind == MountKind::Other && self.fs == "overlay"
    }

    /// The beginning of every error, in runc's words, which callers show to users.
    pub(super) fn description(&self) -> String {
        format!(
            "error mounting \"{}\" to rootfs at \"{}\"",
            self.source.display(),
            self.destination.display()
        )
    }
}

fn mount_plan(mount: &Mount, bundle: &Path, context: &PlanContext) -> Result<MountPlan> {
    let options = Options::parse(mount.options().iter().flatten());
    let fs = mount.typ().clone().unwrap_or_default();
    let bind = options.bind.is_some() || fs == "bind" || fs == "none";
    let mut options = options;
    if bind && options.bind.is_none() {
        options.bind = Some(false);
    }
    let source = mount.source().clone().unwrap_or_default();
    let kind = match fs.as_str() {
        _ if bind && !options.remount => MountKind::Bind,
        "cgroup" | "cgroup2" => MountKind::Cgroup,
        "tmpfs" => MountKind::Tmpfs,
        "proc" | "sysfs" => MountKind::Kernel,
        _ => MountKind::Other,
    };
    let name = mount.destination();
    if kind == MountKind::Bind && !options.data.is_empty() {
        let data = options.data.join(",");
        tracing::warn!("ignoring {data}: {} is a bind mount, not a file system", name.display());
        options.data.clear();
    }
    if name.as_os_str().is_empty() {
        return Err(invalid("mounts: a destination is empty".to_owned()));
    }
    if !name.is_absolute() {
        tracing::warn!("mount destination {} is not absolute; taken as relative to the root", name.display());
    }
    let mappings = mappings(mount, &options, context)?;
    if mappings.is_some() && kind != MountKind::Bind && fs != "overlay" {
        return Err(invalid(format!(
            "mounts: only bind mounts and overlays can be mapped to other ids, not '{}'",
            name.display()
        )));
    }
    if options.copy_up && kind != MountKind::Tmpfs {
        return Err(invalid(format!("mounts: tmpcopyup is for tmpfs only, not '{}'", name.display())));
    }
    let source = match kind {
        MountKind::Bind => bundle.join(source),
        _ if source.as_os_str().is_empty() => PathBuf::from(&fs),
        _ => source,
    };
    let (inner, destination) = inner_root(&context.inner, clean_keeping_links(name));
    Ok(MountPlan { kind, fs, source, inner, destination, options, mappings, tree: None, layers: Vec::new() })
}

/// The inner root that a destination is in, and the destination there. What is mounted as such a root itself is in none.
fn inner_root(inner: &[PathBuf], destination: PathBuf) -> (Option<PathBuf>, PathBuf) {
    let below =
        |root: &&PathBuf| destination.strip_prefix(root).is_ok_and(|rest| !rest.as_os_str().is_empty());
    match inner.iter().find(below) {
        Some(root) => {
            let rest = destination.strip_prefix(root).unwrap_or(&destination);
            (Some(root.clone()), Path::new("/").join(rest))
        }
        None => (None, destination),
    }
}

/// Absolute, with `..` left to the resolver, which knows where links lead.
fn clean_keeping_links(path: &Path) -> PathBuf {
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        Path::new("/").join(path)
    } else {
        clean(path)
    }
}

fn mappings(mount: &Mount, options: &Options, context: &PlanContext) -> Result<Option<IdMappings>> {
    let list = |mappings: &Option<Vec<LinuxIdMapping>>| mappings.clone().unwrap_or_default();
    let own = IdMappings { uids: list(mount.uid_mappings()), gids: list(mount.gid_mappings()) };
    match (own.uids.is_empty(), own.gids.is_empty()) {
        (false, false) => return Ok(Some(own)),
        (true, true) => {}
        _ => {
            return Err(invalid(format!(
                "mounts: '{}' needs both uidMappings and gidMappings",
                mount.destination().display()
            )));
        }
    }
    if options.idmap.is_none() {
        return Ok(None);
    }
    // Without mappings of its own the mount takes those of the container's user namespace.
    context.mappings.clone().map(Some).ok_or_else(|| {
        invalid(format!(
            "mounts: '{}' has the option idmap but no mappings, and the container has no user namespace of its own",
            mount.destination().display()
        ))
    })
}

fn root_propagation(linux: &Linux) -> Result<Option<(Propagation, bool)>> {
    match linux.rootfs_propagation().as_deref() {
        None | Some("") => Ok(None),
        Some(word) => propagation(word)
            .map(Some)
            .ok_or_else(|| invalid(format!("rootfsPropagation={word} is not supported"))),
    }
}
