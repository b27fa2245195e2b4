//! The process of several programs.

use super::control::{Control, Event, Order, Received};
use super::{PartPlan, Plan};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::signal;
use crate::runtime::native::launch;
use crate::runtime::native::program::home_below;
use crate::runtime::wasm::execute::{self, Gate, Job};
use crate::runtime::wasm::instance::{Budget, Call};
use crate::runtime::wasm::limiter::Memory;
use crate::runtime::wasm::outcome::Outcome;
use crate::runtime::wasm::preopen::Preopen;
use crate::runtime::wasm::processor::Processor;
use crate::runtime::wasm::program::Kind;
use crate::runtime::wasm::settings::CodeSettings;
use crate::runtime::wasm::stdio::Streams;
use crate::runtime::wasm::stop::Stop;
use crate::runtime::wasm::{engine, http, turns};
use std::fs::File;
use std::io::Seek as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;
use wasmtime::Engine;

/// A program.
struct Part {
    plan: PartPlan,
    code: File,
    engine: Engine,
    /// That of its thread, while it has one.
    run: Option<Arc<Run>>,
}

/// What the thread of a program shares with the one that takes orders.
struct Run {
    number: usize,
    control: Arc<Control>,
    stop: Arc<Stop>,
    opened: Notify,
    /// It was ready to run.
    is_ready: AtomicBool,
    memory: Memory,
    processor: Arc<Processor>,
}

impl Gate for Run {
    fn ready(&self) {
        self.is_ready.store(true, Ordering::SeqCst);
        let _ = self.control.send(&Event::Ready(self.number), &[]);
    }

    async fn opened(&self) {
        self.opened.notified().await;
    }
}

/// Takes orders until whoever gives them is gone. `take` takes a descriptor over by its number.
pub fn run(plan: Plan, take: impl Fn(i32) -> Result<File>) -> Result<Outcome> {
    // Programs that are executed in one of the containers have its privileges, and must not come near the others here.
    launch::hide()?;
    let control = Arc::new(Control::from(OwnedFd::from(take(plan.control)?)));
    let engines = engines(&plan.parts)?;
    let part = |plan: PartPlan| {
        let code = take(plan.code)?;
        let engine = engines.iter().find(|(code, _)| *code == plan.settings.code);
        let engine = engine.map(|(_, engine)| engine.clone());
        let engine = engine.ok_or_else(|| Error::new(ErrorKind::System, "no engine"))?;
        Ok(Part { plan, code, engine, run: None })
    };
    let mut parts = plan.parts.into_iter().map(part).collect::<Result<Vec<_>>>()?;
    if parts.iter().any(|part| part.plan.kind == Kind::Proxy || part.plan.processor.is_some()) {
        turns::begin(engines.into_iter().map(|(_, engine)| engine).collect())?;
    }
    loop {
        match control.receive()? {
            Received::Closed => return Ok(Outcome::exited(0)),
            Received::Nothing => {}
            Received::Message(order, descriptors) => obey(&mut parts, &control, order, descriptors)?,
        }
    }
}

/// One for each kind of code.
fn engines(parts: &[PartPlan]) -> Result<Vec<(CodeSettings, Engine)>> {
    let mut engines: Vec<(CodeSettings, Engine)> = Vec::new();
    for part in parts {
        let code = part.settings.code;
        if !engines.iter().any(|(known, _)| *known == code) {
            engines.push((code, engine::running(code)?));
        }
    }
    Ok(engines)
}

fn obey(parts: &mut [Part], control: &Arc<Control>, order: Order, descriptors: Vec<OwnedFd>) -> Result<()> {
    let (Order::Prepare(number) | Order::Start(number) | Order::End(number, _) | Order::Measure(number)) =
        order;
    let Some(part) = parts.get_mut(number) else { return Ok(()) };
    match order {
        Order::Prepare(_) => {
            if let Err(e) = part.begin(number, control, descriptors) {
                let failed = Outcome::failed(e.message());
                let why = failed.message.unwrap_or_default();
                control.send(&Event::refused(number, failed.code, why), &[])?;
            }
        }
        Order::Start(_) => {
            if let Some(run) = &part.run {
                run.opened.notify_one();
            }
        }
        Order::End(_, signal) => {
            if let Some(run) = part.run.as_ref().filter(|_| signal::is_fatal(signal)) {
                run.stop.stop(signal);
                part.engine.increment_epoch();
            }
        }
        Order::Measure(_) => {
            let (time, memory) = part.run.as_ref().map(|run| run.uses()).unwrap_or_default();
            control.send(&Event::Uses(number, time, memory), &[])?;
        }
    }
    Ok(())
}

