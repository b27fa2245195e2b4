//! From the configuration's profile to a BPF program, by libseccomp.

use super::{Filter, MAX_INSTRUCTIONS, enosys, instructions, tree};
use crate::error::{Error, ErrorKind, Result};
use crate::platform::sys::seccomp::{FLAG_NEW_LISTENER, flag_available};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};

fn error(what: &str, e: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidBundle, format!("linux.seccomp: {what}: {e}"))
}

/// Compiles a profile.
///
/// System calls that are younger than every one the profile names fail with `ENOSYS` instead of the profile's default
/// errno, as with runc: programs then fall back to the older call, as they would on an older kernel.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    let Filter { flags, program } = chain(profile)?;
    let tree = tree::of(&program).filter(|tree| tree.len() <= MAX_INSTRUCTIONS);
    Ok(Filter { flags, program: tree.unwrap_or(program) })
}

/// The filter as libseccomp writes it.
pub(super) fn chain(profile: &LinuxSeccomp) -> Result<Filter> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    if default == ScmpAction::Notify {
        crate::bail!(InvalidBundle, "linux.seccomp: SCMP_ACT_NOTIFY cannot be used as default action");
    }
    let mut context = ScmpFilterContext::new(default).map_err(|e| error("cannot make a filter", e))?;
    let archs = add_archs(&mut context, profile)?;
    let mut notifies = false;
    for call in profile.syscalls().iter().flatten() {
        let action = action(call.action(), call.errno_ret())?;
        if action == ScmpAction::Notify {
            check_notify(call)?;
            notifies = true;
        }
        // libseccomp refuses a rule that does what is done anyway.
        if action != default {
            add_call(&mut context, call, action)?;
        }
    }
    if notifies && profile.listener_path().is_none() {
        crate::bail!(InvalidBundle, "linux.seccomp.listenerPath must be set for SCMP_ACT_NOTIFY");
    }
    let mut program = Vec::new();
    if matches!(default, ScmpAction::Errno(errno) if errno != libc::ENOSYS) {
        program = enosys::prefix(&archs, profile);
    }
    let exported = export(&context)?;
    program
        .extend(instructions(&exported).ok_or_else(|| error("cannot compile", "the program is too long"))?);
    Ok(Filter { flags: flags(profile, notifies), program })
}

/// `seccomp_export_bpf_mem` needs libseccomp 2.6, so the program takes the way through a file in memory.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>> {
    use std::io::{Read as _, Seek as _};
    let memory = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC)?;
    context.export_bpf(&memory).map_err(|e| error("cannot compile", e))?;
    let mut file = std::fs::File::from(memory);
    file.rewind()?;
    let mut data = Vec::new();
    file.read_to_end(&mut data)?;
    Ok(data)
}

fn flags(profile: &LinuxSeccomp, notifies: bool) -> u32 {
    let flag = |flag: &LinuxSeccompFilterFlag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
        // There is only one thread when the filter is loaded, so there is nothing to synchronise; and the flag
        // cannot be combined with a listener.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
            libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32
        }
    };
    // runc and docker have always allowed speculation where the configuration does not mention flags.
    let default = [LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow];
    let wanted = profile.flags().as_deref().unwrap_or(&default);
    let mut flags = wanted.iter().map(flag).fold(0, |all, one| all | one);
    if notifies {
        flags |= FLAG_NEW_LISTENER;
    } else {
        // Means something only with a listener, and is refused without.
        flags &= !(libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32);
    }
    flags
}

fn add_archs(context: &mut ScmpFilterContext, profile: &LinuxSeccomp) -> Result<Vec<ScmpArch>> {
    let mut archs = vec![ScmpArch::native()];
    for wanted in profile.architectures().iter().flatten() {
        let arch = arch(*wanted)?;
        if arch != ScmpArch::Native && !archs.contains(&arch) {
            context.add_arch(arch).map_err(|e| error("cannot add an architecture", e))?;
            archs.push(arch);
        }
    }
    Ok(archs)
}

fn check_notify(call: &LinuxSyscall) -> Result<()> {
    // After the filter is loaded the runtime itself writes to its channel; an agent that must answer that first would
    // wait for itself.
    if call.names().iter().any(|name| name == "write") {
        crate::bail!(InvalidBundle, "linux.seccomp: SCMP_ACT_NOTIFY cannot be used for the write syscall");
    }
    Ok(())
}

