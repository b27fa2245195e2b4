//! `magikrun pod stats`

use super::table;
use crate::cli::list::Format;
use crate::cli::print;
use crate::error::Result;
use crate::limits::ANSWER_TIMEOUT;
use crate::pod::PodHost;
use crate::pod::protocol::{Ask, Reply, ask};
use crate::pod::store::Pod;
use crate::runtime::cgroups::Stats;
use crate::runtime::{lifecycle, microvm};
use serde_json::Value;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id or name of the pod
    #[arg(value_name = "POD")]
    pod: String,
    /// Form
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// What a module uses that shares a process with others: its monitor knows.
fn module(pod: &Pod, container: String) -> Result<Stats> {
    let answer = ask(&pod.dir, Ask::Measure { container }, Some(ANSWER_TIMEOUT))?;
    let Some(Reply::Uses { cpu_nanoseconds, memory, memory_limit }) = answer else {
        crate::bail!(InvalidState, "the pod does not run");
    };
    let mut stats = Stats::default();
    stats.cpu.usage.total = cpu_nanoseconds;
    stats.memory.usage.usage = memory;
    stats.memory.usage.limit = memory_limit.unwrap_or(u64::MAX);
    // Its thread.
    stats.pids.current = 1;
    Ok(stats)
}

/// `magikrun pod stats`
pub fn run(host: &PodHost, args: &Args) -> Result<()> {
    let pod = host.store.open(&args.pod)?;
    let containers = pod.containers(&host.host);
    let mut all = serde_json::Map::new();
    for container in &pod.record.containers {
        // One that has ended, or waits, uses nothing.
        let stats = match pod.record.place(&container.name) {
            (_, Some(member)) if pod.record.wasm => module(&pod, member.name),
            (id, Some(member)) => microvm::stats(&containers, &id, &member.name),
            (id, None) => lifecycle::stats(&containers, &id),
        };
        if let Ok(stats) = stats {
            all.insert(container.name.clone(), serde_json::to_value(stats)?);
        }
    }
    if args.format == Format::Json {
        return print(&Value::Object(all).to_string());
    }
    let mut rows =
        vec![["CONTAINER", "CPU SECONDS", "MEMORY", "MEMORY LIMIT", "PIDS"].map(str::to_owned).to_vec()];
    for (name, stats) in &all {
        let number = |path: &str| stats.pointer(path).and_then(Value::as_u64);
        let mib = |bytes: Option<u64>| {
            bytes.map_or_else(|| "-".to_owned(), |b| format!("{:.1} MiB", b as f64 / 1_048_576.0))
        };
        let limit = number("/memory/usage/limit").filter(|limit| *limit < u64::MAX / 2);
        rows.push(vec![
            name.clone(),
            number("/cpu/usage/total").map_or_else(|| "-".to_owned(), |ns| format!("{:.2}", ns as f64 / 1e9)),
            mib(number("/memory/usage/usage")),
            mib(limit),
            number("/pids/current").map_or_else(|| "-".to_owned(), |n| n.to_string()),
        ]);
    }
    print(&table(&rows)?)
}
