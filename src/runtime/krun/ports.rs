//! Ports of a container's network namespace that lead to its guest: from an annotation to arguments of passt.

/// TCP ports that are forwarded unless the container says otherwise: those of root, and those that web servers of others have. Each
/// costs 4 KiB of the kernel's memory, counted in the container's cgroup, and 10 us: all would be 350 MiB and a second. Told as
/// what is left out, so that passt takes no offence at a port that is taken.
const TCP: &str = "~1024-7999,~9100-65535";
/// The same for UDP.
const UDP: &str = "~1024-65535";

/// What passt(1) forwards, in its own terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// TCP.
    pub tcp: String,
    /// UDP.
    pub udp: String,
}

impl Default for Ports {
    fn default() -> Self {
        Self { tcp: TCP.to_owned(), udp: UDP.to_owned() }
    }
}

impl std::str::FromStr for Ports {
    type Err = &'static str;

    /// `all`, `none`, or as in `80,8000-8010/tcp,53/udp`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if ["all", "none"].contains(&text) {
            return Ok(Self { tcp: text.to_owned(), udp: text.to_owned() });
        }
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for item in text.split(',') {
            match item.split_once('/').unwrap_or((item, "tcp")) {
                (ports, "tcp") if is_range(ports) => tcp.push(ports),
                (ports, "udp") if is_range(ports) => udp.push(ports),
                _ => return Err("must be all, none, or ports as in 80,8000-8010/tcp,53/udp"),
            }
        }
        let list = |all: Vec<&str>| if all.is_empty() { "none".to_owned() } else { all.join(",") };
        Ok(Self { tcp: list(tcp), udp: list(udp) })
    }
}

fn is_range(text: &str) -> bool {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0 && !text.starts_with('+'));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    matches!((port(first), port(last)), (Some(first), Some(last)) if first <= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_by_protocol() {
        let of = |text: &str| text.parse::<Ports>().map(|ports| (ports.tcp, ports.udp));
        let pair = |tcp: &str, udp: &str| Ok((tcp.to_owned(), udp.to_owned()));
        assert_eq!(of("all"), pair("all", "all"));
        assert_eq!(of("none"), pair("none", "none"));
        assert_eq!(of("80,8000-8010/tcp,53/udp"), pair("80,8000-8010", "53"));
        assert_eq!(of("53/udp"), pair("none", "53"));
        for wrong in ["", "0", "80,", "90-80", "65536", "80/sctp", "~80", "+80", "80:81", "80 ", "a"] {
            of(wrong).unwrap_err();
        }
    }
}
