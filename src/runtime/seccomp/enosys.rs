//! The part of a filter in front of libseccomp's: system calls younger than the profile do not exist.

use super::classic::{JUMP_EQUAL, JUMP_GREATER, LOAD_WORD, OFFSET_ARCH, OFFSET_NR, RETURN, instruction};
use crate::platform::sys::seccomp::Instruction;
use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::LinuxSeccomp;

/// `SECCOMP_RET_ERRNO` of linux/seccomp.h.
const RET_ERRNO: u32 = 0x0005_0000;
/// `__X32_SYSCALL_BIT`: x32 calls have the architecture of x86_64 and this bit in their number.
const X32_BIT: u32 = 0x4000_0000;

/// Instructions that return `ENOSYS` for numbers above the largest that the profile names, for each architecture.
pub(super) fn prefix(archs: &[ScmpArch], profile: &LinuxSeccomp) -> Vec<Instruction> {
    let x32 = archs.contains(&ScmpArch::X32);
    archs
        .iter()
        .filter(|arch| **arch != ScmpArch::X32)
        .filter_map(|arch| Some((audit_arch(*arch)?, largest(profile, *arch)?, *arch)))
        .flat_map(|(audit, largest, arch)| match arch {
            // Between the largest native number and the x32 bit there is nothing; x32 calls are left to the filter.
            ScmpArch::X8664 => block_with_x32(audit, largest, x32),
            _ => block(audit, largest),
        })
        .collect()
}

fn block(audit: u32, largest: u32) -> Vec<Instruction> {
    vec![
        instruction(LOAD_WORD, 0, 0, OFFSET_ARCH),
        instruction(JUMP_EQUAL, 0, 3, audit),
        instruction(LOAD_WORD, 0, 0, OFFSET_NR),
        instruction(JUMP_GREATER, 0, 1, largest),
        instruction(RETURN, 0, 0, RET_ERRNO | libc::ENOSYS as u32),
    ]
}

fn block_with_x32(audit: u32, largest: u32, x32: bool) -> Vec<Instruction> {
    let mut block = block(audit, largest);
    if x32 {
        block[1].jf = 4;
        block[3].jf = 2;
        block.insert(4, instruction(JUMP_GREATER, 1, 0, X32_BIT - 1));
    }
    block
}

/// The largest number on this architecture of a call that the profile names.
fn largest(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(oci_spec::runtime::LinuxSyscall::names);
    names
        .filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok())
        // Calls that the architecture lacks have negative numbers.
        .filter_map(|call| u32::try_from(call.as_raw_syscall()).ok())
        .filter(|number| *number < X32_BIT)
        .max()
}

/// `AUDIT_ARCH_*` of linux/audit.h.
fn audit_arch(arch: ScmpArch) -> Option<u32> {
    const BIT64: u32 = 0x8000_0000;
    const LITTLE: u32 = 0x4000_0000;
    Some(match arch {
        ScmpArch::X86 => LITTLE | 3,
        ScmpArch::X8664 => BIT64 | LITTLE | 62,
        ScmpArch::Arm => LITTLE | 40,
        ScmpArch::Aarch64 => BIT64 | LITTLE | 183,
        ScmpArch::Ppc64Le => BIT64 | LITTLE | 21,
        ScmpArch::Riscv64 => BIT64 | LITTLE | 243,
        ScmpArch::S390X => BIT64 | 22,
        ScmpArch::Loongarch64 => BIT64 | LITTLE | 258,
        // Others have no such prefix: the profile's default applies.
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::classic;
    use super::*;
    use serde_json::json;

    /// What a program returns for a call without arguments, or `None` when it falls off its end.
    fn run(program: &[Instruction], arch: u32, number: u32) -> Option<u32> {
        let mut data = [0; 16];
        data[..2].copy_from_slice(&[number, arch]);
        classic::run(program, &data)
    }

    #[test]
    fn only_calls_younger_than_the_profile_do_not_exist() {
        let profile: LinuxSeccomp = serde_json::from_value(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"}],
        }))
        .unwrap();
        let enosys = Some(RET_ERRNO | 38);
        let x86_64 = audit_arch(ScmpArch::X8664).unwrap();
        let i386 = audit_arch(ScmpArch::X86).unwrap();
        for archs in [&[ScmpArch::X8664, ScmpArch::X86][..], &[ScmpArch::X8664, ScmpArch::X86, ScmpArch::X32]]
        {
            let program = prefix(archs, &profile);
            assert_eq!(run(&program, x86_64, 437), None);
            assert_eq!(run(&program, x86_64, 438), enosys);
            assert_eq!(run(&program, i386, 3), None);
            assert_eq!(run(&program, i386, 500), enosys);
            assert_eq!(run(&program, 0x1234, 500), None);
        }
        let x32 = prefix(&[ScmpArch::X8664, ScmpArch::X32], &profile);
        assert_eq!(run(&x32, x86_64, X32_BIT | 1), None);
        let no_x32 = prefix(&[ScmpArch::X8664], &profile);
        assert_eq!(run(&no_x32, x86_64, X32_BIT | 1), enosys);
    }
}
