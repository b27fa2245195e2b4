//! The one process of a pod of modules: made as one container, which the monitor tells when each module is to run and to end, and
//! which tells how they have ended.

use super::Monitor;
use super::around::Around;
use super::clients::Waits;
use super::logs::LogWriter;
use super::members::KILLED;
use super::said::Said;
use super::streams::{Streams, with_streams};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::clone::Child;
use crate::platform::sys::signal::pidfd_send_signal;
use crate::pod::around;
use crate::pod::plan::WasmPlan;
use crate::pod::protocol::Reply;
use crate::pod::wasm::{self, WASM};
use crate::runtime::lifecycle;
use crate::runtime::options::CreateOptions;
use crate::runtime::wasm::bandwidth::Bandwidth;
use crate::runtime::wasm::together::control::{Control, Event, Order, Received};
use crate::runtime::wasm::together::{Part, Together};
use crate::storage::config_file::write_json;
use serde_json::Value;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Bundle of the container around the modules; no container has such a name.
const BUNDLE: &str = "@wasm";

/// What the monitor waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModulesSource {
    /// What becomes of the modules.
    Events,
    /// Last words of the process.
    Said,
}

/// The process.
#[derive(Debug)]
pub(super) struct Modules {
    child: Child,
    control: Control,
    said: Said,
    /// How many are ready to run.
    ready: usize,
    alive: bool,
    /// It says nothing more.
    silent: bool,
    /// Its end is no fault.
    stopping: bool,
}

impl Modules {
    pub(super) fn sources(&self) -> impl Iterator<Item = (ModulesSource, BorrowedFd<'_>)> {
        let events = (!self.silent).then(|| (ModulesSource::Events, self.control.as_fd()));
        events.into_iter().chain(self.said.source().map(|said| (ModulesSource::Said, said)))
    }

    /// Lets a module run as soon as it is ready.
    pub(super) fn start(&self, number: usize) -> Result<()> {
        self.tell(&Order::Start(number), &[])
    }

    /// Ends a module as a signal would.
    pub(super) fn end(&self, number: usize, signal: i32) {
        // One that has just ended is no fault; nor is one that is about to be seen as one.
        let _ = self.tell(&Order::End(number, signal), &[]);
    }

    fn tell(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        if !self.alive {
            crate::bail!(InvalidState, "the process of the pod's modules has ended");
        }
        self.control.send(order, descriptors)
    }
}

/// A limit of a container.
fn limit(member: &wasm::Member<'_>, path: &str) -> Option<u64> {
    member.config.pointer(&format!("/linux/resources/{path}")).and_then(Value::as_u64)
}

/// A limit of the processor from microseconds.
fn bandwidth(quota: Option<u64>, period: Option<u64>) -> Option<Bandwidth> {
    let (quota, period) = (Duration::from_micros(quota?), Duration::from_micros(period?));
    Some(Bandwidth { quota, period })
}

