//! Standard input, output and error of a process: where containerd wants them, and the descriptors that lead there.

mod logger;
mod output;
mod place;

use crate::console::{self, ConsoleSocket};
use crate::error::{Context as _, Error, Result};
use crate::options::Options;
use crate::relay::Relay;
use crate::runtime::Streams;
use crate::serve::Shim;
pub use logger::{ARGUMENT as BECOME_LOGGER, become_logger};
pub use output::Output;
use place::{Place, input, place};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a client may take to open the other side of a FIFO.
const READER_DEADLINE: Duration = Duration::from_secs(30);
/// How long output may take to be moved after its process has ended, and how long who reads it may take nothing.
const OUTPUT_DEADLINE: Duration = Duration::from_secs(2);
/// How long who reads output may take in all after its process has ended: as long as runc's shim keeps output that nobody takes.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Where a request wants the streams; empty for nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input: a FIFO.
    pub stdin: String,
    /// Standard output: a FIFO, or a URI.
    pub stdout: String,
    /// Standard error: a FIFO, or a URI; unused with a terminal.
    pub stderr: String,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// The streams of a process that is about to be made.
pub struct Prepared {
    relay: Arc<Relay>,
    owner: u64,
    /// Where standard input comes from, and the pipe that leads it to the process.
    input: Option<(PathBuf, OwnedFd)>,
    /// Where output goes, with the pipes that it comes from.
    outputs: Vec<(OwnedFd, OwnedFd)>,
    /// The reading sides of output FIFOs: while they are open, nothing that was written is lost when containerd restarts.
    readers: Vec<OwnedFd>,
    terminal: Option<Terminal>,
}

struct Terminal {
    socket: ConsoleSocket,
    input: Option<PathBuf>,
    output: Option<OwnedFd>,
}

/// The streams of a process that was made.
pub struct Io {
    relay: Arc<Relay>,
    owner: u64,
    input: Option<(PathBuf, OwnedFd)>,
    /// The writing side of the FIFO of standard input: while it is open, the process sees no end when a client goes away.
    stdin: Option<OwnedFd>,
    stdin_closed: bool,
    output: Arc<Output>,
    master: Option<OwnedFd>,
}

impl Prepared {
    /// Opens what is wanted, and answers the streams for the runtime too.
    pub fn open(shim: &Shim, id: &str, wanted: &Wanted, options: &Options) -> Result<(Self, Streams)> {
        let mut prepared = Self {
            relay: Arc::clone(&shim.relay),
            owner: shim.relay.owner(),
            input: None,
            outputs: Vec::new(),
            readers: Vec::new(),
            terminal: None,
        };
        let streams = if wanted.terminal {
            prepared.terminal(shim, id, wanted)?;
            Streams::null()
        } else {
            prepared.pipes(shim, id, wanted, options)?
        };
        Ok((prepared, streams))
    }

    /// The value of `--console-socket`, if there is to be a terminal.
    pub fn console_socket(&self) -> Option<&Path> {
        self.terminal.as_ref().map(|terminal| terminal.socket.path().as_path())
    }

    fn terminal(&mut self, shim: &Shim, id: &str, wanted: &Wanted) -> Result<()> {
        let input = input(&wanted.stdin)?;
        let output = match place(&wanted.stdout)? {
            Place::Program(program, args) => {
                let (read, write) = pipe()?;
                logger::start(shim, &program, &args, id, [read, pipe()?.0])?;
                Some(write)
            }
            place => self.output(place)?,
        };
        if let Some(output) = &output {
            set_nonblocking(output)?;
        }
        self.terminal = Some(Terminal { socket: ConsoleSocket::new()?, input, output });
        Ok(())
    }

    fn pipes(&mut self, shim: &Shim, id: &str, wanted: &Wanted, options: &Options) -> Result<Streams> {
        let stdin = match input(&wanted.stdin)? {
            None => Stdio::null(),
            Some(path) => {
                let (read, write) = pipe()?;
                chown(&read, options)?;
                set_nonblocking(&write)?;
                self.input = Some((path, write));
                read.into()
            }
        };
        if let Place::Program(program, args) = place(&wanted.stdout)? {
            let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
            logger::start(shim, &program, &args, id, [out, err])?;
            return Ok(Streams([stdin, stdout.into(), stderr.into()]));
        }
        let mut side = |name: &str| -> Result<Stdio> {
            let Some(destination) = self.output(place(name)?)? else { return Ok(Stdio::null()) };
            let (read, write) = pipe()?;
            chown(&write, options)?;
            set_nonblocking(&read)?;
            self.outputs.push((read, destination));
            Ok(write.into())
        };
        Ok(Streams([stdin, side(&wanted.stdout)?, side(&wanted.stderr)?]))
    }

