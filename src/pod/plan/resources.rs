//! Limits and requests as settings of cgroups.

use super::users::Users;
use super::{ContainerPlan, Context, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::pod::manifest::PodSpec;
use crate::pod::manifest::types::{Container, Quantity, Resources};
use serde_json::{Map, Value, json};

/// Period of the processor quota, in microseconds: the kernel's default.
const PERIOD: i128 = 100_000;
/// Smallest quota that the kernel takes, in microseconds.
const MIN_QUOTA: i128 = 1000;
/// Smallest weight that the kernel takes, and that of one processor.
const MIN_SHARES: i128 = 2;
const SHARES_PER_CPU: i128 = 1024;
/// Largest weight that the kernel takes.
const MAX_SHARES: i128 = 262_144;

/// Limits of a container. Memory is limited also where the manifest does not say so: to `default` bytes, or to what it requests if that is
/// more, unless `default` is 0 or the user may have no cgroups.
pub fn container(container: &Container, default: u64, users: Users) -> Value {
    let resources = &container.resources;
    let memory = resources.limits.get("memory").and_then(Quantity::value);
    let request = resources.requests.get("memory").and_then(Quantity::value).unwrap_or(0);
    let default = (default > 0 && !users.is_of_user()).then_some(default.max(request));
    settings(resources, memory.or(default), users)
}

/// Limits of a pod as a whole: none unless the manifest has them.
pub fn pod(resources: &Resources, users: Users) -> Value {
    settings(resources, resources.limits.get("memory").and_then(Quantity::value), users)
}

fn settings(resources: &Resources, memory: Option<u64>, users: Users) -> Value {
    let mut all = Map::new();
    let mut of_memory = Map::new();
    if let Some(bytes) = memory {
        of_memory.insert("limit".to_owned(), json!(bytes));
    }
    // A request is no limit: a user who may not set it does without.
    let requested = |name: &str| resources.requests.get(name).filter(|_| !users.is_of_user());
    if let Some(bytes) = requested("memory").and_then(Quantity::value) {
        of_memory.insert("reservation".to_owned(), json!(bytes));
    }
    if !of_memory.is_empty() {
        all.insert("memory".to_owned(), Value::Object(of_memory));
    }
    let mut cpu = Map::new();
    if let Some(milli) = resources.limits.get("cpu").and_then(Quantity::milli) {
        cpu.insert("quota".to_owned(), json!(i64::try_from((milli * PERIOD / 1000).max(MIN_QUOTA)).ok()));
        cpu.insert("period".to_owned(), json!(PERIOD as u64));
    }
    let request = resources.requests.get("cpu").or_else(|| resources.limits.get("cpu"));
    // A share is no limit: a user who may not set it does without.
    if let Some(milli) = request.filter(|_| !users.is_of_user()).and_then(Quantity::milli) {
        let shares = (milli * SHARES_PER_CPU / 1000).clamp(MIN_SHARES, MAX_SHARES);
        cpu.insert("shares".to_owned(), json!(shares as u64));
    }
    if !cpu.is_empty() {
        all.insert("cpu".to_owned(), Value::Object(cpu));
    }
    let pages = resources.limits.iter().filter_map(|(name, quantity)| {
        let size = Quantity(name.strip_prefix("hugepages-")?.to_owned()).value()?;
        Some(json!({"pageSize": page_size(size), "limit": quantity.value()?}))
    });
    let pages: Vec<Value> = pages.collect();
    if !pages.is_empty() {
        all.insert("hugepageLimits".to_owned(), Value::Array(pages));
    }
    Value::Object(all)
}

/// What all containers have together of the limit at `path`: those that run at the same time, or the largest that runs before them. None
/// where one of them is not limited.
pub fn together(containers: &[ContainerPlan], path: &str) -> Option<u64> {
    let values = |role: &dyn Fn(Role) -> bool| {
        let all = containers.iter().filter(|c| role(c.role));
        all.map(|c| c.resources.pointer(path).and_then(Value::as_u64)).collect::<Vec<_>>()
    };
    let together = values(&|role| role != Role::Init).into_iter().sum::<Option<u64>>()?;
    let before = values(&|role| role == Role::Init).into_iter().collect::<Option<Vec<_>>>()?;
    Some(before.into_iter().max().unwrap_or(0).max(together))
}

/// A size of huge pages as the kernel writes it: `2MB`.
fn page_size(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        bytes if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        bytes => format!("{}KB", bytes >> 10),
    }
}

/// The value of a limit or request for a variable or file, in units of `divisor`, rounded up. What is not set is what
/// the host has.
pub fn field(
    pod: &PodSpec,
    container: &str,
    resource: &str,
    divisor: Option<&Quantity>,
    context: &Context,
) -> Result<String> {
    let wrong = |what: String| Error::new(ErrorKind::InvalidManifest, what);
    let mut containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    let container = containers
        .find(|c| c.name == container)
        .ok_or_else(|| wrong(format!("there is no container '{container}'")))?;
    let (list, name) = resource.split_once('.').unwrap_or((resource, ""));
    let resources = &container.resources;
    let limit = resources.limits.get(name).and_then(Quantity::milli);
    let host = if name == "cpu" { i128::from(context.cpus) } else { i128::from(context.memory) } * 1000;
    let milli = match list {
        "requests" => resources.requests.get(name).and_then(Quantity::milli).or(limit).unwrap_or(0),
        _ => limit.unwrap_or(host),
    };
    let divisor = match divisor.filter(|d| !d.0.is_empty() && d.0 != "0") {
        Some(divisor) => divisor.milli().filter(|d| *d > 0),
        None => Some(1000),
    };
    let divisor = divisor.ok_or_else(|| wrong("the divisor is not a positive quantity".to_owned()))?;
    Ok(((milli + divisor - 1) / divisor).to_string())
}
