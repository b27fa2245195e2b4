//! A blob that is downloaded: when the connection breaks, the rest is asked for.

use super::client::{ATTEMPTS, Call, Client};
use super::http::status_error;
use crate::error::{Error, ErrorKind, Result};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait before the rest is asked for; doubled for each attempt that brings nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Reads a blob to its end, however many connections that takes.
pub(super) struct BlobReader {
    client: Arc<Client>,
    path: String,
    size: u64,
    /// Bytes so far.
    at: u64,
    body: Box<dyn Read + Send>,
    /// Attempts since something came.
    attempts: u32,
}

impl BlobReader {
    /// Asks for the blob. What is wrong with it from the start is told here.
    pub(super) fn open(client: Arc<Client>, digest: &str, size: u64) -> Result<Self> {
        let path = format!("blobs/{digest}");
        let body = body(&client, &path, 0)?;
        Ok(Self { client, path, size, at: 0, body, attempts: 0 })
    }

    fn resume(&mut self, why: &str) -> Result<()> {
        self.attempts += 1;
        if self.attempts >= ATTEMPTS {
            crate::bail!(
                ImagePullFailed,
                "the connection broke after {} of {} bytes: {why}",
                self.at,
                self.size
            );
        }
        tracing::debug!("{} after {} of {} bytes: {why}", self.path, self.at, self.size);
        std::thread::sleep(FIRST_PAUSE * 2u32.pow(self.attempts - 1));
        self.body = body(&self.client, &self.path, self.at)?;
        Ok(())
    }
}

/// The blob from `start` on.
fn body(client: &Client, path: &str, start: u64) -> Result<Box<dyn Read + Send>> {
    let range = [("range", format!("bytes={start}-"))];
    let headers = if start > 0 { &range[..] } else { &[] };
    let response = client.call(&Call::get(path, headers))?;
    match response.status().as_u16() {
        206 if start > 0 => {
            let stated = response.headers().get("content-range").and_then(|value| value.to_str().ok());
            if !stated.is_some_and(|range| range.starts_with(&format!("bytes {start}-"))) {
                crate::bail!(
                    ImagePullFailed,
                    "registry '{}' sends another part than the one asked for",
                    client.host()
                );
            }
            Ok(Box::new(response.into_body().into_reader()))
        }
        // It sends all of it again.
        200 => {
            let mut reader = response.into_body().into_reader();
            let passed =
                std::io::copy(&mut (&mut reader).take(start), &mut std::io::sink()).map_err(Error::from)?;
            if passed < start {
                crate::bail!(ImagePullFailed, "registry '{}' sends less than before", client.host());
            }
            Ok(Box::new(reader))
        }
        404 => {
            let e = status_error(response, client.host());
            Err(e.with_kind(ErrorKind::BlobNotFound))
        }
        _ => Err(status_error(response, client.host())),
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let why = match self.body.read(buffer) {
                Ok(0) if self.at < self.size && !buffer.is_empty() => "it ended early".to_owned(),
                Ok(read) => {
                    self.at += read as u64;
                    self.attempts = 0;
                    return Ok(read);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => e.to_string(),
            };
            self.resume(&why).map_err(std::io::Error::other)?;
        }
    }
}
