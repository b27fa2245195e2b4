//! The arguments of passt and pasta: pure functions.

use std::os::fd::RawFd;

/// Number of the user and the group `nobody`, the kernel's overflow ids.
pub(super) const NOBODY: u32 = 65534;

/// A port of the host that leads to a port of the network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Address of the host; all of them where there is none.
    pub host_ip: Option<String>,
    /// Port of the host.
    pub host_port: u16,
    /// Port in the namespace.
    pub inner_port: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

/// The arguments of pasta for the network namespace at `namespace`. It stays in the foreground, and writes its pid to `pid_file`
/// once it is ready.
///
/// Nothing of the namespace is forwarded to the host's loopback device: what listens there is not for pods. As `root`, it must
/// stay root, since only root may enter a namespace that root has made; it confines itself all the same.
pub fn pasta(namespace: &str, pid_file: &str, forwards: &[Forward], root: bool) -> Vec<String> {
    let mut all: Vec<String> =
        ["--foreground", "--config-net", "--quiet", "--no-map-gw", "-T", "none", "-U", "none"]
            .into_iter()
            .map(str::to_owned)
            .collect();
    all.extend(["--pid".to_owned(), pid_file.to_owned()]);
    for (option, udp) in [("-t", false), ("-u", true)] {
        let specs: Vec<String> = forwards.iter().filter(|f| f.udp == udp).map(spec).collect();
        if specs.is_empty() {
            all.extend([option.to_owned(), "none".to_owned()]);
        }
        all.extend(specs.into_iter().flat_map(|spec| [option.to_owned(), spec]));
    }
    if root {
        all.extend(["--netns-only", "--runas", "0:0"].into_iter().map(str::to_owned));
    }
    all.extend(["--netns".to_owned(), namespace.to_owned()]);
    all
}

/// The arguments of passt for a virtual machine whose end of the connection is descriptor `socket`, and which has this address and
/// gateway, of IPv4. These TCP and UDP ports of the network namespace that it runs in, as passt(1) names them, lead to the same ports
/// of the machine.
///
/// It stays in the foreground, so that whoever starts it knows when it ends. As `root` it becomes nobody, by number: by itself it would look
/// for the name in /etc/passwd, which Debian's profile of AppArmor forbids it.
pub fn passt(
    socket: RawFd,
    address: &str,
    gateway: &str,
    (tcp, udp): (&str, &str),
    root: bool,
) -> Vec<String> {
    let socket = socket.to_string();
    let user = if root { vec!["--runas".to_owned(), format!("{NOBODY}:{NOBODY}")] } else { Vec::new() };
    let all = [
        "--foreground",
        "--quiet",
        "--ipv4-only",
        "--fd",
        &socket,
        "--address",
        address,
        "--netmask",
        "24",
        "--gateway",
        gateway,
    ];
    let ports = ["--no-map-gw", "-t", tcp, "-u", udp];
    all.into_iter().chain(ports).map(str::to_owned).chain(user).collect()
}

/// `[ADDRESS/]PORT[:PORT]`
fn spec(forward: &Forward) -> String {
    let address = forward.host_ip.as_ref().map(|ip| format!("{ip}/")).unwrap_or_default();
    format!("{address}{}:{}", forward.host_port, forward.inner_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_gets_ports_of_its_namespace() {
        assert_eq!(
            passt(7, "10.0.2.15", "10.0.2.2", ("80", "none"), false).join(" "),
            "--foreground --quiet --ipv4-only --fd 7 --address 10.0.2.15 --netmask 24 --gateway 10.0.2.2 --no-map-gw -t 80 -u none"
        );
        let as_root = passt(7, "10.0.2.15", "10.0.2.2", ("80", "none"), true).join(" ");
        assert!(as_root.ends_with(" --runas 65534:65534"), "{as_root}");
    }

    #[test]
    fn ports_are_forwarded_by_protocol_and_nothing_else_is() {
        let forward = |host_ip: Option<&str>, udp| Forward {
            host_ip: host_ip.map(str::to_owned),
            host_port: 8080,
            inner_port: 80,
            udp,
        };
        let text = |forwards: &[Forward], root| pasta("/n", "/p", forwards, root).join(" ");
        assert_eq!(
            text(&[forward(None, false), forward(Some("192.0.2.1"), true)], true),
            "--foreground --config-net --quiet --no-map-gw -T none -U none --pid /p -t 8080:80 -u 192.0.2.1/8080:80 \
             --netns-only --runas 0:0 --netns /n"
        );
        assert_eq!(
            text(&[], false),
            "--foreground --config-net --quiet --no-map-gw -T none -U none --pid /p -t none -u none --netns /n"
        );
    }
}
