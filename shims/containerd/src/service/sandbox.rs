//! The calls of the sandbox service: what stands for a pod is an ordinary container of this server.

use super::calls::{parse, with};
use super::{Service, moment};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::events::timestamp;
use crate::metrics;
use crate::options::Options;
use crate::reaper::Exit;
use crate::rpc::Call;
use crate::sandbox::Sandbox;
use containerd_shim_protos::api::{CreateTaskRequest, Status};
use containerd_shim_protos::protobuf::{Message as _, MessageField};
use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::ttrpc::Request;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, SystemTime};

/// The name of the service.
pub const NAME: &str = "containerd.runtime.sandbox.v1.Sandbox";
/// How long a sandbox may take to end, where the call names no time.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// SIGKILL: the process in a sandbox has nothing to finish.
const KILL: u32 = 9;

impl Service {
    pub(super) fn handle_sandbox(self: &Arc<Self>, request: Request, call: Call) {
        if request.method == "WaitSandbox" {
            return self.answer_wait_sandbox(&request.payload, &call);
        }
        let own = Arc::clone(self);
        call.hand_over(move |call| {
            let result = own.perform_sandbox(&request.method, &request.payload);
            let ends = request.method == "ShutdownSandbox" && result.is_ok();
            call.answer(result);
            // Only now: nothing is answered after the end.
            if ends {
                own.end();
            }
        });
    }

    fn perform_sandbox(&self, method: &str, payload: &[u8]) -> Result<Vec<u8>> {
        match method {
            "CreateSandbox" => with(payload, |request| self.create_sandbox(&request)),
            "StartSandbox" => {
                with(payload, |request: api::StartSandboxRequest| self.start_sandbox(&request.sandbox_id))
            }
            "Platform" => with(payload, |request: api::PlatformRequest| self.platform(&request.sandbox_id)),
            "StopSandbox" => with(payload, |request| self.stop_sandbox(&request)),
            "SandboxStatus" => with(payload, |request| self.sandbox_status(&request)),
            "PingSandbox" => {
                let request: api::PingRequest = parse(payload)?;
                self.sandbox(&request.sandbox_id).map(|_| Vec::new())
            }
            "ShutdownSandbox" => {
                let request: api::ShutdownSandboxRequest = parse(payload)?;
                self.remove_sandbox(&request.sandbox_id).map(|()| Vec::new())
            }
            "SandboxMetrics" => with(payload, |request| self.sandbox_metrics(&request)),
            _ => Err(Error::unimplemented(method)),
        }
    }

