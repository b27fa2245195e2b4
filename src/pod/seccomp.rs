//! Seccomp profiles of the host: files in the format of Docker, podman and the kubelet, which name the architectures and
//! capabilities that each rule is for, or in that of the runtime specification.

use crate::error::{Context as _, Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Where the default profile is looked for; Debian's package golang-github-containers-common has the second.
const DEFAULTS: [&str; 2] = ["/etc/containers/seccomp.json", "/usr/share/containers/seccomp.json"];
/// Where profiles of type Localhost are, unless their path is absolute.
const LOCALHOST: &str = "/etc/magikrun/seccomp";

/// Loads a profile by name; `""` is the default one.
pub fn load(name: &str) -> Result<Value> {
    let path = if name.is_empty() {
        let found = DEFAULTS.into_iter().find(|path| Path::new(path).exists());
        PathBuf::from(found.ok_or_else(|| {
            Error::new(
                ErrorKind::NotSupported,
                format!(
                    "seccompProfile RuntimeDefault: there is no profile in '{}' or '{}'",
                    DEFAULTS[0], DEFAULTS[1]
                ),
            )
        })?)
    } else {
        Path::new(LOCALHOST).join(name)
    };
    let cannot = || format!("cannot read seccomp profile '{}'", path.display());
    let data = std::fs::read(&path).or_kind(ErrorKind::InvalidManifest, cannot)?;
    let profile: Value = serde_json::from_slice(&data).or_kind(ErrorKind::InvalidManifest, cannot)?;
    Ok(resolve(&profile, std::env::consts::ARCH))
}

/// The profile for containers without extra capabilities, as the runtime specification has it.
fn resolve(profile: &Value, arch: &str) -> Value {
    let docker_arch = if arch == "x86_64" {
        "amd64"
    } else if arch == "aarch64" {
        "arm64"
    } else {
        arch
    };
    let names = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let wanted = |rule: &Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let here = |of: &Value| names(&of["arches"]).iter().any(|name| name == docker_arch || name == arch);
        let arch_fits = names(&includes["arches"]).is_empty() || here(includes);
        arch_fits && !here(excludes) && names(&includes["caps"]).is_empty()
    };
    let keep = |rule: &Value| {
        let mut rule = rule.clone();
        if let Some(map) = rule.as_object_mut() {
            map.retain(|key, value| {
                matches!(key.as_str(), "names" | "action" | "args" | "errnoRet") && !value.is_null()
            });
        }
        rule
    };
    let rules = profile["syscalls"].as_array().into_iter().flatten();
    let mut resolved = json!({
        "defaultAction": profile["defaultAction"],
        "syscalls": rules.filter(|rule| wanted(rule)).map(keep).collect::<Vec<_>>(),
    });
    if profile["defaultErrnoRet"].is_number() {
        resolved["defaultErrnoRet"] = profile["defaultErrnoRet"].clone();
    }
    let architectures = match profile["archMap"].as_array() {
        None => profile["architectures"].clone(),
        Some(map) => {
            let own = format!("SCMP_ARCH_{}", arch.to_uppercase());
            let entry = map.iter().find(|entry| entry["architecture"] == own.as_str());
            let sub = entry.map(|entry| names(&entry["subArchitectures"])).unwrap_or_default();
            json!(std::iter::once(own).chain(sub).collect::<Vec<_>>())
        }
    };
    if architectures.is_array() {
        resolved["architectures"] = architectures;
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_for_others_are_left_out() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
                {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
                {"names": ["x86"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64"]}},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            ],
        });
        let resolved = resolve(&profile, "x86_64");
        let names: Vec<_> =
            resolved["syscalls"].as_array().unwrap().iter().map(|r| r["names"][0].clone()).collect();
        assert_eq!(names, ["read", "x86", "clone"]);
        assert_eq!(resolved["syscalls"][0], json!({"names": ["read"], "action": "SCMP_ACT_ALLOW"}));
        assert_eq!(resolved["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
        assert_eq!(resolved["defaultErrnoRet"], 38);
    }
}