fn add_call(context: &mut ScmpFilterContext, call: &LinuxSyscall, action: ScmpAction) -> Result<()> {
    let args = call.args().as_deref().unwrap_or_default();
    let comparisons = args.iter().map(comparison).collect::<Result<Vec<_>>>()?;
    for name in call.names() {
        // A name that this libseccomp does not know cannot be filtered; runc and crun leave it out too.
        let Ok(number) = ScmpSyscall::from_name(name) else {
            tracing::debug!("unknown system call '{name}' left out of the seccomp filter");
            continue;
        };
        let failed = |e| error(&format!("cannot add a rule for {name}"), e);
        if comparisons.is_empty() {
            context.add_rule(action, number).map_err(failed)?;
        } else if has_repeated_index(args) {
            // One argument cannot be compared twice in a rule: then each comparison is a rule of its own.
            for one in &comparisons {
                context.add_rule_conditional(action, number, &[*one]).map_err(failed)?;
            }
        } else {
            context.add_rule_conditional(action, number, &comparisons).map_err(failed)?;
        }
    }
    Ok(())
}

fn has_repeated_index(args: &[LinuxSeccompArg]) -> bool {
    args.iter().enumerate().any(|(n, arg)| args[..n].iter().any(|before| before.index() == arg.index()))
}

fn comparison(arg: &LinuxSeccompArg) -> Result<ScmpArgCompare> {
    use LinuxSeccompOperator as O;
    let Ok(index @ 0..=5) = u32::try_from(arg.index()) else {
        crate::bail!(InvalidBundle, "linux.seccomp: argument index {} is not 0 to 5", arg.index())
    };
    let (operator, value) = match arg.op() {
        O::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        O::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        O::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        O::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        O::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        O::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        O::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0)),
    };
    Ok(ScmpArgCompare::new(index, operator, value))
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction> {
    use LinuxSeccompAction as A;
    let takes_errno = matches!(action, A::ScmpActErrno | A::ScmpActTrace);
    if let Some(number) = errno
        && (!takes_errno || number > u32::from(u16::MAX))
    {
        crate::bail!(InvalidBundle, "linux.seccomp: errnoRet {number} does not fit the action {action:?}");
    }
    let number = errno.unwrap_or(libc::EPERM as u32);
    Ok(match action {
        A::ScmpActKill | A::ScmpActKillThread => ScmpAction::KillThread,
        A::ScmpActKillProcess => ScmpAction::KillProcess,
        A::ScmpActTrap => ScmpAction::Trap,
        A::ScmpActErrno => ScmpAction::Errno(number as i32),
        A::ScmpActNotify => ScmpAction::Notify,
        A::ScmpActTrace => ScmpAction::Trace(number as u16),
        A::ScmpActLog => ScmpAction::Log,
        A::ScmpActAllow => ScmpAction::Allow,
    })
}

/// Every architecture of the runtime specification that libseccomp knows, by its name there.
const ARCHS: &[(&str, Arch, ScmpArch)] = &[
    ("SCMP_ARCH_AARCH64", Arch::ScmpArchAarch64, ScmpArch::Aarch64),
    ("SCMP_ARCH_ARM", Arch::ScmpArchArm, ScmpArch::Arm),
    ("SCMP_ARCH_LOONGARCH64", Arch::ScmpArchLoongarch64, ScmpArch::Loongarch64),
    ("SCMP_ARCH_MIPS", Arch::ScmpArchMips, ScmpArch::Mips),
    ("SCMP_ARCH_MIPS64", Arch::ScmpArchMips64, ScmpArch::Mips64),
    ("SCMP_ARCH_MIPS64N32", Arch::ScmpArchMips64n32, ScmpArch::Mips64N32),
    ("SCMP_ARCH_MIPSEL", Arch::ScmpArchMipsel, ScmpArch::Mipsel),
    ("SCMP_ARCH_MIPSEL64", Arch::ScmpArchMipsel64, ScmpArch::Mipsel64),
    ("SCMP_ARCH_MIPSEL64N32", Arch::ScmpArchMipsel64n32, ScmpArch::Mipsel64N32),
    ("SCMP_ARCH_PPC", Arch::ScmpArchPpc, ScmpArch::Ppc),
    ("SCMP_ARCH_PPC64", Arch::ScmpArchPpc64, ScmpArch::Ppc64),
    ("SCMP_ARCH_PPC64LE", Arch::ScmpArchPpc64le, ScmpArch::Ppc64Le),
    ("SCMP_ARCH_RISCV64", Arch::ScmpArchRiscv64, ScmpArch::Riscv64),
    ("SCMP_ARCH_S390", Arch::ScmpArchS390, ScmpArch::S390),
    ("SCMP_ARCH_S390X", Arch::ScmpArchS390x, ScmpArch::S390X),
    ("SCMP_ARCH_X32", Arch::ScmpArchX32, ScmpArch::X32),
    ("SCMP_ARCH_X86", Arch::ScmpArchX86, ScmpArch::X86),
    ("SCMP_ARCH_X86_64", Arch::ScmpArchX86_64, ScmpArch::X8664),
];

