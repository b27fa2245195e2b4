//! The operations that are disturbed, and what must hold after each.

use crate::common::{Bundle, Runtime, leftover_cgroups, names_in};
use crate::tracer::{self, Act, Point};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Every operation.
pub const ALL: [&str; 5] = ["create", "start", "run", "exec", "delete"];

/// How long a disturbed operation, or cleaning up after it, may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// System calls for memory: without them a program can only abort.
pub const MEMORY: [i64; 5] =
    [libc::SYS_mmap, libc::SYS_brk, libc::SYS_mremap, libc::SYS_munmap, libc::SYS_mprotect];

/// What a process in the container tells of its confinement. It must be the same whatever failed on the way, if it runs.
const CONFINEMENT: &str = r"
    grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status
    awk '{print $5, $6}' /proc/self/mountinfo
    ls /proc/self/fd | wc -w
    hostname; umask; pwd; tr '\0' '\n' < /proc/self/environ
    ulimit -n; ls /dev | tr '\n' ' '; wc -c < /proc/keys; cat /proc/self/oom_score_adj";

/// An operation on a container.
pub struct Operation<'a> {
    runtime: &'a Runtime,
    name: &'static str,
    bundle: Bundle,
    /// What the confined process says when nothing is disturbed.
    confinement: String,
    output: PathBuf,
    errors: PathBuf,
}

