//! What a command costs: time on the clock, time of processors, memory.

use nix::sys::resource::{UsageWho, getrusage};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What one call cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Seconds on the clock.
    pub(crate) wall: f64,
    /// Seconds of processors.
    pub(crate) processor: f64,
    /// MB of the largest process.
    pub(crate) memory: f64,
}

/// The median of one figure.
pub(crate) fn median(costs: &[Cost], of: fn(&Cost) -> f64) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Executes a command, in a process of its own, so that the largest child is the one that is measured.
pub(crate) fn measure_here(command: &[String]) -> Result<(), String> {
    let [program, args @ ..] = command else { return Err("nothing to measure".to_owned()) };
    let start = Instant::now();
    let status = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|e| format!("cannot execute {program}: {e}"))?;
    let wall = start.elapsed().as_secs_f64();
    if !status.success() {
        return Err(format!("{program} failed"));
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|e| e.to_string())?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let processor = seconds(usage.user_time()) + seconds(usage.system_time());
    println!("{wall} {processor} {}", usage.max_rss() as f64 / 1000.0);
    Ok(())
}

/// Measures a command.
pub(crate) fn measure(command: &[&str]) -> Result<Cost, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new(own)
        .arg("--measure")
        .args(command)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers.as_slice() {
        [wall, processor, memory] => Ok(Cost { wall: *wall, processor: *processor, memory: *memory }),
        _ => Err(format!("{} failed", command.join(" "))),
    }
}
