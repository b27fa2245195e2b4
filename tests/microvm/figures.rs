//! What magikrun adds to libkrun, and to an exec: printed, for docs/design.md.

use crate::common::{Bundle, Runtime, poll, runtime_path};
use crate::traces::Traces;
use crate::{children, disk, microvm};
use magikrun::limits::ANSWER_TIMEOUT;
use magikrun::runtime::krun::guest;
use magikrun::runtime::krun::ports::Ports;
use magikrun::runtime::krun::settings::{Network, Settings};
use magikrun::vm::Guest;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often a microVM is booted.
const BOOTS: usize = 9;
/// How often everything else is done.
const ROUNDS: usize = 15;
/// How long a guest may take to answer that it is ready.
const BOOT_TIMEOUT: Duration = Duration::from_secs(400);
/// Mappings of this size and more, in KiB, that are no file's are the guest's memory.
const LARGE: u64 = 16 << 10;

#[test]
#[ignore = "measures and judges nothing: conformance microvm --figures"]
fn figures() {
    let runtime = Runtime::new();
    let native = median((0..ROUNDS).map(|_| processor_time(|| drop(runtime.output(&runtime.bundle())))));
    println!("native run of true: {native} us of processor time");
    let boots: Vec<_> = (0..BOOTS).map(|_| (Boot::new(&runtime), Bare::new(&runtime))).collect();
    let time = |what: &str, value: &dyn Fn(&(Boot, Bare)) -> u64| {
        let median = median(boots.iter().map(value));
        println!("{what}: {median} us of processor time");
    };
    time("microVM, command", &|(boot, _)| boot.command);
    time("microVM, supervisor", &|(boot, _)| boot.supervisor);
    time("microVM, monitor until it makes the machine", &|(boot, _)| boot.monitor);
    time("libkrun alone until then", &|(_, bare)| bare.time);
    time("added", &|(boot, bare)| (boot.command + boot.supervisor + boot.monitor).saturating_sub(bare.time));
    let memory = |what: &str, value: &dyn Fn(&(Boot, Bare)) -> u64| {
        println!("{what}: {} KiB", median(boots.iter().map(value)));
    };
    memory("memory of the command that waits", &|(boot, _)| boot.memory[0]);
    memory("memory of the supervisor", &|(boot, _)| boot.memory[1]);
    memory("memory of the monitor without the guest's", &|(boot, _)| boot.memory[2]);
    memory("memory of libkrun alone without the guest's", &|(_, bare)| bare.memory);
    memory("added", &|(boot, bare)| boot.memory.iter().sum::<u64>().saturating_sub(bare.memory));
    compare_exec(&runtime);
}

/// What one microVM takes: processor time in microseconds, and memory in KiB of the command, the supervisor and the monitor.
struct Boot {
    command: u64,
    supervisor: u64,
    monitor: u64,
    memory: [u64; 3],
}

