//! The process of an infra container.

use super::dns::{self, Resolved};
use super::extension::{InfraContext, InfraExtension, PodInfo, Ports};
use super::external::External;
use super::message::{FromInfra, ToInfra};
use super::probe;
use super::wire::Wire;
use crate::error::{Context as _, Error, ErrorKind, Result};
use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// First argument of the process, which tells it from an ordinary call of the program.
pub const PROCESS_NAME: &str = "magikrun-infra";
/// How long the monitor may take to answer the name server: it does one thing after the other.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Stack of the threads for probes and extensions, in bytes.
pub(super) const THREAD_STACK: usize = 128 << 10;

/// Runs the infra container with the stream to its monitor; returns its exit status. `kill` is the pod's `cgroup.kill`, open
/// for writing, or `/dev/null` where the host has none; `names` is the socket that the pod's name server listens on, if it has one.
///
/// When the monitor goes without a word, the whole pod is killed: nobody would look after it any more.
pub fn main(wire: OwnedFd, kill: OwnedFd, names: Option<OwnedFd>) -> u8 {
    if std::process::id() == 1 {
        crate::platform::sys::signal::ignore_children();
    }
    let wire = Wire::from(wire);
    let Ok(sender) = wire.sender() else { return 1 };
    let Err(e) = serve(wire, Vec::new(), names.map(UdpSocket::from)) else { return 0 };
    if sender.send(&FromInfra::Failed(e.message().to_owned())).is_err() {
        let _ = File::from(kill).write_all(b"1");
    }
    1
}

/// Serves one pod with these extensions, and with those that are programs, until it is told to stop. Fails when the
/// monitor is gone.
pub fn run(wire: Wire, extensions: Vec<Box<dyn InfraExtension>>) -> Result<()> {
    serve(wire, extensions, None)
}

fn serve(
    mut wire: Wire,
    mut extensions: Vec<Box<dyn InfraExtension>>,
    names: Option<UdpSocket>,
) -> Result<()> {
    let gone = || Error::new(ErrorKind::System, "the monitor of the pod is gone");
    let Some(ToInfra::Start { pod, extensions: programs, state_directory, name_servers }) =
        wire.receive(None)?
    else {
        return Err(gone());
    };
    for program in &programs {
        extensions.push(Box::new(External::new(program, wire.sender()?)));
    }
    let sender = wire.sender()?;
    let resolved = names.map(|socket| serve_names(socket, name_servers, sender.sender()?)).transpose()?;
    start(&mut wire, &pod, &state_directory, &mut extensions)?;
    sender.send(&FromInfra::Ready)?;
    let none = NoPorts;
    let context = InfraContext { pod: &pod, state_directory: &state_directory, ports: &none };
    loop {
        match wire.receive(None)?.ok_or_else(gone)? {
            ToInfra::Event(event) => each(&mut extensions, &sender, |e| e.on_event(&event, &context)),
            ToInfra::Probe { number, action, timeout } => {
                let answer = sender.sender()?;
                std::thread::Builder::new()
                    .stack_size(action.stack())
                    .spawn(move || {
                        let failure = probe::run(&action, Duration::from_millis(timeout)).err();
                        let failure = failure.map(|e| e.message().to_owned());
                        let _ = answer.send(&FromInfra::Probed { number, failure });
                    })
                    .context(|| "cannot make a thread")?;
            }
            ToInfra::Resolved { name, answer } => {
                if let Some(resolved) = &resolved {
                    let _ = resolved.send((name, answer));
                }
            }
            ToInfra::Stop => {
                each(&mut extensions, &sender, |e| e.on_stop(&context));
                return sender.send(&FromInfra::Stopped);
            }
            ToInfra::Start { .. } | ToInfra::Port(_) => {}
        }
    }
}

/// Starts the pod's name server; answers of the monitor go into what is returned.
fn serve_names(
    socket: UdpSocket,
    servers: Vec<IpAddr>,
    monitor: Wire,
) -> Result<mpsc::Sender<(String, Resolved)>> {
    let (sender, answers) = mpsc::channel();
    let resolver = move |name: &str| {
        monitor.send(&FromInfra::Resolve(name.to_owned())).ok()?;
        loop {
            match answers.recv_timeout(RESOLVE_TIMEOUT) {
                Ok((answered, answer)) if answered == name => return Some(answer),
                // It came too late for an earlier question.
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => return Some(Resolved::Elsewhere),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            }
        }
    };
    dns::start(socket, servers, Box::new(resolver))?;
    Ok(sender)
}

fn start(
    wire: &mut Wire,
    pod: &PodInfo,
    state_directory: &Path,
    extensions: &mut [Box<dyn InfraExtension>],
) -> Result<()> {
    let ports = Asking(RefCell::new(wire));
    let context = InfraContext { pod, state_directory, ports: &ports };
    for extension in extensions {
        let name = extension.name().to_owned();
        extension.on_start(&context).map_err(|e| e.wrap(format!("cannot start extension '{name}'")))?;
    }
    Ok(())
}

