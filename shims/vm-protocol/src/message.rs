//! The messages.

use crate::spec::{Container, Process, Size};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The first frame of each side: who it is, and which versions it speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version of the protocol.
    pub oldest: u32,
    /// Newest version of the protocol.
    pub newest: u32,
    /// Name and version of the program, for messages.
    pub program: String,
}

impl Hello {
    /// The hello of `program`, which is built with this code.
    pub fn new(program: impl Into<String>) -> Self {
        Self { oldest: crate::OLDEST_VERSION, newest: crate::VERSION, program: program.into() }
    }
}

/// What the host asks for: one a connection. On the connection of an exec, a run or an input, [`Request::Resize`] and
/// [`Request::Signal`] with [`Target::This`] may follow; they are not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// How it is; answered by [`Reply::Status`].
    Ping,
    /// Answered by [`Reply::Status`] when every container has been started that is not to wait for a request, or by [`Reply::Failed`] when one cannot be.
    Ready,
    /// Answered by [`Reply::Status`] now and whenever something changes.
    Watch,
    /// Start a container that waits for that, or one of these that has ended again; answered by [`Reply::Done`] when its program is
    /// executed.
    Start {
        /// Name of the container.
        container: String,
    },
    /// Execute a process in a container; answered by [`Reply::Started`], data, and [`Reply::Exited`].
    Exec(Box<Exec>),
    /// Make a container that is not in the specification, and lives with this connection: its end, by SIGKILL, is that of the
    /// connection, which is used as that of an exec. Answered by [`Reply::Started`], data, and [`Reply::Exited`]. Other requests may name
    /// the container as long as it runs. Since version 2.
    Run(Box<Container>),
    /// Change limits of a container; answered by [`Reply::Done`]. Since version 2.
    Limit {
        /// Name of the container.
        container: String,
        /// Files of its cgroup v2 and what is written to them.
        cgroup: BTreeMap<String, String>,
    },
    /// Give a terminal another size; answered by [`Reply::Done`].
    Resize {
        /// Whose terminal.
        target: Target,
        /// The size.
        size: Size,
    },
    /// Send a signal; answered by [`Reply::Done`].
    Signal {
        /// To whom.
        target: Target,
        /// Number of the signal, 1 to 64.
        signal: i32,
        /// To all processes of the container.
        #[serde(default)]
        all: bool,
    },
    /// What a container uses; answered by [`Reply::Stats`].
    Stats {
        /// Name of the container.
        container: String,
    },
    /// The processes of a container; answered by [`Reply::Processes`].
    Processes {
        /// Name of the container.
        container: String,
    },
    /// The last output of a container: answered by data, and [`Reply::Done`] at its end.
    Logs {
        /// Name of the container.
        container: String,
        /// Also what it will write, until it ends.
        #[serde(default)]
        follow: bool,
    },
    /// Write to the standard input of a container that has one of its own. Data follows, of which [`Reply::Taken`] tells;
    /// answered by [`Reply::Done`] when the container has ended, or another connection has taken its place.
    Input {
        /// Name of the container.
        container: String,
    },
    /// End everything and the virtual machine; answered by [`Reply::Done`] at once.
    Stop {
        /// Milliseconds between SIGTERM and SIGKILL.
        grace: u64,
    },
}

/// The process that a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// The exec of this connection, or the container that lives with it or that it is the input of.
    This,
    /// The first process of the container with this name.
    Container(String),
    /// The exec with this number.
    Exec(u64),
}

/// A process to execute in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    /// Name of the container.
    pub container: String,
    /// The process.
    pub process: Process,
    /// Its standard input comes over this connection; otherwise it is empty.
    #[serde(default)]
    pub stdin: bool,
    /// It outlives this connection, has no standard streams, and its exit code is not told.
    #[serde(default)]
    pub detach: bool,
}

