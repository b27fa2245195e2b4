//! What a configuration must fulfil before anything is allocated for it. The words are runc's where it has them.

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::kernel_security::{AppArmor, KernelSecurity};
use crate::runtime::native::sysctl;
use crate::runtime::{krun, wasm};
use crate::storage::config::Annotations;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec, User};
use std::collections::HashSet;

/// Prefix of the annotations that are ours: an unknown one is a mistake that must not pass unseen.
const OUR_ANNOTATIONS: &str = "org.magikrun.";
/// Our annotations, beside those of WebAssembly and of microVMs.
pub const KNOWN_ANNOTATIONS: [&str; 1] = ["org.magikrun.backend"];

/// The one number that is no user or group id: (uid_t) -1, credentials(7).
const NO_ID: u32 = u32::MAX;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidBundle, message)
}

/// Checks a configuration. `security` is called only if the answer matters.
pub fn validate(spec: &Spec, security: impl FnOnce() -> KernelSecurity) -> Result<()> {
    platform(spec)?;
    annotations(spec)?;
    if spec.root().is_none() {
        return Err(invalid("root must be specified"));
    }
    // The specification wants one at the start only.
    spec.process().as_ref().map_or(Ok(()), process)?;
    // Without it there is no container; whether that will do is for the backend to say.
    let Some(linux) = spec.linux() else { return Ok(()) };
    let namespaces = namespaces(linux)?;
    let has = |kind| namespaces.contains(&kind);
    host_name(spec, has(LinuxNamespaceType::Uts))?;
    if has(LinuxNamespaceType::User) {
        user_namespace(linux)?;
    }
    if !has(LinuxNamespaceType::Mount) {
        let masked = linux.masked_paths().iter().chain(linux.readonly_paths()).any(|paths| !paths.is_empty());
        if masked {
            return Err(invalid("unable to restrict sys entries without a private MNT namespace"));
        }
    }
    if !has(LinuxNamespaceType::Time) && linux.time_offsets().as_ref().is_some_and(|o| !o.is_empty()) {
        return Err(invalid(
            "time namespace offsets specified, but time namespace isn't enabled in the config",
        ));
    }
    if !has(LinuxNamespaceType::Network) && linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(invalid("unable to move network devices without a private NET namespace"));
    }
    sysctls(linux, &has)?;
    devices(linux)?;
    labels(spec, security)
}

fn platform(spec: &Spec) -> Result<()> {
    let version = spec.version();
    if version.is_empty() {
        return Err(invalid("ociVersion must be specified"));
    }
    if version.split('.').next() != Some("1") {
        return Err(invalid(format!(
            "ociVersion '{version}' is not supported: this runtime implements 1.0 to 1.3"
        )));
    }
    if spec.linux().is_none() {
        for (name, there) in [
            ("windows", spec.windows().is_some()),
            ("solaris", spec.solaris().is_some()),
            ("vm", spec.vm().is_some()),
        ] {
            if there {
                return Err(Error::new(
                    ErrorKind::NotSupported,
                    format!("the configuration is for another platform: it has '{name}' but not 'linux'"),
                ));
            }
        }
    }
    Ok(())
}

fn annotations(spec: &Spec) -> Result<()> {
    for name in spec.annotations().iter().flat_map(|a| a.keys()) {
        let all =
            KNOWN_ANNOTATIONS.iter().chain(&wasm::settings::ANNOTATIONS).chain(&krun::settings::ANNOTATIONS);
        if name.starts_with(OUR_ANNOTATIONS) && !all.into_iter().any(|known| known == name) {
            return Err(invalid(format!("annotations: unknown annotation '{name}'")));
        }
    }
    Ok(())
}

/// Every annotation that changes how a container is run, and so must not come from an untrusted image.
pub fn unsafe_annotations() -> Vec<&'static str> {
    let mut names =
        [&KNOWN_ANNOTATIONS[..], &wasm::settings::ANNOTATIONS, &krun::settings::ANNOTATIONS].concat();
    names.extend(["run.oci.handler", "module.wasm.image/variant"]);
    names
}

/// Refuses annotations that change how a container is run and that the operator does not allow.
pub fn allowed(spec: &Spec, rules: &Annotations) -> Result<()> {
    let all = unsafe_annotations();
    let acts = |name: &str| all.contains(&name) || name.starts_with("org.systemd.property.");
    for name in spec.annotations().iter().flat_map(|a| a.keys()).filter(|name| acts(name)) {
        if !rules.allows(name) {
            return Err(invalid(format!(
                "annotations: '{name}' is not among those that annotations.allowed of the configuration allows"
            )));
        }
    }
    Ok(())
}

