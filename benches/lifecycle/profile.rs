//! The seccomp profile that container engines give to every container: a container without one is not what anybody runs.

use serde_json::{Value, json};

/// The default profile of podman, buildah and CRI-O, from Debian's package golang-github-containers-common.
const FILE: &str = "/usr/share/containers/seccomp.json";

/// Reads the profile for containers with these capabilities, in the form of the runtime specification.
pub(crate) fn read(capabilities: &[&str]) -> Result<Value, String> {
    let text = std::fs::read_to_string(FILE)
        .map_err(|e| format!("{FILE}: {e}: install golang-github-containers-common"))?;
    let file: Value = serde_json::from_str(&text).map_err(|e| format!("{FILE}: {e}"))?;
    let architecture = match std::env::consts::ARCH {
        "x86_64" => ("amd64", "SCMP_ARCH_X86_64"),
        "aarch64" => ("arm64", "SCMP_ARCH_AARCH64"),
        other => return Err(format!("the profile for {other} is not known")),
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let holds = |value: &Value| {
        value.as_str().is_some_and(|name| name == architecture.0 || capabilities.contains(&name))
    };
    let applies = |rule: &&Value| {
        let [needs, avoids] =
            ["includes", "excludes"].map(|side| ["caps", "arches"].map(|kind| list(&rule[side][kind])));
        let fits = |wanted: &Vec<Value>| wanted.is_empty() || wanted.iter().any(holds);
        needs.iter().all(fits) && !avoids.iter().flatten().any(holds)
    };
    let rules: Vec<Value> = list(&file["syscalls"]).iter().filter(applies).map(rule).collect();
    let maps = list(&file["archMap"]);
    let map = maps.iter().find(|map| map["architecture"] == architecture.1);
    let mut architectures = vec![json!(architecture.1)];
    architectures.extend(map.map(|map| list(&map["subArchitectures"])).unwrap_or_default());
    Ok(json!({
        "defaultAction": file["defaultAction"],
        "defaultErrnoRet": file["defaultErrnoRet"],
        "architectures": architectures,
        "syscalls": rules,
    }))
}

/// A rule without what only engines read.
fn rule(rule: &Value) -> Value {
    let mut rule = rule.clone();
    if let Some(members) = rule.as_object_mut() {
        members.retain(|name, value| {
            ["names", "action", "args", "errnoRet"].contains(&name.as_str()) && !value.is_null()
        });
    }
    rule
}
