//! The process object of an `exec`: read from a file, or the container's own with changes.

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::kernel_security::AppArmor;
use crate::runtime::options::{ExecArgs, ExecProcess};
use crate::runtime::spec::{parse_process, read_limited};
use crate::runtime::validate;
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};

/// The process object to execute. Nothing is taken from the container's own when a file gives one.
pub fn resolve(wanted: &ExecProcess, spec: &Spec) -> Result<Process> {
    let process = match wanted {
        ExecProcess::File(path) => parse_process(&read_limited(path)?, &path.display().to_string())?,
        ExecProcess::Args(args) => {
            let own = spec.process().clone();
            let own =
                own.ok_or_else(|| invalid("the container's configuration has no process".to_owned()))?;
            changed(own, args)?
        }
    };
    validate::process(&process)?;
    Ok(process)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}

fn changed(mut process: Process, args: &ExecArgs) -> Result<Process> {
    if args.args.is_empty() {
        return Err(invalid("process args cannot be empty".to_owned()));
    }
    process.set_args(Some(args.args.clone()));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.into());
    }
    if let Some(profile) = args.apparmor.as_ref().filter(|profile| !profile.is_empty()) {
        if AppArmor::probe() != AppArmor::Enabled {
            crate::bail!(
                NotSupported,
                "cannot confine the process by '{profile}': apparmor is not supported by this kernel"
            );
        }
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if !args.cap.is_empty() {
        process.set_capabilities(Some(with_capabilities(process.capabilities().as_ref(), &args.cap)?));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    process.set_terminal(Some(args.tty));
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(user) = &args.user {
        set_user(&mut process, user)?;
    }
    if !args.additional_gids.is_empty() {
        let user = process.user_mut();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&args.additional_gids);
        user.set_additional_gids(Some(groups));
    }
    Ok(process)
}

/// `UID[:GID]`; as with runc the group stays that of the container unless it is given.
fn set_user(process: &mut Process, user: &str) -> Result<()> {
    let number = |what: &str, text: &str| {
        text.parse::<u32>()
            .map_err(|_| invalid(format!("parsing {text} as int for {what} failed: invalid syntax")))
    };
    let (uid, gid) = match user.split_once(':') {
        Some((uid, gid)) => (uid, Some(number("gid", gid)?)),
        None => (user, None),
    };
    let uid = number("uid", uid)?;
    let user = process.user_mut();
    user.set_uid(uid);
    if let Some(gid) = gid {
        user.set_gid(gid);
    }
    Ok(())
}

/// Adds capabilities to the bounding, effective and permitted sets, and to the ambient set what is inheritable, as runc
/// does: the inheritable set stays (CVE-2022-29162).
fn with_capabilities(own: Option<&LinuxCapabilities>, names: &[String]) -> Result<LinuxCapabilities> {
    let mut capabilities = own.cloned().unwrap_or_else(|| {
        let mut none = LinuxCapabilities::default();
        for set in [
            LinuxCapabilities::set_bounding,
            LinuxCapabilities::set_effective,
            LinuxCapabilities::set_inheritable,
            LinuxCapabilities::set_permitted,
            LinuxCapabilities::set_ambient,
        ] {
            set(&mut none, None);
        }
        none
    });
    let added = names
        .iter()
        .map(|name| {
            serde_json::from_value::<Capability>(name.to_uppercase().into())
                .map_err(|_| invalid(format!("unknown capability '{name}'")))
        })
        .collect::<Result<Vec<_>>>()?;
    let with = |set: &Option<std::collections::HashSet<Capability>>| {
        Some(set.iter().flatten().chain(&added).copied().collect())
    };
    capabilities.set_bounding(with(capabilities.bounding()));
    capabilities.set_effective(with(capabilities.effective()));
    capabilities.set_permitted(with(capabilities.permitted()));
    if capabilities.inheritable().is_some() {
        // Takes effect for those that are inheritable already.
        capabilities.set_ambient(with(capabilities.ambient()));
    }
    Ok(capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container() -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.0.0",
            "process": {"user": {"uid": 5, "gid": 6}, "cwd": "/", "args": ["init"], "env": ["A=1"], "terminal": true},
        }))
        .unwrap()
    }

    fn with(args: ExecArgs) -> Result<Process> {
        let args = ExecArgs { args: vec!["ls".to_owned()], ..args };
        resolve(&ExecProcess::Args(args), &container())
    }

    #[test]
    fn the_container_s_own_process_is_changed_by_what_is_given() {
        let process = with(ExecArgs {
            env: vec!["B=2".to_owned()],
            user: Some("7".to_owned()),
            additional_gids: vec![9],
            cap: vec!["CAP_KILL".to_owned()],
            no_new_privs: true,
            ..ExecArgs::default()
        })
        .unwrap();
        assert_eq!(process.env().as_ref().unwrap(), &["A=1", "B=2"]);
        assert_eq!((process.user().uid(), process.user().gid()), (7, 6));
        assert_eq!(process.user().additional_gids(), &Some(vec![9]));
        assert_eq!(process.terminal(), Some(false));
        assert_eq!(process.no_new_privileges(), Some(true));
        let capabilities = process.capabilities().as_ref().unwrap();
        assert!(capabilities.permitted().as_ref().unwrap().contains(&Capability::Kill));
        assert_eq!(capabilities.inheritable(), &None);
    }

    #[test]
    fn a_user_or_capability_that_makes_no_sense_is_named() {
        let wrong = with(ExecArgs { user: Some("bob".to_owned()), ..ExecArgs::default() });
        assert!(wrong.unwrap_err().message().contains("bob"));
        let wrong = with(ExecArgs { cap: vec!["CAP_X".to_owned()], ..ExecArgs::default() });
        assert!(wrong.unwrap_err().message().contains("CAP_X"));
    }
}
