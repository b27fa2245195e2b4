//! Following what pods write and what happens to them.

use crate::error::{Context as _, Result};
use crate::infra::wire::timespec;
use crate::pod::logs::{Entry, LogReader};
use crate::pod::store::{EVENTS, Pod};
use crate::pod::{PodHost, PodStatus};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// How often a pod is looked at that gives no notice: for its end.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Waits for changes in directories.
pub struct Changes(OwnedFd);

impl Changes {
    /// Watches nothing yet.
    pub fn new() -> Result<Self> {
        Ok(Self(init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context(|| "cannot watch files")?))
    }

    /// Watches the files in a directory.
    pub fn watch(&self, directory: &Path) -> Result<()> {
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF;
        add_watch(&self.0, directory, flags)
            .map(drop)
            .context(|| format!("cannot watch '{}'", directory.display()))
    }

    /// Waits for a change, not much longer than [`LOOK_AGAIN`].
    pub fn wait(&self) {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&timespec(LOOK_AGAIN)));
        let mut buffer = [0u8; 4096];
        while rustix::io::read(&self.0, &mut buffer).is_ok_and(|read| read > 0) {}
    }
}

/// Shows the output of pods with the name of its container before each line.
#[derive(Default)]
pub struct Follower {
    pods: Vec<Followed>,
}

struct Followed {
    pod: Pod,
    logs: Vec<(String, LogReader)>,
}

impl Follower {
    /// Adds a pod; with `qualified`, its name is shown too.
    pub fn add(&mut self, pod: Pod, qualified: bool) {
        let logs = pod.record.containers.iter().map(|container| {
            let prefix = if qualified {
                format!("{}/{}", pod.record.name, container.name)
            } else {
                container.name.clone()
            };
            (prefix, LogReader::open(&pod, &container.name))
        });
        let logs = logs.collect();
        self.pods.push(Followed { pod, logs });
    }

    /// Leaves out what has been written so far.
    pub fn skip(&mut self) -> Result<()> {
        for (_, log) in self.pods.iter_mut().flat_map(|pod| &mut pod.logs) {
            while log.next_entry()?.is_some() {}
        }
        Ok(())
    }

    /// Shows output until all pods have ended.
    pub fn until_end(mut self, host: &PodHost) -> Result<Vec<PodStatus>> {
        let changes = Changes::new()?;
        for pod in &self.pods {
            changes.watch(&pod.pod.record.data.join("logs"))?;
            changes.watch(pod.pod.dir.path())?;
        }
        loop {
            let statuses: Vec<PodStatus> =
                self.pods.iter().map(|pod| pod.pod.status(&host.host)).collect::<Result<_>>()?;
            self.show()?;
            if statuses.iter().all(|status| status.phase.is_final()) {
                return Ok(statuses);
            }
            changes.wait();
        }
    }

    fn show(&mut self) -> Result<()> {
        for (prefix, log) in self.pods.iter_mut().flat_map(|pod| &mut pod.logs) {
            while let Some(entry) = log.next_entry()? {
                write_entry(&entry, &format!("{prefix}: "))?;
            }
        }
        Ok(())
    }
}

/// Writes an entry to the stream that it came from.
pub fn write_entry(entry: &Entry, prefix: &str) -> Result<()> {
    let mut line = prefix.as_bytes().to_vec();
    line.extend(&entry.text);
    if !entry.partial || !prefix.is_empty() {
        line.push(b'\n');
    }
    let written = if entry.stderr {
        std::io::stderr().lock().write_all(&line)
    } else {
        let mut out = std::io::stdout().lock();
        out.write_all(&line).and_then(|()| out.flush())
    };
    written.context(|| "cannot write to standard output")
}

/// Arguments of `events`.
#[derive(Debug, clap::Args)]
pub struct EventArgs {
    /// Id or name of the pod
    #[arg(value_name = "POD")]
    pod: String,
    /// Go on until the pod has ended
    #[arg(short, long)]
    follow: bool,
}

/// `magikrun pod events`
pub fn events(host: &PodHost, args: &EventArgs) -> Result<()> {
    let pod = host.store.open(&args.pod)?;
    let path = pod.dir.path().join(EVENTS);
    let mut file = std::fs::File::open(&path).context(|| format!("cannot read '{}'", path.display()))?;
    let changes = Changes::new()?;
    changes.watch(pod.dir.path())?;
    let mut shown = 0;
    loop {
        let ended = !args.follow || pod.status(&host.host)?.phase.is_final();
        let mut text = String::new();
        file.seek(SeekFrom::Start(shown))
            .and_then(|_| file.read_to_string(&mut text))
            .context(|| "cannot read events")?;
        // Only whole lines.
        text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
        shown += text.len() as u64;
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .context(|| "cannot write to standard output")?;
        if ended {
            return Ok(());
        }
        changes.wait();
    }
}
