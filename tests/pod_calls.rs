//! System calls of `pod run` that are killed at, or fail, in the command, the monitors, the infra containers and the containers' first
//! processes: two pods of one manifest are there together or not at all, and nothing else is left.
//!
//! `MAGIKRUN_FAULTS=full` does it at every call; otherwise a sample of [`SAMPLE`] is drawn, whose seed is printed and can be given as
//! `MAGIKRUN_SEED`.
mod common;
#[path = "faults/tracer.rs"]
#[allow(dead_code, reason = "its output is wanted by other tests")]
mod tracer;

use common::faults::{full, seed};
use common::pods::{WAIT, container, manifest};
use common::{Pods, names_in, poll};
use std::collections::BTreeSet;
use std::time::Duration;
use tracer::{Act, Point};

/// How many calls are killed, and how many fail, in a sample.
const SAMPLE: usize = 12;
/// How long a disturbed command may take.
const PATIENCE: Duration = Duration::from_secs(100);
/// What a call fails with, in turn.
const ERRORS: [i32; 4] = [libc::EIO, libc::ENOMEM, libc::EPERM, libc::ENOSPC];
/// Without memory a program can only abort; and libraries rely on the success of the others.
const SPARED: [i64; 14] = [
    libc::SYS_mmap,
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_close,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_getrandom,
    libc::SYS_wait4,
    libc::SYS_exit_group,
    libc::SYS_exit,
    libc::SYS_rt_sigreturn,
    libc::SYS_getpid,
];

struct Subject {
    pods: Pods,
    manifest: String,
}

impl Subject {
    fn new() -> Self {
        let pods = Pods::new();
        let pod = |name: &str| {
            let mounts = "volumeMounts: [{name: m, mountPath: /m}]";
            let spec = format!(
                "{{terminationGracePeriodSeconds: 1, containers: [{}], volumes: [{{name: m, emptyDir: {{medium: Memory}}}}]}}",
                container("a", WAIT, mounts)
            );
            manifest(name, &spec)
        };
        let both = format!("{}---\n{}", pod(&pods.name("one")), pod(&pods.name("two")));
        Self { pods, manifest: both }
    }

    fn run(&self, at: Option<(Point, Act)>) -> tracer::Run {
        tracer::run(&self.pods.run_command(&[], &self.manifest), at, PATIENCE)
    }

    /// Every system call, as far as two runs agree.
    fn points(&self) -> Vec<Point> {
        let record = || -> BTreeSet<Point> {
            let run = self.run(None);
            assert_eq!(run.code, 0, "an undisturbed command succeeds");
            assert_eq!(self.settle(), Ok(2));
            run.points.into_iter().collect()
        };
        record().intersection(&record()).copied().collect()
    }

    /// Waits until it is known whether the pods are there; answers how many, and removes them.
    fn settle(&self) -> Result<usize, String> {
        let pods = &self.pods;
        let root = pods.runtime.root().join("~pods");
        poll("whether the pods are there", || {
            pods.call(&["gc"]);
            let half_made =
                names_in(&root.join("pods")).iter().any(|name| name.ends_with('~') && name != "lock~");
            (!half_made && names_in(&root.join("groups")).is_empty()).then_some(())
        });
        let ids = pods.ok(&["list", "-q"]);
        for id in ids.split_whitespace() {
            let output = pods.call(&["delete", "--force", id]);
            if output.code != 0 {
                return Err(format!("cannot delete: {}", output.stderr));
            }
        }
        pods.assert_nothing_left();
        Ok(ids.lines().count())
    }
}

fn at_every_point(what: &str, act: impl Fn(usize, Point) -> Option<Act>) {
    let (full, seed) = (full(), seed());
    println!("{what}: seed {seed}");
    let subject = Subject::new();
    let mut points = subject.points();
    let total = points.len();
    points.retain(|point| act(0, *point).is_some());
    if !full {
        fastrand::Rng::with_seed(seed).shuffle(&mut points);
        points.truncate(SAMPLE);
    }
    let (mut reached, mut wrong) = (0, Vec::new());
    for (number, point) in points.iter().enumerate() {
        let Some(act) = act(number, *point) else { continue };
        let run = subject.run(Some((*point, act)));
        reached += usize::from(run.reached);
        let problem = match subject.settle() {
            Err(problem) => problem,
            Ok(count) if count != 0 && count != 2 => format!("{count} of two pods are there"),
            Ok(0) if run.code == 0 => "success, and no pods".to_owned(),
            Ok(_) if run.hung => "it did not end".to_owned(),
            Ok(_) => continue,
        };
        println!("{what} {point:?} {act:?}: {problem}");
        wrong.push(format!("{point:?} {act:?}: {problem}"));
    }
    println!("{what}: {total} system calls, {} chosen, {reached} reached", points.len());
    assert!(reached * 2 >= points.len(), "most calls are not made again");
    assert!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n"));
}

#[test]
fn killed_at_any_system_call_a_run_leaves_all_pods_or_none() {
    at_every_point("killed", |_, _| Some(Act::Kill));
}

#[test]
fn a_run_one_of_whose_system_calls_fails_leaves_all_pods_or_none() {
    at_every_point("failed", |number, point| {
        let can_fail = !SPARED.iter().any(|call| *call as u64 == point.call);
        can_fail.then_some(Act::Fail(ERRORS[number % ERRORS.len()]))
    });
}
