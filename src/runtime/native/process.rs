//! The identity and limits of a process in a container: what the configuration's `process` object says, made ready by
//! the parent and applied by the child.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::sched::{SchedAttr, ioprio_set, sched_setattr};
use crate::platform::sys::security;
use crate::runtime::kernel_security::AppArmor;
use crate::runtime::native::attributes;
use crate::runtime::native::program::Program;
use crate::runtime::procfs;
use oci_spec::runtime::{
    Capabilities, LinuxCapabilities, LinuxMemoryPolicy, LinuxPersonality, PosixRlimit, Process,
};
use rustix::process::{Gid, Pid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Capability sets as bit masks; bit n is capability number n of capabilities(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilityPlan {
    /// Bounding set.
    pub bounding: u64,
    /// Effective set.
    pub effective: u64,
    /// Permitted set.
    pub permitted: u64,
    /// Inheritable set.
    pub inheritable: u64,
    /// Ambient set.
    pub ambient: u64,
}

/// What the child applies to itself before it executes the program.
#[derive(Debug)]
pub struct ProcessPlan {
    /// User id in the container.
    pub uid: u32,
    /// Group id in the container.
    pub gid: u32,
    /// Additional group ids.
    pub groups: Vec<u32>,
    /// File mode creation mask, if the configuration sets one.
    pub umask: Option<u32>,
    /// Capabilities.
    pub capabilities: CapabilityPlan,
    /// Set the no_new_privs attribute.
    pub no_new_privs: bool,
    /// AppArmor profile, empty for none.
    pub apparmor: String,
    /// SELinux label, empty for none.
    pub selinux: String,
    /// Scheduling policy.
    pub scheduler: Option<SchedAttr>,
    /// Class and level for ioprio_set(2).
    pub io_priority: Option<(u8, u16)>,
    /// Execution domain for personality(2).
    pub personality: Option<u64>,
    /// NUMA policy.
    pub memory_policy: Option<LinuxMemoryPolicy>,
    /// Name of the session keyring to join.
    pub keyring: Option<Keyring>,
    /// Limits, set before anything else.
    pub limits: Limits,
    /// The process stays what its caller is, in the caller's directory.
    pub inherit: bool,
}

/// What is set for a process in a container while it has our user id: without CAP_SYS_RESOURCE the limits of another user's process
/// cannot be set.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Resource limits.
    pub rlimits: Vec<(Resource, Rlimit)>,
    /// Out-of-memory score adjustment.
    pub oom_score_adj: Option<i32>,
}

/// The session keyring of a container.
#[derive(Debug, Clone)]
pub struct Keyring {
    /// `_ses.ID`, as runc names it.
    pub name: String,
    /// Made for this container, and so opened to its user.
    pub new: bool,
}

impl ProcessPlan {
    /// Reads the process object, and what of the `linux` object belongs to a process.
    pub fn new(
        process: &Process,
        personality: Option<&LinuxPersonality>,
        memory_policy: Option<&LinuxMemoryPolicy>,
        keyring: Option<Keyring>,
    ) -> Result<Self> {
        let user = process.user();
        Ok(Self {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask(),
            capabilities: process.capabilities().as_ref().map(CapabilityPlan::new).unwrap_or_default(),
            no_new_privs: process.no_new_privileges().unwrap_or(false),
            apparmor: apparmor(process),
            selinux: process.selinux_label().clone().unwrap_or_default(),
            scheduler: process.scheduler().as_ref().map(attributes::scheduler).transpose()?,
            io_priority: process.io_priority().as_ref().map(attributes::io_priority).transpose()?,
            personality: personality.map(attributes::personality).transpose()?,
            memory_policy: memory_policy.cloned(),
            keyring,
            limits: Limits {
                rlimits: process.rlimits().iter().flatten().map(rlimit).collect(),
                oom_score_adj: process.oom_score_adj(),
            },
            inherit: false,
        })
    }

    /// The plan of a process that stays what its caller is: it is in no container. Only limits are taken from the process
    /// object.
    pub fn inherited(process: &Process) -> Result<Self> {
        let own = rustix::process::geteuid();
        let uid = process.user().uid();
        // Configurations are written for root by default; without privileges there is no other user to become.
        if uid != own.as_raw() && (uid != 0 || own.is_root()) {
            crate::bail!(
                InvalidBundle,
                "process.user.uid is {uid}, but without 'linux' in the configuration the process is that of its caller"
            );
        }
        Ok(Self { inherit: true, ..Self::new(process, None, None, None)? })
    }

    /// Joins the session keyring, so that the container neither sees nor fills the caller's.
    pub fn join_keyring(&self) -> Result<()> {
        /// `KEY_USR_SEARCH`: the user may find the keyring.
        const KEY_USR_SEARCH: u32 = 0x0008_0000;
        let Some(keyring) = &self.keyring else { return Ok(()) };
        let serial = match security::join_session_keyring(&keyring.name) {
            // Kernels without keyrings, and filters around us, answer so; runc and crun go on without.
            Err(e) if matches!(e.errno(), Some(libc::ENOSYS | libc::EPERM)) => return Ok(()),
            result => result.context(|| "unable to join session keyring")?,
        };
        if keyring.new {
            let permissions = security::keyring_permissions(serial).context(|| "cannot read the keyring")?;
            security::set_keyring_permissions(serial, permissions | KEY_USR_SEARCH)
                .context(|| "unable to mod keyring permissions")?;
        }
        Ok(())
    }

    /// Everything that needs privileges and no particular user: labels, scheduling, no_new_privs.
    pub fn apply_attributes(&self) -> Result<()> {
        if !self.apparmor.is_empty() {
            libcontainer::apparmor::apply_profile(&self.apparmor).map_err(|e| {
                let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
                let what = "unable to apply apparmor profile: apparmor failed to apply profile";
                Error::new(ErrorKind::CreateFailed, format!("{what} '{}': {cause}", self.apparmor))
            })?;
        }
        if !self.selinux.is_empty() {
            procfs::write_attribute("exec", &self.selinux)
                .context(|| format!("unable to set selinux label '{}'", self.selinux))?;
        }
        if self.no_new_privs {
            rustix::thread::set_no_new_privs(true).context(|| "cannot set no_new_privs")?;
        }
        if let Some(scheduler) = &self.scheduler {
            sched_setattr(scheduler).context(|| "error setting scheduler")?;
        }
        if let Some((class, level)) = self.io_priority {
            ioprio_set(class, level).context(|| "failed to set io priority")?;
        }
        if self.memory_policy.is_some() {
            attributes::apply_memory_policy(self.memory_policy.as_ref())?;
        }
        if let Some(domain) = self.personality {
            attributes::apply_personality(domain)?;
        }
        Ok(())
    }

    /// Drops the bounding set and becomes the user; the capabilities stay until [`Self::apply_capabilities`].
    fn become_user(&self) -> Result<()> {
        self.capabilities.drop_bounding()?;
        rustix::thread::set_keep_capabilities(true).context(|| "cannot keep capabilities")?;
        if let Some(umask) = self.umask {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
        }
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        match rustix::thread::set_thread_groups(&groups) {
            // Where setgroups(2) is denied the list cannot be changed, and an empty one asks for nothing.
            Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
            result => result.context(|| "cannot set additional groups")?,
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid)
            .context(|| format!("cannot set group id {}", self.gid))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
            .context(|| format!("cannot set user id {}", self.uid))
    }

    /// After the switch of the user: has the effective capabilities that the program will have, so that files are found or
    /// denied as they will be to it. The permitted ones stay for what is left to do.
    fn narrow_capabilities(&self) -> Result<()> {
        rustix::thread::set_keep_capabilities(false).context(|| "cannot set capabilities")?;
        set_effective(self.capabilities.effective)
    }

    /// Makes all capabilities that are left effective again, to load a filter.
    pub fn widen_capabilities(&self) -> Result<()> {
        set_effective(u64::MAX)
    }

    /// Enters the program's directory and becomes the user, with the capabilities that the program will have.
    ///
    /// The directory is tried before and, where only the user may enter it (mode 0700, a network file system), after.
    pub fn become_user_in(&self, program: &Program) -> Result<()> {
        if self.inherit {
            return Ok(());
        }
        let denied = program.enter_directory().err();
        self.become_user()?;
        self.narrow_capabilities()?;
        match denied {
            None => Ok(()),
            Some(e) if matches!(e.errno(), Some(libc::EACCES | libc::EPERM)) => program.enter_directory(),
            Some(e) => Err(e),
        }
    }

    /// Sets the final capabilities.
    pub fn apply_capabilities(&self) -> Result<()> {
        if self.inherit {
            return Ok(());
        }
        self.capabilities.apply()
    }
}

/// The AppArmor profile to apply. A kernel without AppArmor knows none, and what it would have denied is allowed: whoever reads
/// the log is told.
fn apparmor(process: &Process) -> String {
    let profile = process.apparmor_profile().clone().unwrap_or_default();
    if profile.is_empty() || AppArmor::probe() != AppArmor::Absent {
        return profile;
    }
    tracing::warn!("the process is not confined by '{profile}': this kernel has no AppArmor");
    String::new()
}

/// Makes those of `mask` effective that are permitted.
fn set_effective(mask: u64) -> Result<()> {
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.effective = CapabilitySet::from_bits_retain(sets.permitted.bits() & mask);
    rustix::thread::set_capabilities(None, sets).context(|| "unable to apply caps")
}

impl CapabilityPlan {
    /// The sets of a configuration.
    pub fn new(capabilities: &LinuxCapabilities) -> Self {
        let mask = |set: &Option<Capabilities>| {
            set.iter().flatten().map(|c| 1u64 << attributes::capability_number(*c)).fold(0, |a, b| a | b)
        };
        Self {
            bounding: mask(capabilities.bounding()),
            effective: mask(capabilities.effective()),
            permitted: mask(capabilities.permitted()),
            inheritable: mask(capabilities.inheritable()),
            ambient: mask(capabilities.ambient()),
        }
    }

    fn drop_bounding(&self) -> Result<()> {
        for bit in 0..64 {
            if self.bounding & (1 << bit) != 0 {
                continue;
            }
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // Past the last capability that this kernel knows.
                Err(rustix::io::Errno::INVAL) => break,
                Err(e) => return Err(e).context(|| "unable to apply bounding set"),
            }
        }
        Ok(())
    }

    /// What we do not have ourselves cannot be given: the container then has less than the configuration asks for.
    fn apply(&self) -> Result<()> {
        let own = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
        let permitted = self.permitted & own.permitted.bits();
        let effective = self.effective & permitted;
        let inheritable = self.inheritable & (own.inheritable.bits() | own.permitted.bits());
        rustix::thread::clear_ambient_capability_set().context(|| "cannot clear ambient capabilities")?;
        let sets = CapabilitySets {
            effective: CapabilitySet::from_bits_retain(effective),
            permitted: CapabilitySet::from_bits_retain(permitted),
            inheritable: CapabilitySet::from_bits_retain(inheritable),
        };
        rustix::thread::set_capabilities(None, sets).context(|| "unable to apply caps")?;
        let ambient = self.ambient & permitted & inheritable;
        for bit in (0..64).filter(|bit| ambient & (1 << bit) != 0) {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            rustix::thread::configure_capability_in_ambient_set(capability, true)
                .context(|| "unable to apply ambient capabilities")?;
        }
        Ok(())
    }
}

