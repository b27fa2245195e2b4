//! Translation of the configuration's names into the kernel's numbers.

use crate::error::{Error, ErrorKind, Result};
use crate::platform::sys::sched::SchedAttr;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::{
    Capability, IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality,
    LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimitType, Scheduler,
};
use rustix::process::Resource;

/// The number of a capability: capability.h of Linux.
pub fn capability_number(capability: Capability) -> u32 {
    use Capability as C;
    match capability {
        C::Chown => 0,
        C::DacOverride => 1,
        C::DacReadSearch => 2,
        C::Fowner => 3,
        C::Fsetid => 4,
        C::Kill => 5,
        C::Setgid => 6,
        C::Setuid => 7,
        C::Setpcap => 8,
        C::LinuxImmutable => 9,
        C::NetBindService => 10,
        C::NetBroadcast => 11,
        C::NetAdmin => 12,
        C::NetRaw => 13,
        C::IpcLock => 14,
        C::IpcOwner => 15,
        C::SysModule => 16,
        C::SysRawio => 17,
        C::SysChroot => 18,
        C::SysPtrace => 19,
        C::SysPacct => 20,
        C::SysAdmin => 21,
        C::SysBoot => 22,
        C::SysNice => 23,
        C::SysResource => 24,
        C::SysTime => 25,
        C::SysTtyConfig => 26,
        C::Mknod => 27,
        C::Lease => 28,
        C::AuditWrite => 29,
        C::AuditControl => 30,
        C::Setfcap => 31,
        C::MacOverride => 32,
        C::MacAdmin => 33,
        C::Syslog => 34,
        C::WakeAlarm => 35,
        C::BlockSuspend => 36,
        C::AuditRead => 37,
        C::Perfmon => 38,
        C::Bpf => 39,
        C::CheckpointRestore => 40,
    }
}

/// The resource of getrlimit(2).
pub fn resource(kind: PosixRlimitType) -> Resource {
    use PosixRlimitType as R;
    match kind {
        R::RlimitCpu => Resource::Cpu,
        R::RlimitFsize => Resource::Fsize,
        R::RlimitData => Resource::Data,
        R::RlimitStack => Resource::Stack,
        R::RlimitCore => Resource::Core,
        R::RlimitRss => Resource::Rss,
        R::RlimitNproc => Resource::Nproc,
        R::RlimitNofile => Resource::Nofile,
        R::RlimitMemlock => Resource::Memlock,
        R::RlimitAs => Resource::As,
        R::RlimitLocks => Resource::Locks,
        R::RlimitSigpending => Resource::Sigpending,
        R::RlimitMsgqueue => Resource::Msgqueue,
        R::RlimitNice => Resource::Nice,
        R::RlimitRtprio => Resource::Rtprio,
        R::RlimitRttime => Resource::Rttime,
    }
}

/// Arguments of sched_setattr(2); policies and flags of sched(7).
pub fn scheduler(scheduler: &Scheduler) -> Result<SchedAttr> {
    use LinuxSchedulerFlag as F;
    use LinuxSchedulerPolicy as P;
    let policy = match scheduler.policy() {
        P::SchedOther => 0,
        P::SchedFifo => 1,
        P::SchedRr => 2,
        P::SchedBatch => 3,
        P::SchedIso => 4,
        P::SchedIdle => 5,
        P::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        F::SchedResetOnFork => 0x01,
        F::SchedFlagReclaim => 0x02,
        F::SchedFlagDLOverrun => 0x04,
        F::SchedFlagKeepPolicy => 0x08,
        F::SchedFlagKeepParams => 0x10,
        F::SchedFlagUtilClampMin => 0x20,
        F::SchedFlagUtilClampMax => 0x40,
    };
    let priority = scheduler.priority().unwrap_or(0);
    Ok(SchedAttr {
        policy,
        flags: scheduler.flags().iter().flatten().map(flag).fold(0, |all, one| all | one),
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(priority).map_err(|_| {
            Error::new(
                ErrorKind::InvalidBundle,
                format!("process.scheduler.priority: {priority} is negative"),
            )
        })?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    })
}

