//! Every system call of every operation, killed and failed in turn: whatever happens, `delete --force` leaves nothing.
//!
//! `MAGIKRUN_FAULTS=full` does it at every call of every process; otherwise a sample of [`SAMPLE`] is drawn, whose seed is
//! printed and can be given as `MAGIKRUN_SEED`. `MAGIKRUN_OPERATION` names the only operation to disturb, `MAGIKRUN_CALL` the number
//! of the only system call, with every error in turn.
#[path = "../common/mod.rs"]
mod common;

mod images;
mod operation;
mod tracer;

use common::Runtime;
use common::faults::{full, seed};
use operation::Operation;
use std::collections::BTreeSet;
use tracer::{Act, Point};

/// How many calls are killed, and how many fail, in a sample of all operations.
const SAMPLE: usize = 100;

/// What a call fails with, in turn.
const ERRORS: [i32; 6] = [libc::EIO, libc::ENOMEM, libc::EINTR, libc::ENOSYS, libc::EPERM, libc::EAGAIN];

/// System calls that are always successful with right arguments, by their manual pages; libraries rely on that. What close(2)
/// says changes nothing: the descriptor is closed. futex(2) fails with none of the errors above but EINTR and EAGAIN, which locks ask again after.
const NEVER_FAIL: [i64; 17] = [
    libc::SYS_futex,
    libc::SYS_close,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_getrandom,
    libc::SYS_wait4,
    libc::SYS_exit_group,
    libc::SYS_exit,
    libc::SYS_rt_sigreturn,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_umask,
];

/// What a chosen call fails with. Who may not make devices binds those of the host: that is how it is meant to be.
fn error(number: usize, point: Point) -> i32 {
    match ERRORS[number % ERRORS.len()] {
        libc::EPERM if point.call == libc::SYS_mknodat as u64 => libc::EIO,
        error => error,
    }
}

/// The points of an operation at which something is done in this run of the tests.
fn choose(points: &BTreeSet<Point>, random: &mut fastrand::Rng) -> Vec<Point> {
    let mut all: Vec<Point> = points.iter().copied().collect();
    if let Some(call) = only_call() {
        all.retain(|point| point.call == call);
        // Once for each error.
        return all.iter().flat_map(|point| [*point; ERRORS.len()]).collect();
    }
    if !full() {
        random.shuffle(&mut all);
        all.truncate(SAMPLE / operation::ALL.len());
    }
    all
}

/// The number of the only system call to disturb, if one is given.
fn only_call() -> Option<u64> {
    std::env::var("MAGIKRUN_CALL").ok().map(|call| call.parse().expect("MAGIKRUN_CALL is a number"))
}

/// Does `act` at chosen points of every operation; collects what went wrong instead of ending at the first.
fn at_every_point(what: &str, act: impl Fn(usize, Point) -> Option<Act>) {
    let runtime = Runtime::new();
    let seed = seed();
    println!("{what}: seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut wrong = Vec::new();
    let wanted = std::env::var("MAGIKRUN_OPERATION").ok();
    for operation in
        operation::ALL.into_iter().filter(|name| wanted.as_deref().is_none_or(|wanted| wanted == *name))
    {
        let mut subject = Operation::new(&runtime, operation);
        let points = subject.points();
        let chosen = choose(&points, &mut random);
        let (mut done, mut reached, mut missed) = (0, 0, Vec::new());
        for (number, point) in chosen.into_iter().enumerate() {
            let Some(act) = act(number, point) else { continue };
            done += 1;
            match subject.disturb(point, act) {
                Ok(true) => reached += 1,
                Ok(false) => missed.push(point),
                Err(problem) => {
                    wrong.push(format!("{operation} {point:?} {act:?}: {problem}"));
                    println!("{what} {}", wrong[wrong.len() - 1]);
                    // What is left of this one must not be taken for something of the next.
                    subject = Operation::new(&runtime, operation);
                }
            }
        }
        println!("{what} {operation}: {} system calls, {done} chosen, {reached} reached", points.len());
        println!("not made again: {missed:?}");
        assert!(reached * 2 >= done, "{operation}: most calls are not made again");
    }
    assert!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n"));
    runtime.assert_nothing_left();
}

#[test]
fn killed_at_any_system_call_an_operation_leaves_nothing_behind() {
    at_every_point("killed", |_, _| Some(Act::Kill));
}

#[test]
fn an_operation_one_of_whose_system_calls_fails_leaves_nothing_behind_and_nothing_unprotected() {
    at_every_point("failed", |number, point| {
        let can_fail = !NEVER_FAIL.iter().any(|call| *call as u64 == point.call);
        can_fail.then_some(Act::Fail(error(number, point)))
    });
}

/// A look at a file that is denied was once taken for mknod(2) that is not permitted, and the host's device was bound instead.
#[test]
fn a_look_at_a_file_that_is_denied_never_leads_to_another_way() {
    let runtime = Runtime::new();
    let mut run = Operation::new(&runtime, "run");
    let points = run.points();
    let looks: Vec<Point> = points
        .into_iter()
        .filter(|point| point.process == 1 && point.call == libc::SYS_fstat as u64)
        .collect();
    assert!(looks.len() > 6, "{looks:?}");
    for point in looks {
        if let Err(problem) = run.disturb(point, Act::Fail(libc::EPERM)) {
            panic!("{point:?}: {problem}");
        }
    }
    runtime.assert_nothing_left();
}
