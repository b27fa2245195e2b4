//! Making pods, as the process that wants them: images first, then a monitor for each pod, then the commit.
//!
//! Until the commit every pod depends on this process: when it goes, however it goes, the monitors see their stream closed and
//! remove what they have made.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::infra::wire::{Received, Wire, ready};
use crate::platform::sys::clone::{Child, CloneArgs, clone3};
use crate::platform::sys::random::unique_id;
use crate::platform::userns::{Gate, IdMappings};
use crate::pod::clean;
use crate::pod::group::Group;
use crate::pod::host::PodHost;
use crate::pod::images::Images;
use crate::pod::manifest::PodSpec;
use crate::pod::monitor::{self, Commit, Orders, Report};
use crate::pod::operations;
use crate::pod::plan::users::Users;
use crate::pod::plan::{self, Network, PodPlan};
use crate::pod::process::Program;
use crate::pod::ranges;
use crate::pod::record::{ContainerInfo, PodRecord, VERSION};
use crate::runtime::cgroups::Cgroup;
use crate::runtime::foreground::Foreground;
use crate::runtime::native::init::close_foreign_descriptors;
use crate::runtime::native::launch::kill_and_reap;
use crate::runtime::state::now;
use crate::storage::config::Config;
use crate::storage::lock::Lock;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Cgroup below which pods have theirs.
pub const CGROUP_PARENT: &str = "/magikrun";
/// The slice in which pods have theirs where systemd manages cgroups.
pub const SLICE_PARENT: &str = "magikrun.slice";
/// How often a monitor is looked at that may have committed its pod meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How to run pods.
#[derive(Debug, Clone, Default)]
pub struct PodOptions {
    /// Network; none to follow from the manifest.
    pub network: Option<Network>,
    /// Cgroup below which the pods have theirs, an absolute path, or the name of a slice where systemd manages cgroups;
    /// [`CGROUP_PARENT`] or [`SLICE_PARENT`] if there is none.
    pub cgroup_parent: Option<String>,
    /// Programs that extend the infra containers.
    pub extensions: Vec<PathBuf>,
}

/// A pod that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodHandle {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// Runs pods: all of them, or none.
pub fn run(host: &PodHost, pods: &[PodSpec], options: &PodOptions) -> Result<Vec<PodHandle>> {
    host.check(options, pods.iter().any(PodSpec::is_microvm))?;
    clean::leftovers(&host.store, &host.host)?;
    let images = Images::pull(&host.images, pods)?;
    let foreground = Foreground::new(false)?;
    let ids = pods.iter().map(|_| Ok(unique_id()?.to_string())).collect::<Result<Vec<String>>>()?;
    let group = match ids.as_slice() {
        [first, _, ..] => Some(Group::begin(&host.store, first, &ids)?),
        _ => None,
    };
    let mut making: Vec<Making> = Vec::new();
    let made = (|| {
        for (pod, id) in pods.iter().zip(ids) {
            let cannot = || format!("cannot run pod '{}'", pod.name());
            let context = host.context(&id, pod, options, &images)?;
            let plan = plan::plan(pod, &context).context(cannot)?;
            host.allow(&plan).context(cannot)?;
            making.push(Making::begin(host, plan, &images, group.as_ref(), &foreground).context(cannot)?);
        }
        for pod in &mut making {
            pod.expect(Some(&foreground), |report| matches!(report, Report::Ready))?;
        }
        commit(&mut making, group.as_ref())
    })();
    match made {
        Ok(all) => {
            if let Some(group) = group.filter(|_| all) {
                group.end()?;
            }
            Ok(making.into_iter().map(|pod| pod.handle).collect())
        }
        Err(e) => {
            let e = abort(host, making, e);
            Err(match group.map_or(Ok(()), Group::end) {
                Ok(()) => e,
                Err(left) => e.wrap(format!("could not remove the group ({left})")),
            })
        }
    }
}

