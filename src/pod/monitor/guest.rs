//! The pod's microVM: made and booted as one container, whose guest the monitor asks to start each of the pod's, and from which it
//! gets what they write and how they end.

use super::Monitor;
use super::around::Around;
use super::guest_input::GuestInput;
use super::logs::LogWriter;
use super::members::KILLED;
use super::said::Said;
use super::streams::{Stream, Streams, with_streams};
use super::suspicion::Suspicion;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::signal::pidfd_send_signal;
use crate::pod::microvm::{self, VM};
use crate::pod::plan::VmPlan;
use crate::runtime::lifecycle;
use crate::runtime::microvm::{Booting, Machine};
use crate::runtime::options::CreateOptions;
use crate::storage::config_file::write_json;
use crate::vm::connection::{Connection, Received, reply_of};
use crate::vm::protocol::frame::{Frame, Kind};
use crate::vm::protocol::message::{Reply, Target};
use rustix::event::PollFlags;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

/// Bundle of the container around the machine; no container has such a name.
const BUNDLE: &str = "@vm";
/// Most frames that are taken at once from one container: the others have their turn.
const FRAMES: usize = 64;

/// What the monitor waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuestSource {
    /// The end of the boot.
    Booting,
    /// What the machine's own processes say.
    Said,
    /// Output of a container, by its number.
    Log(usize),
    /// Input of a container.
    Input(usize),
}

/// The machine.
#[derive(Debug)]
pub(super) struct Guest {
    machine: Machine,
    booting: Option<Booting>,
    said: Said,
    logs: Vec<(usize, Connection)>,
    pub(super) inputs: Vec<(usize, GuestInput)>,
    /// Containers of which more has arrived than was taken.
    behind: Vec<usize>,
    alive: bool,
    /// Its end is no fault.
    stopping: bool,
    /// It has not taken a signal, perhaps since it is ending.
    suspicion: Suspicion,
}

impl Guest {
    pub(super) fn sources(&self) -> impl Iterator<Item = (GuestSource, BorrowedFd<'_>, PollFlags)> {
        let booting = self.booting.iter().map(|booting| (GuestSource::Booting, booting.as_fd()));
        let said = self.said.source().into_iter().map(|said| (GuestSource::Said, said));
        let logs = self.logs.iter().map(|(number, log)| (GuestSource::Log(*number), log.as_fd()));
        let read = booting.chain(said).chain(logs).map(|(source, fd)| (source, fd, PollFlags::IN));
        let inputs = self.inputs.iter().flat_map(|(number, input)| {
            input.sources().map(|(fd, flags)| (GuestSource::Input(*number), fd, flags))
        });
        read.chain(inputs)
    }

    /// What need not be waited for.
    pub(super) fn behind(&self) -> Vec<usize> {
        self.behind.clone()
    }

    /// When it is decided whether the machine has failed.
    pub(super) fn suspected_until(&self) -> Option<Instant> {
        self.suspicion.due()
    }

    fn kill(&self) {
        let _ = pidfd_send_signal(&self.machine.child.pidfd, libc::SIGKILL);
    }
}