/// The error for a container that is to be started and has no process, in the words of runc.
pub fn no_process() -> Error {
    invalid("process property must not be empty")
}

/// Checks the process of a container, or one to be executed in it.
pub fn process(process: &Process) -> Result<()> {
    if process.cwd().as_os_str().is_empty() {
        return Err(invalid("Cwd property must not be empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(invalid("Cwd must be an absolute path"));
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(invalid("args must not be empty"));
    }
    user(process.user())
}

/// The kernel takes an id of -1 as "leave it as it is" (setresuid(2)): the process would silently stay root.
fn user(user: &User) -> Result<()> {
    let groups = user.additional_gids().iter().flatten().map(|gid| ("additionalGids", *gid));
    for (what, id) in [("uid", user.uid()), ("gid", user.gid())].into_iter().chain(groups) {
        if id == NO_ID {
            return Err(invalid(format!(
                "process.user.{what}: {id} is no id: the highest one is {}",
                id - 1
            )));
        }
    }
    Ok(())
}

fn namespaces(linux: &Linux) -> Result<HashSet<LinuxNamespaceType>> {
    let mut seen = HashSet::new();
    for namespace in linux.namespaces().iter().flatten() {
        if !seen.insert(namespace.typ()) {
            return Err(invalid(format!("malformed spec file: duplicated ns {}", namespace.typ())));
        }
        if let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty())
            && !path.is_absolute()
        {
            return Err(invalid(format!("namespace path '{}' is not an absolute path", path.display())));
        }
    }
    Ok(seen)
}

fn devices(linux: &Linux) -> Result<()> {
    for device in linux.devices().iter().flatten() {
        if [device.uid(), device.gid()].contains(&Some(NO_ID)) {
            let path = device.path().display();
            return Err(invalid(format!("linux.devices: the owner of '{path}' is no id: {NO_ID}")));
        }
    }
    Ok(())
}

fn host_name(spec: &Spec, uts: bool) -> Result<()> {
    for (what, value) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if !uts && value.as_ref().is_some_and(|name| !name.is_empty()) {
            return Err(invalid(format!("unable to set {what} without a private UTS namespace")));
        }
    }
    Ok(())
}

fn user_namespace(linux: &Linux) -> Result<()> {
    let joined = linux.namespaces().iter().flatten().any(|namespace| {
        namespace.typ() == LinuxNamespaceType::User
            && namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty())
    });
    for (what, mappings) in [("uid", linux.uid_mappings()), ("gid", linux.gid_mappings())] {
        if !joined && mappings.as_ref().is_none_or(Vec::is_empty) {
            return Err(invalid(format!("user namespaces enabled, but no {what} mappings found")));
        }
    }
    Ok(())
}

/// Kernel parameters must belong to a namespace of the container, or they would change the host.
fn sysctls(linux: &Linux, has: &impl Fn(LinuxNamespaceType) -> bool) -> Result<()> {
    const IPC: [&str; 10] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
        "fs/mqueue",
        "kernel/auto_msgmni",
    ];
    let joined = |kind| {
        let mut all = linux.namespaces().iter().flatten();
        all.any(|n| n.typ() == kind && n.path().as_ref().is_some_and(|p| !p.as_os_str().is_empty()))
    };
    for name in linux.sysctl().iter().flat_map(|sysctl| sysctl.keys()) {
        // The very path that is written later: what one reading of the name allows must not be another's.
        let path = sysctl::path_of(name);
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid(format!("sysctl {name:?} is not the name of a kernel parameter")));
        }
        let (kind, what) = if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
            (LinuxNamespaceType::Ipc, "IPC")
        } else if path.starts_with("net/") {
            (LinuxNamespaceType::Network, "network")
        } else if path == "kernel/domainname" || path == "kernel/hostname" {
            (LinuxNamespaceType::Uts, "UTS")
        } else if path.starts_with("user/") {
            (LinuxNamespaceType::User, "user")
        } else {
            return Err(invalid(format!("sysctl {name:?} is not in a separate kernel namespace")));
        };
        if !has(kind) {
            return Err(invalid(format!("sysctl {name:?} is not allowed in the hosts {what} namespace")));
        }
        if path == "kernel/hostname" && !joined(kind) {
            return Err(invalid(format!(
                "sysctl {name:?} conflicts with the OCI config hostname: use hostname"
            )));
        }
    }
    Ok(())
}

