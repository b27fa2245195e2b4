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

    /// Tells of the end of a process, and before that of a want of memory, which may be its cause: whoever hears of the end looks whether there
    /// was one, and may have removed the cgroup before the relay hears of the kill.
    fn publish_exit(&self, id: &str, pid: i32, exit: Exit) {
        if let Some(watch) = self.memory.get() {
            watch.check();
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup;
    use crate::events::Publisher;
    use crate::options::Options;
    use crate::process::Phase;
    use crate::reaper::Reaper;
    use crate::relay::Relay;
    use crate::runtime::Runtime;
    use crate::serve::Shim;
    use crate::stdio::Wanted;
    use std::collections::HashMap;
    use std::sync::{Mutex, OnceLock};
    use std::time::Duration;

    /// A container whose first process runs, as far as is known.
    fn container() -> Arc<Container> {
        let shim = Arc::new(Shim {
            namespace: "ns".to_owned(),
            reaper: Reaper::shared(),
            relay: Relay::start().unwrap(),
            publisher: Publisher::start("/nowhere", "ns").unwrap(),
        });
        let mut init = Process::new(Wanted::default());
        (init.pid, init.phase) = (7, Phase::Running);
        let state = State {
            init,
            execs: HashMap::new(),
            most_execs: 0,
            paused: false,
            deleting: false,
            restore: None,
            rootfs: None,
        };
        let options = Options::default();
        Arc::new(Container {
            runtime: Runtime::new(&options, "ns", &shim.reaper),
            shim,
            options,
            id: "box".to_owned(),
            bundle: "/nowhere".into(),
            shares_pids: false,
            memory: OnceLock::new(),
            state: Mutex::new(state),
        })
    }

    #[test]
    fn want_of_memory_is_told_of_before_the_end_also_where_no_wake_comes() {
        let (container, folder) = (container(), tempfile::tempdir().unwrap());
        let shim = &container.shim;
        let file = folder.path().join("memory.events");
        std::fs::write(&file, "oom_kill 0\n").unwrap();
        let (publisher, owner) = (Arc::clone(&shim.publisher), shim.relay.owner());
        let tell = move || publisher.publish("oom", &containerd_shim_protos::events::task::TaskOOM::new());
        let watch = cgroup::watch_told(&shim.relay, owner, &file, tell).unwrap();
        assert!(container.memory.set(watch).is_ok());
        // The relay looks no more.
        shim.relay.finish(owner, Duration::ZERO);
        std::fs::write(&file, "oom_kill 1\n").unwrap();
        container.ended("", Exit::now(137));
        assert_eq!(shim.publisher.topics(), ["/tasks/oom", "/tasks/exit"]);
    }
}
