//! Which servers to ask for a repository: the operator's mirrors, and what `containers-registries.conf(5)` says.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::reference::Reference;
use crate::storage::config::Mirrors;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The operator's file.
const FILE: &str = "/etc/containers/registries.conf";
/// Environment variable that names another.
const FILE_VARIABLE: &str = "CONTAINERS_REGISTRIES_CONF";

/// A server that has a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port.
    pub host: String,
    /// The repository's path there.
    pub repository: String,
    /// Plain HTTP and certificates that nobody vouches for are allowed.
    pub insecure: bool,
    /// It stands in for the registry, which is asked when it fails.
    pub is_mirror: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    registry: Vec<Registry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Registry {
    prefix: Option<String>,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<String>,
}

/// The servers to ask for an image, in this order: `mirrors` come before those of the files.
pub fn find(reference: &Reference, mirrors: &Mirrors) -> Result<Vec<Endpoint>> {
    let mut registries = Vec::new();
    for path in files() {
        match std::fs::read_to_string(&path) {
            Ok(text) => registries.extend(parse(&text, &path)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(e).or_kind(ErrorKind::Usage, || format!("cannot read '{}'", path.display()));
            }
        }
    }
    all(mirrors, &registries, reference)
}

fn all(mirrors: &Mirrors, registries: &[Registry], reference: &Reference) -> Result<Vec<Endpoint>> {
    let known = select(registries, reference)?;
    let mut all = first(mirrors, registries, reference)?;
    all.extend(known);
    Ok(all)
}

/// The mirrors of the operator's configuration, each as the files say of its own name.
fn first(mirrors: &Mirrors, registries: &[Registry], reference: &Reference) -> Result<Vec<Endpoint>> {
    let name = reference.name();
    let matching = mirrors.iter().filter_map(|(prefix, list)| Some((matched(prefix, &name)?, list)));
    let Some((length, list)) = matching.max_by_key(|(length, _)| *length) else { return Ok(Vec::new()) };
    let mirror = |mirror: &String| {
        let cannot = || format!("mirror '{mirror}' in the configuration");
        let stand_in: Reference =
            format!("{mirror}{}", &name[length..]).parse().or_kind(ErrorKind::Usage, cannot)?;
        let itself = select(registries, &stand_in).context(cannot)?.pop();
        Ok(itself.map(|itself| Endpoint { is_mirror: true, ..itself }))
    };
    list.iter().filter_map(|name| mirror(name).transpose()).collect()
}

/// The files; what comes later is more specific only by its prefixes.
fn files() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set(FILE_VARIABLE) {
        return vec![path];
    }
    let mut files = vec![PathBuf::from(FILE)];
    let user = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    if let Some(path) = user.map(|config| config.join("containers/registries.conf")).filter(|p| p.exists()) {
        files = vec![path];
    }
    let directory = format!("{FILE}.d");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut more: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
    more.sort();
    files.extend(more);
    files
}

fn parse(text: &str, path: &Path) -> Result<Vec<Registry>> {
    let config: Config = toml::from_str(text).map_err(|e| {
        Error::new(ErrorKind::Usage, format!("cannot parse '{}': {}", path.display(), e.message()))
    })?;
    Ok(config.registry)
}

fn select(registries: &[Registry], reference: &Reference) -> Result<Vec<Endpoint>> {
    let name = reference.name();
    let matching = registries.iter().filter_map(|registry| {
        let prefix = registry.prefix.as_deref().or(registry.location.as_deref()).filter(|p| !p.is_empty())?;
        matched(prefix, &name).map(|length| (length, registry))
    });
    let Some((length, registry)) = matching.max_by_key(|(length, _)| *length) else {
        return Ok(vec![endpoint(reference.host(), reference.repository(), false, false)]);
    };
    if registry.blocked {
        crate::bail!(ImagePullFailed, "registry '{}' is blocked in registries.conf", reference.registry());
    }
    let rest = &name[length..];
    let by_digest = reference.digest().is_some();
    let usable = |mirror: &&Mirror| match mirror.pull_from_mirror.as_deref() {
        Some("digest-only") => by_digest,
        Some("tag-only") => !by_digest,
        _ => by_digest || !registry.mirror_by_digest_only,
    };
    let mut endpoints = Vec::new();
    for mirror in registry.mirror.iter().filter(usable) {
        endpoints.push(at(&format!("{}{rest}", mirror.location), mirror.insecure, true)?);
    }
    let location = registry.location.as_deref().filter(|location| !location.is_empty());
    endpoints.push(match location {
        Some(location) => at(&format!("{location}{rest}"), registry.insecure, false)?,
        None => endpoint(reference.host(), reference.repository(), registry.insecure, false),
    });
    Ok(endpoints)
}

