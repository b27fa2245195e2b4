//! Follows a command and all processes that it makes with ptrace(2), and does something at one of their system calls.

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// One system call of a run: the process, by the order in which they are made; the number of the call; and how many of this
/// number the process has made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Point {
    /// 0 is the command itself.
    pub process: usize,
    /// Number of the system call.
    pub call: u64,
    /// From 0.
    pub ordinal: usize,
}

/// What happens to a process that is about to make a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// SIGKILL.
    Kill,
    /// The call is not made and fails with this error number.
    Fail(i32),
}

/// How a run went.
#[derive(Debug)]
pub struct Run {
    /// How the command ended: its exit code, or 128 and the signal.
    pub code: i32,
    /// Every system call until something was done, in order.
    pub points: Vec<Point>,
    /// Whether the point was reached.
    pub reached: bool,
    /// Whether it had to be ended because it took too long.
    pub hung: bool,
}

/// The event of a stop that PTRACE_INTERRUPT or an automatic attach causes: `PTRACE_EVENT_STOP` of linux/ptrace.h.
const EVENT_STOP: i32 = 128;

/// True for the processes of a pod that are this program.
fn is_ours(pid: Pid) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"magikrun-"))
}

struct Process {
    index: usize,
    fail_at_exit: Option<i32>,
}

struct Tracer {
    main: Pid,
    at: Option<(Point, Act)>,
    processes: HashMap<Pid, Process>,
    /// Stopped before their parent has told of them.
    early: Vec<Pid>,
    counts: HashMap<(usize, u64), usize>,
    executed: bool,
    run: Run,
    ended: bool,
}

/// Runs `command`, whose standard input becomes empty, and acts at the point. Every process is let go once that is done, or
/// when it executes another program, or when the command has ended. At most `patience` may pass.
pub fn run(command: &Command, at: Option<(Point, Act)>, patience: Duration) -> Run {
    // A shell waits to be seized, and becomes the command then.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", r#"read -r _ && exec "$@" < /dev/null"#, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    run_shell(shell, at, patience)
}

/// [`run`] with the output of the command in files.
pub fn run_to(
    command: &Command,
    at: Option<(Point, Act)>,
    patience: Duration,
    output: &std::path::Path,
    errors: &std::path::Path,
) -> Run {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", r#"read -r _ && exec "$@" < /dev/null"#, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    let file = |path| std::fs::File::create(path).expect("a file for the output");
    shell.stdin(Stdio::piped()).stdout(file(output)).stderr(file(errors));
    run_shell(shell, at, patience)
}

fn run_shell(mut shell: Command, at: Option<(Point, Act)>, patience: Duration) -> Run {
    let mut child = shell.spawn().expect("a shell");
    let main = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(main, options).expect("the shell can be traced");
    let mut tracer = Tracer {
        main,
        at,
        processes: HashMap::from([(main, Process { index: 0, fail_at_exit: None })]),
        early: Vec::new(),
        counts: HashMap::new(),
        executed: false,
        run: Run { code: -1, points: Vec::new(), reached: false, hung: false },
        ended: false,
    };
    let mut go = child.stdin.take().expect("a pipe");
    go.write_all(b"\n").expect("the shell reads");
    drop(go);
    let (done, watch) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let hung = watch.recv_timeout(patience).is_err();
        if hung {
            let _ = kill(main, Signal::SIGKILL);
        }
        hung
    });
    tracer.follow();
    let _ = done.send(());
    // The tracer has its status already.
    let _ = child.wait();
    tracer.run.hung = watchdog.join().expect("the watchdog");
    tracer.run
}

/// Whether a process is still the shell that waits. The kernel tells of its own execve(2) later than our spawn returns, so that
/// event may come after we have seized it.
fn is_shell(pid: Pid) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|program| std::fs::canonicalize("/bin/sh").is_ok_and(|shell| shell == program))
}

