//! A volume of a pod in a microVM: to the kernel of all containers it is one file system, where sockets, FIFOs and locks meet.

use crate::client::{ContainerConfig, Cri, Empty, Mount, PodConfig};
use crate::common::poll;
use crate::krun::member;
use crate::{id, printed};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Variable that tells this program that it is in a container, and which.
const IN_GUEST: &str = "IN_GUEST";
/// The test that this program runs there.
const TEST: &str = "krun::containers_of_a_pod_share_a_microvm";
/// What the containers have in their volume.
const SOCKET: &str = "/volume/socket";
const LOCKED_FILES: [&str; 2] = ["/volume/whole", "/volume/record"];
/// Locks that wait for nobody, and how to let go of them.
const LOCK: FlockOperation = FlockOperation::NonBlockingLockExclusive;
const UNLOCK: FlockOperation = FlockOperation::NonBlockingUnlock;

/// A volume, and what has it.
struct Volume<'a> {
    cri: &'a Cri,
    pod: &'a str,
    config: &'a PodConfig,
}

impl Volume<'_> {
    fn folder(&self) -> std::path::PathBuf {
        self.cri.containerd.path("shared")
    }

    /// Starts a script in a container with the volume, and with more mounts.
    fn start(&self, name: &str, readonly: bool, more: Vec<Mount>, script: &str) -> String {
        let mut mounts = vec![mount("/volume", &self.folder(), readonly)];
        mounts.extend(more);
        self.cri.start(self.pod, self.config, ContainerConfig { mounts, ..member(self.cri, name, script) })
    }

    /// Starts this program in a container, with the libraries that it needs.
    fn start_program(&self, name: &str) -> String {
        let program = std::env::current_exe().expect("this program");
        let libraries = ["/lib/x86_64-linux-gnu", "/lib64"].map(|path| mount(path, Path::new(path), true));
        let more = [mount("/program", &program, true)].into_iter().chain(libraries).collect();
        let script = format!("{IN_GUEST}={name} exec /program --exact --nocapture --include-ignored {TEST}");
        self.start(name, false, more, &script)
    }

    /// Waits for the end of a container.
    fn ends(&self, container: &str, name: &str, code: i32) {
        poll(&format!("the end of '{name}'"), || (self.cri.status(container).state == 2).then_some(()));
        assert_eq!(self.cri.status(container).exit_code, code, "{name}: {:?}", self.said(name));
    }

    /// Waits for what a container prints.
    fn says(&self, name: &str, text: &str) {
        poll(&format!("the log of '{name}'"), || (self.said(name)[0] == text).then_some(()));
    }

    /// What a container has printed, and its errors.
    fn said(&self, name: &str) -> [String; 2] {
        ["stdout", "stderr"].map(|stream| printed(self.cri, &format!("{name}.log"), stream))
    }
}

fn mount(destination: &str, source: &Path, readonly: bool) -> Mount {
    let host_path = source.display().to_string();
    Mount { container_path: destination.to_owned(), host_path, readonly }
}

/// How often containers come and go: as one ends, the file systems end that the guest's kernel made for it, once in five times while
/// something of them was in use.
const ROUNDS: usize = 3;

/// A volume of a pod that runs.
pub(crate) fn is_one_for_all_containers(cri: &Cri, pod: &str, config: &PodConfig) {
    let volume = Volume { cri, pod, config };
    fs::create_dir(volume.folder()).expect("the volume");
    (0..ROUNDS).for_each(|round| passes_what_a_fifo_is_given(&volume, round));
    has_sockets_and_locks(&volume);
}

/// For one that reads only, which comes first, for one that writes, and for one that comes when the first has left.
fn passes_what_a_fifo_is_given(volume: &Volume<'_>, round: usize) {
    let [reads_name, writes_name, late_name] =
        ["reads", "writes", "late"].map(|name| format!("{name}{round}"));
    let script =
        "until [ -p /volume/fifo ]; do sleep 0.2; done; cat /volume/fifo; ! touch /volume/mine && exit 7";
    let reads = volume.start(&reads_name, true, Vec::new(), script);
    let script = "mkfifo /volume/fifo; echo through >/volume/fifo; until [ -e /volume/late ]; do sleep 0.2; done; \
                  cat /volume/fifo; rm /volume/fifo /volume/late; exit 8";
    let writes = volume.start(&writes_name, false, Vec::new(), script);
    volume.ends(&reads, &reads_name, 7);
    volume.says(&reads_name, "through\n");
    volume.cri.call::<Empty>("RemoveContainer", &id(&reads));
    let script = "touch /volume/late; echo again >/volume/fifo; exit 9";
    let late = volume.start(&late_name, false, Vec::new(), script);
    volume.ends(&late, &late_name, 9);
    volume.ends(&writes, &writes_name, 8);
    volume.says(&writes_name, "again\n");
    for container in [&writes, &late] {
        volume.cri.call::<Empty>("RemoveContainer", &id(container));
    }
    assert!(!volume.folder().join("mine").exists(), "a volume was written to that is only read");
}

fn has_sockets_and_locks(volume: &Volume<'_>) {
    let holds = volume.start_program("holds");
    poll("it to listen or to end", || {
        (volume.said("holds")[0].contains("listens") || volume.cri.status(&holds).state == 2).then_some(())
    });
    assert_eq!(volume.cri.status(&holds).state, 1, "{:?}", volume.said("holds"));
    let asks = volume.start_program("asks");
    volume.ends(&asks, "asks", 0);
    volume.ends(&holds, "holds", 0);
}

/// The part of a container whose process this is, if it is one.
pub(crate) fn in_guest() -> bool {
    let Ok(part) = std::env::var(IN_GUEST) else { return false };
    let files = LOCKED_FILES.map(|path| File::create(path).expect("a file of the volume"));
    match part.as_str() {
        "holds" => hold(&files),
        "asks" => ask(&files),
        other => panic!("there is no part '{other}'"),
    }
    true
}

/// Locks a file by each kind of lock.
fn lock([whole, record]: &[File; 2], operation: FlockOperation) -> [Result<(), Errno>; 2] {
    [flock(whole, operation), fcntl_lock(record, operation)]
}

/// Locks files, and lets go of them when somebody has said that they are locked.
fn hold(files: &[File; 2]) {
    assert_eq!(lock(files, LOCK), [Ok(()); 2]);
    let listener = UnixListener::bind(SOCKET).expect("a socket in the volume");
    println!("listens");
    let (mut stream, _) = listener.accept().expect("a connection");
    assert_eq!(line(&stream), "locked\n");
    assert_eq!(lock(files, UNLOCK), [Ok(()); 2]);
    stream.write_all(b"free\n").expect("an answer");
}

fn ask(files: &[File; 2]) {
    let mut stream = UnixStream::connect(SOCKET).expect("the server at the socket");
    assert_eq!(lock(files, LOCK), [Err(Errno::WOULDBLOCK); 2]);
    stream.write_all(b"locked\n").expect("a question");
    assert_eq!(line(&stream), "free\n");
    assert_eq!(lock(files, LOCK), [Ok(()); 2]);
}

fn line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a line");
    line
}
