//! Running a command with a deadline and looking at processes.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long anything in these tests may take: much longer than it does, for machines that are emulated or have other work.
pub const DEADLINE: Duration = Duration::from_mins(5);

/// How a command ended and what it printed.
#[derive(Debug)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// The exit code, or 128 + the signal that ended the command.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    later: File,
}

impl Output {
    /// Standard output with what a detached container has added since the command ended.
    pub fn stdout_now(&self) -> String {
        read_all(&self.later)
    }

    /// Waits until the command or the container that it left behind has printed `needle`.
    #[track_caller]
    pub fn wait_stdout(&self, needle: &str) -> String {
        poll(&format!("'{needle}' on standard output of {}", self.command), || {
            Some(self.stdout_now()).filter(|text| text.contains(needle))
        })
    }

    /// Requires exit code 0.
    #[track_caller]
    pub fn success(self) -> Self {
        self.exits(0)
    }

    /// Requires an exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "{} exited {}\nstdout: {}\nstderr: {}",
            self.command, self.code, self.stdout, self.stderr
        );
        self
    }

    /// Requires a failure of the runtime itself: the code, and one line on standard error that holds every needle.
    #[track_caller]
    pub fn fails_with(self, code: i32, needles: &[&str]) -> Self {
        let output = self.exits(code);
        for needle in needles {
            assert!(
                output.stderr.contains(needle),
                "{}: '{needle}' is missing in: {}",
                output.command,
                output.stderr
            );
        }
        output
    }
}

/// A command that runs, with its output going to files so that a detached container never blocks the reader.
pub struct Running {
    child: Child,
    command: String,
    stdout: File,
    stderr: File,
}

/// Starts a command; `input` becomes its standard input.
pub fn start(command: Command, input: Option<&[u8]>) -> Running {
    let stdin = input.map_or_else(Stdio::null, |bytes| {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(bytes).expect("the input is written");
        file.seek(SeekFrom::Start(0)).expect("the input is rewound");
        Stdio::from(file)
    });
    start_with(command, stdin)
}

/// Starts a command with this standard input.
pub fn start_with(mut command: Command, stdin: Stdio) -> Running {
    let stdout = tempfile::tempfile().expect("a temporary file");
    let stderr = tempfile::tempfile().expect("a temporary file");
    let text = format!("{command:?}");
    let child = command
        .stdin(stdin)
        .stdout(stdout.try_clone().expect("a copy of the file"))
        .stderr(stderr.try_clone().expect("a copy of the file"))
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
    Running { child, command: text, stdout, stderr }
}

/// Runs a command to its end, at most until the deadline.
#[track_caller]
pub fn finish(command: Command, input: Option<&[u8]>) -> Output {
    start(command, input).finish()
}

impl Running {
    /// The pid of the command.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid that fits")
    }

    /// What the command has printed so far.
    pub fn stdout(&self) -> String {
        read_all(&self.stdout)
    }

    /// Waits until the command has printed `needle`.
    #[track_caller]
    pub fn wait_stdout(&self, needle: &str) {
        poll(&format!("'{needle}' on standard output of {}", self.command), || {
            self.stdout().contains(needle).then_some(())
        });
    }

    /// What the command has printed to standard error so far.
    pub fn stderr(&self) -> String {
        read_all(&self.stderr)
    }

    /// Waits for the end of the command.
    #[track_caller]
    pub fn finish(mut self) -> Output {
        let Some(status) = wait(&mut self.child) else {
            let _ = self.child.kill();
            let _ = self.child.wait();
            panic!("{} did not end within {DEADLINE:?}: {} {}", self.command, self.stdout(), self.stderr());
        };
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        let (stdout, stderr) = (self.stdout(), self.stderr());
        Output { code, stdout, stderr, command: self.command, later: self.stdout }
    }
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let pid = Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd of the command");
    readable(&pidfd).then(|| child.wait().expect("the status of the command"))
}

/// Waits until there is something to read or to accept; false if nothing comes until the deadline.
pub fn readable(fd: impl AsFd) -> bool {
    let timeout = Timespec { tv_sec: i64::try_from(DEADLINE.as_secs()).unwrap_or(60), tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).is_ok_and(|count| count > 0)
}

fn read_all(file: &File) -> String {
    use std::os::unix::fs::FileExt;
    let mut bytes = Vec::new();
    let mut chunk = [0; 8192];
    while let Ok(count @ 1..) = file.read_at(&mut chunk, bytes.len() as u64) {
        bytes.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks again and again until there is an answer, at most until the deadline.
#[track_caller]
pub fn poll<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        let begin = Instant::now();
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain for {what}");
        // Who looks must not keep what it waits for from the processor: an emulated machine has one.
        std::thread::sleep((begin.elapsed() * 2).clamp(Duration::from_millis(10), Duration::from_secs(2)));
    }
}

/// What a tool of the machine prints, which must succeed.
#[track_caller]
pub fn tool(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args);
    finish(command, None).success().stdout
}

/// A property of a unit of the system's manager.
#[track_caller]
pub fn property(unit: &str, name: &str) -> String {
    tool("systemctl", &["show", "--value", "--property", name, unit]).trim().to_owned()
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

/// Whether a process may execute anything yet. One that ends may have to wait until others of its pid namespace are reaped.
pub fn is_running(pid: i32) -> bool {
    /// `PF_EXITING` of linux/sched.h.
    const EXITING: u64 = 0x4;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may have anything in it; the state and the flags are the first and the seventh word after it: see proc(5).
    let words: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let flags = words.get(6).and_then(|word| word.parse::<u64>().ok());
    flags.is_some_and(|flags| !matches!(words[0], "Z" | "X") && flags & EXITING == 0)
}

/// The number that a process has in its innermost pid namespace, if it is in one of its own.
pub fn inner_pid(pid: i32) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().skip(1).last().map(str::to_owned)
}

/// Waits until a process is gone or a zombie.
pub fn wait_dead(pid: i32) {
    poll(&format!("process {pid} to end"), || (!is_alive(pid)).then_some(()));
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a pid above 0");
    rustix::process::kill_process(pid, signal).expect("the signal is sent");
}

/// Reads a stream to its end.
pub fn read_to_string(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the stream is readable");
    text
}