impl Tracer {
    fn follow(&mut self) {
        // Only what this thread traces or has made: tests run beside each other.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::from_bits_retain(libc::__WNOTHREAD);
        while !(self.ended && self.processes.is_empty()) {
            match waitpid(None, Some(flags)) {
                Ok(status) => self.handle(status),
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn handle(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::Exited(pid, code) => self.gone(pid, code),
            WaitStatus::Signaled(pid, signal, _) => self.gone(pid, 128 + signal as i32),
            WaitStatus::PtraceSyscall(pid) => self.system_call(pid),
            WaitStatus::PtraceEvent(pid, signal, event) => self.event(pid, signal, event),
            WaitStatus::Stopped(pid, signal) => self.resume(pid, Some(signal)),
            _ => {}
        }
    }

    fn gone(&mut self, pid: Pid, code: i32) {
        self.processes.remove(&pid);
        if pid == self.main {
            self.run.code = code;
            self.ended = true;
            // Those that are left wait for something, and are let go at their next stop.
            for pid in self.processes.keys() {
                let _ = ptrace::interrupt(*pid);
            }
        }
    }

    fn over(&self) -> bool {
        self.ended || self.run.reached
    }

    /// Lets a stopped process go on, to its next system call or for good.
    fn resume(&mut self, pid: Pid, signal: Option<Signal>) {
        let busy = self.processes.get(&pid).is_some_and(|process| process.fail_at_exit.is_some());
        if self.over() && !busy && pid != self.main {
            self.processes.remove(&pid);
            let _ = ptrace::detach(pid, signal);
        } else if self.over() && !busy {
            let _ = ptrace::cont(pid, signal);
        } else {
            let _ = ptrace::syscall(pid, signal);
        }
    }

    fn event(&mut self, pid: Pid, signal: Signal, event: i32) {
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                let made = Pid::from_raw(ptrace::getevent(pid).unwrap_or(0) as i32);
                let index = self.processes.len().max(self.next_index());
                self.processes.insert(made, Process { index, fail_at_exit: None });
                if let Some(at) = self.early.iter().position(|early| *early == made) {
                    self.early.remove(at);
                    self.resume(made, None);
                }
                self.resume(pid, None);
            }
            libc::PTRACE_EVENT_EXEC if pid == self.main => {
                self.executed = !is_shell(pid);
                self.resume(pid, None);
            }
            // This program again, as a part of a pod.
            libc::PTRACE_EVENT_EXEC if is_ours(pid) => self.resume(pid, None),
            // Another program: not ours to trace.
            libc::PTRACE_EVENT_EXEC => {
                self.processes.remove(&pid);
                let _ = ptrace::detach(pid, None);
            }
            EVENT_STOP if !self.processes.contains_key(&pid) => self.early.push(pid),
            EVENT_STOP => self.resume(pid, None),
            _ => self.resume(pid, Some(signal)),
        }
    }

    fn next_index(&self) -> usize {
        self.run.points.iter().map(|point| point.process + 1).max().unwrap_or(1)
    }

    fn system_call(&mut self, pid: Pid) {
        let (Ok(info), Ok(mut registers)) = (ptrace::syscall_info(pid), ptrace::getregs(pid)) else { return };
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            if let Some(errno) = process.fail_at_exit.take() {
                registers.rax = i64::from(-errno) as u64;
                let _ = ptrace::setregs(pid, registers);
            }
        } else if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY && self.executed && !self.run.reached {
            let (process, call) = (process.index, registers.orig_rax);
            let count = self.counts.entry((process, call)).or_default();
            let point = Point { process, call, ordinal: *count };
            *count += 1;
            self.run.points.push(point);
            match self.at {
                Some((at, act)) if at == point => {
                    self.run.reached = true;
                    self.act(pid, act, registers);
                }
                _ => {}
            }
        }
        self.resume(pid, None);
    }

    fn act(&mut self, pid: Pid, act: Act, mut registers: libc::user_regs_struct) {
        match act {
            Act::Kill => {
                let _ = kill(pid, Signal::SIGKILL);
            }
            Act::Fail(errno) => {
                // No such call: the kernel does nothing, and what it says is replaced when it returns.
                registers.orig_rax = u64::MAX;
                let _ = ptrace::setregs(pid, registers);
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.fail_at_exit = Some(errno);
                }
            }
        }
    }
}
