//! The task API: each call is turned into an operation on a container, and its result into an answer.

mod calls;
mod sandbox;

use crate::bundle::SharedFile;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::events::{any, timestamp};
use crate::metrics;
use crate::options::Options;
use crate::reaper::Exit;
use crate::sandbox::Sandbox;
use crate::serve::Shim;
use crate::stdio::Wanted;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::types::empty::Empty;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The containers of a server, by their ids; `None` for one that is being created.
type Containers = HashMap<String, Option<Arc<Container>>>;

/// The service.
pub struct Service {
    shim: Arc<Shim>,
    containers: Mutex<Containers>,
    /// What stands for the pod, if containerd has asked for it.
    sandbox: Mutex<Option<Arc<Sandbox>>>,
    ending: Mutex<bool>,
    ended: Condvar,
}

impl Service {
    /// A service without containers.
    pub fn new(shim: Arc<Shim>) -> Self {
        let (containers, sandbox, ending) = (Mutex::default(), Mutex::default(), Mutex::new(false));
        Self { shim, containers, sandbox, ending, ended: Condvar::new() }
    }

    /// What the containers share.
    pub fn shim(&self) -> &Shim {
        &self.shim
    }

    /// Blocks until containerd asks for the end, and there are no containers.
    pub fn wait_for_shutdown(&self) {
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.ended.wait_while(ending, |ending| !*ending));
    }

    fn lock(&self) -> MutexGuard<'_, Containers> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_sandbox(&self) -> MutexGuard<'_, Option<Arc<Sandbox>>> {
        self.sandbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.lock().get(id).cloned().flatten();
        found.ok_or_else(|| Error::not_found(format!("container {id}")))
    }

    fn make(
        &self,
        request: &api::CreateTaskRequest,
        options: Options,
        files: &[SharedFile],
    ) -> Result<Arc<Container>> {
        let id = &request.id;
        match self.lock().entry(id.clone()) {
            std::collections::hash_map::Entry::Occupied(_) => {
                return Err(Error::already_exists(format!("container {id}")));
            }
            std::collections::hash_map::Entry::Vacant(place) => drop(place.insert(None)),
        }
        let made = Container::create(&self.shim, request, options, files);
        let mut containers = self.lock();
        match &made {
            Ok(container) => drop(containers.insert(id.clone(), Some(Arc::clone(container)))),
            Err(_) => drop(containers.remove(id)),
        }
        made
    }
}

fn moment(exit: Option<Exit>) -> MessageField<Timestamp> {
    exit.map_or_else(MessageField::none, |exit| MessageField::some(timestamp(exit.at)))
}

fn empty() -> Empty {
    Empty::new()
}

impl Service {
    fn state(&self, r: api::StateRequest) -> Result<api::StateResponse> {
        let container = self.container(&r.id)?;
        let report = container.report(&r.exec_id)?;
        Ok(api::StateResponse {
            id: if r.exec_id.is_empty() { r.id } else { r.exec_id.clone() },
            bundle: container.bundle().display().to_string(),
            pid: report.pid.cast_unsigned(),
            status: report.status.into(),
            stdin: report.wanted.stdin,
            stdout: report.wanted.stdout,
            stderr: report.wanted.stderr,
            terminal: report.wanted.terminal,
            exit_status: report.exit.map_or(0, |exit| exit.status),
            exited_at: moment(report.exit),
            exec_id: r.exec_id,
            ..Default::default()
        })
    }

    fn create(&self, r: &api::CreateTaskRequest) -> Result<api::CreateTaskResponse> {
        let options = Options::from_any(r.options.as_ref())?.or_named();
        let sandbox = self.lock_sandbox().clone();
        let files = sandbox.as_ref().map_or(&[][..], |sandbox| &sandbox.files);
        let container = self.make(r, options, files)?;
        let pid = container.report("")?.pid.cast_unsigned();
        Ok(api::CreateTaskResponse { pid, ..Default::default() })
    }

    fn start(&self, r: &api::StartRequest) -> Result<api::StartResponse> {
        let pid = self.container(&r.id)?.start(&r.exec_id)?.cast_unsigned();
        Ok(api::StartResponse { pid, ..Default::default() })
    }

    fn delete(&self, r: &api::DeleteRequest) -> Result<api::DeleteResponse> {
        let (pid, exit) = self.container(&r.id)?.delete(&r.exec_id)?;
        if r.exec_id.is_empty() {
            self.lock().remove(&r.id);
        }
        Ok(api::DeleteResponse {
            pid: pid.cast_unsigned(),
            exit_status: exit.status,
            exited_at: moment(Some(exit)),
            ..Default::default()
        })
    }

    fn pids(&self, r: &api::PidsRequest) -> Result<api::PidsResponse> {
        let pids = self.container(&r.id)?.pids()?;
        let processes = pids.into_iter().map(|(pid, exec)| {
            let details = exec.map(|exec_id| {
                let details = ProcessDetails { exec_id, ..Default::default() };
                any("containerd.runc.v1.ProcessDetails", &details)
            });
            api::ProcessInfo { pid, info: details.into(), ..Default::default() }
        });
        Ok(api::PidsResponse { processes: processes.collect(), ..Default::default() })
    }

    fn pause(&self, r: &api::PauseRequest) -> Result<Empty> {
        self.container(&r.id)?.pause()?;
        Ok(empty())
    }

    fn resume(&self, r: &api::ResumeRequest) -> Result<Empty> {
        self.container(&r.id)?.resume()?;
        Ok(empty())
    }

    fn checkpoint(&self, r: &api::CheckpointTaskRequest) -> Result<Empty> {
        self.container(&r.id)?.checkpoint(r)?;
        Ok(empty())
    }

    fn kill(&self, r: &api::KillRequest) -> Result<Empty> {
        self.container(&r.id)?.kill(&r.exec_id, r.signal, r.all)?;
        Ok(empty())
    }

    fn exec(&self, r: api::ExecProcessRequest) -> Result<Empty> {
        let wanted = Wanted { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, terminal: r.terminal };
        let process = r.spec.into_option().unwrap_or_default().value;
        self.container(&r.id)?.exec(&r.exec_id, wanted, &process)?;
        Ok(empty())
    }

    fn resize_pty(&self, r: &api::ResizePtyRequest) -> Result<Empty> {
        self.container(&r.id)?.resize(&r.exec_id, r.width, r.height)?;
        Ok(empty())
    }

    fn close_io(&self, r: &api::CloseIORequest) -> Result<Empty> {
        let container = self.container(&r.id)?;
        if r.stdin {
            container.close_stdin(&r.exec_id)?;
        }
        Ok(empty())
    }

    fn update(&self, r: api::UpdateTaskRequest) -> Result<Empty> {
        let resources = r.resources.into_option().unwrap_or_default().value;
        self.container(&r.id)?.update(&resources)?;
        Ok(empty())
    }

    fn stats(&self, r: &api::StatsRequest) -> Result<api::StatsResponse> {
        let text = self.container(&r.id)?.stats()?;
        let stats = metrics::from_runtime(&text)?;
        Ok(api::StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    fn connect(&self, r: &api::ConnectRequest) -> api::ConnectResponse {
        // The server of a pod answers for the pod, also when the container is gone.
        let pid =
            self.container(&r.id).and_then(|container| container.report("")).map_or(0, |report| report.pid);
        api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid.cast_unsigned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }
    }

    /// Whether a call to shut down is to be followed: not as long as there are containers, which would lose their parent, however urgent it is.
    fn is_unused(&self) -> bool {
        self.lock().is_empty()
    }

    fn end(&self) {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.notify_all();
    }
}