impl Boot {
    /// From the begin of a command in the foreground to its end, so that all is in it.
    fn new(runtime: &Runtime) -> Self {
        let bundle = microvm(runtime, "echo up; read line");
        let traces = Traces::begin();
        let mut command = runtime.command(&["run", "--bundle", bundle.dir(), &bundle.id]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a command");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        assert_eq!(line, "up\n");
        let supervisor = runtime.pid(&bundle.id);
        let monitor = *children(supervisor).last().expect("a monitor");
        let before = traces.end(monitor);
        let pid = child.id() as i32;
        let memory = [pid, supervisor, monitor].map(memory);
        // Nobody can ask a process what it has run that the command has waited for.
        let traces = Traces::begin_to_the_end();
        let until_now = nanoseconds(supervisor);
        // The end of the guest's input is that of its program.
        drop(child.stdin.take());
        let id = WaitId::Pid(Pid::from_raw(pid).expect("a pid"));
        waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("its end");
        let command = nanoseconds(pid) / 1000;
        let all = child.wait().expect("its status");
        assert_eq!(all.code(), Some(1));
        let supervisor = (until_now + traces.end(supervisor)) / 1000;
        Self { command, supervisor, monitor: before / 1000, memory }
    }
}

/// What libkrun alone takes for the same guest.
struct Bare {
    time: u64,
    memory: u64,
}

impl Bare {
    fn new(runtime: &Runtime) -> Self {
        let bundle = microvm(runtime, "sleep 600");
        let config = serde_json::from_value(bundle.config().clone()).expect("a configuration");
        let ports = Ports::default();
        let settings = Settings { cpus: 1, ram_mib: 128, network: Network::None, ports, root_disk: None };
        let spec = guest::spec(&config, &settings).expect("a specification");
        let spec = runtime.file("spec.json", serde_json::to_vec(&spec).expect("JSON"));
        let control = runtime.path("bare.sock");
        let own = runtime_path();
        let traces = Traces::begin();
        let mut command = Command::new(own.with_file_name("bare_krun"));
        command.arg(own.with_file_name("vminit")).arg(spec).arg(bundle.rootfs("")).arg(&control);
        let mut child =
            Killed(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("a machine"));
        poll("the machine to listen", || control.exists().then_some(()));
        let guest = Guest::at(&control);
        guest.ready(BOOT_TIMEOUT, || true).expect("a guest that is ready");
        let pid = child.0.id() as i32;
        let bare = Self { time: traces.end(pid) / 1000, memory: memory(pid) };
        child.0.kill().expect("its end");
        child.0.wait().expect("its status");
        fs::remove_file(control).expect("the socket");
        bare
    }
}

/// A process that does not outlive a failure.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// Processes of which a shell in the guest makes so many, one after the other.
const PROCESSES: u64 = 10;

fn compare_exec(runtime: &Runtime) {
    let machine = microvm(runtime, "sleep 600");
    let on_disk = disk::bundle(runtime, &disk::image(runtime), "sleep 600");
    let native = runtime.sleeper();
    let all = [&native, &machine, &on_disk];
    for bundle in all {
        runtime.detach(bundle);
    }
    let exec = |bundle: &Bundle| wall_time(|| drop(runtime.ok(&["exec", &bundle.id, "true"])));
    let guest = Guest::at(runtime.root().join(&machine.id).join("vm/control.sock"));
    let ping = || wall_time(|| drop(guest.ping(ANSWER_TIMEOUT).expect("an answer")));
    let times = || [exec(&native), exec(&machine), exec(&on_disk), ping()];
    let rounds: Vec<_> = (0..ROUNDS).map(|_| times()).collect();
    let names = [
        "native exec",
        "exec in a microVM",
        "exec in one with its root on a disk",
        "round trip to the guest",
    ];
    for (index, what) in names.iter().enumerate() {
        println!("{what}: {} us", median(rounds.iter().map(|times| times[index])));
    }
    // What is in that beside the way there: a shell that is there already does the same.
    let many = "/bin/true; ".repeat(PROCESSES as usize);
    for (bundle, what) in all.iter().zip(["natively", "in the microVM", "in the one on a disk"]) {
        let one = |script: &str| wall_time(|| drop(runtime.exec(&bundle.id, script).success()));
        let rounds: Vec<_> =
            (0..ROUNDS / 3).map(|_| one(&many).saturating_sub(one(":")) / PROCESSES).collect();
        println!("a program that a shell runs {what}: {} us", median(rounds.into_iter()));
    }
    all.iter().for_each(|bundle| drop(runtime.ok(&["delete", "--force", &bundle.id])));
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Of the children that were waited for.
fn processor_time(act: impl FnOnce()) -> u64 {
    let now = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the usage of children");
        (usage.user_time() + usage.system_time()).num_microseconds() as u64
    };
    let before = now();
    act();
    now() - before
}

fn wall_time(act: impl FnOnce()) -> u64 {
    let begin = Instant::now();
    act();
    begin.elapsed().as_micros() as u64
}

/// Nanoseconds that a process has run, also when it is dead and not waited for.
fn nanoseconds(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the time of a process");
    text.split(' ').next().and_then(|word| word.parse().ok()).expect("nanoseconds")
}

/// What a process has in memory, in KiB, of what it shares a part, without what is the guest's.
fn memory(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the memory of a process");
    let (mut is_file, mut is_guest, mut sum) = (false, false, 0);
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [range, _, _, _, _, ref path @ ..] if !range.ends_with(':') => {
                is_file = !path.is_empty();
                is_guest = path.iter().any(|path| path.contains("libkrunfw"));
            }
            ["Size:", size, _] => is_guest |= !is_file && kibibytes(size) >= LARGE,
            ["Pss:", size, _] if !is_guest => sum += kibibytes(size),
            _ => {}
        }
    }
    sum
}

fn kibibytes(word: &str) -> u64 {
    word.parse().expect("a number")
}
