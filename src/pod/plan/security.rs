//! Who a container is and what it may do.

use super::users::Users;
use super::{Context, ImageFacts};
use crate::error::{Error, ErrorKind, Result};
use crate::pod::manifest::PodSpec;
use crate::pod::manifest::types::Container;
use crate::runtime::capabilities::CAPABILITIES;
use serde_json::Value;

/// What containers may do unless told otherwise: the defaults of containerd and CRI-O's predecessors.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The user that a container runs as.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Additional group ids.
    pub groups: Vec<u32>,
}

/// The user of a container: what it asks for, else the pod, else the image.
pub fn user(pod: &PodSpec, container: &Container, image: &ImageFacts, users: Users) -> Result<User> {
    let (own, shared) = (&container.security_context, &pod.spec.security_context);
    let given = own.run_as_user.or(shared.run_as_user);
    let uid = given.unwrap_or(image.uid);
    // Another user than the image's has none of its groups.
    let same = given.is_none() || given == Some(image.uid);
    let gid = own.run_as_group.or(shared.run_as_group).unwrap_or(if same { image.gid } else { 0 });
    if own.run_as_non_root.or(shared.run_as_non_root) == Some(true) && uid == 0 {
        crate::bail!(InvalidManifest, "securityContext.runAsNonRoot is true, but the image runs as root");
    }
    let strict = shared.supplemental_groups_policy.as_deref() == Some("Strict");
    // Who has one id alone may not have further groups: user_namespaces(7).
    let alone = users.count() == Some(1);
    let of_image = image.groups.iter().filter(|_| same && !strict && !alone);
    let mut groups: Vec<u32> =
        of_image.chain(&shared.supplemental_groups).chain(&shared.fs_group).copied().collect();
    groups.sort_unstable();
    groups.dedup();
    let ids = users.count().unwrap_or(u32::MAX);
    let most = if alone { None } else { Some(ids) };
    let beyond = groups.iter().find(|group| most.is_none_or(|most| **group >= most));
    if let Some(id) = [uid, gid].iter().find(|id| **id >= ids).or(beyond) {
        crate::bail!(
            NotSupported,
            "securityContext: id {id} is not among the {ids} that the pod can have (/etc/subuid and /etc/subgid lend users more)"
        );
    }
    Ok(User { uid, gid, groups })
}

/// Names of the capabilities of a container, sorted.
pub fn capabilities(container: &Container) -> Vec<String> {
    let security = &container.security_context;
    let all = || CAPABILITIES.iter().map(|name| (*name).to_owned());
    if security.privileged {
        return sorted(all().collect());
    }
    let full = |name: &String| {
        let name = name.to_uppercase();
        if name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    };
    let add: Vec<String> = security.capabilities.add.iter().map(full).collect();
    let drop: Vec<String> = security.capabilities.drop.iter().map(full).collect();
    let mut names: Vec<String> = DEFAULT_CAPABILITIES.iter().map(|name| (*name).to_owned()).collect();
    if add.iter().any(|name| name == "CAP_ALL") {
        names = all().collect();
    }
    if drop.iter().any(|name| name == "CAP_ALL") {
        names.clear();
    }
    names.retain(|name| !drop.contains(name));
    names.extend(add.into_iter().filter(|name| name != "CAP_ALL"));
    sorted(names)
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names.dedup();
    names
}

/// The seccomp profile of a container, if it has one.
pub fn seccomp(pod: &PodSpec, container: &Container, context: &Context) -> Result<Option<Value>> {
    let own = container.security_context.seccomp_profile.as_ref();
    let Some(profile) = own.or(pod.spec.security_context.seccomp_profile.as_ref()) else { return Ok(None) };
    let name = match profile.kind.as_str() {
        "RuntimeDefault" => String::new(),
        "Localhost" => profile.localhost_profile.clone().unwrap_or_default(),
        _ => return Ok(None),
    };
    let missing = || Error::new(ErrorKind::NotSupported, format!("there is no seccomp profile '{name}'"));
    let profile = context.seccomp.get(&name).ok_or_else(missing)?;
    Ok(Some(profile.resolve(&capabilities(container))))
}

/// Names of the seccomp profiles that a pod asks for; `""` is the default one.
pub fn seccomp_profiles(pod: &PodSpec) -> Vec<String> {
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let own = containers.filter_map(|c| c.security_context.seccomp_profile.as_ref());
    let all = own.chain(pod.spec.security_context.seccomp_profile.as_ref());
    let names = all.filter_map(|profile| match profile.kind.as_str() {
        "RuntimeDefault" => Some(String::new()),
        "Localhost" => profile.localhost_profile.clone(),
        _ => None,
    });
    sorted(names.collect())
}

/// Name of the AppArmor profile of a container; empty for none.
pub fn apparmor(pod: &PodSpec, container: &Container) -> String {
    let own = container.security_context.app_armor_profile.as_ref();
    let profile = own.or(pod.spec.security_context.app_armor_profile.as_ref());
    profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default()
}

/// An AppArmor profile that a pod asks for, if it asks for any.
pub fn apparmor_profile(pod: &PodSpec) -> Option<String> {
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    containers.map(|container| apparmor(pod, container)).find(|profile| !profile.is_empty())
}

/// SELinux label of a container: `user:role:type:level`; empty for none.
pub fn selinux(pod: &PodSpec, container: &Container) -> String {
    let own = container.security_context.se_linux_options.as_ref();
    let Some(options) = own.or(pod.spec.security_context.se_linux_options.as_ref()) else {
        return String::new();
    };
    let or = |value: &Option<String>, default: &str| {
        value.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
    };
    format!(
        "{}:{}:{}:{}",
        or(&options.user, "system_u"),
        or(&options.role, "system_r"),
        or(&options.kind, "container_t"),
        or(&options.level, "s0")
    )
}