impl Part {
    /// Makes the thread of the program, which makes its instance.
    fn begin(&mut self, number: usize, control: &Arc<Control>, descriptors: Vec<OwnedFd>) -> Result<()> {
        let streams = streams(descriptors)?;
        let plan = &self.plan;
        let call = Call {
            args: plan.args.clone(),
            env: env(plan),
            cwd: plan.cwd.clone(),
            preopens: vec![Preopen {
                path: PathBuf::from(&plan.root),
                name: "/".to_owned(),
                read_only: false,
            }],
            sockets: plan.settings.sockets,
            passed: Vec::new(),
            stdin: plan.kind != Kind::Proxy,
            streams: Some(streams.clone()),
            alone: false,
        };
        self.code.rewind().context(|| "cannot read compiled code")?;
        let processor = Arc::new(Processor::new(plan.processor));
        let job = Job {
            path: plan.path.clone(),
            kind: plan.kind,
            code: self.code.try_clone().context(|| "cannot read compiled code")?,
            budget: Budget::new(call, &plan.settings, plan.memory).counted(Arc::clone(&processor)),
            listener: plan.settings.http.map(http::listen).transpose()?,
        };
        let run = Arc::new(Run {
            number,
            control: Arc::clone(control),
            stop: Arc::clone(job.budget.stop()),
            opened: Notify::new(),
            is_ready: AtomicBool::new(false),
            memory: job.budget.memory().clone(),
            processor,
        });
        self.run = Some(Arc::clone(&run));
        let engine = self.engine.clone();
        let thread = std::thread::Builder::new().name(plan.name.clone());
        thread.spawn(move || run.to_its_end(&engine, job, streams)).context(|| "cannot make a thread")?;
        Ok(())
    }
}

/// The standard streams that came with an order.
fn streams(descriptors: Vec<OwnedFd>) -> Result<Streams> {
    let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(descriptors) else {
        crate::bail!(StartFailed, "its standard streams are missing");
    };
    for output in [&stdout, &stderr] {
        rustix::io::ioctl_fionbio(output, true).context(|| "cannot use an output")?;
    }
    Ok(Streams { stdin: Arc::new(stdin), stdout: Arc::new(stdout), stderr: Arc::new(stderr) })
}

/// Its environment, with the `HOME` that every program has.
fn env(plan: &PartPlan) -> Vec<(String, String)> {
    let mut env = plan.env.clone();
    if !env.iter().any(|(name, value)| name == "HOME" && !value.is_empty()) {
        env.retain(|(name, _)| name != "HOME");
        let home = home_below(Path::new(&plan.root), rustix::process::getuid().as_raw());
        env.push(("HOME".to_owned(), home));
    }
    env
}

impl Run {
    fn to_its_end(&self, engine: &Engine, job: Job, streams: Streams) {
        let ran = execute::run_behind(self, engine, job);
        let Outcome { code, message } = ran.unwrap_or_else(|e| Outcome::failed(e.message()));
        if let Some(message) = &message {
            // Where nobody reads any more there is nobody to tell.
            let _ = rustix::io::write(&streams.stderr, format!("magikrun: {message}\n").as_bytes());
        }
        // Whoever hears of the end finds everything written.
        drop(streams);
        let event = if self.is_ready.load(Ordering::SeqCst) {
            Event::Ended(self.number, code)
        } else {
            Event::refused(self.number, code, message.unwrap_or_default())
        };
        let _ = self.control.send(&event, &[]);
    }

    /// Nanoseconds of processor time and bytes of memory.
    fn uses(&self) -> (u64, u64) {
        let time = u64::try_from(self.processor.used().as_nanos()).unwrap_or(u64::MAX);
        (time, self.memory.used())
    }
}
