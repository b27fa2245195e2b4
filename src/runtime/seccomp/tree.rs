//! A filter as a search tree, with the same answers.
//!
//! libseccomp writes a chain of comparisons, one a system call and architecture. The kernel runs a filter for every number when it is
//! loaded, to remember the calls that it always allows (kernel/seccomp.c, `seccomp_cache_prepare`), and so takes a millisecond for the
//! chain of a container engine's profile, which is most of `start`. Ranges of numbers, found by halving, are half as many
//! instructions and take a fifth of the time.
//!
//! The answers are the same because nothing is guessed: a program that compares number and architecture with constants takes the
//! same way for all values from one of these constants to the next, so it is followed once for each of these ranges. What looks at arguments stays as
//! it is, behind the tree. A program with anything else in it stays as it is, too.

use super::classic::{
    JUMP, JUMP_AT_LEAST, JUMP_EQUAL, JUMP_GREATER, LOAD_WORD, OFFSET_ARCH, OFFSET_NR, RETURN, compare,
    instruction,
};
use crate::platform::sys::seccomp::Instruction;
use std::collections::BTreeSet;

/// What a program does with a call of which number and architecture are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It returns this.
    Return(u32),
    /// It looks at an argument, by the instruction at this place.
    Look(usize),
}

/// Values from here to the next range's, and what holds for them.
type Ranges<T> = Vec<(u32, T)>;

/// An instruction whose distances are not known yet.
#[derive(Debug, Clone, Copy)]
enum Step {
    Load(u32),
    /// Values from this one on leave out so many instructions.
    AtLeast(u32, usize),
    End(Outcome),
}

/// The tree; `None` if there is none for this program.
pub(super) fn of(program: &[Instruction]) -> Option<Vec<Instruction>> {
    let [numbers, archs] = bounds(program)?;
    let mut ranges: Ranges<Ranges<Outcome>> = Vec::new();
    for arch in archs {
        let outcomes = numbers.iter().map(|number| Some((*number, follow(program, arch, *number)?)));
        let mut outcomes = outcomes.collect::<Option<Ranges<_>>>()?;
        outcomes.dedup_by_key(|(_, outcome)| *outcome);
        ranges.push((arch, outcomes));
    }
    ranges.dedup_by(|next, previous| next.1 == previous.1);
    let mut steps = vec![Step::Load(OFFSET_ARCH)];
    steps.extend(search(&ranges, &|numbers| {
        let mut steps = search(numbers, &|outcome| vec![Step::End(*outcome)]);
        if numbers.len() > 1 {
            steps.insert(0, Step::Load(OFFSET_NR));
        }
        steps
    }));
    assemble(&steps, program)
}

/// The values at which comparisons of the number and of the architecture may turn out differently than just below.
///
/// Jumps only lead forward, so one pass sees what the accumulator holds at every instruction.
fn bounds(program: &[Instruction]) -> Option<[BTreeSet<u32>; 2]> {
    let mut bounds = [BTreeSet::from([0]), BTreeSet::from([0])];
    // Which fields it may hold there, of number and architecture; none where no way leads.
    let mut holds = vec![BTreeSet::new(); program.len()];
    holds.first_mut()?.insert(None);
    for (at, i) in program.iter().enumerate() {
        let held = std::mem::take(&mut holds[at]);
        if held.is_empty() {
            continue;
        }
        let (held, next) = match i.code {
            LOAD_WORD if i.k == OFFSET_NR || i.k == OFFSET_ARCH => (BTreeSet::from([Some(i.k)]), vec![0]),
            LOAD_WORD | RETURN => continue,
            JUMP => (held, vec![i.k as usize]),
            JUMP_EQUAL | JUMP_GREATER | JUMP_AT_LEAST => {
                let of = match held.iter().collect::<Vec<_>>()[..] {
                    [Some(OFFSET_NR)] => &mut bounds[0],
                    [Some(OFFSET_ARCH)] => &mut bounds[1],
                    _ => return None,
                };
                of.insert(i.k);
                of.extend(i.k.checked_add(1));
                (held, vec![usize::from(i.jt), usize::from(i.jf)])
            }
            _ => return None,
        };
        for jump in next {
            holds.get_mut(at + 1 + jump)?.extend(held.iter().copied());
        }
    }
    Some(bounds)
}

