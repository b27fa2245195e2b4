//! What a process is: user, groups, capabilities, limits. Applied by the process itself before it executes its program.

use crate::failure::{Context as _, Result, system};
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use vm_protocol::spec::{Capabilities, Process};

/// Limits and scores: as long as this process may still raise them.
pub fn apply_limits(process: &Process) -> Result<()> {
    for limit in &process.rlimits {
        let cannot = || format!("error setting rlimit {}", limit.kind.escape_debug());
        let resource = resource(&limit.kind).ok_or_else(|| system(format!("{}: unknown", cannot())))?;
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let value = Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) };
        rustix::process::setrlimit(resource, value).context(cannot)?;
    }
    if let Some(score) = process.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .context(|| format!("cannot write oom_score_adj {score}"))?;
    }
    Ok(())
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name.strip_prefix("RLIMIT_")? {
        "AS" => Resource::As,
        "CORE" => Resource::Core,
        "CPU" => Resource::Cpu,
        "DATA" => Resource::Data,
        "FSIZE" => Resource::Fsize,
        "LOCKS" => Resource::Locks,
        "MEMLOCK" => Resource::Memlock,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "NOFILE" => Resource::Nofile,
        "NPROC" => Resource::Nproc,
        "RSS" => Resource::Rss,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        "SIGPENDING" => Resource::Sigpending,
        "STACK" => Resource::Stack,
        _ => return None,
    })
}

/// Becomes the user of the process, in its directory, with the capabilities that its program will have.
pub fn become_user(process: &Process) -> Result<()> {
    // Some directories only the user may enter, and some only root.
    let denied = enter_directory(process).err();
    drop_bounding(process.capabilities.bounding)?;
    rustix::thread::set_keep_capabilities(true).context(|| "cannot keep capabilities")?;
    if let Some(umask) = process.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
    }
    let groups: Vec<Gid> = process.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).context(|| "cannot set additional groups")?;
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .context(|| format!("cannot set group id {}", process.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .context(|| format!("cannot set user id {}", process.uid))?;
    rustix::thread::set_keep_capabilities(false).context(|| "cannot set capabilities")?;
    apply_capabilities(&process.capabilities)?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).context(|| "cannot set no_new_privs")?;
    }
    if denied.is_some() { enter_directory(process) } else { Ok(()) }
}

fn enter_directory(process: &Process) -> Result<()> {
    rustix::process::chdir(process.cwd.as_str())
        .context(|| format!("chdir to cwd (\"{}\") set in config.json failed", process.cwd.escape_debug()))
}

fn drop_bounding(keep: u64) -> Result<()> {
    for bit in (0..64).filter(|bit| keep & (1 << bit) == 0) {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(e) => return Err(e).context(|| "unable to apply bounding set"),
        }
    }
    Ok(())
}

/// What the guest's kernel does not have, and what we do not have ourselves, is left out: less than asked for, never more.
fn apply_capabilities(wanted: &Capabilities) -> Result<()> {
    let own = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    let permitted = wanted.permitted & own.permitted.bits();
    let inheritable = wanted.inheritable & (own.inheritable.bits() | own.permitted.bits());
    rustix::thread::clear_ambient_capability_set().context(|| "cannot clear ambient capabilities")?;
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(wanted.effective & permitted),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    rustix::thread::set_capabilities(None, sets).context(|| "unable to apply caps")?;
    let ambient = wanted.ambient & permitted & inheritable;
    for bit in (0..64).filter(|bit| ambient & (1 << bit) != 0) {
        rustix::thread::configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << bit), true)
            .context(|| "unable to apply ambient capabilities")?;
    }
    Ok(())
}
