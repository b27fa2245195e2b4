//! Profiles of others.

use serde_json::{Value, json};

/// The profile for containers with some capabilities, as the runtime specification has it.
pub(super) fn resolve(profile: &Value, has: impl Fn(&str) -> bool, arch: &str) -> Value {
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
        let caps_fit = names(&includes["caps"]).iter().all(|name| has(name))
            && !names(&excludes["caps"]).iter().any(|name| has(name));
        arch_fits && !here(excludes) && caps_fit
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
        let resolved = resolve(&profile, |_| false, "x86_64");
        let names: Vec<_> =
            resolved["syscalls"].as_array().unwrap().iter().map(|r| r["names"][0].clone()).collect();
        assert_eq!(names, ["read", "x86", "clone"]);
        let privileged = resolve(&profile, |name| name == "CAP_SYS_ADMIN", "x86_64");
        let names: Vec<_> =
            privileged["syscalls"].as_array().unwrap().iter().map(|r| r["names"][0].clone()).collect();
        assert_eq!(names, ["read", "x86", "mount"]);
        assert_eq!(resolved["syscalls"][0], json!({"names": ["read"], "action": "SCMP_ACT_ALLOW"}));
        assert_eq!(resolved["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
        assert_eq!(resolved["defaultErrnoRet"], 38);
    }
}