/// Commits the pods: one by itself, several as a group. False when a monitor was killed just after the commit of its group, whose
/// pod has failed, then.
fn commit(making: &mut [Making], group: Option<&Group>) -> Result<bool> {
    for pod in &*making {
        pod.wire.send(&Commit)?;
    }
    let Some(group) = group else {
        for pod in making {
            pod.expect(None, |report| matches!(report, Report::Committed))?;
        }
        return Ok(true);
    };
    for pod in &mut *making {
        pod.expect(None, |report| matches!(report, Report::Placed))?;
    }
    group.commit()?;
    // Nothing can be taken back any more.
    let mut all = true;
    for pod in making {
        let committed = pod
            .wire
            .send(&Commit)
            .and_then(|()| pod.expect(None, |report| matches!(report, Report::Committed)));
        all &= committed.is_ok();
    }
    Ok(all)
}

/// Lets the monitors remove what they have made, and removes what they could not, or have committed already.
fn abort(host: &PodHost, making: Vec<Making>, cause: Error) -> Error {
    let mut left = Vec::new();
    for pod in making {
        drop(pod.wire);
        if let Err(e) = take_back(host, &pod.monitor, &pod.handle.id) {
            left.push(format!("remove pod '{}': {e}", pod.handle.name));
        }
    }
    if left.is_empty() {
        return cause;
    }
    let message = format!("{cause} (and could not {})", left.join("; "));
    Error::from_parts(cause.kind(), message, cause.errno())
}

/// Waits until a monitor that has been left alone is gone; if it has committed its pod before it saw that, the pod is deleted.
fn take_back(host: &PodHost, monitor: &Child, id: &str) -> Result<()> {
    while !ready(monitor.pidfd.as_fd(), PollFlags::IN, Some(LOOK_AGAIN))? {
        if host.store.is_there(id)? {
            return operations::delete(host, id, true);
        }
    }
    if host.store.is_there(id)? {
        return operations::delete(host, id, true);
    }
    clean::leftover(&host.store, &host.host, id).map(drop)
}

/// A pod that is being made.
struct Making {
    handle: PodHandle,
    wire: Wire,
    monitor: Child,
}

impl Making {
    fn begin(
        host: &PodHost,
        plan: PodPlan,
        images: &Images,
        group: Option<&Group>,
        foreground: &Foreground,
    ) -> Result<Self> {
        let id = plan.id.clone();
        let (dir, lock) = host.store.reserve(&id, host.images.limits().max_pods)?;
        let mut record = PodRecord { group: group.map(|group| group.id.clone()), ..record(host, &plan)? };
        let begun = (|| {
            if plan.users == Users::Own {
                ranges::take(&host.store, &Config::load()?.pods, &mut record, &dir)?;
            }
            record.save(&dir)?;
            host.store.take_name(&host.host, &record.namespace, &record.name, &id)?;
            build_bundles(host, &plan, images, &record)?;
            let orders = Orders {
                plan,
                record: record.clone(),
                root: host.host.root.path().to_owned(),
                data: host.data.clone(),
                driver: host.host.cgroup_driver,
                rootless: host.host.rootless,
                wasm: host.host.wasm.clone(),
                timeouts: host.host.timeouts.clone(),
                vm: host.host.vm.clone(),
            };
            spawn(&orders, &lock, foreground)
        })();
        match begun {
            Ok((wire, monitor)) => {
                lock.leave_to_child();
                Ok(Self { handle: PodHandle { id, name: record.name }, wire, monitor })
            }
            Err(e) => match clean::remove(&host.store, &host.host, &record, &dir) {
                Ok(()) => Err(e),
                Err(left) => Err(e.wrap(format!("could not remove what was made ({left})"))),
            },
        }
    }

    /// Waits until the monitor has said something, or a signal has come.
    fn wait(&self, foreground: Option<&Foreground>) -> Result<()> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.wire.as_fd(), PollFlags::IN)];
        fds.extend(foreground.map(|f| PollFd::from_borrowed_fd(f.signals().as_fd(), PollFlags::IN)));
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).context(|| "cannot wait for the monitor")?;
        Ok(())
    }

    /// Waits for a report of the monitor. Its death ends the wait; so does a signal to this process, with `foreground`.
    fn expect(&mut self, foreground: Option<&Foreground>, wanted: impl Fn(&Report) -> bool) -> Result<()> {
        let cannot = || format!("cannot run pod '{}'", self.handle.name);
        loop {
            self.wait(foreground)?;
            if interrupted(foreground)? {
                crate::bail!(StartFailed, "{}: interrupted", cannot());
            }
            match self.wire.try_receive::<Report>()? {
                Received::Nothing => {}
                Received::Message(Report::Failed { kind, message }) => {
                    return Err(Error::new(kind, message).wrap(cannot()));
                }
                Received::Message(report) if wanted(&report) => return Ok(()),
                Received::Message(_) => {}
                Received::Closed => crate::bail!(StartFailed, "{}: its monitor was killed", cannot()),
            }
        }
    }
}

