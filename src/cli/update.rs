//! `magikrun update`

use super::size;
use crate::error::{Context as _, ErrorKind, Result};
use crate::runtime::options::Host;
use crate::runtime::spec::read_limited;
use crate::runtime::update;
use serde_json::{Map, Value, json};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// File with resources in the form of linux.resources, or - for standard input; other options are ignored then
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight of block input and output, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Period of the processor quota in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_period: Option<u64>,
    /// Processor time in a period in microseconds
    #[arg(long, value_name = "USEC", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Processor time that may be saved up, in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_burst: Option<u64>,
    /// Weight of the processor time
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// Period of the real-time quota in microseconds
    #[arg(long, value_name = "USEC")]
    cpu_rt_period: Option<u64>,
    /// Real-time processor time in a period in microseconds
    #[arg(long, value_name = "USEC", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// Processors to use, as in 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// 1: run only when nothing else wants to
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(i64).range(0..=1))]
    cpu_idle: Option<i64>,
    /// Memory limit in bytes, or with a unit as in 64M; -1 for none
    #[arg(long, value_name = "BYTES", value_parser = size::parse, allow_negative_numbers = true)]
    memory: Option<i64>,
    /// Soft memory limit
    #[arg(long, value_name = "BYTES", value_parser = size::parse, allow_negative_numbers = true)]
    memory_reservation: Option<i64>,
    /// Limit of memory and swap together; -1 for none
    #[arg(long, value_name = "BYTES", value_parser = size::parse, allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// Limit of kernel memory: obsolete, ignored
    #[arg(long, value_name = "BYTES", hide = true, value_parser = size::parse, allow_negative_numbers = true)]
    kernel_memory: Option<i64>,
    /// Limit of kernel memory for TCP: obsolete, ignored
    #[arg(long, value_name = "BYTES", hide = true, value_parser = size::parse, allow_negative_numbers = true)]
    kernel_memory_tcp: Option<i64>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Cache schema of Intel RDT
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Memory bandwidth schema of Intel RDT
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

/// `magikrun update`
pub fn run(host: &Host, args: &Args) -> Result<()> {
    let changes = match &args.resources {
        Some(path) => read(path)?,
        None => from_options(args),
    };
    let schemata: Vec<&str> =
        args.l3_cache_schema.iter().chain(&args.mem_bw_schema).map(String::as_str).collect();
    update::update(host, &args.id, &changes, &schemata)
}

fn read(path: &Path) -> Result<Value> {
    let data = if path == Path::new("-") {
        let mut data = Vec::new();
        let limit = crate::limits::MAX_CONFIG_SIZE;
        std::io::stdin()
            .take(limit)
            .read_to_end(&mut data)
            .or_kind(ErrorKind::Usage, || "cannot read resources from standard input")?;
        data
    } else {
        read_limited(path)?
    };
    crate::runtime::spec::parse_json(&data, &path.display().to_string())
}

fn from_options(args: &Args) -> Value {
    let table = |pairs: &[(&str, Option<Value>)]| {
        let pairs = pairs.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
        Value::Object(pairs.collect::<Map<_, _>>())
    };
    fn value<T: serde::Serialize>(option: Option<T>) -> Option<Value> {
        option.map(|value| json!(value))
    }
    let cpu = table(&[
        ("shares", value(args.cpu_share)),
        ("quota", value(args.cpu_quota)),
        ("period", value(args.cpu_period)),
        ("burst", value(args.cpu_burst)),
        ("realtimeRuntime", value(args.cpu_rt_runtime)),
        ("realtimePeriod", value(args.cpu_rt_period)),
        ("cpus", value(args.cpuset_cpus.as_ref())),
        ("mems", value(args.cpuset_mems.as_ref())),
        ("idle", value(args.cpu_idle)),
    ]);
    let memory = table(&[
        ("limit", value(args.memory)),
        ("reservation", value(args.memory_reservation)),
        ("swap", value(args.memory_swap)),
    ]);
    let mut all = json!({"cpu": cpu, "memory": memory});
    if let Some(weight) = args.blkio_weight {
        all["blockIO"] = json!({"weight": weight});
    }
    if let Some(limit) = args.pids_limit {
        all["pids"] = json!({"limit": limit});
    }
    all
}
