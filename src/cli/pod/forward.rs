//! `magikrun pod port-forward`

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::stdio;
use crate::platform::userns;
use crate::pod::PodHost;
use crate::pod::store::Pod;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id or name of the pod
    #[arg(value_name = "POD")]
    pod: String,
    /// Port of this host's loopback device and port in the pod; one number stands for both, 0 for a free port
    #[arg(value_name = "[PORT:]PORT", required = true, value_parser = parse)]
    ports: Vec<(u16, u16)>,
}

fn parse(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("'{text}' is not a port"));
    let (local, inner) = text.split_once(':').unwrap_or((text, text));
    match (number(local)?, number(inner)?) {
        (_, 0) => Err("the port in the pod must not be 0".to_owned()),
        ports => Ok(ports),
    }
}

/// `magikrun pod port-forward`: until it is interrupted, or the pod is gone.
pub fn run(host: &PodHost, args: &Args) -> Result<()> {
    let pod = host.store.open(&args.pod)?;
    let infra = infra(host, &pod)?;
    let namespace = Arc::new(network(infra)?);
    let mut listeners = Vec::new();
    for (local, inner) in args.ports.iter().copied() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local))
            .context(|| format!("cannot listen on port {local}"))?;
        listeners.push((listener, inner));
    }
    if host.host.rootless {
        // The pod's network is its namespace's, as are the privileges to enter it.
        userns::enter(infra)?;
    }
    let mut threads = Vec::new();
    for (listener, inner) in listeners {
        let address = listener.local_addr().context(|| "cannot tell the port")?;
        crate::cli::print(&format!("{address} -> {inner}"))?;
        let namespace = Arc::clone(&namespace);
        threads.push(std::thread::spawn(move || serve(&listener, &namespace, inner)));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// The pod's infra container.
fn infra(host: &PodHost, pod: &Pod) -> Result<i32> {
    let infra = pod.status(&host.host)?.infra.filter(|infra| infra.is_alive());
    let gone = || Error::new(ErrorKind::InvalidState, format!("pod '{}' does not run", pod.record.name));
    Ok(infra.ok_or_else(gone)?.pid)
}

/// Its network namespace.
fn network(infra: i32) -> Result<File> {
    let path = format!("/proc/{infra}/ns/net");
    File::open(&path).context(|| format!("cannot open '{path}'"))
}

fn serve(listener: &TcpListener, namespace: &Arc<File>, port: u16) {
    for stream in listener.incoming().flatten() {
        let namespace = Arc::clone(namespace);
        std::thread::spawn(move || {
            if let Err(e) = connect(stream, &namespace, port) {
                stdio::tell(format_args!("magikrun: {e}"));
            }
        });
    }
}

/// Connects a stream with a port in the pod. The thread enters the pod's network for good, so it must be one of its own.
fn connect(ours: TcpStream, namespace: &File, port: u16) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context(|| "cannot enter the pod's network")?;
    let theirs = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .context(|| format!("cannot connect to port {port} of the pod"))?;
    let (from, to) = (ours.try_clone()?, theirs.try_clone()?);
    let back = std::thread::spawn(move || pipe(theirs, ours));
    pipe(from, to);
    let _ = back.join();
    Ok(())
}

fn pipe(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.flush();
    let _ = to.shutdown(Shutdown::Write);
}
