//! The other direction: a repository that receives blobs and manifests.

use super::client::{Call, Client};
use super::credentials::Credentials;
use super::endpoint;
use super::http::{location_path, status_error};
use crate::error::{Error, ErrorKind, Result};
use crate::image::reference::Reference;
use crate::limits::IMAGE_PULL_TIMEOUT;
use crate::storage::blobs::Digest;
use crate::storage::config::{Mirrors, Registries};
use ureq::http::Method;

/// A repository to push to.
#[derive(Debug)]
pub struct Target {
    reference: Reference,
    client: Client,
}

impl Target {
    /// The repository of an image. Mirrors are for pulling only.
    pub fn open(reference: &Reference, how: &Registries) -> Result<Self> {
        let endpoint = endpoint::find(reference, &Mirrors::new())?.pop();
        let endpoint =
            endpoint.ok_or_else(|| Error::new(ErrorKind::ImagePullFailed, "no server to push to"))?;
        let client = Client::new(endpoint, reference, "pull,push", how.patience);
        Ok(Self { reference: reference.clone(), client })
    }

    /// True if the repository has the blob.
    pub fn has(&self, digest: &Digest) -> Result<bool> {
        let path = format!("blobs/{digest}");
        let response = self.client.call(&Call { method: Method::HEAD, path: &path, headers: &[] })?;
        Ok(response.status() == 200)
    }

    /// Uploads a blob in one piece: OCI distribution specification, "POST then PUT".
    pub fn put_blob(&self, digest: &Digest, size: u64, content: &mut dyn std::io::Read) -> Result<()> {
        let headers = [("content-length", "0".to_owned())];
        let begin = Call { method: Method::POST, path: "blobs/uploads/", headers: &headers };
        let response = self.client.send(&begin, &mut std::io::empty())?;
        if response.status() != 202 {
            return Err(status_error(response, self.client.host()));
        }
        let address = location_path(&response)?;
        let separator = if address.contains('?') { '&' } else { '?' };
        let path = format!("{address}{separator}digest={digest}");
        let headers =
            [("content-length", size.to_string()), ("content-type", "application/octet-stream".to_owned())];
        let response =
            self.client.send(&Call { method: Method::PUT, path: &path, headers: &headers }, content)?;
        if response.status() == 201 { Ok(()) } else { Err(status_error(response, self.client.host())) }
    }

    /// Makes the name lead to a manifest whose blobs are there.
    pub fn put_manifest(&self, data: &[u8], media_type: &str) -> Result<()> {
        let name = self.reference.tag().map(str::to_owned).unwrap_or_else(|| Digest::of(data).to_string());
        let headers = [("content-length", data.len().to_string()), ("content-type", media_type.to_owned())];
        let path = format!("manifests/{name}");
        let call = Call { method: Method::PUT, path: &path, headers: &headers };
        let mut body = data;
        let response = self.client.send(&call, &mut body)?;
        if response.status() == 201 { Ok(()) } else { Err(status_error(response, self.client.host())) }
    }
}

/// Asks the registry `host` whether it lets these credentials in.
pub fn check_login(host: &str, user: &str, password: &str) -> Result<()> {
    let reference: Reference = format!("{host}/x").parse()?;
    let endpoint = endpoint::find(&reference, &Mirrors::new())?.pop();
    let endpoint = endpoint.ok_or_else(|| Error::new(ErrorKind::ImagePullFailed, "no server to ask"))?;
    let credentials = Credentials::new(user, password, "the command line".to_owned());
    let client = Client::new(endpoint, &reference, "pull", IMAGE_PULL_TIMEOUT).with_credentials(credentials);
    let response = client.call(&Call::get("", &[]))?;
    if response.status().is_success() { Ok(()) } else { Err(status_error(response, client.host())) }
}
