//! Names of images: what people write, and the registry, repository, tag and digest that it means.

use crate::error::{Error, ErrorKind, Result};
use crate::limits::MAX_IMAGE_REF_LEN;
use crate::storage::blobs::Digest;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The registry of names that have none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Other names of the default registry, by which docker's tools know it.
const DEFAULT_REGISTRY_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
/// The host that serves the default registry.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
/// What stands before names of one part at the default registry.
const OFFICIAL: &str = "library";
/// The registry of images that came from no registry.
pub const LOCAL_REGISTRY: &str = "localhost";
/// The tag of names that have neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Longest tag, in bytes: OCI distribution specification.
const MAX_TAG_LEN: usize = 128;

/// A resolved name, as in `registry.example:5000/team/app:1.0@sha256:...`.
///
/// ```
/// use magikrun::image::Reference;
///
/// let name: Reference = "registry.example:5000/team/app".parse()?;
/// assert_eq!((name.registry(), name.repository(), name.tag()), ("registry.example:5000", "team/app", Some("latest")));
/// # Ok::<(), magikrun::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and port of the registry, as in the name.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Host and port that serve the registry.
    pub fn host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { &self.registry }
    }

    /// Path of the repository in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none only when there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the name asks for.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The name without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// True if the registry is on this machine: `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.registry)
    }
}

/// True if a `host[:port]` is on this machine.
pub fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

fn invalid(text: &str, why: &str) -> Error {
    // What is wrong may be any bytes of any length.
    let shown: String = text.chars().take(80).flat_map(char::escape_default).collect();
    Error::new(ErrorKind::Usage, format!("invalid image reference '{shown}': {why}"))
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = |why: &str| invalid(text, why);
        let too_long = || fail(&format!("it is longer than {MAX_IMAGE_REF_LEN} bytes"));
        if text.len() > MAX_IMAGE_REF_LEN {
            return Err(too_long());
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let digest = digest
            .map(|digest| digest.parse().map_err(|_| fail("the digest must be sha256: and 64 digits")))
            .transpose()?;
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(fail("a tag has letters, digits, '_', '.' and '-', at most 128 of them"));
        }
        let (registry, repository) = split_registry(name);
        if !is_registry(registry) {
            return Err(fail("the registry is not a host name with an optional port"));
        }
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let repository = if official { format!("{OFFICIAL}/{repository}") } else { repository.to_owned() };
        if !repository.split('/').all(is_component) {
            return Err(fail(
                "a repository has parts of lower-case letters and digits, with single '.', '_', '__' or '-' between them",
            ));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG),
            (tag, _) => tag,
        };
        let reference =
            Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest };
        // In full too: that is what is recorded, and read again.
        if reference.to_string().len() > MAX_IMAGE_REF_LEN { Err(too_long()) } else { Ok(reference) }
    }
}

/// What stands before the first slash is a registry if it looks like a host: it has a dot or a port, is `localhost`, or
/// has letters that no repository has.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == LOCAL_REGISTRY
                || first.contains(|c: char| c.is_ascii_uppercase()) =>
        {
            let first = if DEFAULT_REGISTRY_ALIASES.contains(&first) { DEFAULT_REGISTRY } else { first };
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                ("v6", port.strip_prefix(':').or(port.is_empty().then_some("0")))
            }
            None => return false,
        },
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, Some("0")),
        },
    };
    let label = |label: &str| {
        let bytes = label.as_bytes();
        !bytes.is_empty()
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    };
    host.split('.').all(label)
        && port.is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// OCI distribution specification: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(*first)
        && alphanumeric(*last)
        && bytes
            .split(|b| alphanumeric(*b))
            .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    bytes.len() <= MAX_TAG_LEN
        && bytes.first().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Where an image comes from or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A registry: `REFERENCE` or `docker://REFERENCE`.
    Registry(Reference),
    /// A directory in the OCI image layout: `oci:PATH[:NAME]`.
    OciLayout(PathBuf, Option<String>),
    /// A tar archive of such a directory: `oci-archive:PATH[:NAME]`.
    OciArchive(PathBuf, Option<String>),
    /// What `docker save` writes: `docker-archive:PATH[:REFERENCE]`.
    DockerArchive(PathBuf, Option<String>),
    /// A WebAssembly module or component: `wasm:FILE`.
    WasmModule(PathBuf),
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let file = |rest: &str| {
            let (path, name) = split_path(rest);
            if path.is_empty() { Err(invalid(text, "the path is empty")) } else { Ok((path.into(), name)) }
        };
        match text.split_once(':') {
            Some(("oci", rest)) => file(rest).map(|(path, name)| Self::OciLayout(path, name)),
            Some(("oci-archive", rest)) => file(rest).map(|(path, name)| Self::OciArchive(path, name)),
            Some(("docker-archive", rest)) => file(rest).map(|(path, name)| Self::DockerArchive(path, name)),
            Some(("wasm", "")) => Err(invalid(text, "the path is empty")),
            // A tag of an image that is called `wasm` has no slash and no such end.
            Some(("wasm", path)) if path.contains('/') || is_module_name(path) => {
                Ok(Self::WasmModule(path.into()))
            }
            Some(("docker", rest)) if rest.starts_with("//") => rest[2..].parse().map(Self::Registry),
            Some((transport @ ("dir" | "containers-storage" | "docker-daemon" | "ostree"), _)) => {
                Err(invalid(text, &format!("the transport '{transport}' is not supported")))
            }
            _ => text.parse().map(Self::Registry),
        }
    }
}

