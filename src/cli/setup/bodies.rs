//! What is written for podman.

use super::plan::NAME;

/// What podman knows by itself to write its errors as JSON (containers.conf(5)); a list in a file replaces it.
const JSON: [&str; 6] = ["crun", "runc", "kata", "runsc", "youki", "krun"];
/// What podman knows by itself to run without cgroups.
const NO_CGROUP: [&str; 2] = ["crun", "krun"];

/// podman's containers.conf(5). `others` are the texts of the files that podman reads before this one.
pub fn podman(runtime: &str, others: &[String]) -> String {
    let json = list("runtime_supports_json", &JSON, others);
    let no_cgroup = list("runtime_supports_nocgroup", &NO_CGROUP, others);
    format!(
        "[engine]\nruntime_supports_json = {json}\nruntime_supports_nocgroup = {no_cgroup}\n\n\
         [engine.runtimes]\n{NAME} = [{runtime:?}]\n"
    )
}

/// A list of podman's with this runtime in it: the last that a file sets, or podman's own.
fn list(key: &str, own: &[&str], others: &[String]) -> String {
    let set = others.iter().rev().find_map(|text| {
        let document: toml::Table = toml::from_str(text).ok()?;
        let list = document.get("engine")?.get(key)?.as_array()?.clone();
        Some(list.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect::<Vec<_>>())
    });
    let mut words = set.unwrap_or_else(|| own.iter().map(|word| (*word).to_owned()).collect());
    if !words.iter().any(|word| word == NAME) {
        words.push(NAME.to_owned());
    }
    format!("{words:?}")
}
