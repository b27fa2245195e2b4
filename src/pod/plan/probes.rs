//! Probes and hooks.

use super::{Action, ProbePlan};
use crate::error::{Error, ErrorKind, Result};
use crate::pod::manifest::types::{Container, Handler, PortRef, Probe};

/// A probe with the defaults of Kubernetes.
pub fn probe(probe: &Probe, container: &Container) -> Result<ProbePlan> {
    Ok(ProbePlan {
        action: action(&probe.handler, container)?,
        initial_delay: probe.initial_delay_seconds,
        period: probe.period_seconds.unwrap_or(10),
        timeout: probe.timeout_seconds.unwrap_or(1),
        success: probe.success_threshold.unwrap_or(1),
        failure: probe.failure_threshold.unwrap_or(3),
        grace: probe.termination_grace_period_seconds,
    })
}

/// What a probe or a hook does. From the pod's own network its address is that of the loopback device.
pub fn action(handler: &Handler, container: &Container) -> Result<Action> {
    let host = |given: &Option<String>| {
        given.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| "127.0.0.1".to_owned())
    };
    Ok(match handler {
        Handler::Exec(exec) => Action::Exec(exec.command.clone()),
        Handler::HttpGet(get) => {
            let path = get.path.clone().unwrap_or_default();
            Action::Http {
                tls: get.scheme.as_deref() == Some("HTTPS"),
                host: host(&get.host),
                port: port(&get.port, container)?,
                path: if path.starts_with('/') { path } else { format!("/{path}") },
                headers: get.http_headers.iter().map(|h| (h.name.clone(), h.value.clone())).collect(),
            }
        }
        Handler::TcpSocket(tcp) => Action::Tcp { host: host(&tcp.host), port: port(&tcp.port, container)? },
        Handler::Grpc(grpc) => Action::Grpc {
            host: host(&None),
            port: grpc.port,
            service: grpc.service.clone().unwrap_or_default(),
        },
        Handler::Sleep(sleep) => Action::Sleep(sleep.seconds),
    })
}

fn port(port: &PortRef, container: &Container) -> Result<u16> {
    match port {
        PortRef::Number(number) => Ok(*number),
        PortRef::Name(name) => {
            let found = container.ports.iter().find(|port| port.name.as_ref() == Some(name));
            found
                .map(|port| port.container_port)
                .ok_or_else(|| Error::new(ErrorKind::InvalidManifest, format!("there is no port '{name}'")))
        }
    }
}
