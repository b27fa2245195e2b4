//! Many containers: `list` with all of them there, and their lives one after the other or several at a time.

use crate::rounds::{Bench, Mode};
use crate::runtime::{Measure, Runtime};
use crate::stats::Samples;
use std::ffi::OsStr;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// Containers are handled in portions of this size, so that the runtimes take turns.
const PORTION: usize = 20;
/// How many containers are worked on at a time in the parallel case.
pub(crate) const AT_A_TIME: usize = 4;

impl Bench<'_> {
    /// Measures `list` with this many containers; the samples are those of time, of time after a pause, and of memory, all and own.
    pub(crate) fn list_many(&self, containers: usize, rounds: usize) -> [Vec<Samples>; 4] {
        let mut results = [(); 4].map(|()| vec![Samples::default(); self.runtimes.len()]);
        let created: Vec<_> =
            self.runtimes.iter().map(|runtime| self.create_many(runtime, containers)).collect();
        for number in 0..rounds {
            for (samples, mode) in
                results.iter_mut().zip([Mode::Busy, Mode::Paused, Mode::Memory, Mode::Private])
            {
                for turn in 0..self.runtimes.len() {
                    let who = (turn + number) % self.runtimes.len();
                    if samples[who].hopeless() {
                        continue;
                    }
                    samples[who]
                        .add(created[who].clone().and_then(|()| self.list(&self.runtimes[who], mode)));
                }
            }
        }
        for runtime in self.runtimes {
            parallel(containers, AT_A_TIME, |number| {
                let id = format!("list-{number}");
                let outcome = self.delete_by_force(runtime, &id).map(drop);
                self.scratch.drop_bundle(runtime, &id);
                outcome
            });
        }
        results
    }

    fn list(&self, runtime: &Runtime, mode: Mode) -> Result<f64, String> {
        if mode == Mode::Paused {
            sleep(Duration::from_millis(40));
        }
        runtime.call(self.scratch, self.measure(mode), &[OsStr::new("list")])
    }

    fn create_many(&self, runtime: &Runtime, containers: usize) -> Result<(), String> {
        let failures = parallel(containers, AT_A_TIME, |number| {
            self.create(runtime, &format!("list-{number}"), Measure::Time).map(drop)
        });
        failures.into_iter().next().map_or(Ok(()), |message| Err(format!("create fails: {message}")))
    }

    /// Creates, starts and deletes containers, this many at a time; the samples are seconds for a portion each.
    pub(crate) fn many(&self, containers: usize, at_a_time: usize) -> Vec<Samples> {
        let mut results = vec![Samples::default(); self.runtimes.len()];
        for (number, first) in (0..containers).step_by(PORTION).enumerate() {
            let size = PORTION.min(containers - first);
            for turn in 0..self.runtimes.len() {
                let who = (turn + number) % self.runtimes.len();
                if results[who].hopeless() {
                    continue;
                }
                let runtime = &self.runtimes[who];
                let begin = Instant::now();
                let failures = parallel(size, at_a_time, |i| self.whole_life(runtime, first + i));
                let time = begin.elapsed().as_secs_f64();
                results[who].add(match failures.first() {
                    None => Ok(time),
                    Some(message) => Err(format!("{} of {size} containers: {message}", failures.len())),
                });
            }
        }
        results
    }

    fn whole_life(&self, runtime: &Runtime, number: usize) -> Result<(), String> {
        let id = format!("many-{number}");
        let outcome = self.create(runtime, &id, Measure::Time).and_then(|(_, reaper)| {
            runtime
                .call(self.scratch, Measure::Time, &["start".as_ref(), id.as_ref()])
                .map_err(|e| format!("start: {e}"))?;
            Ok(reaper)
        });
        let deleted = self.delete_by_force(runtime, &id).map_err(|e| format!("delete --force: {e}"));
        self.scratch.drop_bundle(runtime, &id);
        let reaper = outcome?;
        deleted?;
        reaper.gone()
    }
}

/// Does something for each number below a limit with several threads; returns the errors.
pub(crate) fn parallel(
    limit: usize,
    threads: usize,
    work: impl Fn(usize) -> Result<(), String> + Sync,
) -> Vec<String> {
    scope(|scope| {
        let work = &work;
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    (thread..limit)
                        .step_by(threads)
                        .filter_map(|number| work(number).err())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let results = handles.into_iter().map(|handle| {
            handle.join().unwrap_or_else(|_| vec!["a thread of the benchmark panicked".to_owned()])
        });
        results.flatten().collect()
    })
}