impl Monitor<'_> {
    /// Makes the process with all modules in it, and waits until each is ready to run.
    pub(super) fn make_modules(&mut self, wasm: &WasmPlan) -> Result<()> {
        let cannot = || "cannot create the pod's modules";
        let configs = self.write_configs().context(cannot)?;
        let bundle = self.bundle(BUNDLE);
        std::fs::create_dir_all(bundle.join("rootfs")).or_kind(ErrorKind::Storage, cannot)?;
        let members: Vec<_> = self
            .members
            .iter()
            .zip(&configs)
            .map(|(member, config)| wasm::Member {
                name: &member.plan.name,
                bundle: self.bundle(&member.plan.name),
                config,
            })
            .collect();
        write_json(&bundle.join("config.json"), &wasm::configuration(self.plan(), wasm, &members)?)?;
        let part = |member: &wasm::Member<'_>| Part {
            name: member.name.to_owned(),
            bundle: member.bundle.clone(),
            root: around::root(member.name),
            memory: limit(member, "memory/limit"),
            processor: bandwidth(limit(member, "cpu/quota"), limit(member, "cpu/period")),
        };
        let (control, theirs) = Control::pair()?;
        let together = Together { parts: members.iter().map(part).collect(), control: Arc::new(theirs) };
        let options = CreateOptions {
            id: WASM.to_owned(),
            bundle,
            together: Some(together),
            ..CreateOptions::default()
        };
        let (said, words) = Said::new()?;
        let (host, foreground) = (&self.host, self.foreground);
        let (child, _) =
            with_streams(None, &words, &words, || lifecycle::create_child(host, &options, foreground))?;
        let modules = Modules { child, control, said, ready: 0, alive: true, silent: false, stopping: false };
        self.around = Around::Modules(modules);
        lifecycle::start(&self.host, WASM).context(cannot)?;
        drop(options);
        for number in 0..self.members.len() {
            self.prepare_module(number)?;
        }
        let limit = self.orders.timeouts.start();
        self.wait_until("the start of the pod's modules", Some(limit), |monitor| {
            monitor.around.modules().is_none_or(|modules| modules.ready == monitor.members.len())
        })
    }

    /// Has an instance of a module made, with new standard streams.
    pub(super) fn prepare_module(&mut self, number: usize) -> Result<()> {
        let name = self.members[number].plan.name.clone();
        let cannot = || format!("cannot create container '{name}'");
        let (streams, theirs) = Streams::new(&self.members[number].plan)?;
        let log = LogWriter::open(&self.log_directory(), &name).context(cannot)?;
        let modules =
            self.around.modules().ok_or_else(|| Error::new(ErrorKind::System, "there is no process"))?;
        theirs.lent_to(|descriptors| modules.tell(&Order::Prepare(number), descriptors)).context(cannot)?;
        let member = &mut self.members[number];
        (member.streams, member.log) = (streams, Some(log));
        (member.inside, member.exit, member.started) = (true, None, false);
        Ok(())
    }

    /// Asks what a module uses; the answer goes to the client.
    pub(super) fn measure_module(&mut self, client: usize, number: usize) -> Result<()> {
        let member = &self.members[number];
        match self.around.modules() {
            Some(modules) if member.inside => modules.tell(&Order::Measure(number), &[])?,
            _ => crate::bail!(
                InvalidState,
                "container '{}' is not running in the pod's process",
                member.plan.name
            ),
        }
        self.clients.wait(client, Waits::Measure(number));
        Ok(())
    }

    pub(super) fn serve_modules(&mut self, source: ModulesSource) {
        match source {
            ModulesSource::Events => self.hear_modules(),
            ModulesSource::Said => {
                self.around.modules_mut().into_iter().for_each(|modules| modules.said.read());
            }
        }
    }

    /// Deals with what the process has told, without waiting.
    fn hear_modules(&mut self) {
        while let Some(modules) = self.around.modules() {
            match modules.control.try_receive() {
                Ok(Received::Message(event, _)) => self.heard_of_module(event),
                Ok(Received::Nothing) => return,
                // Its end is told by its signal.
                Ok(Received::Closed) => {
                    let modules = self.around.modules_mut();
                    return modules.into_iter().for_each(|modules| modules.silent = true);
                }
                Err(e) => return self.fail(e.wrap("cannot hear the process of the pod's modules")),
            }
        }
    }

    fn heard_of_module(&mut self, event: Event) {
        match event {
            Event::Ready(_) => {
                self.around.modules_mut().into_iter().for_each(|modules| modules.ready += 1);
            }
            Event::Ended(number, code) => self.module_ended(number, code),
            Event::Refused(number, code, why) => {
                if let Some(member) = self.members.get(number).filter(|member| !member.started) {
                    let message = format!("cannot create container '{}': {why}", member.plan.name);
                    self.fail(Error::new(ErrorKind::CreateFailed, message));
                }
                self.module_ended(number, code);
            }
            Event::Uses(number, cpu_nanoseconds, memory) => {
                let limit = self.members.get(number).map(|member| &member.plan.resources);
                let memory_limit = limit.and_then(|all| all.pointer("/memory/limit")).and_then(Value::as_u64);
                self.clients.answer_measured(number, &Reply::Uses { cpu_nanoseconds, memory, memory_limit });
            }
        }
    }

    fn module_ended(&mut self, number: usize, code: u8) {
        if self.members.get(number).is_some_and(|member| member.inside) {
            self.member_ended(number, code);
        }
    }

    /// Takes note of the end of the process; false if it was not that.
    pub(super) fn modules_ended(&mut self, pid: i32) -> bool {
        if self.around.modules().is_none_or(|modules| modules.child.pid != pid) {
            return false;
        }
        self.hear_modules();
        let Some(modules) = self.around.modules_mut() else { return true };
        modules.alive = false;
        let said = modules.said.suffix();
        if !modules.stopping {
            let message = format!("the process of the pod's modules has ended{said}");
            self.fail(Error::new(ErrorKind::System, message));
        }
        (0..self.members.len()).for_each(|number| self.module_ended(number, KILLED));
        true
    }

    /// Ends the process.
    pub(super) fn stop_modules(&mut self) {
        let Some(modules) = self.around.modules_mut() else { return };
        modules.stopping = true;
        let _ = pidfd_send_signal(&modules.child.pidfd, libc::SIGKILL);
        self.wait_for_end(|monitor| monitor.around.modules().is_some_and(|modules| modules.alive));
    }
}
