//! The ends of processes: when they are told, and in which order.

use super::{Container, State};
use crate::process::Process;
use crate::reaper::Exit;
use crate::rpc;
use crate::stdio::{Io, Output};
use containerd_shim_protos::events::task::TaskExit;
use containerd_shim_protos::protobuf::MessageField;
use std::sync::Arc;

impl Container {
    /// A process has ended: tells of it as soon as that is in order.
    pub(super) fn ended(self: &Arc<Self>, exec: &str, exit: Exit) {
        let mut state = self.lock();
        let Ok(process) = state.process(exec) else { return };
        process.hold(exit);
        if let Some(output) = process.io.as_ref().and_then(Io::unread) {
            process.is_being_read = self.tell_later(exec, output);
        }
        if exec.is_empty() && self.shares_pids {
            self.end_others(&mut state);
        }
        self.settle(&mut state);
    }

    /// Ends the processes that the kernel would end with the first one of a pid namespace. The end of the first one is told after that: with it
    /// the container may be deleted, and another be made of its name.
    fn end_others(self: &Arc<Self>, state: &mut State) {
        state.init.kills += 1;
        let own = Arc::clone(self);
        // Not here: this is the reaper's thread.
        let started = rpc::start("others", move || {
            if let Err(e) = own.kill_all() {
                log::debug!("cannot end the processes of '{}': {e}", own.id);
            }
            let mut state = own.lock();
            state.init.kills -= 1;
            own.settle(&mut state);
        });
        if let Err(e) = started {
            log::error!("cannot end the processes of '{}': {e}", self.id);
            state.init.kills -= 1;
        }
    }

    /// Tells of the end of a process when its output was read. False if that cannot be waited for.
    fn tell_later(self: &Arc<Self>, exec: &str, output: Arc<Output>) -> bool {
        let (own, exec) = (Arc::clone(self), exec.to_owned());
        let wait = move || {
            output.wait_read();
            let mut state = own.lock();
            let Ok(process) = state.process(&exec) else { return };
            process.is_being_read = false;
            own.settle(&mut state);
        };
        rpc::start("readers", wait).is_ok()
    }

    /// Tells of the processes that have ended: of the first one when nothing is to come of the others, for containerd deletes the container
    /// when it hears of that, and ends the server with the last one.
    pub(super) fn settle(&self, state: &mut State) {
        for (id, process) in &mut state.execs {
            if let Some(exit) = process.held() {
                self.publish_exit(id, process.pid, exit);
                process.release();
            }
        }
        let others = state.execs.values().any(Process::is_untold);
        if let Some(exit) = state.init.held().filter(|_| !others) {
            self.publish_exit(&self.id, state.init.pid, exit);
            state.init.release();
        }
    }

    fn publish_exit(&self, id: &str, pid: i32, exit: Exit) {
        let event = TaskExit {
            container_id: self.id.clone(),
            id: id.to_owned(),
            pid: pid.cast_unsigned(),
            exit_status: exit.status,
            exited_at: MessageField::some(crate::events::timestamp(exit.at)),
            ..Default::default()
        };
        self.shim.publisher.publish("exit", &event);
    }
}