impl Monitor<'_> {
    /// Makes the machine with all containers in it, and waits until its guest is ready to start them.
    pub(super) fn make_guest(&mut self, vm: &VmPlan) -> Result<()> {
        let cannot = || "cannot create the pod's microVM";
        let configs = self.write_configs().context(cannot)?;
        let volumes = self.guest_volumes()?;
        let mut members = Vec::new();
        for (member, config) in self.members.iter().zip(&configs) {
            let (name, bundle) = (member.plan.name.as_str(), self.bundle(&member.plan.name));
            members.push(microvm::Member { name, bundle, config, mounts: self.volume_mounts(&member.plan)? });
        }
        let bundle = self.bundle(BUNDLE);
        std::fs::create_dir_all(bundle.join("rootfs")).or_kind(ErrorKind::Storage, cannot)?;
        let config = microvm::configuration(self.plan(), vm, &self.facts.namespaces, &members, &volumes)?;
        write_json(&bundle.join("config.json"), &config)?;
        let guest = Some(microvm::given(self.plan(), vm, &members, &volumes)?);
        let options = CreateOptions { id: VM.to_owned(), bundle, guest, ..CreateOptions::default() };
        let (said, theirs) = Said::new()?;
        let (host, foreground) = (&self.host, self.foreground);
        let created =
            with_streams(None, &theirs, &theirs, || lifecycle::create_child(host, &options, foreground));
        let (child, _) = created.context(cannot)?;
        let machine = Machine::new(&self.host, VM, child).context(cannot)?;
        let booting = Some(machine.boot().context(cannot)?);
        let (logs, inputs, behind) = (Vec::new(), Vec::new(), Vec::new());
        let (alive, stopping, suspicion) = (true, false, Suspicion::default());
        let guest = Guest { machine, booting, said, logs, inputs, behind, alive, stopping, suspicion };
        self.around = Around::Guest(Box::new(guest));
        // The machine's own deadline ends this.
        self.wait_until("the start of the microVM", None, |monitor| {
            monitor.around.guest().is_none_or(|guest| guest.booting.is_none())
        })
    }

    pub(super) fn serve_guest(&mut self, source: GuestSource) {
        match source {
            GuestSource::Booting => self.booted(),
            GuestSource::Said => self.around.guest_mut().into_iter().for_each(|guest| guest.said.read()),
            GuestSource::Log(number) => self.read_guest_log(number),
            GuestSource::Input(number) => self.move_input(number),
        }
    }

    fn booted(&mut self) {
        let booting = self.around.guest_mut().and_then(|guest| guest.booting.take());
        if let Some(Err(e)) = booting.map(Booting::finish) {
            self.fail(e.wrap("cannot start the pod's microVM"));
        }
    }

    /// Starts a container in the guest, and returns when its program is executed.
    pub(super) fn start_in_guest(&mut self, number: usize) -> Result<()> {
        let name = self.members[number].plan.name.clone();
        let log = LogWriter::open(&self.log_directory(), &name)?;
        let gone = || Error::new(ErrorKind::InvalidState, "the pod's microVM has ended");
        let guest = self.around.guest_mut().filter(|guest| guest.alive).ok_or_else(gone)?;
        let (way, timeout) = (guest.machine.guest(), self.host.vm.answer());
        way.start(&name, timeout).map_err(|e| e.wrap("unable to start container process"))?;
        guest.logs.push((number, way.follow(&name, timeout)?));
        let member = &mut self.members[number];
        let (streams, pipe) = Streams::of_guest(&member.plan)?;
        if let Some(pipe) = pipe {
            guest.inputs.push((number, GuestInput::new(way.input(&name, timeout)?, pipe)));
        }
        member.streams = streams;
        (member.inside, member.exit, member.log) = (true, None, Some(log));
        Ok(())
    }

    /// Moves what a container has written to its log; its end comes after all of that.
    fn read_guest_log(&mut self, number: usize) {
        if let Some(guest) = self.around.guest_mut() {
            guest.behind.retain(|other| *other != number);
        }
        for _ in 0..FRAMES {
            match self.next_of_log(number) {
                Ok(Received::Frame(frame)) if self.keep_output(number, &frame) => {}
                Ok(Received::Frame(frame)) => {
                    self.close_log(number);
                    return self.left_guest(number, &frame);
                }
                Ok(Received::Nothing) => return,
                // The machine is ending: its own end says what that means.
                Ok(Received::Closed) => return self.close_log(number),
                Err(e) => {
                    self.close_log(number);
                    return self.fail(e);
                }
            }
        }
        self.around.guest_mut().into_iter().for_each(|guest| guest.behind.push(number));
    }

    fn next_of_log(&mut self, number: usize) -> Result<Received> {
        let logs = self.around.guest_mut().into_iter().flat_map(|guest| &mut guest.logs);
        let mut own = logs.filter(|(of, _)| *of == number);
        own.next().map_or(Ok(Received::Nothing), |(_, log)| log.try_receive())
    }

    /// Nothing more comes of a container, and nothing goes to it.
    fn close_log(&mut self, number: usize) {
        if let Some(guest) = self.around.guest_mut() {
            guest.logs.retain(|(of, _)| *of != number);
            guest.inputs.retain(|(of, _)| *of != number);
        }
    }

    fn keep_output(&mut self, number: usize, frame: &Frame) -> bool {
        let stream = match frame.kind {
            Kind::Stdout => Stream::Stdout,
            Kind::Stderr => Stream::Stderr,
            _ => return false,
        };
        self.members[number].keep(stream, &frame.body);
        self.clients.show(number, stream, &frame.body);
        true
    }

    /// The guest has told that a container has ended.
    fn left_guest(&mut self, number: usize, frame: &Frame) {
        let end = self.end_in_guest(number, frame);
        if let Err(e) = &end {
            self.fail(e.clone().wrap("cannot hear how a container has ended"));
        }
        let (code, out_of_memory) = end.unwrap_or((KILLED, false));
        self.members[number].out_of_memory = out_of_memory;
        self.member_ended(number, code);
    }

    /// The exit code of a container, and whether it has run out of memory.
    fn end_in_guest(&self, number: usize, frame: &Frame) -> Result<(u8, bool)> {
        let missing = || Error::new(ErrorKind::System, "the guest does not tell its exit code");
        let guest = self.around.guest().ok_or_else(missing)?;
        match reply_of(frame)? {
            Reply::Done => {}
            _ => crate::bail!(System, "the guest sent an answer to another question"),
        }
        let status = guest.machine.guest().ping(self.host.vm.answer())?;
        let name = &self.members[number].plan.name;
        let container = status.containers.into_iter().find(|container| container.name == *name);
        container.and_then(|it| Some((it.exit_code?, it.out_of_memory))).ok_or_else(missing)
    }

    /// Sends a signal to the first process of a container, if that lives.
    pub(super) fn signal_in_guest(&mut self, number: usize, signal: i32) {
        let member = &self.members[number];
        let Some(guest) = self.around.guest_mut().filter(|guest| member.inside && guest.alive) else {
            return;
        };
        let target = Target::Container(member.plan.name.clone());
        let sent = guest.machine.guest().signal(target, signal, false, self.host.vm.answer());
        // A container that has just ended is no fault. The end of the machine is told by itself, after that of its connections.
        if let Err(e) = sent {
            let e = e.wrap("cannot pass a signal on to the pod's microVM, which is ended");
            guest.suspicion.add(e, Instant::now());
        }
    }

    /// Ends a machine that has not taken a signal and has not ended since.
    pub(super) fn judge_guest(&mut self, now: Instant) {
        let fault = self.around.guest_mut().and_then(|guest| {
            let fault = guest.suspicion.take(now)?;
            guest.kill();
            Some(fault)
        });
        fault.into_iter().for_each(|e| self.fail(e));
    }

    /// Takes note of the end of the machine; false if the process was not that.
    pub(super) fn guest_ended(&mut self, pid: i32) -> bool {
        let Some(guest) = self.around.guest_mut().filter(|guest| guest.machine.child.pid == pid) else {
            return false;
        };
        guest.alive = false;
        guest.suspicion.forget();
        let said = guest.said.suffix();
        let stopping = guest.stopping;
        self.booted();
        if !stopping {
            self.fail(Error::new(ErrorKind::System, format!("the pod's microVM has ended{said}")));
        }
        for number in 0..self.members.len() {
            // What it has written before is still there to read.
            self.read_guest_log(number);
            while self.around.guest().is_some_and(|guest| guest.behind.contains(&number)) {
                self.read_guest_log(number);
            }
            self.close_log(number);
            if self.members[number].inside {
                self.member_ended(number, KILLED);
            }
        }
        true
    }

    /// Ends the machine: by its guest, or at once.
    pub(super) fn stop_guest(&mut self, at_once: bool) {
        let timeout = self.host.vm.answer();
        let Some(guest) = self.around.guest_mut().filter(|guest| guest.alive) else { return };
        guest.stopping = true;
        if at_once || guest.machine.guest().stop(Duration::ZERO, timeout).is_err() {
            guest.kill();
        }
        let alive = |monitor: &mut Self| monitor.around.guest().is_some_and(|guest| guest.alive);
        self.wait_for_end(alive);
        if let Some(guest) = self.around.guest().filter(|guest| guest.alive) {
            guest.kill();
            self.wait_for_end(alive);
        }
    }
}
