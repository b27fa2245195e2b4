//! HTTP: one agent a host and protocol, and what answers mean.

use super::tls;
use crate::error::{Error, ErrorKind, Result};
use crate::image::reference::is_loopback;
use crate::platform::sys::names;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::http::{Method, StatusCode, Uri, header};
use ureq::{Agent, Body, Proxy, SendBody};

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that are read from a connection at once.
const BUFFER: usize = 128 << 10;
/// Largest answer that is parsed in memory and is no manifest, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// An answer.
pub(super) type Response = ureq::http::Response<Body>;

/// Agents by host and protocol: each has the certificates and the proxy for it.
#[derive(Debug)]
pub(super) struct Agents {
    insecure: bool,
    /// How long a transfer may make no progress.
    patience: Duration,
    known: Mutex<HashMap<(String, bool), Agent>>,
}

impl Agents {
    pub(super) fn new(insecure: bool, patience: Duration) -> Self {
        // The program is static: looking up names must not load modules.
        names::only_built_in();
        Self { insecure, patience, known: Mutex::new(HashMap::new()) }
    }

    fn agent(&self, address: &Uri) -> Result<Agent> {
        let host = address.authority().map(ToString::to_string).unwrap_or_default();
        let plain = address.scheme_str() == Some("http");
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = known.get(&(host.clone(), plain)) {
            return Ok(agent.clone());
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(self.patience))
            .timeout_per_write(Some(self.patience))
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .user_agent(concat!("magikrun/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy(&host, plain));
        if !plain {
            config = config.tls_config(tls::config(&host, self.insecure)?);
        }
        let agent = config.build().new_agent();
        known.insert((host, plain), agent.clone());
        Ok(agent)
    }

    /// Sends one request.
    pub(super) fn send(
        &self,
        method: &Method,
        address: &Uri,
        headers: &[(&'static str, String)],
        body: Option<&mut (dyn Read + '_)>,
    ) -> Result<Response> {
        let agent = self.agent(address)?;
        let mut request = ureq::http::Request::builder().method(method).uri(address);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = match body {
            None => request.body(()).map_err(ureq::Error::Http).and_then(|request| agent.run(request)),
            Some(body) => request
                .body(SendBody::from_reader(body))
                .map_err(ureq::Error::Http)
                .and_then(|request| agent.run(request)),
        };
        answer.map_err(|e| failed(address, &e))
    }
}

/// The proxy that the environment names for a host: curl(1), "ENVIRONMENT".
fn proxy(host: &str, plain: bool) -> Option<Proxy> {
    let set =
        |names: [&str; 2]| names.iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    if is_loopback(host) || set(["no_proxy", "NO_PROXY"]).is_some_and(|list| excluded(host, &list)) {
        return None;
    }
    let own = if plain { set(["http_proxy", "HTTP_PROXY"]) } else { set(["https_proxy", "HTTPS_PROXY"]) };
    Proxy::new(&own.or_else(|| set(["all_proxy", "ALL_PROXY"]))?).ok()
}

/// True if a host is in a list of hosts, domains with or without a leading dot, or `*`.
fn excluded(host: &str, list: &str) -> bool {
    let bare = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let bare = bare.map_or(host, |(name, _)| name);
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.trim_start_matches("*.").trim_start_matches('.');
        entry == "*"
            || entry == host
            || entry == bare
            || bare.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'))
    })
}

/// An error of the network, in words that say what to check.
fn failed(address: &Uri, e: &ureq::Error) -> Error {
    let host = address.authority().map(ToString::to_string).unwrap_or_default();
    let text = e.to_string();
    // What the C library says of a name has no number.
    let unknown = matches!(e, ureq::Error::HostNotFound) || text.contains("lookup address");
    let hint = match e {
        _ if unknown => "check the name and the name servers",
        ureq::Error::Timeout(_) => "check the network and the proxy variables",
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => "",
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => "check the port",
        _ => "check the network and the proxy variables",
    };
    let hint = if text.contains("UnknownIssuer") || text.contains("CaUsedAsEndEntity") {
        format!("put the certificate of its authority into /etc/containers/certs.d/{host}/ca.crt")
    } else {
        hint.to_owned()
    };
    let hint = if hint.is_empty() { hint } else { format!(" ({hint})") };
    let kind =
        if matches!(e, ureq::Error::Timeout(_)) { ErrorKind::Timeout } else { ErrorKind::ImagePullFailed };
    let errno = match e {
        ureq::Error::Io(e) => e.raw_os_error(),
        _ => None,
    };
    let text = match e {
        _ if unknown => "no such host".to_owned(),
        ureq::Error::Io(e) => e.raw_os_error().map_or_else(|| e.to_string(), crate::error::errno_text),
        _ => text,
    };
    Error::from_parts(kind, format!("cannot reach '{host}': {text}{hint}"), errno)
}

/// True if another attempt may end otherwise: the connection broke, or nobody answered in time.
pub(super) fn may_pass(e: &Error) -> bool {
    const PASSING: [i32; 6] =
        [libc::ECONNRESET, libc::ECONNABORTED, libc::EPIPE, libc::ETIMEDOUT, libc::EAGAIN, libc::EINTR];
    e.errno().is_some_and(|errno| PASSING.contains(&errno)) || e.message().contains("disconnected")
}

/// True for a status that will pass.
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// How long the server asks to wait.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Where a redirection leads: an address, or a path on the same server.
pub(super) fn location(response: &Response, from: &Uri) -> Result<Uri> {
    let malformed = || Error::new(ErrorKind::ImagePullFailed, "malformed redirection");
    let value =
        response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).ok_or_else(malformed)?;
    let authority = from.authority().ok_or_else(malformed)?;
    let scheme = from.scheme_str().unwrap_or("https");
    let address = if value.starts_with("//") {
        format!("{scheme}:{value}")
    } else if value.starts_with('/') {
        format!("{scheme}://{authority}{value}")
    } else {
        value.to_owned()
    };
    let address: Uri = address.parse().map_err(|_| malformed())?;
    match address.scheme_str() {
        Some("http" | "https") if address.authority().is_some() => Ok(address),
        _ => Err(malformed()),
    }
}

/// Where an upload goes on: an address, or a path on the same server that starts with a slash.
pub(super) fn location_path(response: &Response) -> Result<String> {
    let value = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    value
        .filter(|value| value.starts_with('/') || value.contains("://"))
        .map(str::to_owned)
        .ok_or_else(|| Error::new(ErrorKind::ImagePullFailed, "the registry does not say where to upload"))
}

/// What a status means, with what the server says about it.
pub(super) fn status_error(response: Response, host: &str) -> Error {
    let status = response.status();
    let said = small_body(response).ok().and_then(|data| said(&data));
    let said = said.map(|said| format!(": {said}")).unwrap_or_default();
    Error::new(ErrorKind::ImagePullFailed, format!("registry '{host}' says {}{said}", status.as_u16()))
}

/// The errors in an answer: OCI distribution specification, "Error Codes".
fn said(data: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(data).ok()?;
    let errors = value["errors"].as_array()?.iter();
    let one = |error: &serde_json::Value| {
        let text = error["message"].as_str().or(error["code"].as_str())?;
        Some(text.chars().take(200).flat_map(char::escape_debug).collect::<String>())
    };
    let all: Vec<String> = errors.filter_map(one).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// An answer that is parsed in memory.
pub(super) fn small_body(response: Response) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    response.into_body().into_reader().take(MAX_ANSWER).read_to_end(&mut data).map_err(Error::from)?;
    Ok(data)
}

/// Fields as in the query of an address, and in a form.
pub(super) fn form(fields: &[(&str, &str)]) -> String {
    let pairs = fields.iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={}", escape(value))).collect();
    pairs.join("&")
}

fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_excluded_from_proxies_by_name_and_domain() {
        let list = "r.example, .corp.example,*.wild.example,10.0.0.1:5000";
        for host in [
            "r.example",
            "r.example:5000",
            "a.r.example",
            "x.corp.example",
            "a.wild.example:1",
            "10.0.0.1:5000",
        ] {
            assert!(excluded(host, list), "{host}");
        }
        for host in ["other.example", "evilr.example", "10.0.0.1:6000"] {
            assert!(!excluded(host, list), "{host}");
        }
        assert!(excluded("anything", "*"));
    }

    #[test]
    fn values_in_addresses_are_escaped() {
        assert_eq!(
            form(&[("scope", "repository:a/b:pull"), ("none", "")]),
            "scope=repository%3Aa%2Fb%3Apull"
        );
    }

    #[test]
    fn what_a_server_says_is_shown_safely() {
        let said = said(br#"{"errors": [{"code": "X", "message": "a\nb"}, {"code": "DENIED"}]}"#);
        assert_eq!(said.unwrap(), "a\\nb; DENIED");
        assert_eq!(super::said(b"<html>"), None);
    }
}
