//! Containers of a pod that share a pid namespace: on the host the processes that stand for them do, and so do those in the microVM.

use super::guest;
use super::member::Membership;
use crate::error::{Context as _, Result};
use crate::runtime::container::Container;
use crate::runtime::options::Host;
use crate::runtime::process_id::ProcessId;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The pid namespace that a configuration joins.
fn path(spec: &Spec) -> Option<&Path> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    let pid = namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Pid)?;
    pid.path().as_deref()
}

/// The name in the guest of the container whose pid namespace a configuration joins on the host, of those in the machine of this
/// sandbox; none if it joins none.
pub fn joined(host: &Host, spec: &Spec, sandbox: &Container) -> Result<Option<String>> {
    let Some(path) = path(spec) else { return Ok(None) };
    let cannot = || format!("cannot open the namespace '{}'", path.display());
    let wanted = std::fs::metadata(path).context(cannot)?;
    let is_it = |init: Option<ProcessId>| {
        init.is_some_and(|init| {
            let own = std::fs::metadata(format!("/proc/{}/ns/pid", init.pid));
            own.is_ok_and(|own| (own.dev(), own.ino()) == (wanted.dev(), wanted.ino())) && init.is_alive()
        })
    };
    if is_it(sandbox.record.init) {
        return Ok(Some(guest::NAME.to_owned()));
    }
    let is_beside = |membership: &Membership| membership.sandbox == sandbox.record.id;
    for id in host.root.ids()? {
        // One that is just being deleted is none.
        let Ok(Container { record, .. }) = Container::open(host, &id) else { continue };
        if record.membership.as_ref().is_some_and(is_beside) && is_it(record.init) {
            return Ok(Some(id));
        }
    }
    crate::bail!(
        NotSupported,
        "linux.namespaces: the pid namespace '{}' is that of no container in the microVM of pod '{}'",
        path.display(),
        sandbox.record.id
    )
}
