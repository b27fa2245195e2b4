//! What is written for each engine.

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

/// containerd's config.toml: with our shim if it is there, else with runc's and this program for runc. `alone`: nobody else sets
/// runtimes. containerd knows runc by itself only as long as nobody sets any, and its default would be missing.
pub fn containerd(plugin: &str, runtime: &str, with_shim: bool, alone: bool) -> String {
    let table = |name: &str, kind: &str| {
        format!("[plugins.{plugin:?}.containerd.runtimes.{name}]\nruntime_type = {kind:?}\n")
    };
    let runc = if alone { table("runc", "io.containerd.runc.v2") + "\n" } else { String::new() };
    if with_shim {
        return runc + &table(NAME, "io.containerd.magikrun.v2");
    }
    let ours = table(NAME, "io.containerd.runc.v2");
    format!(
        "{runc}{ours}\n[plugins.{plugin:?}.containerd.runtimes.{NAME}.options]\nBinaryName = {runtime:?}\n"
    )
}

/// CRI-O's crio.conf(5).
pub fn crio(runtime: &str) -> String {
    format!(
        "[crio.runtime.runtimes.{NAME}]\nruntime_path = {runtime:?}\nruntime_type = \"oci\"\n\
         runtime_root = \"/run/magikrun\"\n"
    )
}
