//! The interleaved rounds: the life of one container, operation by operation, in every runtime.

use crate::bundle::Scratch;
use crate::floor::Floor;
use crate::runtime::{Held, Measure, Reaper, Runtime, held_memory};
use crate::stats::Samples;
use std::ffi::OsStr;
use std::thread::sleep;
use std::time::Duration;

/// Pause before each operation in [`Mode::Paused`].
const PAUSE: Duration = Duration::from_millis(40);

/// The operations of a round, in the order of a container's life.
pub(crate) const OPERATIONS: [&str; 9] =
    ["--version", "run", "create", "start", "state", "list", "exec", "kill", "delete"];

/// Those without which the following ones make no sense.
const VITAL: [&str; 4] = ["create", "start", "kill", "delete"];

/// Begins the message about an operation that another failure made impossible.
pub(crate) const NOT_TRIED: &str = "not tried: ";

/// Circumstances under which the operations are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// One operation follows the other at once.
    Busy,
    /// A pause before each operation: how a runtime is really called.
    Paused,
    /// Memory instead of time: all that is resident at the peak.
    Memory,
    /// Memory instead of time: what is the command's own.
    Private,
}

impl Mode {
    fn is_of_time(self) -> bool {
        matches!(self, Self::Busy | Self::Paused)
    }
}

/// The samples of one mode: for each operation, for each runtime.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) operations: Vec<Vec<Samples>>,
    /// What `create` leaves in memory, for each runtime: proportional and private; filled in [`Mode::Memory`] only.
    pub(crate) left_by_create: [Vec<Samples>; 2],
    /// The floor of `run`, in modes of time.
    pub(crate) floor: Samples,
}

impl Results {
    pub(crate) fn new(runtimes: usize) -> Self {
        Self {
            operations: vec![vec![Samples::default(); runtimes]; OPERATIONS.len()],
            left_by_create: [(); 2].map(|()| vec![Samples::default(); runtimes]),
            floor: Samples::default(),
        }
    }
}

/// A container of one runtime during a round.
#[derive(Debug)]
struct Life {
    id: String,
    reaper: Option<Reaper>,
    /// Why the container cannot be used any further.
    broken: Option<String>,
}

/// Everything that the operations need to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bench<'a> {
    pub(crate) scratch: &'a Scratch,
    pub(crate) runtimes: &'a [Runtime],
    pub(crate) memory: Measure,
    pub(crate) floor: Option<&'a Floor>,
}

impl<'a> Bench<'a> {
    /// Enough to do single operations, timed.
    pub(crate) fn of(scratch: &'a Scratch, runtimes: &'a [Runtime]) -> Self {
        Self { scratch, runtimes, memory: Measure::Time, floor: None }
    }

    /// Does one round: every operation in every runtime, in an order that rotates with the rounds.
    pub(crate) fn round(&self, number: usize, mode: Mode, results: &mut Results) {
        let count = self.runtimes.len();
        let mut lives: Vec<Life> = (0..count)
            .map(|_| Life { id: format!("{mode:?}-{number}"), reaper: None, broken: None })
            .collect();
        for (step, operation) in OPERATIONS.iter().enumerate() {
            if *operation == "run" {
                self.floor(mode, &mut results.floor);
            }
            for turn in 0..count {
                let who = (turn + number + step) % count;
                let samples = &mut results.operations[step][who];
                if samples.hopeless() {
                    if VITAL.contains(operation) {
                        lives[who].broken.get_or_insert_with(|| format!("{operation} always fails"));
                    }
                    continue;
                }
                if mode == Mode::Paused {
                    sleep(PAUSE);
                }
                let outcome = self.operation(operation, &self.runtimes[who], &mut lives[who], mode);
                samples.add(outcome);
                if mode == Mode::Memory && *operation == "create" && lives[who].broken.is_none() {
                    let left = self.left(&self.runtimes[who], &lives[who]);
                    let [proportional, private] = &mut results.left_by_create;
                    proportional[who].add(left.clone().map(|held| held.proportional));
                    private[who].add(left.map(|held| held.private));
                }
            }
        }
        for (runtime, life) in self.runtimes.iter().zip(&lives) {
            if life.broken.is_some() {
                let _ = self.delete_by_force(runtime, &life.id);
            }
            self.scratch.drop_bundle(runtime, &life.id);
        }
    }

