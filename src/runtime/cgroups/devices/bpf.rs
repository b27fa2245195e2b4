//! The device program of cgroup v2: a BPF program that the kernel asks at every mknod(2) and open(2) of a device.

use super::Rule;
use crate::error::{Context as _, Result};
use crate::platform::sys::bpf::{self, Instruction};
use std::os::fd::BorrowedFd;

// linux/bpf.h and linux/bpf_common.h.
const MOV64_IMM: u8 = 0xb7;
const MOV64_REG: u8 = 0xbf;
const AND32_IMM: u8 = 0x54;
const RSH32_IMM: u8 = 0x74;
const LOAD32: u8 = 0x61;
const JNE_IMM: u8 = 0x55;
const JEQ_IMM: u8 = 0x15;
const JNE_REG: u8 = 0x5d;
const EXIT: u8 = 0x95;
/// `BPF_DEVCG_DEV_BLOCK` and `BPF_DEVCG_DEV_CHAR`.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

// Registers: r0 is the answer, r1 first the context and then scratch.
const ANSWER: u8 = 0;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn op(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Instruction {
    Instruction { code, registers: dst | (src << 4), off, imm }
}

/// The program for these rules: they are tried from the last to the first, and the first that fits answers.
pub fn program(rules: &[Rule]) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor.
    let mut program = vec![
        op(LOAD32, KIND, SCRATCH, 0, 0),
        op(MOV64_REG, ACCESS, KIND, 0, 0),
        op(AND32_IMM, KIND, 0, 0, 0xffff),
        op(RSH32_IMM, ACCESS, 0, 0, 16),
        op(LOAD32, MAJOR, SCRATCH, 4, 0),
        op(LOAD32, MINOR, SCRATCH, 8, 0),
    ];
    let mut decided = false;
    for rule in rules.iter().rev() {
        let block = block(rule);
        decided = block.len() == 2;
        program.extend(block);
        if decided {
            // A rule without a condition: those before it are never asked.
            break;
        }
    }
    if !decided {
        program.extend(answer(false));
    }
    program
}

fn answer(allow: bool) -> [Instruction; 2] {
    [op(MOV64_IMM, ANSWER, 0, 0, i32::from(allow)), op(EXIT, 0, 0, 0, 0)]
}

fn block(rule: &Rule) -> Vec<Instruction> {
    let mut tests = Vec::new();
    match rule.kind {
        'b' => tests.push(op(JNE_IMM, KIND, 0, 0, BLOCK)),
        'c' => tests.push(op(JNE_IMM, KIND, 0, 0, CHAR)),
        _ => {}
    }
    if rule.access != super::ALL {
        tests.push(op(MOV64_REG, SCRATCH, ACCESS, 0, 0));
        tests.push(op(AND32_IMM, SCRATCH, 0, 0, i32::from(rule.access)));
        // Allowed is what asks for nothing else; denied is what asks for any of it.
        tests.push(if rule.allow {
            op(JNE_REG, SCRATCH, ACCESS, 0, 0)
        } else {
            op(JEQ_IMM, SCRATCH, 0, 0, 0)
        });
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            tests.push(op(JNE_IMM, register, 0, 0, number as i32));
        }
    }
    let end = tests.len() + 2;
    for (at, test) in tests.iter_mut().enumerate() {
        if matches!(test.code, JNE_IMM | JEQ_IMM | JNE_REG) {
            test.off = (end - at - 1) as i16;
        }
    }
    tests.extend(answer(rule.allow));
    tests
}

/// Makes `rules` hold for the cgroup; programs that were attached to it before are replaced.
pub fn attach(cgroup: BorrowedFd<'_>, rules: &[Rule], fresh: bool) -> Result<()> {
    let program = bpf::load_device_program(&program(rules)).context(|| "cannot load the device program")?;
    // What is attached already is asked first: between attaching and detaching both must agree, so a device is never
    // allowed that both the old and the new rules deny.
    let old = if fresh { Vec::new() } else { bpf::attached_device_programs(cgroup)? };
    bpf::attach_device_program(cgroup, &program).context(|| "cannot attach the device program")?;
    for program in &old {
        bpf::detach_device_program(cgroup, program).context(|| "cannot detach the old device program")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cgroups::devices::{MKNOD, READ, WRITE, rules};

    /// Runs a program of these instructions.
    fn run(program: &[Instruction], kind: i32, access: u8, major: u32, minor: u32) -> bool {
        let context = [(i64::from(access) << 16) | i64::from(kind), i64::from(major), i64::from(minor)];
        let mut r = [0i64; 16];
        let mut at = 0;
        loop {
            let i = &program[at];
            let (dst, src) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let jump = |taken: bool| if taken { i.off as usize } else { 0 };
            match i.code {
                LOAD32 => r[dst] = context[i.off as usize / 4],
                MOV64_REG => r[dst] = r[src],
                MOV64_IMM => r[dst] = i64::from(i.imm),
                AND32_IMM => r[dst] &= i64::from(i.imm),
                RSH32_IMM => r[dst] >>= i.imm,
                JNE_IMM => at += jump(r[dst] != i64::from(i.imm)),
                JEQ_IMM => at += jump(r[dst] == i64::from(i.imm)),
                JNE_REG => at += jump(r[dst] != r[src]),
                EXIT => return r[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
            at += 1;
        }
    }

    #[test]
    fn the_last_rule_that_fits_answers() {
        let configured = serde_json::from_str::<Vec<_>>(
            r#"[{"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "access": "rw"},
                {"allow": false, "type": "c", "major": 10, "minor": 200, "access": "w"}]"#,
        );
        let program = program(&rules(&configured.unwrap()).unwrap());
        assert!(run(&program, CHAR, READ | WRITE, 10, 229));
        assert!(!run(&program, CHAR, READ | WRITE, 10, 200), "a denied part denies the whole");
        assert!(run(&program, CHAR, READ, 10, 200));
        assert!(run(&program, CHAR, READ | WRITE | MKNOD, 1, 3), "the null device");
        assert!(run(&program, BLOCK, MKNOD, 8, 0), "making a device file is harmless");
        assert!(!run(&program, BLOCK, READ, 8, 0));
        assert!(!run(&program, BLOCK, READ, 10, 229));
    }

    #[test]
    fn everything_allowed_needs_no_more_than_an_answer() {
        let configured = serde_json::from_str::<Vec<_>>(r#"[{"allow": true}]"#).unwrap();
        let program = program(&rules(&configured).unwrap());
        assert!(run(&program, BLOCK, READ | WRITE, 8, 0));
    }
}
