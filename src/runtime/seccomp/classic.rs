//! Classic BPF: what of it filters of system calls are made of (linux/bpf_common.h, linux/seccomp.h).

use crate::platform::sys::seccomp::Instruction;

/// `BPF_LD | BPF_W | BPF_ABS`: a word of `struct seccomp_data` becomes the accumulator.
pub(super) const LOAD_WORD: u16 = 0x20;
/// `BPF_JMP | BPF_JA`
pub(super) const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`
pub(super) const JUMP_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGT | BPF_K`
pub(super) const JUMP_GREATER: u16 = 0x25;
/// `BPF_JMP | BPF_JGE | BPF_K`
pub(super) const JUMP_AT_LEAST: u16 = 0x35;
/// `BPF_RET | BPF_K`
pub(super) const RETURN: u16 = 0x06;

/// Where `struct seccomp_data` has the number of the call, and the architecture that it is a number of.
pub(super) const OFFSET_NR: u32 = 0;
pub(super) const OFFSET_ARCH: u32 = 4;

pub(super) fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// How many instructions a conditional jump leaves out; `None` for another instruction.
pub(super) fn compare(i: Instruction, value: u32) -> Option<usize> {
    let holds = match i.code {
        JUMP_EQUAL => value == i.k,
        JUMP_GREATER => value > i.k,
        JUMP_AT_LEAST => value >= i.k,
        _ => return None,
    };
    Some(usize::from(if holds { i.jt } else { i.jf }))
}

/// Runs a program as the kernel does, on `struct seccomp_data` as words: what it returns, or `None` when it falls off its end.
#[cfg(test)]
pub(super) fn run(program: &[Instruction], data: &[u32; 16]) -> Option<u32> {
    let (mut at, mut value) = (0, 0);
    while let Some(i) = program.get(at) {
        match i.code {
            LOAD_WORD => value = data[i.k as usize / 4],
            // `BPF_ALU | BPF_AND | BPF_K`
            0x54 => value &= i.k,
            JUMP => at += i.k as usize,
            // `BPF_JMP | BPF_JSET | BPF_K`
            0x45 => at += usize::from(if value & i.k != 0 { i.jt } else { i.jf }),
            RETURN => return Some(i.k),
            code => at += compare(*i, value).unwrap_or_else(|| panic!("unknown instruction {code:#x}")),
        }
        at += 1;
    }
    None
}
