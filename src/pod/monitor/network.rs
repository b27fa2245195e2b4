//! What connects a pod: pasta, or plugins of the Container Network Interface; and what addresses it has then.

use super::Monitor;
use crate::cni::{self, Attachment, PortMapping};
use crate::error::{Context as _, Result};
use crate::infra::message::ToInfra;
use crate::passt::{self, Forward};
use crate::pod::attachment;
use crate::pod::plan::users::Users;
use crate::pod::plan::{Network, PodPlan, PortPlan};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;

/// Name of the interface that plugins make in a pod, as everywhere.
const INTERFACE: &str = "eth0";

impl Monitor<'_> {
    /// An extension asks for a port.
    pub(super) fn grant_port(&mut self, extension: &str, udp: bool, host_port: u16, container_port: u16) {
        let Some(sandbox) = &self.sandbox else { return };
        let network = &self.plan().network;
        let taken = |p: &PortPlan| p.host_port == host_port && p.udp == udp;
        let refused = match network {
            Network::Host => None,
            network if network.maps_ports() && self.ports_wanted.iter().any(taken) => {
                Some("the pod has this port already".to_owned())
            }
            network if network.maps_ports() => None,
            _ => Some("the pod's network is not connected: it needs --network pasta".to_owned()),
        };
        let granted = refused.is_none();
        let _ = sandbox.send(&ToInfra::Port(refused));
        if granted && network.maps_ports() {
            self.ports_wanted.push(PortPlan { host_ip: None, host_port, container_port, udp });
        }
        tracing::debug!("extension {extension} asked for port {host_port}: {granted}");
    }

    pub(super) fn connect(&mut self) -> Result<()> {
        match &self.plan().network {
            Network::Pasta => self.start_pasta(),
            Network::Cni(network) => self.attach(network),
            Network::None | Network::Host | Network::Path(_) => Ok(()),
        }
    }

    fn start_pasta(&mut self) -> Result<()> {
        let forwards: Vec<Forward> = self
            .ports_wanted
            .iter()
            .map(|port| Forward {
                host_ip: port.host_ip.clone(),
                host_port: port.host_port,
                inner_port: port.container_port,
                udp: port.udp,
            })
            .collect();
        let Some(sandbox) = &mut self.sandbox else { return Ok(()) };
        let namespace =
            File::open(sandbox.path("net")).context(|| "cannot open the pod's network namespace")?;
        let pasta = passt::start(namespace.as_fd(), &forwards)?;
        sandbox.join(pasta.pid)?;
        sandbox.pasta = Some(pasta);
        Ok(())
    }

    /// Notes what pasta has to say.
    pub(super) fn hear_pasta(&mut self) {
        let Some(pasta) = self.sandbox.as_mut().and_then(|sandbox| sandbox.pasta.as_mut()) else { return };
        let mut buffer = [0u8; 4096];
        match pasta.output.as_mut().map_or(Ok(0), |output| output.read(&mut buffer)) {
            Ok(0) => pasta.output = None,
            Ok(read) => {
                let message = String::from_utf8_lossy(&buffer[..read]).trim().to_owned();
                self.note(&serde_json::json!({"type": "network", "name": "pasta", "message": message}));
            }
            Err(_) => {}
        }
    }

    /// Has the plugins take back what they made. Where that fails, whoever removes the pod tries again.
    pub(super) fn disconnect(&self) {
        if !matches!(self.plan().network, Network::Cni(_)) {
            return;
        }
        if let Err(e) = self.on_host_mounts(|| attachment::remove(&self.orders.record.running)) {
            tracing::warn!("cannot disconnect the pod's network: {e}");
        }
    }

    /// Connects the pod through plugins. What they will need to take it back is on disk before the first of them runs.
    fn attach(&mut self, network: &cni::Network) -> Result<()> {
        let Some(sandbox) = &self.sandbox else { return Ok(()) };
        let mut attachment = Attachment {
            network: network.clone(),
            container: self.plan().id.clone(),
            namespace: attachment::namespace(&self.orders.record.running),
            interface: INTERFACE.to_owned(),
            arguments: arguments(self.plan()),
            ports: self.ports_wanted.iter().map(mapping).collect(),
            result: None,
        };
        let running = &self.orders.record.running;
        self.on_host_mounts(|| {
            attachment::keep(running, &sandbox.path("net"))?;
            attachment::save(running, &attachment)?;
            // In the pod's cgroup a plugin dies with the pod, and cannot work on while others take back what it did.
            attachment.add(&|pid| sandbox.join(pid)).context(|| "cannot connect the pod's network")?;
            attachment::save(running, &attachment)
        })?;
        self.addresses = attachment.addresses();
        Ok(())
    }

    /// Notes what of the sandbox the containers' configurations need.
    pub(super) fn note_facts(&mut self) -> Result<()> {
        let plan = self.plan();
        let Some(sandbox) = &self.sandbox else { return Ok(()) };
        let host_ip = own_address().map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string());
        let pod_ips: Vec<String> = match &plan.network {
            Network::Host | Network::Pasta => vec![host_ip.clone()],
            Network::None => Vec::new(),
            Network::Cni(_) => self.addresses.iter().map(ToString::to_string).collect(),
            Network::Path(path) => inside(path, own_address)?.iter().map(ToString::to_string).collect(),
        };
        let pod_ip = pod_ips.first().cloned().unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string());
        let mut namespaces = vec![("uts", sandbox.path("uts"))];
        if plan.network != Network::Host {
            namespaces.push(("network", sandbox.path("net")));
        }
        if !plan.host_ipc {
            namespaces.push(("ipc", sandbox.path("ipc")));
        }
        if plan.share_pid {
            namespaces.push(("pid", sandbox.path("pid")));
        }
        if plan.users == Users::Own {
            namespaces.push(("user", sandbox.path("user")));
        }
        self.facts.namespaces = namespaces;
        (self.facts.pod_ip, self.facts.host_ip) = (pod_ip.clone(), host_ip.clone());
        (self.status.pod_ip, self.status.host_ip) = (pod_ip, host_ip);
        self.status.pod_ips = pod_ips;
        Ok(())
    }
}

/// What plugins may know of a pod: the names are those of Kubernetes.
fn arguments(plan: &PodPlan) -> Vec<(String, String)> {
    [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", plan.metadata.namespace()),
        ("K8S_POD_NAME", &plan.metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &plan.id),
        ("K8S_POD_UID", &plan.id),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

fn mapping(port: &PortPlan) -> PortMapping {
    PortMapping {
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: if port.udp { "udp" } else { "tcp" }.to_owned(),
        host_ip: port.host_ip.clone(),
    }
}

/// The address from which this network reaches others; nothing is sent.
fn own_address() -> Option<IpAddr> {
    // Addresses for documentation (RFC 5737, RFC 3849): any other would do.
    let via = |bind: &str, to: &str| {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
    };
    via("0.0.0.0:0", "203.0.113.1:9").or_else(|| via("[::]:0", "[2001:db8::1]:9"))
}

/// Runs `job` in another network namespace. This process must have no other thread.
fn inside<T>(path: &Path, job: impl FnOnce() -> T) -> Result<T> {
    let cannot = || format!("cannot enter the network namespace '{}'", path.display());
    let enter = |file: &File| move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
    let own = File::open("/proc/self/ns/net").context(cannot)?;
    enter(&File::open(path).context(cannot)?).context(cannot)?;
    let done = job();
    enter(&own).context(cannot)?;
    Ok(done)
}
