//! `magikrun doctor`: what works on this machine, what is missing, and what mends it.

mod backends;
mod check;
mod engines;
mod host;
mod kernel;
mod programs;
#[cfg(test)]
mod tests;

use super::list::{Format, table};
use super::print;
use super::version::{COMMIT, VERSION};
use crate::error::Result;
use backends::{BACKENDS, Verdict, judge};
use check::{Check, Finding, State};
use host::Host;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Exit status if something that was asked about does not work.
const NOT_ALL_WORKS: u8 = 2;
/// What the exit status is about if nothing else is asked about.
const ALWAYS: &str = "native";

/// All checks, in the order in which they are shown.
const CHECKS: [Check; 24] = [
    ("kernel", kernel::kernel),
    ("root", kernel::root),
    ("namespaces", kernel::namespaces),
    ("cgroups", kernel::cgroups),
    ("cgroup delegation", kernel::delegation),
    ("user namespaces", kernel::user_namespaces),
    ("subordinate ids", kernel::subordinate_ids),
    ("newuidmap", programs::newuidmap),
    ("seccomp", kernel::seccomp),
    ("seccomp profile", programs::profile),
    ("overlayfs", kernel::overlayfs),
    ("configuration", programs::configuration),
    ("image store", programs::store),
    ("kvm", kernel::kvm),
    ("magikrun-krun", programs::magikrun_krun),
    ("libkrunfw", programs::libkrunfw),
    ("passt", programs::passt),
    ("pasta", programs::pasta),
    ("criu", programs::criu),
    ("cni plugins", programs::cni),
    ("podman", engines::podman),
    ("containerd", engines::containerd),
    ("docker", engines::docker),
    ("crio", engines::crio),
];

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the report
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// What the exit status is about [default: native]
    #[arg(value_name = "BACKEND", value_parser = BACKENDS.map(|backend| backend.name))]
    backends: Vec<String>,
}

/// `magikrun doctor`. Answers the exit status.
pub fn run(args: &Args) -> Result<u8> {
    let host = Host::this()?;
    let findings = examine(&host);
    let verdicts = verdicts(&findings);
    print(&match args.format {
        Format::Json => serde_json::to_string_pretty(&report(&host, &findings, &verdicts))?,
        Format::Table => text(&findings, &verdicts)?,
    })?;
    Ok(status(&verdicts, &args.backends))
}

type Findings = Vec<(&'static str, Finding)>;

fn examine(host: &Host) -> Findings {
    CHECKS.iter().map(|(name, check)| (*name, check(host))).collect()
}

fn verdicts(findings: &Findings) -> Vec<Verdict> {
    let by_name: BTreeMap<_, _> = findings.iter().cloned().collect();
    BACKENDS.iter().map(|backend| judge(backend, &by_name)).collect()
}

fn status(verdicts: &[Verdict], asked: &[String]) -> u8 {
    let asks = |name: &str| if asked.is_empty() { name == ALWAYS } else { asked.iter().any(|a| a == name) };
    let fails = verdicts.iter().any(|verdict| asks(verdict.name) && verdict.state == State::Missing);
    if fails { NOT_ALL_WORKS } else { 0 }
}

fn report(host: &Host, findings: &Findings, verdicts: &[Verdict]) -> Value {
    let check = |(name, finding): &(&str, Finding)| {
        let mut value = json!({"name": name});
        let more = serde_json::to_value(finding).unwrap_or_default();
        if let (Some(into), Some(more)) = (value.as_object_mut(), more.as_object()) {
            into.extend(more.clone());
        }
        value
    };
    json!({
        "version": VERSION,
        "commit": COMMIT,
        "platform": host.platform.oci_platform(),
        "checks": findings.iter().map(check).collect::<Vec<_>>(),
        "backends": verdicts,
    })
}

fn text(findings: &Findings, verdicts: &[Verdict]) -> Result<String> {
    let checks = findings.iter().map(|(name, finding)| {
        vec![(*name).to_owned(), finding.state.name().to_owned(), finding.detail.clone()]
    });
    let backends = verdicts.iter().map(|verdict| {
        let needs = verdict.missing.iter().map(|name| format!("needs {name}"));
        let notes: Vec<String> = needs.chain(verdict.without.iter().cloned()).collect();
        vec![verdict.name.to_owned(), verdict.state.name().to_owned(), notes.join("; ")]
    });
    let mut text = table(&["CHECK", "STATE", "DETAIL"], checks)?;
    text.push('\n');
    text.push_str(&table(&["BACKEND", "STATE", "NOTES"], backends)?);
    let mends = mends(findings);
    if !mends.is_empty() {
        text.push('\n');
        text.push_str(&table(&["FOR", "COMMAND THAT MENDS IT"], mends)?);
    }
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    Ok(lines.join("\n"))
}

/// What each command mends, and the command.
fn mends(findings: &Findings) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = Vec::new();
    for (name, command) in findings.iter().filter_map(|(name, finding)| Some((name, finding.mend.as_ref()?)))
    {
        match all.iter_mut().find(|row| row[1] == *command) {
            Some(row) => row[0] = format!("{}, {name}", row[0]),
            None => all.push(vec![(*name).to_owned(), command.clone()]),
        }
    }
    all
}
