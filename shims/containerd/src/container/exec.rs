//! Further processes in a container.

use super::{Container, State, read_pid};
use crate::error::{Context as _, Error, Result};
use crate::ffi;
use crate::process::{Phase, Process};
use crate::reaper::Exit;
use crate::rpc;
use crate::runtime::{MemoryFile, arguments};
use crate::stdio::{Io, Prepared, Wanted};
use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// From how many execs at a time on it pays to give back the memory that they took: about 10 KiB each.
const CROWD: usize = 16;
/// How long after the crowd that is done.
const TRIM_PAUSE: Duration = Duration::from_secs(1);

impl Container {
    /// Registers a process; `start` makes it. `process` is the JSON of an OCI process.
    pub fn exec(&self, id: &str, wanted: Wanted, process: &[u8]) -> Result<()> {
        // The id becomes a file name.
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if id.starts_with('.') || !id.chars().all(allowed) {
            return Err(Error::invalid(format!("invalid exec id '{id}'")));
        }
        let mut state = self.lock();
        if state.execs.contains_key(id) {
            return Err(Error::already_exists(format!("process {id}")));
        }
        if state.init.has_ended() {
            return Err(Error::wrong_state("cannot exec in a container that has ended"));
        }
        let mut new = Process::new(wanted);
        new.spec = process.to_vec();
        state.execs.insert(id.to_owned(), new);
        state.most_execs = state.most_execs.max(state.execs.len());
        let event =
            TaskExecAdded { container_id: self.id.clone(), exec_id: id.to_owned(), ..Default::default() };
        self.shim.publisher.publish("exec-added", &event);
        Ok(())
    }

    pub(super) fn start_exec(self: &Arc<Self>, id: &str) -> Result<i32> {
        let (wanted, spec) = {
            let mut state = self.lock();
            let process = state.process(id)?;
            if process.exit().is_some() || process.phase != Phase::Created {
                return Err(Error::wrong_state(format!("cannot start process {id} again")));
            }
            process.phase = Phase::Starting;
            (process.wanted.clone(), std::mem::take(&mut process.spec))
        };
        let birth = self.shim.reaper.birth();
        let made = self.make_exec(id, &wanted, &spec);
        let mut state = self.lock();
        let process = state.process(id)?;
        let (pid, pidfd, io) = match made {
            Ok(made) => made,
            Err(e) => {
                process.phase = Phase::Created;
                process.spec = spec;
                // The container may have ended, and waits for nothing else.
                self.settle(&mut state);
                return Err(e);
            }
        };
        (process.pid, process.pidfd, process.io) = (pid, pidfd, Some(io));
        process.phase = Phase::Running;
        let event = TaskExecStarted {
            container_id: self.id.clone(),
            exec_id: id.to_owned(),
            pid: pid.cast_unsigned(),
            ..Default::default()
        };
        self.shim.publisher.publish("exec-started", &event);
        drop(state);
        let (own, id) = (Arc::clone(self), id.to_owned());
        self.shim.reaper.claim(&birth, pid, move |exit| own.ended(&id, exit));
        Ok(pid)
    }

    fn make_exec(&self, id: &str, wanted: &Wanted, spec: &[u8]) -> Result<(i32, Option<OwnedFd>, Io)> {
        let (prepared, streams) = Prepared::open(&self.shim, &self.id, wanted, &self.options)?;
        let spec = MemoryFile::new(spec)?;
        let pid_file = self.bundle.join(format!("{id}.pid"));
        let mut args = arguments([&"exec", &"--process", &spec.path()]);
        if let Some(socket) = prepared.console_socket() {
            args.extend(arguments([&"--console-socket", &socket]));
        }
        args.extend(arguments([&"--detach", &"--pid-file", &pid_file, &self.id]));
        let made = self.runtime.run("OCI runtime exec failed", &args, streams).and_then(|()| {
            let pid = read_pid(&pid_file)?;
            let pidfd = Pid::from_raw(pid).and_then(|pid| {
                // None if it was reaped meanwhile.
                rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
            });
            let io = prepared.start().and_then(|mut io| io.open_stdin().map(|()| io)).inspect_err(|_| {
                let kill = |fd| rustix::process::pidfd_send_signal(fd, Signal::KILL);
                let _ = pidfd.as_ref().map(kill);
            })?;
            Ok((pid, pidfd, io))
        });
        let _ = std::fs::remove_file(&pid_file);
        made
    }

    pub(super) fn kill_exec(&self, id: &str, signal: u32) -> Result<()> {
        let mut state = self.lock();
        let process = state.process(id)?;
        if process.exit().is_some() {
            return Err(Error::not_found("process already finished"));
        }
        if process.pid == 0 {
            return Err(Error::wrong_state(format!("process {id} is not started")));
        }
        // Asks whether it is there.
        if signal == 0 {
            return Ok(());
        }
        let signal = Signal::from_named_raw(signal.cast_signed())
            .ok_or_else(|| Error::invalid(format!("unknown signal {signal}")))?;
        let pidfd = process.pidfd.as_ref().ok_or_else(|| Error::not_found("process already finished"))?;
        match rustix::process::pidfd_send_signal(pidfd, signal) {
            Err(rustix::io::Errno::SRCH) => Err(Error::not_found("process already finished")),
            result => result.context(|| format!("cannot send signal {signal:?}")),
        }
    }

    pub(super) fn delete_exec(&self, id: &str) -> Result<(i32, Exit)> {
        let (process, trims) = {
            let mut state = self.lock();
            let process = state.process(id)?;
            if process.phase != Phase::Created && process.exit().is_none() {
                return Err(Error::wrong_state("cannot delete a running process"));
            }
            (state.execs.remove(id), state.is_crowd_over())
        };
        let mut process = process.ok_or_else(|| Error::not_found(format!("process {id}")))?;
        let answer = (process.pid, process.finish());
        // Without the lock: output may take its time.
        drop(process);
        if trims {
            // Calls that are being answered still hold some of it.
            let trim = rpc::start("trim", || {
                std::thread::sleep(TRIM_PAUSE);
                ffi::trim_memory();
            });
            trim.unwrap_or_else(|e| log::warn!("cannot give memory back: {e}"));
        }
        Ok(answer)
    }
}

impl State {
    /// Whether there was a crowd of execs of which few are left. True once for each crowd.
    fn is_crowd_over(&mut self) -> bool {
        let left = self.execs.len();
        let over = is_ebb(self.most_execs, left);
        if over {
            self.most_execs = left;
            self.execs.shrink_to_fit();
        }
        over
    }
}

/// Whether `left` are few beside `most`, and those were a crowd.
fn is_ebb(most: usize, left: usize) -> bool {
    most >= CROWD && left <= most / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_over_when_few_are_left() {
        assert!(is_ebb(200, 50) && is_ebb(CROWD, 0));
        assert!(!is_ebb(200, 51) && !is_ebb(CROWD - 1, 0));
    }
}