impl Limits {
    /// Sets them for the process `pid`, a child that has not executed anything yet; for this one without `pid`.
    pub fn apply_to(&self, pid: Option<i32>, rootless: bool) -> Result<()> {
        let target = pid.and_then(Pid::from_raw);
        for (resource, limit) in &self.rlimits {
            set_rlimit(target, *resource, limit)?;
        }
        if let Some(score) = self.oom_score_adj {
            let path = pid.map_or_else(
                || "/proc/self/oom_score_adj".into(),
                |pid| format!("/proc/{pid}/oom_score_adj"),
            );
            match std::fs::write(&path, score.to_string()) {
                // Lowering it takes privileges that a rootless runtime does not have; runc goes on too.
                Err(e) if rootless && e.kind() == std::io::ErrorKind::PermissionDenied => {}
                result => result.context(|| format!("cannot write oom_score_adj {score}"))?,
            }
        }
        Ok(())
    }
}

fn rlimit(limit: &PosixRlimit) -> (Resource, Rlimit) {
    let bound = |value: u64| (value != u64::MAX).then_some(value);
    (attributes::resource(limit.typ()), Rlimit { current: bound(limit.soft()), maximum: bound(limit.hard()) })
}

fn set_rlimit(target: Option<Pid>, resource: Resource, limit: &Rlimit) -> Result<()> {
    let mut result = rustix::process::prlimit(target, resource, *limit);
    if result == Err(rustix::io::Errno::PERM) {
        // Without CAP_SYS_RESOURCE a limit cannot be raised. The container then gets as much as there is: less than asked for,
        // never more. A caller that asks for the usual large defaults still gets its container.
        let lowest = |asked: Option<u64>, most: Option<u64>| match (asked, most) {
            (Some(asked), Some(most)) => Some(asked.min(most)),
            (asked, most) => asked.or(most),
        };
        let most = rustix::process::getrlimit(resource).maximum;
        let reduced = Rlimit { current: lowest(limit.current, most), maximum: lowest(limit.maximum, most) };
        tracing::warn!("cannot raise {resource:?}: not privileged; set to {reduced:?} instead");
        result = rustix::process::prlimit(target, resource, reduced);
    }
    result.map(|_| ()).context(|| format!("error setting rlimit {resource:?}"))
}