    fn floor(&self, mode: Mode, samples: &mut Samples) {
        let Some(floor) = self.floor.filter(|_| mode.is_of_time() && !samples.hopeless()) else { return };
        if mode == Mode::Paused {
            sleep(PAUSE);
        }
        samples.add(floor.run(self.scratch));
    }

    pub(crate) fn measure(&self, mode: Mode) -> Measure {
        match mode {
            Mode::Busy | Mode::Paused => Measure::Time,
            Mode::Memory => self.memory,
            Mode::Private => Measure::Private,
        }
    }

    fn operation(
        &self,
        operation: &str,
        runtime: &Runtime,
        life: &mut Life,
        mode: Mode,
    ) -> Result<f64, String> {
        let call = |args: &[&str]| {
            let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
            runtime.call(self.scratch, self.measure(mode), &args)
        };
        let id = life.id.clone();
        match operation {
            "--version" => return call(&["--version"]),
            "run" => return self.run(runtime, &format!("run-{id}"), mode),
            _ => {}
        }
        if let Some(reason) = &life.broken {
            return Err(format!("{NOT_TRIED}{reason}"));
        }
        let outcome = match operation {
            "create" => self.create(runtime, &id, self.measure(mode)).map(|(time, reaper)| {
                life.reaper = Some(reaper);
                time
            }),
            "list" => call(&["list"]),
            "exec" => call(&["exec", &id, "true"]),
            "kill" => call(&["kill", &id, "KILL"]),
            other => call(&[other, &id]),
        };
        // The container's death belongs to no operation: it is awaited between kill and delete.
        let outcome = match (operation, &life.reaper) {
            ("kill", Some(reaper)) => outcome.and_then(|time| reaper.gone().map(|()| time)),
            _ => outcome,
        };
        if let Err(message) = &outcome
            && VITAL.contains(&operation)
        {
            life.broken = Some(format!("{operation} fails: {message}"));
        }
        outcome
    }

    /// Does something while every runtime has a created container, with which others share what can be shared.
    pub(crate) fn beside_others(&self, work: impl FnOnce()) {
        const ID: &str = "another";
        let there = self.runtimes.iter().map(|runtime| self.create(runtime, ID, Measure::Time));
        let there: Vec<_> = there.collect();
        work();
        for (runtime, created) in self.runtimes.iter().zip(there) {
            let deleted = self.delete_by_force(runtime, ID);
            if let Ok((_, reaper)) = created
                && deleted.is_ok()
            {
                let _ = reaper.gone();
            }
            self.scratch.drop_bundle(runtime, ID);
        }
    }

    /// Runs a container that ends at once.
    pub(crate) fn run(&self, runtime: &Runtime, id: &str, mode: Mode) -> Result<f64, String> {
        let bundle = self.scratch.bundle(runtime, id, &["true"])?;
        let args = ["run".as_ref(), "--bundle".as_ref(), bundle.as_os_str(), id.as_ref()];
        let outcome = runtime.call(self.scratch, self.measure(mode), &args);
        if outcome.is_err() {
            let _ = self.delete_by_force(runtime, id);
        }
        self.scratch.drop_bundle(runtime, id);
        outcome
    }

    /// Creates a container that sleeps.
    pub(crate) fn create(&self, runtime: &Runtime, id: &str, how: Measure) -> Result<(f64, Reaper), String> {
        let bundle = self.scratch.bundle(runtime, id, &["sleep", "1000"])?;
        let pid_file = bundle.join("pid");
        let args = [
            "create".as_ref(),
            "--bundle".as_ref(),
            bundle.as_os_str(),
            "--pid-file".as_ref(),
            pid_file.as_os_str(),
            id.as_ref(),
        ];
        let time = runtime.call(self.scratch, how, &args)?;
        Ok((time, Reaper::of_pid_file(&pid_file)?))
    }

    /// Removes a container, whatever its state.
    pub(crate) fn delete_by_force(&self, runtime: &Runtime, id: &str) -> Result<f64, String> {
        runtime.call(self.scratch, Measure::Time, &["delete".as_ref(), "--force".as_ref(), id.as_ref()])
    }

    fn left(&self, runtime: &Runtime, life: &Life) -> Result<Held, String> {
        // The runtime may still be on its way out of the parts it shares with what it leaves.
        sleep(Duration::from_millis(20));
        let first = life.reaper.as_ref().map(|reaper| reaper.pid);
        held_memory(&self.scratch.cgroup_of(runtime, &life.id), first)
    }
}