/// True if a signal has come that asks this process to end.
fn interrupted(foreground: Option<&Foreground>) -> Result<bool> {
    let Some(foreground) = foreground else { return Ok(false) };
    let signal = foreground.signals().read_signal().context(|| "cannot read signals")?;
    let number = signal.map_or(0, |signal| i32::try_from(signal.ssi_signo).unwrap_or(0));
    Ok([libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT].contains(&number))
}

fn record(host: &PodHost, plan: &PodPlan) -> Result<PodRecord> {
    let rootless = host.host.rootless;
    Ok(PodRecord {
        version: VERSION,
        id: plan.id.clone(),
        name: plan.metadata.name.clone(),
        namespace: plan.metadata.namespace().to_owned(),
        created: now(),
        cgroup: Cgroup::locate(
            host.host.cgroup_driver,
            Some(Path::new(&plan.cgroup.path())),
            &plan.id,
            rootless,
            None,
        )?,
        data: host.store.data(&plan.id),
        running: host.store.running(&plan.id),
        containers: ContainerInfo::of_plan(plan),
        ports: plan.ports.clone(),
        grace_seconds: plan.grace_seconds,
        network: match &plan.network {
            Network::Cni(network) => Some(network.name.clone()),
            _ => None,
        },
        subdomain: plan.subdomain.clone(),
        ids: None,
        vm: plan.vm.is_some(),
        wasm: plan.wasm.is_some(),
        group: None,
    })
}

/// Makes a bundle for each container; the monitor completes the configurations.
fn build_bundles(host: &PodHost, plan: &PodPlan, images: &Images, record: &PodRecord) -> Result<()> {
    let bundles = record.data.join("bundles");
    std::fs::create_dir_all(&bundles)
        .or_kind(ErrorKind::Storage, || format!("cannot make '{}'", bundles.display()))?;
    for container in &plan.containers {
        let bundle = bundles.join(&container.name);
        images
            .build(&host.images, (plan, container), record.ids, &bundle)
            .context(|| format!("container '{}'", container.name))?;
    }
    Ok(())
}

/// Executes this program again as the monitor of a pod. Without privileges it is root of a user namespace, where it has those over
/// whatever it makes.
fn spawn(orders: &Orders, lock: &Lock, foreground: &Foreground) -> Result<(Wire, Child)> {
    let (ours, theirs) = Wire::pair()?;
    let memory =
        rustix::fs::memfd_create("orders", MemfdFlags::CLOEXEC).context(|| "cannot make a file in memory")?;
    let mut file = File::from(memory);
    file.write_all(&serde_json::to_vec(orders)?)?;
    file.rewind()?;
    let label = format!("pod:{}", orders.record.name);
    let program = if orders.record.vm { Program::with_libkrun()? } else { Program::this() };
    let gate = (!rustix::process::geteuid().is_root()).then(Gate::new).transpose()?;
    let flags = gate.as_ref().map_or(0, |_| libc::CLONE_NEWUSER as u64);
    let child = clone3(&CloneArgs { flags, ..CloneArgs::default() }, || {
        let needed = [theirs.as_fd().as_raw_fd(), file.as_raw_fd(), lock.as_fd().as_raw_fd()];
        let Err(e) = foreground
            .restore_in_child()
            .and_then(|()| gate.as_ref().map_or(Ok(()), Gate::pass))
            .and_then(|()| rustix::process::setsid().map(drop).map_err(Error::from))
            .and_then(|()| close_foreign_descriptors(0, &needed))
            .and_then(|()| program.execute(monitor::PROCESS_NAME, &[&theirs, &file, lock], &label));
        let _ = theirs.send(&Report::Failed { kind: e.kind(), message: e.message().to_owned() });
        1
    })?;
    if let Some(gate) = gate {
        gate.open(child.pid, &IdMappings::of_user(), true).inspect_err(|_| kill_and_reap(&child))?;
    }
    Ok((ours, child))
}
