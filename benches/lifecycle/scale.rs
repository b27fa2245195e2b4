//! What operations cost with many containers there, and what those containers hold.

use crate::bulk::{AT_A_TIME, parallel};
use crate::report::{Show, Table, cell};
use crate::rounds::{Bench, Mode, OPERATIONS, Results};
use crate::runtime::{Measure, Runtime, status_field};
use crate::stats::Samples;
use std::fs;
use std::time::Instant;

/// What was measured with one number of containers there.
#[derive(Debug)]
struct Step {
    containers: usize,
    operations: Vec<Samples>,
    /// Memory of the machine that each container there takes, in KiB, kernel included.
    memory: f64,
    /// Milliseconds for each container that was added since the step before.
    added: f64,
}

impl Bench<'_> {
    /// Measures every operation on one container more, with each of these numbers of created containers there; a table a runtime.
    pub(crate) fn scale(&self, numbers: &[usize], rounds: usize) -> Vec<Table> {
        self.runtimes.iter().map(|runtime| self.scale_of(runtime, numbers, rounds)).collect()
    }

    fn scale_of(&self, runtime: &Runtime, numbers: &[usize], rounds: usize) -> Table {
        let alone = Bench { runtimes: std::slice::from_ref(runtime), floor: None, ..*self };
        let before = available_memory();
        let (mut steps, mut there, mut failure) = (Vec::new(), 0, None);
        for (index, &containers) in numbers.iter().enumerate() {
            let begin = Instant::now();
            if let Some(message) = alone.fill(runtime, there, containers) {
                failure = Some(format!("{containers} containers: {message}"));
                there = containers;
                break;
            }
            let added = containers.saturating_sub(there).max(1);
            let added = begin.elapsed().as_secs_f64() * 1000.0 / added as f64;
            there = containers;
            let memory = (before - available_memory()) / containers.max(1) as f64;
            let mut results = Results::new(1);
            for round in 0..rounds {
                alone.round(index * rounds + round, Mode::Busy, &mut results);
            }
            let operations = results.operations.into_iter().flatten().collect();
            steps.push(Step { containers, operations, memory, added });
        }
        parallel(there, AT_A_TIME, |number| {
            let id = id_of(number);
            let outcome = alone.delete_by_force(runtime, &id).map(drop);
            alone.scratch.drop_bundle(runtime, &id);
            outcome
        });
        table(runtime, &steps, failure)
    }

    /// Creates the containers with these numbers; the result is the first failure.
    fn fill(&self, runtime: &Runtime, from: usize, to: usize) -> Option<String> {
        let failures = parallel(to.saturating_sub(from), AT_A_TIME, |number| {
            self.create(runtime, &id_of(from + number), Measure::Time).map(drop)
        });
        failures.into_iter().next()
    }
}

fn id_of(number: usize) -> String {
    format!("there-{number}")
}

fn table(runtime: &Runtime, steps: &[Step], failure: Option<String>) -> Table {
    let mut header = vec!["operation".to_owned()];
    header.extend(steps.iter().map(|step| format!("{} there", step.containers)));
    header.push("µs for each further one".to_owned());
    let mut table = Table::with_header(
        format!("{}: milliseconds with many created containers there: median (p10)", runtime.name),
        header,
    );
    for (index, operation) in OPERATIONS.iter().enumerate() {
        let mut cells: Vec<String> =
            steps.iter().map(|step| cell(&step.operations[index], Show::MedianAndP10(2))).collect();
        cells.push(growth(steps, index).map_or_else(|| "-".to_owned(), |slope| format!("{slope:.2}")));
        table.cells(operation, cells);
    }
    let mut row = |what: &str, value: &dyn Fn(&Step) -> String| {
        let cells = steps.iter().map(value).chain(["-".to_owned()]).collect();
        table.cells(what, cells);
    };
    row("create of one, 4 at a time", &|step| format!("{:.2}", step.added));
    row("KiB of the machine for each", &|step| format!("{:.0}", step.memory));
    if let Some(failure) = failure {
        table.note(failure);
    }
    table
}

/// The slope of the line of least squares through the medians, in microseconds a container.
fn growth(steps: &[Step], operation: usize) -> Option<f64> {
    let points: Vec<(f64, f64)> = steps
        .iter()
        .filter_map(|step| Some((step.containers as f64, step.operations[operation].median()?)))
        .collect();
    let count = points.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let joint: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    (spread > 0.0).then(|| joint / spread * 1000.0)
}

/// KiB that programs could still have.
fn available_memory() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    status_field(&text, "MemAvailable:").unwrap_or(0) as f64
}
