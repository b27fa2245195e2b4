//! Registries: OCI distribution specification, over HTTP.

mod blob;
mod challenge;
mod client;
mod credentials;
mod endpoint;
mod http;
mod target;
mod tls;

pub use credentials::files as auth_files;
pub use target::{Target, check_login};

use super::{Fetched, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::image::manifest::{MANIFEST_TYPES, digest_of};
use crate::image::reference::Reference;
use crate::limits::MAX_MANIFEST_SIZE;
use crate::storage::blobs::Digest;
use crate::storage::config::Registries;
use blob::BlobReader;
use client::{Call, Client};
use oci_spec::image::Descriptor;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use ureq::http::Method;

/// Header with the digest of a manifest.
const DIGEST: &str = "docker-content-digest";

/// Credentials that come with what is pulled.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// A file as docker's `config.json`.
    pub text: Vec<u8>,
    /// What it is called in messages.
    pub origin: String,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret of {}", self.origin)
    }
}

/// A repository in a registry, or in the mirrors that stand in for it.
#[derive(Debug)]
pub struct Registry {
    reference: Reference,
    clients: Vec<Arc<Client>>,
    /// The first of the clients that has answered.
    current: AtomicUsize,
}

impl Registry {
    /// The repository of an image, to pull from, with credentials of `secrets` if one has any: files as docker's `config.json`. They
    /// are for the registry itself, not for mirrors. Nothing is sent yet.
    pub fn open(reference: &Reference, how: &Registries, secrets: &[Secret]) -> Result<Self> {
        let mut found =
            secrets.iter().map(|secret| credentials::given(&secret.text, reference, &secret.origin));
        let given = found.find_map(Result::transpose).transpose()?;
        let clients = endpoint::find(reference, &how.mirrors)?
            .into_iter()
            .map(|endpoint| {
                let client = Client::new(endpoint, reference, "pull", how.patience);
                match &given {
                    Some(given) if !client.is_mirror() => Arc::new(client.with_credentials(given.clone())),
                    _ => Arc::new(client),
                }
            })
            .collect();
        Ok(Self { reference: reference.clone(), clients, current: AtomicUsize::new(0) })
    }

    /// Asks one server after the other, from the one that answered last.
    fn ask<T>(&self, question: impl Fn(&Arc<Client>) -> Result<T>) -> Result<T> {
        let first = self.current.load(Ordering::Relaxed);
        let mut failed: Option<Error> = None;
        for (number, client) in self.clients.iter().enumerate().skip(first) {
            match question(client) {
                Ok(answer) => {
                    self.current.store(number, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(e) => {
                    if client.is_mirror() {
                        tracing::warn!("mirror '{}': {e}", client.host());
                    }
                    failed = Some(e);
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::new(ErrorKind::ImagePullFailed, "no server to ask")))
    }

    /// What the name says: a digest before a tag.
    fn wanted(&self) -> String {
        let digest = self.reference.digest().map(ToString::to_string);
        digest.or(self.reference.tag().map(str::to_owned)).unwrap_or_default()
    }

    fn fetch(client: &Client, what: &str, expected: Option<&Digest>) -> Result<Fetched> {
        let accept = [("accept", MANIFEST_TYPES.join(", "))];
        let response = client.call(&Call::get(&format!("manifests/{what}"), &accept))?;
        match response.status().as_u16() {
            200 => {}
            404 => {
                let e = http::status_error(response, client.host());
                return Err(e.with_kind(ErrorKind::ImageNotFound));
            }
            _ => return Err(http::status_error(response, client.host())),
        }
        let stated =
            response.headers().get(DIGEST).and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        let mut data = Vec::new();
        response
            .into_body()
            .into_reader()
            .take(MAX_MANIFEST_SIZE + 1)
            .read_to_end(&mut data)
            .map_err(Error::from)?;
        if data.len() as u64 > MAX_MANIFEST_SIZE {
            crate::bail!(ImageTooLarge, "the manifest has more than {MAX_MANIFEST_SIZE} bytes");
        }
        let fetched = Fetched::new(data);
        if let Some(expected) = expected.or(stated.as_ref())
            && fetched.digest != *expected
        {
            crate::bail!(
                DigestMismatch,
                "the manifest has the digest {}, and should have {expected}",
                fetched.digest
            );
        }
        Ok(fetched)
    }
}

impl Source for Registry {
    fn describe(&self) -> String {
        self.reference.registry().to_owned()
    }

    fn name(&self) -> &Reference {
        &self.reference
    }

    fn root(&self) -> Result<Fetched> {
        self.ask(|client| Self::fetch(client, &self.wanted(), self.reference.digest()))
    }

    fn digest(&self) -> Result<Option<Digest>> {
        if let Some(digest) = self.reference.digest() {
            return Ok(Some(digest.clone()));
        }
        self.ask(|client| {
            let accept = [("accept", MANIFEST_TYPES.join(", "))];
            let path = format!("manifests/{}", self.wanted());
            let response = client.call(&Call { method: Method::HEAD, path: &path, headers: &accept })?;
            // What is wrong is told when the manifest is asked for: the answer to this has no words.
            let digest = response.headers().get(DIGEST).filter(|_| response.status() == 200);
            Ok(digest.and_then(|value| value.to_str().ok()?.parse().ok()))
        })
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = digest_of(descriptor)?;
        self.ask(|client| Self::fetch(client, &digest.to_string(), Some(&digest))).map(|fetched| fetched.data)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let digest = digest_of(descriptor)?.to_string();
        self.ask(|client| {
            let reader = BlobReader::open(Arc::clone(client), &digest, descriptor.size())?;
            Ok(Box::new(reader) as Box<dyn Read + Send>)
        })
    }
}
