//! From a configuration to a loaded machine: all decisions and checks, before anything is made.

use super::engine::{Engine, Libkrun, Machine};
use super::pod::{self, Part};
use super::settings::{ROOT_DISK, Settings};
use super::{check, guest, monitor_spec, replace, vm_file};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::selfexe;
use crate::platform::sys::mapped;
use crate::runtime::options::{CreateOptions, Host};
use crate::storage::config::VmLimits;
use oci_spec::runtime::Spec;
use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use vm_protocol::spec::PodSpec;

/// Name of the program that is the first process of a guest.
const INIT: &str = "vminit";
/// Longest such program, in bytes: ours has less than 3 MB.
const MAX_INIT: u64 = 8 << 20;

/// A machine that a container can become.
#[derive(Debug)]
pub struct Vm {
    /// What was decided about it.
    pub settings: Settings,
    /// The machine.
    pub machine: Box<dyn Machine>,
    /// The guest's first process.
    pub init: &'static [u8],
    /// The guest's specification.
    pub spec: PodSpec,
    /// It runs the container's own program.
    pub runs_program: bool,
    /// How long it may take.
    pub limits: VmLimits,
}

impl Vm {
    /// Decides about the microVM of a bundle, and loads what it needs. In a program without libkrun that ends here: the one with
    /// it goes on in its place. `spec` becomes the configuration of the container around the monitor.
    pub fn prepare(host: &Host, options: &CreateOptions, spec: &mut Spec, rootfs: &Path) -> Result<Self> {
        let wish = vm_file::read(rootfs)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let sandbox = pod::part(spec) == Part::Sandbox;
        let settings = Settings::new(sized(spec, sandbox)?.as_ref(), &wish, cpus)?;
        let mut guest = match &options.guest {
            Some(given) => given.complete(&settings),
            None => guest::spec(spec, &settings)?,
        };
        if sandbox {
            guest.mounts.push(pod::shared_memory());
            guest.containers.iter_mut().for_each(pod::share_memory);
        }
        if options.guest.is_some() && settings.root_disk.is_some() {
            crate::bail!(NotSupported, "annotations: {ROOT_DISK}: the containers of a pod have their images");
        }
        if options.no_pivot {
            crate::bail!(
                NotSupported,
                "cannot run a microVM with --no-pivot: paths would lead out of its root"
            );
        }
        if host.rootless {
            crate::bail!(
                NotSupported,
                "cannot run a microVM without privileges: it needs mounts that only root may make"
            );
        }
        check::check(settings.ram_mib)?;
        let machine = require_engine(host)?.load()?;
        monitor_spec::change(spec, settings.root_disk.is_some())?;
        Ok(Self {
            settings,
            machine,
            init: read_init()?,
            spec: guest,
            runs_program: options.guest.is_none(),
            limits: host.vm.clone(),
        })
    }
}

/// The configuration that sizes the machine: of a sandbox, the containers of its pod are what counts.
fn sized(spec: &Spec, sandbox: bool) -> Result<Cow<'_, Spec>> {
    let Some(resources) = sandbox.then(|| pod::resources(spec)).transpose()?.flatten() else {
        return Ok(Cow::Borrowed(spec));
    };
    let mut sized = spec.clone();
    let mut linux = sized.linux().clone().unwrap_or_default();
    linux.set_resources(Some(resources));
    sized.set_linux(Some(linux));
    Ok(Cow::Owned(sized))
}

/// The engine of this program; in one that has none, the program that has one goes on in its place.
pub fn require_engine(host: &Host) -> Result<&'static dyn Engine> {
    check::hypervisor()?;
    match host.libkrun {
        Libkrun::Linked(engine) => replace::check_version().map(|()| engine),
        Libkrun::Beside => match replace::replace()? {},
        Libkrun::Absent => {
            crate::bail!(RuntimeUnavailable, "cannot run a microVM: libkrun is not linked into this program")
        }
    }
}

/// Maps the guest's first process: the machine shows these bytes to the guest, and nobody else needs them.
fn read_init() -> Result<&'static [u8]> {
    let own = selfexe::path()?;
    let path = replace::installed(&own, INIT).ok_or_else(|| {
        let message = format!("cannot run a microVM: '{INIT}' is not installed beside '{}'", own.display());
        Error::new(ErrorKind::RuntimeUnavailable, message)
    })?;
    let cannot = || format!("cannot read '{}'", path.display());
    let data = mapped::for_good(&File::open(&path).context(cannot)?).context(cannot)?;
    if data.len() as u64 > MAX_INIT {
        crate::bail!(
            RuntimeUnavailable,
            "cannot use '{}': it has more than {MAX_INIT} bytes",
            path.display()
        );
    }
    Ok(data)
}
