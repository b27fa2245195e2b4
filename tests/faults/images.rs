//! System calls of `image pull` and `bundle`, killed and failed in turn: what is visible is whole, and the next command repairs.

use crate::common::{Compression, Layer, Layout, Runtime, names_in};
use crate::operation::MEMORY;
use crate::tracer::{self, Act, Point};
use crate::{ERRORS, NEVER_FAIL, full, seed};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// How many calls are killed, and how many fail, of each command.
const SAMPLE: usize = 40;
/// How long a disturbed command may take.
const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "localhost/image:1";

struct Subject {
    runtime: Runtime,
    image: String,
    bundle: PathBuf,
    errors: PathBuf,
}

impl Subject {
    fn new() -> Self {
        let runtime = Runtime::new();
        let mut layout = Layout::new(&runtime.path("image"));
        let first = Layer::new().dir("d", 0o755).file("d/a", &"a".repeat(10_000)).hardlink("d/b", "d/a");
        let second =
            Layer::new().file("d/.wh.a", "").symlink("s", "d").dir("e", 0o700).file("e/.wh..wh..opq", "");
        let layers = [first.into_bytes(), second.into_bytes()];
        layout.add("1", &layers, Compression::Gzip, &json!({"Cmd": ["x"]}));
        let (image, bundle, errors) = (layout.image("1"), runtime.path("bundle"), runtime.path("errors"));
        Self { runtime, image, bundle, errors }
    }

    fn command(&self, name: &str) -> Command {
        let bundle = self.bundle.to_str().expect("UTF-8");
        let store = self.runtime.store();
        let store = ["--storage", store.to_str().expect("UTF-8")];
        let args = match name {
            "bundle" => [&["bundle"][..], &store, &[NAME, bundle]].concat(),
            _ => [&["image"][..], &store, &["pull", "--parallel", "1", &self.image]].concat(),
        };
        self.runtime.command(&args)
    }

    fn prepare(&self, name: &str) {
        let _ = fs::remove_dir_all(&self.bundle);
        if name == "bundle" {
            self.runtime.image(&["pull", &self.image]).success();
        } else {
            let _ = fs::remove_dir_all(self.runtime.store());
        }
    }

    fn points(&self, name: &str) -> BTreeSet<Point> {
        let record = || -> BTreeSet<Point> {
            self.prepare(name);
            let run = tracer::run(&self.command(name), None, PATIENCE);
            assert_eq!(run.code, 0, "{name}");
            run.points.into_iter().collect()
        };
        let (first, second) = (record(), record());
        first.intersection(&second).copied().collect()
    }

    /// Disturbs a command at one point. Answers whether that was reached, or what is wrong after it.
    fn disturb(&self, name: &str, point: Point, act: Act) -> Result<bool, String> {
        self.prepare(name);
        let output = self.runtime.path("output");
        let run = tracer::run_to(&self.command(name), Some((point, act)), PATIENCE, &output, &self.errors);
        let errors = fs::read_to_string(&self.errors).unwrap_or_default();
        let told = |what: &str| Err(format!("{what}; exit {} {errors}", run.code));
        if run.hung {
            return told("it did not end");
        }
        if errors.contains("panicked") && !MEMORY.iter().any(|call| *call as u64 == point.call) {
            return told("it panicked");
        }
        let verified = self.runtime.image(&["verify", "--deep"]);
        if verified.code != 0 {
            return told(&format!("what is visible is not whole: {}", verified.stdout));
        }
        let again = crate::common::finish(self.command(name), None);
        if again.code != 0 && !again.stderr.contains("it is not empty") {
            return told(&format!("the next one fails: {}", again.stderr));
        }
        match self.judge(name) {
            Ok(()) => Ok(run.reached),
            Err(what) => told(&what),
        }
    }

    /// What must hold once the command was executed again.
    fn judge(&self, name: &str) -> Result<(), String> {
        let verified = self.runtime.image(&["verify", "--deep"]);
        if verified.code != 0 || !verified.stdout.contains("no damage") {
            return Err(format!("the next one leaves damage: {}", verified.stdout));
        }
        let store = self.runtime.store();
        let mut left = names_in(&store.join("work"));
        left.extend(names_in(&store.join("images")).into_iter().filter(|name| name.len() != 64));
        for directory in names_in(&store.join("blobs/sha256")) {
            let blobs = names_in(&store.join("blobs/sha256").join(directory));
            left.extend(blobs.into_iter().filter(|name| name.len() != 64));
        }
        if !left.is_empty() {
            return Err(format!("left: {left:?}"));
        }
        if name == "bundle" {
            let root = self.bundle.join("rootfs");
            let whole = !root.join("d/a").exists()
                && fs::read_to_string(root.join("d/b")).is_ok_and(|text| text.len() == 10_000)
                && fs::read_to_string(self.bundle.join("config.json")).is_ok_and(|text| text.ends_with('}'));
            if !whole {
                return Err("the bundle is not whole".to_owned());
            }
        }
        Ok(())
    }
}

fn at_points(what: &str, act: impl Fn(usize, Point) -> Option<Act>) {
    let seed = seed();
    println!("{what}: seed {seed}");
    let subject = Subject::new();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut wrong = Vec::new();
    for name in ["pull", "bundle"] {
        let mut points: Vec<Point> = subject.points(name).into_iter().collect();
        let all = points.len();
        if !full() {
            random.shuffle(&mut points);
            points.truncate(SAMPLE);
        }
        let (mut done, mut reached) = (0, 0);
        for (number, point) in points.into_iter().enumerate() {
            let Some(act) = act(number, point) else { continue };
            done += 1;
            match subject.disturb(name, point, act) {
                Ok(was) => reached += usize::from(was),
                Err(problem) => wrong.push(format!("{name} {point:?} {act:?}: {problem}")),
            }
        }
        println!("{what} {name}: {all} system calls, {done} chosen, {reached} reached");
        assert!(reached * 2 >= done, "{name}: most calls are not made again");
    }
    assert!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n"));
}

#[test]
fn killed_at_any_system_call_a_pull_or_bundle_is_repaired_by_the_next() {
    at_points("killed", |_, _| Some(Act::Kill));
}

#[test]
fn a_pull_or_bundle_one_of_whose_system_calls_fails_shows_nothing_that_is_not_whole() {
    at_points("failed", |number, point| {
        let can_fail = !NEVER_FAIL.iter().any(|call| *call as u64 == point.call);
        can_fail.then_some(Act::Fail(ERRORS[number % ERRORS.len()]))
    });
}