fn labels(spec: &Spec, security: impl FnOnce() -> KernelSecurity) -> Result<()> {
    let set = |label: Option<&String>| label.is_some_and(|label| !label.is_empty());
    let process = spec.process().as_ref();
    let selinux = set(process.and_then(|p| p.selinux_label().as_ref()));
    let apparmor = set(process.and_then(|p| p.apparmor_profile().as_ref()));
    if !selinux && !apparmor {
        return Ok(());
    }
    let kernel = security();
    let not_supported = |message: &str| Err(Error::new(ErrorKind::NotSupported, message));
    if selinux && !kernel.selinux {
        return not_supported(
            "selinux label is specified in config, but selinux is disabled or not supported",
        );
    }
    // Without AppArmor in the kernel there is only a warning, where the profile would be applied.
    if apparmor && kernel.apparmor == AppArmor::Unknown {
        return not_supported("apparmor: config provided but apparmor not supported");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"user": {}, "cwd": "/", "args": ["sh"]},
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}]},
        });
        change(&mut config);
        let spec = serde_json::from_value(config).unwrap();
        validate(&spec, || KernelSecurity { selinux: false, apparmor: AppArmor::Unknown })
    }

    #[test]
    fn an_ordinary_configuration_passes() {
        check(|_| ()).unwrap();
        check(|c| c["process"] = Value::Null).unwrap();
        check(|c| c["linux"]["sysctl"] = json!({"kernel.shmmax": "1", "fs.mqueue.msg_max": "5"})).unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 21] = [
            (|c| c["ociVersion"] = json!("2.0.0"), "ociVersion '2.0.0'"),
            (|c| c["root"] = Value::Null, "root must be specified"),
            (|c| c["process"]["cwd"] = json!("a"), "Cwd must be an absolute path"),
            (|c| c["process"]["args"] = json!([]), "args must not be empty"),
            (|c| c["process"]["user"]["uid"] = json!(u32::MAX), "process.user.uid: 4294967295 is no id"),
            (|c| c["process"]["user"]["gid"] = json!(u32::MAX), "process.user.gid: 4294967295 is no id"),
            (
                |c| c["process"]["user"]["additionalGids"] = json!([5, u32::MAX]),
                "process.user.additionalGids: 4294967295 is no id",
            ),
            (
                |c| {
                    c["linux"]["devices"] =
                        json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "uid": u32::MAX}]);
                },
                "the owner of '/dev/x' is no id",
            ),
            (|c| c["annotations"] = json!({"org.magikrun.nonsense": "1"}), "org.magikrun.nonsense"),
            (|c| c["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "pid"}]), "duplicated ns pid"),
            (
                |c| {
                    c["hostname"] = json!("x");
                    c["linux"]["namespaces"] = json!([{"type": "pid"}]);
                },
                "unable to set hostname without a private UTS namespace",
            ),
            (
                |c| {
                    c["linux"]["namespaces"] = json!([{"type": "pid"}]);
                    c["linux"]["maskedPaths"] = json!(["/proc/kcore"]);
                },
                "without a private MNT namespace",
            ),
            (|c| c["linux"]["namespaces"] = json!([{"type": "user"}]), "no uid mappings"),
            (|c| c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"}), "hosts network namespace"),
            (|c| c["linux"]["sysctl"] = json!({"vm.swappiness": "1"}), "not in a separate kernel namespace"),
            (|c| c["linux"]["sysctl"] = json!({"net/../kernel/core_pattern": "x"}), "not the name"),
            (|c| c["linux"]["sysctl"] = json!({"net//ipv4": "x"}), "not the name"),
            (|c| c["linux"]["sysctl"] = json!({"kernel.hostname": "x"}), "use hostname"),
            (
                |c| c["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 1}}),
                "time namespace isn't enabled",
            ),
            (|c| c["process"]["selinuxLabel"] = json!("a:b:c"), "selinux is disabled"),
            (|c| c["process"]["apparmorProfile"] = json!("p"), "apparmor not supported"),
        ];
        for (change, words) in cases {
            let e = check(change).unwrap_err();
            assert!(e.message().contains(words), "{e}: {words}");
        }
    }

    #[test]
    fn a_configuration_for_another_platform_is_refused() {
        let e = check(|c| {
            c["linux"] = Value::Null;
            c["windows"] = json!({"layerFolders": []});
        });
        assert_eq!(e.unwrap_err().kind(), ErrorKind::NotSupported);
    }
}
