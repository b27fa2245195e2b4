//! Tables, as aligned text and as Markdown.

use crate::rounds::NOT_TRIED;
use crate::runtime::Runtime;
use crate::stats::Samples;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

const LONGEST_CELL: usize = 60;

/// A table with a title.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

/// How a table shows its samples.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Show {
    /// Median and first decile, with this many decimals.
    MedianAndP10(usize),
    /// Median alone, with this many decimals.
    Median(usize),
    /// Sum of all samples, with this many decimals.
    Sum(usize),
}

impl Table {
    /// A table with one column for each runtime, and one for the ratio of magikrun to each of its rivals.
    pub(crate) fn new(title: String, what: &str, runtimes: &[Runtime]) -> Self {
        let mut header = vec![what.to_owned()];
        header.extend(runtimes.iter().map(|runtime| runtime.name.clone()));
        header.extend(rivals(runtimes).map(|(_, rival)| format!("magikrun/{}", rival.name)));
        Self::with_header(title, header)
    }

    /// A table with these columns.
    pub(crate) fn with_header(title: String, header: Vec<String>) -> Self {
        Self { title, header, rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds a row of finished cells.
    pub(crate) fn cells(&mut self, what: &str, cells: Vec<String>) {
        self.rows.push(std::iter::once(what.to_owned()).chain(cells).collect());
    }

    /// Adds a line below the table.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Adds a row: the samples stand in the order of the runtimes.
    pub(crate) fn row(&mut self, what: &str, samples: &[Samples], runtimes: &[Runtime], show: Show) {
        let mut row = vec![what.to_owned()];
        row.extend(samples.iter().map(|sample| cell(sample, show)));
        let own = runtimes.iter().position(|runtime| runtime.name == "magikrun");
        for (rival, _) in rivals(runtimes) {
            let ratio = own.and_then(|own| ratio(&samples[own], &samples[rival], show));
            row.push(ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")));
        }
        self.rows.push(row);
        for (runtime, sample) in runtimes.iter().zip(samples) {
            if let Some(message) = sample.failure().filter(|message| !message.starts_with(NOT_TRIED)) {
                self.notes.push(format!(
                    "{what}, {}: {} of {} failed, first with: {message}",
                    runtime.name,
                    sample.failures(),
                    sample.tries()
                ));
            }
        }
    }

    /// Adds the floor of an operation and how many times as long magikrun takes, as a note.
    pub(crate) fn floor(
        &mut self,
        what: &str,
        floor: &Samples,
        samples: &[Samples],
        runtimes: &[Runtime],
        show: Show,
    ) {
        let own = runtimes.iter().position(|runtime| runtime.name == "magikrun");
        let times = own.and_then(|own| ratio(&samples[own], floor, show));
        let times =
            times.map_or_else(String::new, |times| format!("; magikrun takes {times:.2} times as long"));
        self.notes.push(format!("the kernel's own work of {what}: {}{times}", cell(floor, show)));
    }

    /// The table with aligned columns.
    pub(crate) fn text(&self) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let width = |i: usize| lines().map(|row| row[i].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut text = format!("{}\n", self.title);
        for row in lines() {
            let mut line = String::new();
            for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ =
                    if i == 0 { write!(line, "  {cell:width$}") } else { write!(line, "  {cell:>width$}") };
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        for note in &self.notes {
            let _ = writeln!(text, "  ! {note}");
        }
        text
    }

    /// The table in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let line = |row: &[String]| {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut text = format!("### {}\n\n{}", self.title, line(&self.header));
        let _ = writeln!(text, "|---|{}", "---:|".repeat(self.header.len() - 1));
        text.extend(self.rows.iter().map(|row| line(row)));
        text.push('\n');
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        text
    }
}

/// The runtimes that magikrun is compared with, and their positions.
fn rivals(runtimes: &[Runtime]) -> impl Iterator<Item = (usize, &Runtime)> {
    runtimes.iter().enumerate().filter(|(_, runtime)| matches!(runtime.name.as_str(), "crun" | "runc"))
}

fn value(samples: &Samples, show: Show) -> Option<f64> {
    match show {
        Show::MedianAndP10(_) | Show::Median(_) => samples.median(),
        Show::Sum(_) => samples.sum(),
    }
}

fn ratio(own: &Samples, rival: &Samples, show: Show) -> Option<f64> {
    // A sum with failures in it is a sum over fewer containers: it compares with nothing.
    if matches!(show, Show::Sum(_)) && own.failures() + rival.failures() > 0 {
        return None;
    }
    let rival = value(rival, show).filter(|rival| *rival > 0.0)?;
    Some(value(own, show)? / rival)
}

/// A value as a table shows it.
pub(crate) fn cell(samples: &Samples, show: Show) -> String {
    let text = value(samples, show).map(|value| match show {
        Show::MedianAndP10(digits) => {
            format!("{value:.digits$} ({:.digits$})", samples.p10().unwrap_or(value))
        }
        Show::Median(digits) | Show::Sum(digits) => format!("{value:.digits$}"),
    });
    match (text, samples.failure()) {
        (Some(text), None) => text,
        (Some(text), Some(_)) => format!("{text}, {}/{} fail", samples.failures(), samples.tries()),
        (None, Some(message)) if message.starts_with(NOT_TRIED) => "not tried".to_owned(),
        (None, Some(message)) => clip(&format!("fails: {message}")),
        (None, None) => "-".to_owned(),
    }
}

fn clip(text: &str) -> String {
    if text.chars().count() <= LONGEST_CELL {
        return text.to_owned();
    }
    let head: String = text.chars().take(LONGEST_CELL - 3).collect();
    format!("{head}...")
}

/// The conditions of the measurement: one line each.
pub(crate) fn conditions(runtimes: &[Runtime], missing: &[String], rounds: usize) -> Vec<String> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default().trim().to_owned();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let mut lines = vec![
        format!("date: {}", date()),
        format!(
            "kernel: {}, {cpus} CPUs, load {}",
            read("/proc/sys/kernel/osrelease"),
            read("/proc/loadavg")
        ),
        format!("rounds: {rounds}, interleaved"),
    ];
    for runtime in runtimes {
        let size = fs::metadata(&runtime.program).map_or(0, |data| data.len().div_ceil(1024));
        lines.push(format!(
            "{}: {} ({}, {size} KiB)",
            runtime.name,
            runtime.version,
            runtime.program.display()
        ));
    }
    lines.extend(missing.iter().map(|missing| format!("missing: {missing}")));
    lines
}

fn date() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    output.map_or_else(|e| format!("unknown: {e}"), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}