/// Follows a program for a call as far as that is decided by number and architecture.
fn follow(program: &[Instruction], arch: u32, number: u32) -> Option<Outcome> {
    let (mut at, mut value) = (0, 0);
    loop {
        let i = program.get(at)?;
        match i.code {
            LOAD_WORD if i.k == OFFSET_NR => value = number,
            LOAD_WORD if i.k == OFFSET_ARCH => value = arch,
            LOAD_WORD => return Some(Outcome::Look(at)),
            RETURN => return Some(Outcome::Return(i.k)),
            JUMP => at += i.k as usize,
            _ => at += compare(*i, value)?,
        }
        at += 1;
    }
}

/// Steps that find the range of a value by halving.
fn search<T>(ranges: &[(u32, T)], found: &dyn Fn(&T) -> Vec<Step>) -> Vec<Step> {
    if let [(_, one)] = ranges {
        return found(one);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let below = search(low, found);
    let mut steps = vec![Step::AtLeast(high[0].0, below.iter().map(Step::length).sum())];
    steps.extend(below);
    steps.extend(search(high, found));
    steps
}

impl Step {
    /// In instructions. A conditional jump leaves out 255 at most.
    fn length(&self) -> usize {
        match self {
            Self::AtLeast(_, over) if *over > usize::from(u8::MAX) => 2,
            _ => 1,
        }
    }
}

/// Writes steps as instructions, and behind them what of the program looks at arguments.
fn assemble(steps: &[Step], program: &[Instruction]) -> Option<Vec<Instruction>> {
    let looks = steps.iter().filter_map(|step| match step {
        Step::End(Outcome::Look(at)) => Some(*at),
        _ => None,
    });
    let kept = reachable(program, looks)?;
    let start: usize = steps.iter().map(Step::length).sum();
    let place = |at: usize| kept.binary_search(&at).ok().map(|place| start + place);
    let mut tree = Vec::with_capacity(start + kept.len());
    for step in steps {
        match *step {
            Step::Load(offset) => tree.push(instruction(LOAD_WORD, 0, 0, offset)),
            Step::AtLeast(value, over) => {
                if let Ok(over) = u8::try_from(over) {
                    tree.push(instruction(JUMP_AT_LEAST, over, 0, value));
                } else {
                    tree.push(instruction(JUMP_AT_LEAST, 0, 1, value));
                    tree.push(instruction(JUMP, 0, 0, u32::try_from(over).ok()?));
                }
            }
            Step::End(Outcome::Return(value)) => tree.push(instruction(RETURN, 0, 0, value)),
            Step::End(Outcome::Look(at)) => {
                let over = place(at)? - tree.len() - 1;
                tree.push(instruction(JUMP, 0, 0, u32::try_from(over).ok()?));
            }
        }
    }
    for at in &kept {
        let i = program[*at];
        // What lies between is left out on both sides, so no distance grows.
        let over = |jump: usize| Some(place(at + 1 + jump)? - place(*at)? - 1);
        tree.push(match jumps(i)[..] {
            [jump] if i.code == JUMP => instruction(JUMP, 0, 0, u32::try_from(over(jump)?).ok()?),
            [yes, no] => {
                instruction(i.code, u8::try_from(over(yes)?).ok()?, u8::try_from(over(no)?).ok()?, i.k)
            }
            _ => i,
        });
    }
    Some(tree)
}

/// The places that can be reached from others, in order.
fn reachable(program: &[Instruction], from: impl Iterator<Item = usize>) -> Option<Vec<usize>> {
    let mut open: BTreeSet<usize> = from.collect();
    let mut reached = Vec::new();
    // Jumps only lead forward.
    while let Some(at) = open.pop_first() {
        open.extend(jumps(*program.get(at)?).iter().map(|jump| at + 1 + jump));
        reached.push(at);
    }
    Some(reached)
}

/// How many instructions each way on from an instruction leaves out.
fn jumps(i: Instruction) -> Vec<usize> {
    /// `BPF_CLASS(code)`, and the classes of jumps and of returns.
    const CLASS: u16 = 0x07;
    const CLASS_JUMP: u16 = 0x05;
    const CLASS_RETURN: u16 = 0x06;
    match i.code & CLASS {
        CLASS_RETURN => Vec::new(),
        CLASS_JUMP if i.code == JUMP => vec![i.k as usize],
        CLASS_JUMP => vec![usize::from(i.jt), usize::from(i.jf)],
        _ => vec![0],
    }
}

#[cfg(test)]
mod tests {
    use super::super::classic::run;
    use super::super::compile::chain;
    use super::*;
    use serde_json::{Value, json};

    /// All that two filters can differ in: every number around every constant of either, each architecture, and some arguments.
    fn assert_same(chain: &[Instruction], tree: &[Instruction]) {
        let constants: BTreeSet<u32> = chain.iter().chain(tree).map(|i| i.k).collect();
        let near = |k: &u32| [k.wrapping_sub(1), *k, k.wrapping_add(1)];
        let numbers: BTreeSet<u32> = constants.iter().flat_map(near).chain(0..600).collect();
        let archs: BTreeSet<u32> =
            constants.iter().filter(|k| **k > 0x4000_0000).flat_map(near).chain([0, 40]).collect();
        for arch in &archs {
            for number in &numbers {
                for argument in [0, 1, 8, 0x2_0000, 0x7e02_0000, u32::MAX] {
                    let mut data = [argument; 16];
                    data[..2].copy_from_slice(&[*number, *arch]);
                    let answers = [run(chain, &data), run(tree, &data)];
                    assert_eq!(answers[0], answers[1], "{number:#x} of {arch:#x} with {argument:#x}");
                }
            }
        }
    }

    fn compiled(profile: &Value) -> Vec<Instruction> {
        chain(&serde_json::from_value(profile.clone()).unwrap()).unwrap().program
    }

    fn names(of: &[&str]) -> Value {
        json!({"names": of, "action": "SCMP_ACT_ALLOW"})
    }

    #[test]
    fn every_answer_is_that_of_the_chain() {
        let many = [
            "read", "write", "open", "openat", "close", "mmap", "munmap", "exit", "futex", "clone3",
            "openat2",
        ];
        let args = |index: u32, op: &str, value: u64, two: u64| {
            json!({"names": ["clone", "personality", "socket"],
            "action": "SCMP_ACT_ALLOW", "args": [{"index": index, "op": op, "value": value, "valueTwo": two}]})
        };
        let rules = json!([names(&many), args(0, "SCMP_CMP_MASKED_EQ", 0x7e02_0000, 0), args(1, "SCMP_CMP_EQ", 8, 0),
            args(2, "SCMP_CMP_GT", 1, 0), {"names": ["mount"], "action": "SCMP_ACT_KILL_PROCESS"}]);
        let all = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
        for archs in [all, json!(["SCMP_ARCH_X86_64"]), json!([])] {
            for default in ["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_LOG"] {
                let chain =
                    compiled(&json!({"defaultAction": default, "architectures": archs, "syscalls": rules}));
                assert_same(&chain, &of(&chain).unwrap());
            }
        }
    }

    #[test]
    fn ranges_are_shorter_than_a_chain() {
        // All of the first four hundred but every fiftieth.
        let calls = (0..400).filter(|n| n % 50 != 7);
        let known =
            calls.filter_map(|n| libseccomp::ScmpSyscall::from(n).get_name().ok()).collect::<Vec<_>>();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let chain = compiled(&json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [names(&known)]}));
        let tree = of(&chain).unwrap();
        assert!(tree.len() * 4 < chain.len(), "{} of {}", tree.len(), chain.len());
        assert_same(&chain, &tree);
    }

    #[test]
    fn far_jumps_take_another_instruction() {
        let far = |n: u32| (n * 2, n % 7);
        let ranges: Ranges<u32> = (0..600).map(far).collect();
        let mut steps = vec![Step::Load(OFFSET_NR)];
        steps.extend(search(&ranges, &|value| vec![Step::End(Outcome::Return(*value))]));
        let tree = assemble(&steps, &[]).unwrap();
        for number in 0..1200 {
            let mut data = [0; 16];
            data[0] = number;
            assert_eq!(run(&tree, &data), Some(far(number / 2).1));
        }
    }

    #[test]
    fn what_does_more_than_compare_stays_as_it_is() {
        let masked = [
            instruction(LOAD_WORD, 0, 0, OFFSET_NR),
            instruction(0x54, 0, 0, 0xff),
            instruction(JUMP_EQUAL, 0, 1, 1),
            instruction(RETURN, 0, 0, 0),
            instruction(RETURN, 0, 0, 1),
        ];
        assert!(of(&masked).is_none());
        // The accumulator may hold either field there.
        let either = [
            instruction(LOAD_WORD, 0, 0, OFFSET_NR),
            instruction(JUMP_EQUAL, 1, 0, 1),
            instruction(LOAD_WORD, 0, 0, OFFSET_ARCH),
            instruction(JUMP_EQUAL, 0, 0, 2),
            instruction(RETURN, 0, 0, 0),
        ];
        assert!(of(&either).is_none());
        assert!(of(&[instruction(JUMP, 0, 0, u32::MAX)]).is_none() && of(&[]).is_none());
    }
}
