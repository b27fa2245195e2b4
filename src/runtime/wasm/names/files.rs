//! What `/etc/hosts` and `/etc/resolv.conf` say: pure functions of their text. See hosts(5) and resolv.conf(5).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Most servers that are asked: resolv.conf(5), `MAXNS`.
const MAX_SERVERS: usize = 3;
/// Longest timeout, in seconds: resolv.conf(5).
const MAX_TIMEOUT: u64 = 30;
/// Most attempts: resolv.conf(5).
const MAX_ATTEMPTS: u32 = 5;
/// Most dots: resolv.conf(5).
const MAX_DOTS: usize = 15;

/// The addresses that a text in the form of `/etc/hosts` has for a name.
pub fn hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// Whom to ask, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolv {
    /// Servers, in the order in which they are asked.
    pub servers: Vec<IpAddr>,
    /// Domains that a short name may be in.
    search: Vec<String>,
    /// A name with as many dots is tried as it is first.
    dots: usize,
    /// How long a server has to answer.
    pub timeout: Duration,
    /// How often all servers are asked.
    pub attempts: u32,
}

impl Resolv {
    /// Reads a text in the form of `/etc/resolv.conf`. What it does not know is passed over.
    pub fn parse(text: &str) -> Self {
        let mut found = Self {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().and_then(server)),
                Some("domain" | "search") => found.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|option| found.set(option)),
                _ => {}
            }
        }
        found.servers.truncate(MAX_SERVERS);
        if found.servers.is_empty() {
            found.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        found
    }

    fn set(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else { return };
        let Ok(value) = value.parse::<u32>() else { return };
        match name {
            "ndots" => self.dots = (value as usize).min(MAX_DOTS),
            "timeout" => self.timeout = Duration::from_secs(u64::from(value).clamp(1, MAX_TIMEOUT)),
            "attempts" => self.attempts = value.clamp(1, MAX_ATTEMPTS),
            _ => {}
        }
    }

    /// The full names that a name may stand for, in the order in which they are asked for.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(full) = name.strip_suffix('.') {
            return vec![full.to_owned()];
        }
        let mut all: Vec<String> =
            self.search.iter().map(|domain| format!("{name}.{}", domain.trim_matches('.'))).collect();
        let first = name.matches('.').count() >= self.dots;
        all.insert(if first { 0 } else { all.len() }, name.to_owned());
        all
    }
}

/// The address of a server. One with a zone (`fe80::1%eth0`) cannot be asked: nothing here knows the numbers of interfaces.
fn server(word: &str) -> Option<IpAddr> {
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts_are_found_whatever_their_case() {
        let text = "127.0.0.1 localhost\n# 192.0.2.9 not\n192.0.2.1\tWeb web.example # comment\n::1 web\nnonsense web\n";
        let addresses = |name| hosts(text, name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(addresses("WEB"), ["192.0.2.1", "::1"]);
        assert_eq!(addresses("web.example"), ["192.0.2.1"]);
        assert!(addresses("not").is_empty() && addresses("comment").is_empty());
    }

    #[test]
    fn the_configuration_of_the_resolver_is_read_within_its_limits() {
        let text = "; comment\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver ::1\nsearch old\n\
                    search a.example b.example\noptions ndots:2 timeout:900 attempts:0 rotate\n";
        let read = Resolv::parse(text);
        assert_eq!(read.servers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1", "::1"]);
        assert_eq!((read.dots, read.timeout, read.attempts), (2, Duration::from_secs(30), 1));
        assert_eq!(read.candidates("x.y"), ["x.y.a.example", "x.y.b.example", "x.y"]);
        assert_eq!(read.candidates("x.y.z"), ["x.y.z", "x.y.z.a.example", "x.y.z.b.example"]);
        assert_eq!(read.candidates("x."), ["x"]);
        assert_eq!(Resolv::parse("").servers, [IpAddr::from([127, 0, 0, 1])]);
    }
}
