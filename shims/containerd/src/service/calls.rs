//! The calls of the task API by their names: those that take no time are answered by the thread that reads them, the others by one of their own.

use super::{Service, sandbox};
use crate::error::{Error, Result};
use crate::events::timestamp;
use crate::rpc::{Call, Handler};
use containerd_shim_protos::api::{WaitRequest, WaitResponse};
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::ttrpc::Request;
use std::sync::Arc;

/// The service in versions 2 and 3 of the API, which have the same messages.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

impl Handler for Service {
    fn handle(self: &Arc<Self>, request: Request, call: Call) {
        if request.service == sandbox::NAME {
            return self.handle_sandbox(request, call);
        }
        if !SERVICES.contains(&request.service.as_str()) {
            return call.answer(Err(Error::unimplemented(request.service)));
        }
        match request.method.as_str() {
            "Wait" => self.answer_wait(&request.payload, &call),
            "State" | "Exec" | "CloseIO" | "ResizePty" | "Connect" => {
                call.answer(self.perform(&request.method, &request.payload));
            }
            "Shutdown" => {
                call.answer(Ok(Vec::new()));
                // Only now: nothing is answered after the end.
                if self.is_unused() {
                    self.end();
                }
            }
            _ => {
                let own = Arc::clone(self);
                call.hand_over(move |call| call.answer(own.perform(&request.method, &request.payload)));
            }
        }
    }
}

pub(super) fn parse<R: Message>(payload: &[u8]) -> Result<R> {
    Ok(R::parse_from_bytes(payload)?)
}

/// Turns a payload into a request, and the answer into a payload.
pub(super) fn with<R: Message, A: Message>(
    payload: &[u8],
    operation: impl FnOnce(R) -> Result<A>,
) -> Result<Vec<u8>> {
    Ok(operation(parse(payload)?)?.write_to_bytes()?)
}

impl Service {
    fn perform(&self, method: &str, payload: &[u8]) -> Result<Vec<u8>> {
        match method {
            "State" => with(payload, |request| self.state(request)),
            "Create" => with(payload, |request| self.create(&request)),
            "Start" => with(payload, |request| self.start(&request)),
            "Delete" => with(payload, |request| self.delete(&request)),
            "Pids" => with(payload, |request| self.pids(&request)),
            "Pause" => with(payload, |request| self.pause(&request)),
            "Resume" => with(payload, |request| self.resume(&request)),
            "Checkpoint" => with(payload, |request| self.checkpoint(&request)),
            "Kill" => with(payload, |request| self.kill(&request)),
            "Exec" => with(payload, |request| self.exec(request)),
            "ResizePty" => with(payload, |request| self.resize_pty(&request)),
            "CloseIO" => with(payload, |request| self.close_io(&request)),
            "Update" => with(payload, |request| self.update(request)),
            "Stats" => with(payload, |request| self.stats(&request)),
            "Connect" => with(payload, |request| Ok(self.connect(&request))),
            _ => Err(Error::unimplemented(method)),
        }
    }

    /// The answer is sent when the process ends, and no thread waits with it.
    fn answer_wait(&self, payload: &[u8], call: &Call) {
        let later = call.clone();
        let waiter = Box::new(move |exit: crate::reaper::Exit| {
            let answer = WaitResponse {
                exit_status: exit.status,
                exited_at: MessageField::some(timestamp(exit.at)),
                ..WaitResponse::default()
            };
            later.answer(answer.write_to_bytes().map_err(Error::from));
        });
        let registered = parse(payload)
            .and_then(|request: WaitRequest| self.container(&request.id)?.wait(&request.exec_id, waiter));
        if let Err(e) = registered {
            call.answer(Err(e));
        }
    }
}
