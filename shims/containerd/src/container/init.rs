//! The first process of a container, and so the container itself.

use super::checkpoint::Restore;
use super::{Container, PID_FILE, read_pid};
use crate::error::{Error, Result};
use crate::events::timestamp;
use crate::process::Phase;
use crate::reaper::{Birth, Exit};
use crate::runtime::{Streams, arguments};
use crate::stdio::{Io, Prepared};
use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::{TaskCreate, TaskDelete, TaskIO, TaskStart};
use containerd_shim_protos::protobuf::MessageField;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// How long a process that was killed may take to be reaped.
const REAP_DEADLINE: Duration = Duration::from_secs(10);

impl Container {
    pub(super) fn create_init(
        self: &Arc<Self>,
        request: &CreateTaskRequest,
        prepared: Prepared,
        streams: Streams,
    ) -> Result<()> {
        if !request.checkpoint.is_empty() {
            let image = request.checkpoint.clone();
            self.lock().restore = Some(Restore { image, prepared, streams });
            self.publish_create(request, 0);
            return Ok(());
        }
        let birth = self.shim.reaper.birth();
        let mut args = arguments([&"create", &"--bundle", &self.bundle]);
        self.common_arguments(&mut args, &prepared);
        if self.options.no_new_keyring {
            args.push("--no-new-keyring".into());
        }
        args.push(self.id.clone().into());
        self.runtime.run("OCI runtime create failed", &args, streams)?;
        let pid = self.adopt(prepared)?;
        self.publish_create(request, pid);
        self.claim_init(&birth, pid);
        Ok(())
    }

    /// Arguments that `create` and `restore` share.
    pub(super) fn common_arguments(&self, args: &mut Vec<OsString>, prepared: &Prepared) {
        args.extend(arguments([&"--pid-file", &self.bundle.join(PID_FILE)]));
        if let Some(socket) = prepared.console_socket() {
            args.extend(arguments([&"--console-socket", &socket]));
        }
        if self.options.no_pivot_root {
            args.push("--no-pivot".into());
        }
    }

    /// Takes over the process that the runtime has made. When that fails, the container is removed.
    pub(super) fn adopt(&self, prepared: Prepared) -> Result<i32> {
        let adopted = read_pid(&self.bundle.join(PID_FILE)).and_then(|pid| Ok((pid, prepared.start()?)));
        let (pid, io) = adopted.inspect_err(|_| {
            let args = arguments([&"delete", &"--force", &self.id]);
            let _ = self.runtime.run("OCI runtime delete failed", &args, Streams::null());
        })?;
        self.watch_memory(pid, io.owner());
        let mut state = self.lock();
        state.init.pid = pid;
        state.init.io = Some(io);
        Ok(pid)
    }

    pub(super) fn claim_init(self: &Arc<Self>, birth: &Birth, pid: i32) {
        let own = Arc::clone(self);
        self.shim.reaper.claim(birth, pid, move |exit| own.ended("", exit));
    }

    fn publish_create(&self, request: &CreateTaskRequest, pid: i32) {
        let io = TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        };
        let event = TaskCreate {
            container_id: self.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(io),
            checkpoint: request.checkpoint.clone(),
            pid: pid.cast_unsigned(),
            ..Default::default()
        };
        self.shim.publisher.publish("create", &event);
    }

    pub(super) fn start_init(self: &Arc<Self>) -> Result<i32> {
        let restore = {
            let mut state = self.lock();
            if state.init.exit().is_some() || state.init.phase != Phase::Created || state.deleting {
                return Err(Error::wrong_state("cannot start a container that is not created"));
            }
            state.init.phase = Phase::Starting;
            state.restore.take()
        };
        let result = self.begin(restore);
        let mut state = self.lock();
        if let Err(e) = result {
            state.init.phase = Phase::Created;
            self.settle(&mut state);
            return Err(e);
        }
        state.init.phase = Phase::Running;
        let pid = state.init.pid;
        let event =
            TaskStart { container_id: self.id.clone(), pid: pid.cast_unsigned(), ..Default::default() };
        self.shim.publisher.publish("start", &event);
        self.settle(&mut state);
        Ok(pid)
    }

    /// Lets the first process run, with its input.
    fn begin(self: &Arc<Self>, restore: Option<Restore>) -> Result<()> {
        let Some(restore) = restore else {
            self.open_stdin()?;
            return self.call("start");
        };
        self.restore(restore)?;
        // It runs already, and could not be started again.
        self.open_stdin().inspect_err(|_| drop(self.kill_all()))
    }

    fn open_stdin(&self) -> Result<()> {
        self.lock().init.io.as_mut().map_or(Ok(()), Io::open_stdin)
    }

    pub(super) fn kill_init(&self, signal: u32, all: bool) -> Result<()> {
        let finished = || Error::not_found("process already finished");
        {
            let mut state = self.lock();
            if state.init.exit().is_some() {
                return Err(finished());
            }
            state.init.kills += 1;
        }
        let signal = signal.to_string();
        let args = if all {
            arguments([&"kill", &"--all", &self.id, &signal])
        } else {
            arguments([&"kill", &self.id, &signal])
        };
        let result = self.runtime.run("OCI runtime kill failed", &args, Streams::null());
        let mut state = self.lock();
        state.init.kills -= 1;
        self.settle(&mut state);
        result.map_err(|e| {
            // It may have ended a moment ago.
            let text = e.to_string();
            let gone = ["not running", "already finished", "no such process", "does not exist"];
            if gone.iter().any(|words| text.contains(words)) { finished() } else { e }
        })
    }

    pub(super) fn kill_all(&self) -> Result<()> {
        let args = arguments([&"kill", &"--all", &self.id, &"KILL"]);
        self.runtime.run("OCI runtime kill failed", &args, Streams::null())
    }

    pub(super) fn delete_init(&self) -> Result<(i32, Exit)> {
        let was_made = {
            let mut state = self.lock();
            if state.deleting {
                return Err(Error::not_found(format!("container {}", self.id)));
            }
            if state.init.exit().is_none() && state.init.phase != Phase::Created {
                return Err(Error::wrong_state("cannot delete a running process"));
            }
            state.deleting = true;
            state.restore = None;
            state.init.pid != 0
        };
        if was_made {
            self.call("delete")
                .or_else(|e| {
                    // Somebody may have removed it by hand.
                    if e.to_string().contains("does not exist") { Ok(()) } else { Err(e) }
                })
                .inspect_err(|_| self.lock().deleting = false)?;
        }
        let exit = if was_made { self.wait_reaped() } else { self.lock().init.finish() };
        let (io, rootfs, pid) = {
            let mut state = self.lock();
            (state.init.io.take(), state.rootfs.take(), state.init.pid)
        };
        // Without the lock: output may take its time.
        drop(io);
        drop(rootfs);
        let event = TaskDelete {
            container_id: self.id.clone(),
            pid: pid.cast_unsigned(),
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..Default::default()
        };
        self.shim.publisher.publish("delete", &event);
        Ok((pid, exit))
    }

    /// How the first process ended; it is dead already, or about to be.
    fn wait_reaped(&self) -> Exit {
        let (sender, receiver) = sync_channel(1);
        self.lock().init.wait(Box::new(move |exit| {
            // Whoever waited may be gone.
            let _ = sender.send(exit);
        }));
        receiver.recv_timeout(REAP_DEADLINE).unwrap_or_else(|_| Exit::now(255))
    }
}
