//! Waiting for the end of a process: the answer is sent when it comes, and no thread waits with it.

use super::{Service, moment};
use crate::error::Result;
use containerd_shim_protos::api::{WaitRequest, WaitResponse};
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::ttrpc::{self, Code, MethodHandler, Request, Response, TtrpcContext};
use std::sync::Arc;

/// Takes the calls of `Wait`.
pub struct Wait(pub Arc<Service>);

impl MethodHandler for Wait {
    fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<()> {
        let (stream, answers) = (context.mh.stream_id, context.res_tx);
        let later = answers.clone();
        let waiter = Box::new(move |exit: crate::reaper::Exit| {
            let answer = WaitResponse {
                exit_status: exit.status,
                exited_at: moment(Some(exit)),
                ..WaitResponse::default()
            };
            let mut response = Response::new();
            response.set_status(ttrpc::get_status(Code::OK, ""));
            response.payload = answer.write_to_bytes().unwrap_or_default();
            // Whoever asked may have hung up.
            let _ = ttrpc::response_to_channel(stream, response, later);
        });
        let registered = (|| -> Result<()> {
            let request = WaitRequest::parse_from_bytes(&request.payload)?;
            self.0.container(&request.id)?.wait(&request.exec_id, waiter)
        })();
        match registered {
            Ok(()) => Ok(()),
            Err(e) => ttrpc::response_to_channel(stream, ttrpc::Error::from(e).into(), answers),
        }
    }
}