/// True for the end of a name that modules have.
fn is_module_name(path: &str) -> bool {
    [".wasm", ".wat"].iter().any(|end| path.ends_with(end))
}

/// `PATH[:NAME]`: the first colon after the last slash of an existing path ends it, as with skopeo.
fn split_path(text: &str) -> (&str, Option<String>) {
    match text.split_once(':') {
        Some((path, name)) if !name.is_empty() => (path, Some(name.to_owned())),
        Some((path, _)) => (path, None),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn names_mean_what_docker_means_by_them() {
        let with_digest = format!("r.example/a@{D}");
        let both = format!("a:1@{D}");
        let both_long = format!("docker.io/library/a:1@{D}");
        for (text, long) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.18", "docker.io/library/alpine:3.18"),
            ("team/app", "docker.io/team/app:latest"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("r.example/a__b-c--d.e:T_1.x-y", "r.example/a__b-c--d.e:T_1.x-y"),
            ("HOST/app", "HOST/app:latest"),
            (&with_digest, &with_digest),
            (&both, &both_long),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), long, "{text}");
            assert_eq!(long.parse::<Reference>().unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_and_shown_safely() {
        let long = format!("a/{}", "x".repeat(MAX_IMAGE_REF_LEN));
        let long_in_full = "x".repeat(MAX_IMAGE_REF_LEN - "docker.io/library/".len());
        let tag = format!("a:{}", "x".repeat(129));
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "A",
            "a//b",
            "a:",
            ":1",
            "a:.x",
            "a@",
            "a@sha256:12",
            "a@md5:12",
            "a b",
            "a\0b",
            "a\n",
            "../a",
            "a/../b",
            "a/./b",
            "-a",
            "a-",
            "a___b",
            "a._b",
            "r.example:x/a",
            "r.example:99999/a",
            "r..example/a",
            "[::1/a",
            "[x]:1/a",
            "a\u{e9}",
            "http://r.example/a",
            &long,
            &long_in_full,
            &tag,
        ] {
            let e = text.parse::<Reference>().expect_err(text);
            assert_eq!(e.kind(), ErrorKind::Usage);
            assert!(e.message().chars().all(|c| c.is_ascii_graphic() || c == ' '), "{e}");
            assert!(e.message().len() < 500, "{e}");
        }
    }

    #[test]
    fn transports_are_told_from_registries() {
        let name = |name: &str| Some(name.to_owned());
        for (text, location) in [
            ("oci:/tmp/x", Location::OciLayout("/tmp/x".into(), None)),
            ("oci:x:1.0", Location::OciLayout("x".into(), name("1.0"))),
            ("oci-archive:x.tar:a/b:1", Location::OciArchive("x.tar".into(), name("a/b:1"))),
            ("docker-archive:x.tar", Location::DockerArchive("x.tar".into(), None)),
            ("docker://a", Location::Registry("a".parse().unwrap())),
            ("oci.example/a:1", Location::Registry("oci.example/a:1".parse().unwrap())),
            ("wasm:hello.wasm", Location::WasmModule("hello.wasm".into())),
            ("wasm:./hello", Location::WasmModule("./hello".into())),
            ("wasm:1.0", Location::Registry("wasm:1.0".parse().unwrap())),
        ] {
            assert_eq!(text.parse::<Location>().unwrap(), location, "{text}");
        }
        assert!("oci:".parse::<Location>().is_err() && "wasm:".parse::<Location>().is_err());
        let e = "containers-storage:x".parse::<Location>().unwrap_err();
        assert!(e.message().contains("transport 'containers-storage' is not supported"), "{e}");
    }

    #[test]
    fn loopback_is_known_by_name_and_address() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["r.example", "10.0.0.1:5000", "localhost.example", "[::2]:1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