/// What the guest answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reply {
    /// It is done.
    Done,
    /// How the guest and its containers are.
    Status(Status),
    /// A process is executed.
    Started {
        /// Number of the exec, for other connections.
        exec: u64,
        /// Pid in the guest.
        pid: i32,
    },
    /// This much of the standard input was passed on, or thrown away since nobody reads it.
    Taken {
        /// Bytes since the last of these messages.
        bytes: u32,
    },
    /// The kernel has ended processes of the container that lives with this connection, for want of memory: this often by now, and once
    /// more since the last of these messages at least. Since version 3, and only told to those who speak it.
    OutOfMemory {
        /// How often.
        kills: u64,
    },
    /// A process has ended; all that it has written was sent before.
    Exited {
        /// Its exit code; 128 and the number of the signal that ended it.
        code: u8,
    },
    /// What a container uses.
    Stats(Stats),
    /// Processes.
    Processes(Vec<ProcessInfo>),
    /// It could not be done.
    Failed(Failure),
}

/// Why the guest could not do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// Category.
    pub kind: FailureKind,
    /// Message with causes, one line.
    pub message: String,
}

/// Categories of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureKind {
    /// No container or exec has this name or number.
    NotFound,
    /// It does not fit the state that the container is in.
    InvalidState,
    /// A process could not be executed.
    ExecFailed,
    /// The request makes no sense, or has another version.
    InvalidRequest,
    /// More connections or processes than the guest allows.
    TooMany,
    /// The guest's kernel refused something.
    System,
}

/// How the guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Every container that is started with the guest has been started.
    pub ready: bool,
    /// Milliseconds since the guest's kernel started.
    pub uptime: u64,
    /// The containers, in the order of the specification.
    pub containers: Vec<ContainerStatus>,
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// State.
    pub state: ContainerState,
    /// Pid of its first process in the guest; 0 when it does not run.
    pub pid: i32,
    /// Exit code when it has stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// Its end was caused by its memory limit.
    #[serde(default)]
    pub out_of_memory: bool,
}

/// The states of a container in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerState {
    /// It waits for those before it.
    Waiting,
    /// It runs.
    Running,
    /// It has ended.
    Stopped,
}

/// What a container uses; 0 where the guest's kernel does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stats {
    /// Processor time, in microseconds.
    pub cpu_usage: u64,
    /// The part of it in user mode.
    pub cpu_user: u64,
    /// The part of it in the kernel.
    pub cpu_system: u64,
    /// Memory in use, in bytes.
    pub memory: u64,
    /// The most memory that was in use, in bytes.
    pub memory_peak: u64,
    /// Limit of the memory, in bytes; 0 for none.
    pub memory_limit: u64,
    /// How often the limit made the kernel end a process.
    pub oom_kills: u64,
    /// `memory.stat`, as it is.
    pub memory_stat: BTreeMap<String, u64>,
    /// `memory.events`, as it is.
    pub memory_events: BTreeMap<String, u64>,
    /// Number of processes and threads.
    pub pids: u64,
    /// Limit of that number; 0 for none.
    pub pids_limit: u64,
    /// Bytes read from block devices.
    pub read_bytes: u64,
    /// Bytes written to block devices.
    pub written_bytes: u64,
}

/// A process in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessInfo {
    /// Pid in the guest.
    pub pid: i32,
    /// Pid of its parent in the guest.
    pub parent: i32,
    /// User id.
    pub uid: u32,
    /// State, one letter as ps(1) has it.
    pub state: char,
    /// Processor time, in milliseconds.
    pub cpu: u64,
    /// Start, in seconds since the epoch.
    pub started: u64,
    /// Name of its terminal, as `pts/0`; empty for none.
    pub tty: String,
    /// Its arguments, or its name in brackets, cut off after [`MAX_COMMAND`] bytes.
    pub command: String,
}

/// Longest command of a [`ProcessInfo`], in bytes.
pub const MAX_COMMAND: usize = 256;

/// Most processes in one [`Reply::Processes`]: with the longest commands they are less than a message may have.
pub const MAX_PROCESSES: usize = 1024;