    /// The sandbox of this server.
    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        let sandbox = self.lock_sandbox().clone().filter(|sandbox| sandbox.id == id);
        sandbox.ok_or_else(|| Error::not_found(format!("sandbox {id}")))
    }

    fn create_sandbox(&self, request: &api::CreateSandboxRequest) -> Result<api::CreateSandboxResponse> {
        let mut sandbox = self.lock_sandbox();
        if let Some(other) = &*sandbox {
            return Err(Error::already_exists(format!("sandbox {}", other.id)));
        }
        let new = Sandbox::prepare(&self.shim.reaper, request)?;
        let task = CreateTaskRequest {
            id: new.id.clone(),
            bundle: new.bundle.display().to_string(),
            ..CreateTaskRequest::default()
        };
        // Those that the sandbox was started with: the call has none.
        let options = Options::load(&new.bundle);
        self.make(&task, options, &[])?;
        *sandbox = Some(Arc::new(new));
        Ok(api::CreateSandboxResponse::default())
    }

    fn start_sandbox(&self, id: &str) -> Result<api::StartSandboxResponse> {
        let sandbox = self.sandbox(id)?;
        let pid = self.container(id)?.start("")?.cast_unsigned();
        let created_at = MessageField::some(timestamp(sandbox.created));
        Ok(api::StartSandboxResponse { pid, created_at, ..Default::default() })
    }

    fn platform(&self, id: &str) -> Result<api::PlatformResponse> {
        self.sandbox(id)?;
        let mut answer = api::PlatformResponse::default();
        let platform = answer.platform.mut_or_insert_default();
        "linux".clone_into(&mut platform.os);
        // In Go's words.
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        architecture.clone_into(&mut platform.architecture);
        Ok(answer)
    }

    fn stop_sandbox(&self, request: &api::StopSandboxRequest) -> Result<api::StopSandboxResponse> {
        let limit = match request.timeout_secs {
            0 => STOP_DEADLINE,
            seconds => Duration::from_secs(seconds.into()),
        };
        self.sandbox(&request.sandbox_id)?;
        let container = self.container(&request.sandbox_id)?;
        stop(&container, limit)?;
        Ok(api::StopSandboxResponse::default())
    }

    /// Ends and removes the sandbox; it is no error if there is none.
    fn remove_sandbox(&self, id: &str) -> Result<()> {
        if let Ok(container) = self.container(id) {
            stop(&container, STOP_DEADLINE)?;
            container.delete("")?;
            self.lock().remove(id);
        }
        self.lock_sandbox().take_if(|sandbox| sandbox.id == id);
        Ok(())
    }

    fn sandbox_status(&self, request: &api::SandboxStatusRequest) -> Result<api::SandboxStatusResponse> {
        let sandbox = self.sandbox(&request.sandbox_id)?;
        let report = self.container(&sandbox.id)?.report("")?;
        // In the words of the CRI.
        let state = if report.status == Status::RUNNING { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" };
        Ok(api::SandboxStatusResponse {
            sandbox_id: sandbox.id.clone(),
            pid: report.pid.cast_unsigned(),
            state: state.to_owned(),
            created_at: MessageField::some(timestamp(sandbox.created)),
            exited_at: moment(report.exit),
            ..Default::default()
        })
    }

    fn sandbox_metrics(&self, request: &api::SandboxMetricsRequest) -> Result<api::SandboxMetricsResponse> {
        let text = self.container(&request.sandbox_id)?.stats()?;
        let mut answer = api::SandboxMetricsResponse::default();
        let metric = answer.metrics.mut_or_insert_default();
        metric.timestamp = MessageField::some(timestamp(SystemTime::now()));
        metric.id.clone_from(&request.sandbox_id);
        metric.data = MessageField::some(metrics::from_runtime(&text)?);
        Ok(answer)
    }

    fn answer_wait_sandbox(&self, payload: &[u8], call: &Call) {
        let later = call.clone();
        let waiter = Box::new(move |exit: Exit| {
            let answer = api::WaitSandboxResponse {
                exit_status: exit.status,
                exited_at: MessageField::some(timestamp(exit.at)),
                ..Default::default()
            };
            later.answer(answer.write_to_bytes().map_err(Error::from));
        });
        let registered = parse(payload).and_then(|request: api::WaitSandboxRequest| {
            self.sandbox(&request.sandbox_id)?;
            self.container(&request.sandbox_id)?.wait("", waiter)
        });
        if let Err(e) = registered {
            call.answer(Err(e));
        }
    }
}

/// Ends the process of a sandbox, and waits for its end.
fn stop(container: &Container, limit: Duration) -> Result<()> {
    let report = container.report("")?;
    // One that was never started is ended by its removal.
    if report.exit.is_some() || report.status == Status::CREATED {
        return Ok(());
    }
    let (sender, receiver) = sync_channel(1);
    container.wait(
        "",
        Box::new(move |exit| {
            // Whoever waited may be gone.
            let _ = sender.send(exit);
        }),
    )?;
    // It may end by itself meanwhile.
    let killed = container.kill("", KILL, false);
    receiver.recv_timeout(limit).map(drop).or_else(|_| {
        killed.and_then(|()| Err(Error::new(format!("the sandbox does not end within {limit:?}"))))
    })
}