/// Calls every extension; one that fails is reported, and the others are called all the same.
fn each(
    extensions: &mut [Box<dyn InfraExtension>],
    sender: &Wire,
    mut call: impl FnMut(&mut dyn InfraExtension) -> Result<()>,
) {
    for extension in extensions {
        if let Err(e) = call(extension.as_mut()) {
            let extension = extension.name().to_owned();
            let _ = sender.send(&FromInfra::Log { extension, message: format!("error: {e}") });
        }
    }
}

/// Asks the monitor for ports; nothing else can come over the stream while it waits.
struct Asking<'a>(RefCell<&'a mut Wire>);

impl Ports for Asking<'_> {
    fn request(&self, udp: bool, host_port: u16, container_port: u16, who: &str) -> Result<()> {
        let mut wire = self.0.borrow_mut();
        wire.send(&FromInfra::RequestPort { extension: who.to_owned(), udp, host_port, container_port })?;
        match wire.receive(None)? {
            Some(ToInfra::Port(None)) => Ok(()),
            Some(ToInfra::Port(Some(why))) => {
                crate::bail!(NotSupported, "cannot get port {host_port}: {why}")
            }
            _ => crate::bail!(System, "the monitor of the pod is gone"),
        }
    }
}

/// After the start, when the pod's network is as it is.
struct NoPorts;

impl Ports for NoPorts {
    fn request(&self, _: bool, host_port: u16, _: u16, _: &str) -> Result<()> {
        crate::bail!(InvalidState, "cannot get port {host_port}: ports can be requested only at the start")
    }
}

/// Directory in which the extensions of a pod keep files, below the pod's own.
pub fn state_directory(pod: &Path) -> PathBuf {
    pod.join("extensions")
}

#[cfg(test)]
mod tests {
    use super::super::extension::InfraEvent;
    use super::*;
    use std::sync::mpsc;

    struct Recorder(mpsc::Sender<String>);

    impl InfraExtension for Recorder {
        fn name(&self) -> &'static str {
            "recorder"
        }

        fn on_start(&mut self, context: &InfraContext<'_>) -> Result<()> {
            context.request_udp_port(51820, 51820, self.name())?;
            let refused = context.request_tcp_port(1, 1, self.name()).unwrap_err();
            self.0.send(format!("start {} {refused}", context.pod().name)).unwrap();
            Ok(())
        }

        fn on_event(&mut self, event: &InfraEvent, context: &InfraContext<'_>) -> Result<()> {
            assert!(context.request_udp_port(1, 1, self.name()).is_err());
            self.0.send(format!("{event:?}")).unwrap();
            Err(Error::from_errno(libc::EIO))
        }

        fn on_stop(&mut self, _: &InfraContext<'_>) -> Result<()> {
            self.0.send("stop".to_owned()).unwrap();
            Ok(())
        }
    }

    fn start() -> ToInfra {
        let pod = PodInfo { name: "web".to_owned(), ..PodInfo::default() };
        ToInfra::Start {
            pod,
            extensions: Vec::new(),
            state_directory: PathBuf::from("/nonexistent"),
            name_servers: Vec::new(),
        }
    }

    #[test]
    fn an_extension_hears_what_happens_and_can_ask_for_ports_at_the_start() {
        let (mut ours, theirs) = Wire::pair().unwrap();
        let (heard, hear) = mpsc::channel();
        let serving = std::thread::spawn(move || run(theirs, vec![Box::new(Recorder(heard))]));
        ours.send(&start()).unwrap();
        let next = |wire: &mut Wire| format!("{:?}", wire.receive::<FromInfra>(None).unwrap().unwrap());
        assert!(next(&mut ours).contains("udp: true, host_port: 51820"));
        ours.send(&ToInfra::Port(None)).unwrap();
        assert!(next(&mut ours).contains("udp: false"));
        ours.send(&ToInfra::Port(Some("taken".to_owned()))).unwrap();
        assert_eq!(next(&mut ours), "Ready");
        assert_eq!(hear.recv().unwrap(), "start web cannot get port 1: taken");
        ours.send(&ToInfra::Event(InfraEvent::PodStarted)).unwrap();
        assert_eq!(hear.recv().unwrap(), "PodStarted");
        assert!(next(&mut ours).contains("input/output error"));
        ours.send(&ToInfra::Stop).unwrap();
        assert_eq!(hear.recv().unwrap(), "stop");
        assert_eq!(next(&mut ours), "Stopped");
        serving.join().unwrap().unwrap();
    }

    #[test]
    fn when_the_monitor_goes_without_a_word_that_is_an_error() {
        let (ours, theirs) = Wire::pair().unwrap();
        let serving = std::thread::spawn(move || run(theirs, Vec::new()));
        ours.send(&start()).unwrap();
        drop(ours);
        assert!(serving.join().unwrap().is_err());
    }
}
