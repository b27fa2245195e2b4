//! Names and their addresses, by the container's own `/etc/hosts` and `/etc/resolv.conf`.
//!
//! The C library would look them up by services that the image's `nsswitch.conf` names, and load code for that from the image.

mod files;
pub mod lookup;
mod query;

use files::Resolv;
use query::Answer;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use url::Host;

/// Most bytes that are read of a file (1 MiB).
const MAX_FILE: u64 = 1 << 20;
/// Longest name, in bytes: RFC 1035, 2.3.4.
const MAX_NAME: usize = 253;

/// Most names that are asked for at a time: each needs a descriptor, and a program may ask for as many as it likes.
static AT_A_TIME: Semaphore = Semaphore::const_new(32);

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It is none.
    Invalid,
    /// Nobody knows it.
    Unknown,
    /// No server answered.
    NoAnswer,
}

/// Finds the addresses of a name. An address in text is its own.
pub async fn resolve(name: &str) -> Result<Vec<IpAddr>, Failure> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    // It makes ASCII of international names.
    let name = match Host::parse(name) {
        Ok(Host::Domain(name)) => name,
        Ok(Host::Ipv4(address)) => return Ok(vec![address.into()]),
        Ok(Host::Ipv6(address)) => return Ok(vec![address.into()]),
        Err(_) => return Err(Failure::Invalid),
    };
    if name.len() > MAX_NAME {
        return Err(Failure::Invalid);
    }
    let found = files::hosts(&read("/etc/hosts"), name.trim_end_matches('.'));
    if !found.is_empty() {
        return Ok(found);
    }
    if is_local(&name) {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let _place = AT_A_TIME.acquire().await;
    ask(&Resolv::parse(&read("/etc/resolv.conf")), &name).await
}

/// Names that always mean this host: RFC 6761, 6.3.
fn is_local(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

async fn ask(resolv: &Resolv, name: &str) -> Result<Vec<IpAddr>, Failure> {
    let mut failure = Failure::Unknown;
    for candidate in resolv.candidates(name) {
        match ask_all(resolv, &candidate).await {
            Some(found) if !found.is_empty() => return Ok(found),
            Some(_) => {}
            None => failure = Failure::NoAnswer,
        }
    }
    Err(failure)
}

/// Asks one server after the other until one answers.
async fn ask_all(resolv: &Resolv, name: &str) -> Option<Vec<IpAddr>> {
    for _ in 0..resolv.attempts {
        for server in &resolv.servers {
            match timeout(resolv.timeout, query::ask(*server, name)).await {
                Ok(Ok(Answer::Addresses(found))) => return Some(found),
                Ok(Ok(answer)) => tracing::debug!("{server} does not know '{name}': {answer:?}"),
                Ok(Err(e)) => tracing::debug!("cannot ask {server} for '{name}': {e}"),
                Err(_) => tracing::debug!("{server} does not answer"),
            }
        }
    }
    None
}

/// The text of an ordinary file; nothing if there is none. The image may have put anything there.
fn read(path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut text = Vec::new();
    if let Ok(file) = open(path, flags, Mode::empty())
        && fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    {
        let _ = File::from(file).take(MAX_FILE).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work)
    }

    #[test]
    fn addresses_are_their_own_and_localhost_is_this_host() {
        for (name, address) in [("192.0.2.1", "192.0.2.1"), ("::1", "::1"), ("[::1]", "::1")] {
            assert_eq!(now(resolve(name)).unwrap(), [address.parse::<IpAddr>().unwrap()]);
        }
        assert!(now(resolve("some.localhost")).unwrap().contains(&Ipv4Addr::LOCALHOST.into()));
        for name in ["", "a b", "a/b", &"a".repeat(300)] {
            assert_eq!(now(resolve(name)), Err(Failure::Invalid), "{name}");
        }
    }

    #[test]
    fn what_is_no_ordinary_file_is_not_read() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).unwrap();
        assert_eq!(read(path.to_str().unwrap()), "");
        assert_eq!(read("/nonexistent"), "");
    }
}
