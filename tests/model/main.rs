//! Random operations, legal and illegal, by many callers on the same containers at once, compared with a model.
//!
//! 2,000 containers with `MAGIKRUN_MODEL=full`, fewer otherwise. The seed is printed and can be given as `MAGIKRUN_SEED`;
//! the choices follow from it, the order in which the kernel runs the callers does not.
#[path = "../common/mod.rs"]
mod common;

mod history;
mod machine;

use common::faults::fresh_seed as seed;
use common::{Bundle, Runtime};
use history::Entry;
use machine::{Answer, Operation};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Instant;

/// Callers at a time.
const CALLERS: usize = 8;
/// Containers that they share.
const SHARED: usize = 4;
/// Operations of each caller in a round; after it the histories are judged, and everything is deleted.
const OPERATIONS: usize = 6;

fn containers() -> usize {
    if std::env::var("MAGIKRUN_MODEL").is_ok_and(|value| value == "full") { 2000 } else { 150 }
}

/// A container that is shared.
struct Shared {
    bundle: Bundle,
    /// Its program ends at once.
    short: bool,
    /// It is paused and resumed; otherwise processes are executed in it, which would wait while it is paused.
    paused: bool,
    history: Mutex<Vec<Entry>>,
}

impl Shared {
    fn new(runtime: &Runtime, number: usize) -> Self {
        let short = number % 2 == 1;
        let bundle = if short { runtime.bundle() } else { runtime.sleeper() };
        Self { bundle, short, paused: number < SHARED / 2, history: Mutex::new(Vec::new()) }
    }

    fn choose(&self, random: &mut fastrand::Rng) -> Operation {
        use Operation as O;
        let special: &[O] = if self.paused { &[O::Pause, O::Resume] } else { &[O::Exec, O::Exec] };
        let common =
            [O::Create, O::Create, O::Start, O::Start, O::State, O::Kill, O::Term, O::Delete, O::DeleteForce];
        let all: Vec<O> = common.iter().chain(special).copied().collect();
        all[random.usize(..all.len())]
    }
}

fn call(runtime: &Runtime, shared: &Shared, operation: Operation) -> Answer {
    let (dir, id) = (shared.bundle.dir(), shared.bundle.id.as_str());
    let args: Vec<&str> = match operation {
        Operation::Create => vec!["create", "--bundle", dir, id],
        Operation::Start => vec!["start", id],
        Operation::State => vec!["state", id],
        Operation::Kill => vec!["kill", id, "KILL"],
        Operation::Term => vec!["kill", id, "TERM"],
        Operation::Pause => vec!["pause", id],
        Operation::Resume => vec!["resume", id],
        Operation::Exec => vec!["exec", id, "true"],
        Operation::Delete => vec!["delete", id],
        Operation::DeleteForce => vec!["delete", "--force", id],
    };
    let output = runtime.call(&args);
    Answer::read(operation, output.code, &output.stdout, &output.stderr)
}

#[test]
fn many_callers_on_shared_containers_see_what_the_model_allows() {
    let runtime = Runtime::new();
    let seed = seed();
    println!("seed {seed}");
    let shared: Vec<Shared> = (0..SHARED).map(|number| Shared::new(&runtime, number)).collect();
    let (made, operations) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let begin = Instant::now();
    let mut round = 0;
    while made.load(Ordering::Relaxed) < containers() {
        round += 1;
        let barrier = Barrier::new(CALLERS);
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (runtime, shared, barrier, made, operations) =
                    (&runtime, &shared, &barrier, &made, &operations);
                let mut random = fastrand::Rng::with_seed(seed ^ (round << 8) ^ caller as u64);
                scope.spawn(move || {
                    barrier.wait();
                    for _ in 0..OPERATIONS {
                        let one = &shared[random.usize(..SHARED)];
                        let operation = one.choose(&mut random);
                        let called = begin.elapsed();
                        let answer = call(runtime, one, operation);
                        let answered = begin.elapsed();
                        operations.fetch_add(1, Ordering::Relaxed);
                        if operation == Operation::Create && answer == Answer::Done {
                            made.fetch_add(1, Ordering::Relaxed);
                        }
                        one.history.lock().expect("the history").push(Entry {
                            operation,
                            answer,
                            called,
                            answered,
                        });
                    }
                });
            }
        });
        for one in &shared {
            let mut history = one.history.lock().expect("the history");
            if let Err(why) = history::judge(&history, one.short) {
                panic!("seed {seed}, round {round}: {why}");
            }
            history.clear();
            runtime.ok(&["delete", "--force", &one.bundle.id]);
        }
        runtime.assert_nothing_left();
    }
    println!(
        "{} containers, {} operations, {CALLERS} at a time, in {round} rounds: {:.0?}",
        made.load(Ordering::Relaxed),
        operations.load(Ordering::Relaxed),
        begin.elapsed()
    );
}