/// How much of the name a prefix covers: `host`, `host/path` up to a slash or the end, or `*.host` for subdomains.
fn matched(prefix: &str, name: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix("*.") {
        let host = name.split('/').next()?;
        let bare = host.split(':').next()?;
        return bare.strip_suffix(domain)?.ends_with('.').then_some(host.len());
    }
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
}

fn endpoint(host: &str, repository: &str, insecure: bool, is_mirror: bool) -> Endpoint {
    Endpoint { host: host.to_owned(), repository: repository.to_owned(), insecure, is_mirror }
}

fn at(location: &str, insecure: bool, is_mirror: bool) -> Result<Endpoint> {
    let reference: Reference =
        location.parse().or_kind(ErrorKind::Usage, || format!("location '{location}' in registries.conf"))?;
    Ok(endpoint(reference.host(), reference.repository(), insecure, is_mirror))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = r#"
        unqualified-search-registries = ["docker.io"]
        [[registry]]
        prefix = "r.example"
        location = "real.example:5000/base"
        [[registry.mirror]]
        location = "127.0.0.1:5001/mirror"
        insecure = true
        [[registry.mirror]]
        location = "digest.example"
        pull-from-mirror = "digest-only"
        [[registry]]
        prefix = "r.example/blocked"
        blocked = true
        [[registry]]
        prefix = "*.wild.example"
        location = "tame.example"
        [[registry]]
        location = "lax.example"
        insecure = true
    "#;

    fn endpoints(name: &str) -> Result<Vec<String>> {
        let registries = parse(CONF, Path::new("x")).unwrap();
        let found = select(&registries, &name.parse().unwrap())?;
        Ok(found
            .iter()
            .map(|e| format!("{}{}/{}", if e.insecure { "!" } else { "" }, e.host, e.repository))
            .collect())
    }

    #[test]
    fn the_longest_prefix_says_who_is_asked() {
        let digest = format!("r.example/a@sha256:{}", "0".repeat(64));
        for (name, expected) in [
            ("other.example/a", &["other.example/a"][..]),
            ("r.example/a/b", &["!127.0.0.1:5001/mirror/a/b", "real.example:5000/base/a/b"]),
            (&digest, &["!127.0.0.1:5001/mirror/a", "digest.example/a", "real.example:5000/base/a"]),
            ("r.example.evil/a", &["r.example.evil/a"]),
            ("x.wild.example/a", &["tame.example/a"]),
            ("lax.example/a", &["!lax.example/a"]),
            ("alpine", &["registry-1.docker.io/library/alpine"]),
        ] {
            assert_eq!(endpoints(name).unwrap(), expected, "{name}");
        }
        assert!(endpoints("r.example/blocked/a").unwrap_err().message().contains("is blocked"));
    }

    #[test]
    fn mirrors_of_the_operator_come_first() {
        let registries = parse(CONF, Path::new("x")).unwrap();
        let text =
            "\"r.example\" = ['first.example/m', 'lax.example']\n'r.example/special' = ['other.example']";
        let mirrors: Mirrors = toml::from_str(text).unwrap();
        let servers = |name: &str| -> Result<Vec<String>> {
            let found = all(&mirrors, &registries, &name.parse().unwrap())?;
            let shown = |e: &Endpoint| {
                format!("{}{}/{} {}", if e.insecure { "!" } else { "" }, e.host, e.repository, e.is_mirror)
            };
            Ok(found.iter().map(shown).collect())
        };
        let known = ["!127.0.0.1:5001/mirror/a true", "real.example:5000/base/a false"];
        let expected = [&["first.example/m/a true", "!lax.example/a true"][..], &known].concat();
        assert_eq!(servers("r.example/a").unwrap(), expected);
        assert_eq!(servers("r.example/special/b").unwrap()[0], "other.example/b true");
        assert_eq!(servers("else.example/a").unwrap(), ["else.example/a false"]);
        assert!(servers("r.example/blocked/a").unwrap_err().message().contains("is blocked"));
        let wrong: Mirrors = toml::from_str("\"r.example\" = ['https://m.example']").unwrap();
        let e = all(&wrong, &registries, &"r.example/a".parse().unwrap()).unwrap_err();
        assert!(e.message().starts_with("mirror 'https://m.example' in the configuration: "), "{e}");
    }
}