fn arch(wanted: Arch) -> Result<ScmpArch> {
    if wanted == Arch::ScmpArchNative {
        return Ok(ScmpArch::Native);
    }
    let found = ARCHS.iter().find(|(_, arch, _)| *arch == wanted).map(|(_, _, arch)| *arch);
    found.ok_or_else(|| error("unsupported architecture", format!("{wanted:?}")))
}

/// Names of the architectures for `features`.
pub fn known_archs() -> impl Iterator<Item = &'static str> {
    ARCHS.iter().map(|(name, _, _)| *name)
}

/// Names of the actions for `features`.
pub fn known_actions() -> [&'static str; 9] {
    [
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_LOG",
        "SCMP_ACT_NOTIFY",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_TRAP",
    ]
}

/// Names of the operators for `features`.
pub fn known_operators() -> [&'static str; 7] {
    [
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_LE",
        "SCMP_CMP_LT",
        "SCMP_CMP_MASKED_EQ",
        "SCMP_CMP_NE",
    ]
}

/// Names of the flags and their values, for `features`.
const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG as u32),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32),
    ("SECCOMP_FILTER_FLAG_TSYNC", libc::SECCOMP_FILTER_FLAG_TSYNC as u32),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32),
];

/// Names of the flags that a profile may have.
pub fn known_flags() -> Vec<&'static str> {
    FLAGS.iter().map(|(name, _)| *name).collect()
}

/// Those of them that this kernel has.
pub fn supported_flags() -> Vec<&'static str> {
    // Waiting until killed means something only with a listener, and is refused without.
    let with = |flag| match flag & libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32 {
        0 => flag,
        _ => flag | FLAG_NEW_LISTENER,
    };
    FLAGS.iter().filter(|(_, flag)| flag_available(with(*flag))).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn try_compile(profile: Value) -> Result<Filter> {
        compile(&serde_json::from_value(profile).unwrap())
    }

    #[test]
    fn flags_are_asked_of_the_kernel() {
        // Linux 3.17 and 4.17.
        assert!(supported_flags().contains(&"SECCOMP_FILTER_FLAG_TSYNC"));
        assert!(supported_flags().contains(&"SECCOMP_FILTER_FLAG_SPEC_ALLOW"));
        assert!(!flag_available(1 << 30));
    }

    #[test]
    fn a_profile_becomes_a_program_and_unknown_calls_are_left_out() {
        let filter = try_compile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            ],
        }))
        .unwrap();
        assert!(filter.program.len() > 10);
        assert_eq!(filter.flags, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32);
    }

    #[test]
    fn notify_needs_a_listener_and_cannot_be_everything() {
        let call = json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]);
        let without = try_compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": call}));
        assert!(without.unwrap_err().message().contains("listenerPath"));
        let with =
            try_compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": call, "listenerPath": "/x"}));
        assert!(with.unwrap().has_listener());
        assert!(try_compile(json!({"defaultAction": "SCMP_ACT_NOTIFY"})).is_err());
        let write = json!([{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]);
        assert!(
            try_compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": write, "listenerPath": "/x"}))
                .is_err()
        );
    }

    #[test]
    fn an_errno_where_it_means_nothing_is_refused() {
        let e = try_compile(json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1})).unwrap_err();
        assert!(e.message().contains("errnoRet 1"), "{e}");
    }
}
