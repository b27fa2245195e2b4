//! Certificates: the system's, and those of `containers-certs.d(5)`.

use crate::error::{Context as _, Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// The system's directories of certificates for single registries.
const DIRECTORIES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// How to speak TLS with `host`. `insecure`: whoever it is.
pub fn config(host: &str, insecure: bool) -> Result<TlsConfig> {
    let (mut roots, client) = of_registry(host)?;
    if !insecure {
        roots.extend(system_roots());
        if roots.is_empty() {
            crate::bail!(
                ImagePullFailed,
                "cannot verify registry '{host}': this system has no CA certificates (Debian package ca-certificates)"
            );
        }
    }
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .client_cert(client)
        .disable_verification(insecure)
        .build())
}

fn system_roots() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs();
    found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect()
}

/// Certificates in the directory of one registry: `*.crt` are authorities, `*.cert` with `*.key` is ours.
fn of_registry(host: &str) -> Result<(Vec<Certificate<'static>>, Option<ClientCert>)> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let user = home.map(|home| home.join(".config/containers/certs.d"));
    let directories = user.into_iter().chain(DIRECTORIES.map(PathBuf::from)).map(|d| d.join(host));
    let (mut roots, mut client) = (Vec::new(), None);
    for path in directories.flat_map(|directory| sorted(&directory)) {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => roots.extend(certificates(&path)?),
            Some("cert") if client.is_none() => client = Some(client_certificate(&path)?),
            _ => {}
        }
    }
    Ok((roots, client))
}

fn sorted(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .or_kind(ErrorKind::ImagePullFailed, || format!("cannot read certificate '{}'", path.display()))
}

fn malformed(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::ImagePullFailed, format!("malformed certificate '{}': {why}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let data = read(path)?;
    let mut found = Vec::new();
    for item in parse_pem(&data) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| malformed(path, e))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(malformed(path, "there is none in it")) } else { Ok(found) }
}

fn client_certificate(path: &Path) -> Result<ClientCert> {
    let key = path.with_extension("key");
    let private = PrivateKey::from_pem(&read(&key)?).map_err(|e| malformed(&key, e))?;
    Ok(ClientCert::new_with_certs(&certificates(path)?, private))
}
