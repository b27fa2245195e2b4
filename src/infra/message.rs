//! What the monitor of a pod and its infra container say to each other. Both are the same program.

use super::dns::Resolved;
use super::extension::{InfraEvent, PodInfo};
use super::probe::NetAction;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// From the monitor.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToInfra {
    /// The first message: what pod this is, and which programs extend it.
    Start {
        /// The pod.
        pod: PodInfo,
        /// Programs.
        extensions: Vec<PathBuf>,
        /// Directory in which extensions may keep files.
        state_directory: PathBuf,
        /// Servers that the pod's name server asks for what it does not know.
        #[serde(default)]
        name_servers: Vec<IpAddr>,
    },
    /// Something has happened.
    Event(InfraEvent),
    /// Do this, and answer with [`FromInfra::Probed`].
    Probe {
        /// Number for the answer.
        number: u64,
        /// What to do.
        action: NetAction,
        /// How long it may take, in milliseconds.
        timeout: u64,
    },
    /// The answer to [`FromInfra::RequestPort`]: why not, if not.
    Port(Option<String>),
    /// The answer to [`FromInfra::Resolve`].
    Resolved {
        /// The name.
        name: String,
        /// What is known of it.
        answer: Resolved,
    },
    /// The pod ends: stop the extensions, answer and exit.
    Stop,
}

/// To the monitor.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInfra {
    /// All extensions have started.
    Ready,
    /// It cannot go on.
    Failed(String),
    /// An extension asks for a port of the host.
    RequestPort {
        /// Name of the extension.
        extension: String,
        /// UDP instead of TCP.
        udp: bool,
        /// Port of the host.
        host_port: u16,
        /// Port in the pod.
        container_port: u16,
    },
    /// The name server asks for a name, in lower case.
    Resolve(String),
    /// What became of [`ToInfra::Probe`]: none is good.
    Probed {
        /// Number of the question.
        number: u64,
        /// Why it is bad.
        failure: Option<String>,
    },
    /// An extension has something to say.
    Log {
        /// Name of the extension.
        extension: String,
        /// What.
        message: String,
    },
    /// The extensions have stopped.
    Stopped,
}