    /// Opens the destination of output, and holds the reading side of a FIFO.
    fn output(&mut self, place: Place) -> Result<Option<OwnedFd>> {
        match place {
            Place::Nowhere => Ok(None),
            Place::Path(path) => {
                let fd = open_writer(&path)?;
                if is_fifo(&fd)? {
                    self.readers.push(open(&path, OFlags::RDONLY)?);
                }
                Ok(Some(fd))
            }
            Place::File(path) => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)
                        .context(|| format!("cannot make '{}'", folder.display()))?;
                }
                Ok(Some(open(&path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)?))
            }
            Place::Program(..) => Err(Error::invalid("a program can take standard output only")),
        }
    }

    /// Starts to move the output. Call when the process was made.
    pub fn start(self) -> Result<Io> {
        let mut outputs = self.outputs;
        let output = Output { relay: Arc::clone(&self.relay), owner: self.owner, fifos: self.readers };
        let mut io = Io {
            relay: self.relay,
            owner: self.owner,
            input: self.input,
            stdin: None,
            stdin_closed: false,
            output: Arc::new(output),
            master: None,
        };
        if let Some(terminal) = self.terminal {
            let master = terminal.socket.receive()?;
            set_nonblocking(&master)?;
            let copy = || master.try_clone().context(|| "cannot copy a terminal's descriptor");
            if let Some(path) = terminal.input {
                io.input = Some((path, copy()?));
            }
            if let Some(output) = terminal.output {
                outputs.push((copy()?, output));
            }
            io.master = Some(master);
        }
        for (source, destination) in outputs {
            io.relay.pump(io.owner, true, source, destination)?;
        }
        Ok(io)
    }
}

impl Io {
    /// The number under which the relay looks after these streams.
    pub fn owner(&self) -> u64 {
        self.owner
    }

    /// The output that was not read yet, if there is any.
    pub fn unread(&self) -> Option<Arc<Output>> {
        (!self.output.is_read()).then(|| Arc::clone(&self.output))
    }

    /// Starts to move the input. Call when the process is started, not earlier: clients can close the input only after they have heard
    /// that the process was created.
    pub fn open_stdin(&mut self) -> Result<()> {
        let Some((path, destination)) = self.input.take() else { return Ok(()) };
        let source = open(&path, OFlags::RDONLY)?;
        if is_fifo(&source)? && !self.stdin_closed {
            self.stdin = Some(open(&path, OFlags::WRONLY)?);
        }
        self.relay.pump(self.owner, false, source, destination)
    }

    /// Lets the process see the end of its input, once the client has closed it too.
    pub fn close_stdin(&mut self) {
        self.stdin_closed = true;
        self.stdin = None;
    }

    /// Changes the size of the terminal.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        self.master.as_ref().map_or(Ok(()), |master| console::resize(master, width, height))
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.relay.finish(self.owner, OUTPUT_DEADLINE);
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).context(|| "cannot make a pipe")
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))
        .context(|| format!("cannot open '{}'", path.display()))
}

/// Opens the writing side of a FIFO, and waits until there is a reader: one that comes after the last writer has gone
/// would wait for ever.
fn open_writer(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let end = Instant::now() + READER_DEADLINE;
    let mut pause = Duration::from_millis(1);
    loop {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Err(rustix::io::Errno::NXIO) if Instant::now() < end => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(rustix::io::Errno::NXIO) => {
                return Err(Error::new(format!("cannot open '{}': nobody reads it", path.display())));
            }
            result => return result.context(|| format!("cannot open '{}'", path.display())),
        }
    }
}

fn is_fifo(fd: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(fd).context(|| "cannot look at a stream")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

fn set_nonblocking(fd: &OwnedFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd).context(|| "cannot look at a stream")?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).context(|| "cannot set up a stream")
}

fn chown(fd: &OwnedFd, options: &Options) -> Result<()> {
    if (options.io_uid, options.io_gid) == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(options.io_uid), rustix::fs::Gid::from_raw(options.io_gid));
    rustix::fs::fchown(fd, Some(uid), Some(gid)).context(|| "cannot change the owner of a pipe")
}