/// Class and level for ioprio_set(2).
pub fn io_priority(priority: &LinuxIOPriority) -> Result<(u8, u16)> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(priority.priority()) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => Err(Error::new(
            ErrorKind::InvalidBundle,
            format!("invalid ioPriority.Priority: {} (must be 0 to 7)", priority.priority()),
        )),
    }
}

/// Execution domain for personality(2). The names of the flags are those of the kernel's personality.h.
pub fn personality(personality: &LinuxPersonality) -> Result<u64> {
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 0x0008,
    };
    let mut value = domain;
    for flag in personality.flags().iter().flatten() {
        value |= match flag.as_str() {
            "UNAME26" => 0x0002_0000,
            "ADDR_NO_RANDOMIZE" => 0x0004_0000,
            "FDPIC_FUNCPTRS" => 0x0008_0000,
            "MMAP_PAGE_ZERO" => 0x0010_0000,
            "ADDR_COMPAT_LAYOUT" => 0x0020_0000,
            "READ_IMPLIES_EXEC" => 0x0040_0000,
            "ADDR_LIMIT_32BIT" => 0x0080_0000,
            "SHORT_INODE" => 0x0100_0000,
            "WHOLE_SECONDS" => 0x0200_0000,
            "STICKY_TIMEOUTS" => 0x0400_0000,
            "ADDR_LIMIT_3GB" => 0x0800_0000,
            _ => crate::bail!(InvalidBundle, "linux.personality.flags: unknown flag '{flag}'"),
        };
    }
    Ok(value)
}

/// Sets the execution domain of this process.
pub fn apply_personality(domain: u64) -> Result<()> {
    crate::platform::sys::security::personality(domain).map_err(|e| e.wrap("unable to set personality"))
}

/// Sets the NUMA policy of this process.
pub fn apply_memory_policy(policy: Option<&LinuxMemoryPolicy>) -> Result<()> {
    let syscall = SyscallType::Linux.create_syscall();
    libcontainer::process::memory_policy::setup_memory_policy(&policy.cloned(), syscall.as_ref())
        .map_err(|e| Error::new(ErrorKind::CreateFailed, format!("cannot set the memory policy: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_capability_has_the_number_of_the_kernel() {
        assert_eq!(capability_number(Capability::Chown), 0);
        assert_eq!(capability_number(Capability::SysAdmin), 21);
        assert_eq!(capability_number(Capability::CheckpointRestore), 40);
    }

    #[test]
    fn scheduler_and_io_priority_are_checked() {
        let fifo = serde_json::from_value(
            json!({"policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_RESET_ON_FORK"]}),
        );
        let attr = scheduler(&fifo.unwrap()).unwrap();
        assert_eq!((attr.policy, attr.priority, attr.flags), (1, 10, 1));
        let idle = serde_json::from_value(json!({"class": "IOPRIO_CLASS_IDLE", "priority": 7})).unwrap();
        assert_eq!(io_priority(&idle).unwrap(), (3, 7));
        let wrong = serde_json::from_value(json!({"class": "IOPRIO_CLASS_BE", "priority": 8})).unwrap();
        assert!(io_priority(&wrong).is_err());
    }

    #[test]
    fn personality_flags_add_to_the_domain() {
        let p = serde_json::from_value(json!({"domain": "LINUX32", "flags": ["ADDR_NO_RANDOMIZE"]})).unwrap();
        assert_eq!(personality(&p).unwrap(), 0x0004_0008);
        let p = serde_json::from_value(json!({"domain": "LINUX", "flags": ["NONSENSE"]})).unwrap();
        assert!(personality(&p).unwrap_err().message().contains("NONSENSE"));
    }
}