impl<'a> Operation<'a> {
    /// Prepares a bundle.
    pub fn new(runtime: &'a Runtime, name: &'static str) -> Self {
        let mut bundle = if name == "run" { runtime.shell(CONFINEMENT) } else { runtime.sleeper() };
        bundle.edit(|config| {
            config["process"]["oomScoreAdj"] = serde_json::json!(100);
            // Otherwise it is looked for in the image, and is another one when that cannot be read.
            config["process"]["env"].as_array_mut().expect("env").push(serde_json::json!("HOME=/home"));
            config["process"]["user"] = serde_json::json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
            config["linux"]["seccomp"] = serde_json::json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]
            });
            config["linux"]["resources"]["pids"] = serde_json::json!({"limit": 100});
        });
        let path = |suffix: &str| runtime.path(&format!("{name}.{suffix}"));
        let (output, errors) = (path("out"), path("err"));
        let mut operation = Self { runtime, name, bundle, confinement: String::new(), output, errors };
        operation.confinement = operation.undisturbed();
        operation
    }

    fn id(&self) -> &str {
        &self.bundle.id
    }

    /// Brings the container to where the operation starts.
    fn prepare(&self) {
        match self.name {
            "start" => drop(self.runtime.create(&self.bundle)),
            "exec" | "delete" => {
                self.runtime.ok(&["run", "--detach", "--bundle", self.bundle.dir(), self.id()]);
            }
            _ => {}
        }
    }

    fn command(&self) -> Command {
        let pid_file = self.runtime.path("pid");
        let pid_file = pid_file.to_str().expect("UTF-8");
        let (dir, id) = (self.bundle.dir(), self.id());
        self.runtime.command(&match self.name {
            "create" => vec!["create", "--bundle", dir, "--pid-file", pid_file, id],
            "run" => vec!["run", "--bundle", dir, "--pid-file", pid_file, id],
            "exec" => vec!["exec", "--pid-file", pid_file, id, "sh", "-c", CONFINEMENT],
            "delete" => vec!["delete", "--force", id],
            _ => vec!["start", id],
        })
    }

    fn undisturbed(&self) -> String {
        self.prepare();
        let run = tracer::run_to(&self.command(), None, PATIENCE, &self.output, &self.errors);
        assert_eq!(run.code, 0, "{}", fs::read_to_string(&self.errors).unwrap_or_default());
        self.clean_up().expect("an undisturbed operation leaves nothing");
        fs::read_to_string(&self.output).expect("the output")
    }

    /// Every system call that it makes, as far as two runs agree.
    pub fn points(&mut self) -> BTreeSet<Point> {
        let record = || -> BTreeSet<Point> {
            self.prepare();
            let run = tracer::run(&self.command(), None, PATIENCE);
            self.clean_up().expect("an undisturbed operation leaves nothing");
            run.points.into_iter().collect()
        };
        let (first, second) = (record(), record());
        first.intersection(&second).copied().collect()
    }

    /// Disturbs it at one point; answers whether that was reached, or what is wrong after.
    pub fn disturb(&mut self, point: Point, act: Act) -> Result<bool, String> {
        self.prepare();
        let run = tracer::run_to(&self.command(), Some((point, act)), PATIENCE, &self.output, &self.errors);
        let text = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
        let (output, errors) = (text(&self.output), text(&self.errors));
        let judged = self.judge(&run, point, &output, &errors);
        let cleaned = self.clean_up();
        match (judged, cleaned) {
            (Ok(()), Ok(())) => Ok(run.reached),
            (Err(judged), _) => Err(format!("{judged}; exit {} {errors}", run.code)),
            (_, Err(cleaned)) => Err(format!("{cleaned}; exit {} {errors}", run.code)),
        }
    }

    fn judge(&self, run: &tracer::Run, point: Point, output: &str, errors: &str) -> Result<(), String> {
        let memory = MEMORY.iter().any(|call| *call as u64 == point.call);
        if run.hung {
            return Err("it did not end".to_owned());
        }
        if errors.contains("panicked") && !memory {
            return Err("it panicked".to_owned());
        }
        if run.code == 0 && output != self.confinement {
            let only = |one: &str, other: &str| -> Vec<String> {
                one.lines()
                    .filter(|line| !other.lines().any(|there| there == *line))
                    .map(str::to_owned)
                    .collect()
            };
            let (now, before) = (only(output, &self.confinement), only(&self.confinement, output));
            return Err(format!("the process is confined otherwise: {now:?} instead of {before:?}"));
        }
        Ok(())
    }

    /// Deletes the container and requires that nothing is left of it.
    fn clean_up(&self) -> Result<(), String> {
        let begin = Instant::now();
        let output = self.runtime.call(&["delete", "--force", self.id()]);
        if output.code != 0 {
            return Err(format!("delete --force exits {}: {}", output.code, output.stderr));
        }
        loop {
            match self.nothing_left() {
                Ok(()) => return Ok(()),
                Err(left) if begin.elapsed() > PATIENCE => return Err(left),
                // What was killed ends by itself; a process that has not is found at the end of our patience.
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn nothing_left(&self) -> Result<(), String> {
        let state = names_in(&self.runtime.root());
        let (caches, state): (Vec<_>, Vec<_>) = state.into_iter().partition(|name| name.starts_with('~'));
        if state.iter().any(|name| name != "lock~") {
            return Err(format!("left in the state root: {state:?}"));
        }
        // Caches stay; their files are called by digests.
        let cached = caches.iter().flat_map(|cache| names_in(&self.runtime.root().join(cache)));
        if let Some(left) = cached.into_iter().find(|name| name.chars().any(|c| !c.is_ascii_hexdigit())) {
            return Err(format!("left in a cache: {left}"));
        }
        let cgroups = leftover_cgroups(self.runtime.name());
        if let Some(left) = cgroups.iter().find(|path| !path.ends_with(self.runtime.name())) {
            return Err(format!("left: cgroup {}", left.display()));
        }
        let files = names_in(self.runtime.dir());
        let known = |name: &String| {
            name.starts_with("bundle") || name.ends_with(".out") || name.ends_with(".err") || name == "state"
        };
        if let Some(left) = files.iter().find(|name| !known(name) && *name != "pid") {
            return Err(format!("left: file {left}"));
        }
        let dir = self.runtime.dir().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if let Some(left) = mounts.lines().find(|line| line.contains(&dir)) {
            return Err(format!("left: mount {left}"));
        }
        match self.runtime.processes().first() {
            Some(left) => Err(format!("left: process {left:?}")),
            None => Ok(()),
        }
    }
}
