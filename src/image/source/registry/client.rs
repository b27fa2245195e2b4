//! Requests to one server: which protocol, who we are, when to try again.

use super::challenge::{self, Challenge};
use super::credentials::{self, Credentials};
use super::endpoint::Endpoint;
use super::http::{self, Agents, Response, status_error};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::reference::{Reference, is_loopback};
use serde::Deserialize;
use std::io::Read;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use ureq::http::{Method, Uri, header};

/// How often a request is sent before it has failed.
pub(super) const ATTEMPTS: u32 = 5;
/// How long to wait before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest wait that a server can ask for with `Retry-After`.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Most redirections of one request.
const MAX_REDIRECTS: usize = 5;

/// A server, for one repository and what is to be done with it.
#[derive(Debug)]
pub(super) struct Client {
    endpoint: Endpoint,
    /// Whose credentials are used.
    reference: Reference,
    /// `pull` or `pull,push`.
    actions: &'static str,
    agents: Agents,
    /// True once the server has been found to speak plain HTTP, false for TLS.
    plain: OnceLock<bool>,
    credentials: OnceLock<Option<Credentials>>,
    /// What the header `Authorization` must say, once it is known.
    authorization: Mutex<Option<String>>,
}

/// One request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Below `/v2/REPOSITORY/`, or a whole address.
    pub(super) path: &'a str,
    pub(super) headers: &'a [(&'static str, String)],
}

impl<'a> Call<'a> {
    /// Asks for something.
    pub(super) fn get(path: &'a str, headers: &'a [(&'static str, String)]) -> Self {
        Self { method: Method::GET, path, headers }
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Client {
    pub(super) fn new(
        endpoint: Endpoint,
        reference: &Reference,
        actions: &'static str,
        patience: Duration,
    ) -> Self {
        Self {
            agents: Agents::new(endpoint.insecure, patience),
            endpoint,
            reference: reference.clone(),
            actions,
            plain: OnceLock::new(),
            credentials: OnceLock::new(),
            authorization: Mutex::new(None),
        }
    }

    /// Host and port.
    pub(super) fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// True if the registry itself is asked when this fails.
    pub(super) fn is_mirror(&self) -> bool {
        self.endpoint.is_mirror
    }

    /// The same server with other credentials than those of the files.
    pub(super) fn with_credentials(self, credentials: Credentials) -> Self {
        let _ = self.credentials.set(Some(credentials));
        self
    }

    /// Sends a request without a body until there is an answer that another attempt will not change.
    pub(super) fn call(&self, call: &Call<'_>) -> Result<Response> {
        self.repeat(|| self.attempt(call, None))
    }

    /// Sends a request with a body, once: what was read of the body cannot be sent again.
    pub(super) fn send(&self, call: &Call<'_>, body: &mut dyn Read) -> Result<Response> {
        self.attempt(call, Some(body))
    }

    fn repeat(&self, mut attempt: impl FnMut() -> Result<Response>) -> Result<Response> {
        let mut pause = FIRST_PAUSE;
        for left in (0..ATTEMPTS).rev() {
            let wait = match attempt() {
                Ok(response) if left > 0 && http::is_transient(response.status()) => {
                    tracing::debug!("registry '{}' says {}", self.host(), response.status());
                    http::retry_after(&response).unwrap_or(pause).min(LONGEST_PAUSE)
                }
                Err(e) if left > 0 && http::may_pass(&e) => {
                    tracing::debug!("{e}");
                    pause
                }
                done => return done,
            };
            std::thread::sleep(wait);
            pause *= 2;
        }
        Err(Error::from_errno(libc::EAGAIN))
    }

    /// One attempt: with the right protocol, authenticated if that is asked for, redirections followed.
    fn attempt(&self, call: &Call<'_>, mut body: Option<&mut dyn Read>) -> Result<Response> {
        let response = self.with_protocol(call, body.as_deref_mut())?;
        tracing::debug!("registry '{}' answers {}", self.host(), response.status());
        if response.status() != 401 {
            return Ok(response);
        }
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE).into_iter();
        let challenge = challenge::parse(challenges.filter_map(|value| value.to_str().ok()));
        let Some(challenge) = challenge else { return Err(status_error(response, self.host())) };
        self.authenticate(&challenge)?;
        let response = self.with_protocol(call, body)?;
        if response.status() == 401 {
            let who = self.credentials()?.map_or_else(
                || {
                    "it allows nothing without credentials, and there are none (magikrun image login)"
                        .to_owned()
                },
                |credentials| format!("{} were refused", credentials.describe()),
            );
            return Err(status_error(response, self.host()).wrap(who));
        }
        Ok(response)
    }

    /// Finds out whether the server speaks TLS, where it need not.
    fn with_protocol(&self, call: &Call<'_>, mut body: Option<&mut (dyn Read + '_)>) -> Result<Response> {
        if let Some(plain) = self.plain.get() {
            return self.follow(call, *plain, body);
        }
        let candidates: &[bool] = match (is_loopback(self.host()), self.endpoint.insecure) {
            (true, _) => &[true, false],
            (false, true) => &[false, true],
            (false, false) => &[false],
        };
        let mut first = None;
        for plain in candidates {
            match self.follow(call, *plain, body.as_deref_mut()) {
                // What Go's servers answer to plain HTTP on a port for TLS.
                Ok(response) if response.status() == 400 && *plain && candidates.len() > 1 => {
                    first.get_or_insert(Ok(response));
                }
                Ok(response) => {
                    let _ = self.plain.set(*plain);
                    return Ok(response);
                }
                // What goes wrong with TLS says more than that plain HTTP was refused.
                Err(e) => match first {
                    Some(Err(_)) => {}
                    _ => first = Some(Err(e)),
                },
            }
        }
        first.unwrap_or_else(|| Err(Error::from_errno(libc::EPROTO)))
    }

    /// Sends and follows redirections. Who we are is told to nobody but the server itself.
    fn follow(
        &self,
        call: &Call<'_>,
        plain: bool,
        mut body: Option<&mut (dyn Read + '_)>,
    ) -> Result<Response> {
        let mut address = self.address(call.path, plain)?;
        let own = address.authority().cloned();
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = call.headers.to_vec();
            let authorization = self.authorization().clone();
            if address.authority() == own.as_ref()
                && let Some(value) = authorization
            {
                headers.push(("authorization", value));
            }
            let response = self.agents.send(&call.method, &address, &headers, body.as_deref_mut())?;
            let redirected = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirected || !matches!(call.method, Method::GET | Method::HEAD) {
                return Ok(response);
            }
            let next = http::location(&response, &address)?;
            if address.scheme_str() == Some("https")
                && next.scheme_str() != Some("https")
                && !self.endpoint.insecure
            {
                crate::bail!(ImagePullFailed, "registry '{}' leads from TLS to plain '{next}'", self.host());
            }
            address = next;
        }
        Err(Error::new(ErrorKind::ImagePullFailed, format!("registry '{}' redirects for ever", self.host())))
    }

    fn address(&self, path: &str, plain: bool) -> Result<Uri> {
        let scheme = if plain { "http" } else { "https" };
        let address = if path.contains("://") {
            path.to_owned()
        } else if path.starts_with('/') {
            format!("{scheme}://{}{path}", self.host())
        } else if path.is_empty() {
            format!("{scheme}://{}/v2/", self.host())
        } else {
            format!("{scheme}://{}/v2/{}/{path}", self.host(), self.endpoint.repository)
        };
        address
            .parse()
            .map_err(|e| Error::new(ErrorKind::ImagePullFailed, format!("bad address '{address}': {e}")))
    }

    fn authorization(&self) -> MutexGuard<'_, Option<String>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn credentials(&self) -> Result<Option<&Credentials>> {
        if self.credentials.get().is_none() {
            let _ = self.credentials.set(credentials::find(&self.reference)?);
        }
        Ok(self.credentials.get().and_then(Option::as_ref))
    }

    fn authenticate(&self, challenge: &Challenge) -> Result<()> {
        let value = match challenge {
            Challenge::Basic => {
                let credentials = self.credentials()?.ok_or_else(|| {
                    Error::new(
                        ErrorKind::ImagePullFailed,
                        format!(
                            "registry '{}' asks for credentials, and there are none (magikrun image login)",
                            self.host()
                        ),
                    )
                })?;
                credentials.basic()
            }
            Challenge::Bearer { realm, service, scope } => {
                format!("Bearer {}", self.token(realm, service, scope)?)
            }
        };
        *self.authorization() = Some(value);
        Ok(())
    }

    /// Gets a token: the token protocol of docker's registry, and OAuth2 with an identity token.
    fn token(&self, realm: &str, service: &str, scope: &str) -> Result<String> {
        let cannot = || format!("cannot get a token for registry '{}' from '{realm}'", self.host());
        let address: Uri = realm
            .parse()
            .map_err(|e| Error::new(ErrorKind::ImagePullFailed, format!("{}: {e}", cannot())))?;
        let here = address.authority().is_some_and(|authority| is_loopback(authority.as_str()));
        let open = address.scheme_str() != Some("https") && !here;
        if open && self.plain.get() == Some(&false) && !self.endpoint.insecure {
            crate::bail!(ImagePullFailed, "{}: it is not protected by TLS, and the registry is", cannot());
        }
        let own = format!("repository:{}:{}", self.endpoint.repository, self.actions);
        // Pushing starts with questions for which the registry would give less; a login is for no repository.
        let scope = if self.actions == "pull" { scope.to_owned() } else { own };
        let credentials = self.credentials()?;
        let response =
            self.repeat(|| self.ask_for_token(&address, service, &scope, credentials)).context(cannot)?;
        if !response.status().is_success() {
            let who = credentials
                .map_or_else(|| "without credentials".to_owned(), |c| format!("with {}", c.describe()));
            return Err(status_error(response, self.host()).wrap(who).wrap(cannot()));
        }
        let token: Token = serde_json::from_slice(&http::small_body(response).context(cannot)?)
            .or_kind(ErrorKind::ImagePullFailed, cannot)?;
        let token = token.token.or(token.access_token).filter(|token| !token.is_empty());
        token.ok_or_else(|| {
            Error::new(ErrorKind::ImagePullFailed, format!("{}: there is none in the answer", cannot()))
        })
    }

    fn ask_for_token(
        &self,
        realm: &Uri,
        service: &str,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Response> {
        let mut fields = vec![("service", service), ("scope", scope)];
        if let Some(token) = credentials.filter(|credentials| credentials.is_token) {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "magikrun"),
                ("refresh_token", token.secret()),
            ]);
            let form = http::form(&fields);
            let headers = [
                ("content-type", "application/x-www-form-urlencoded".to_owned()),
                ("content-length", form.len().to_string()),
            ];
            let mut form = form.as_bytes();
            return self.agents.send(&Method::POST, realm, &headers, Some(&mut form));
        }
        let mut headers = Vec::new();
        if let Some(credentials) = credentials {
            fields.push(("account", &credentials.user));
            headers.push(("authorization", credentials.basic()));
        }
        let separator = if realm.query().is_some() { '&' } else { '?' };
        let address = format!("{realm}{separator}{}", http::form(&fields));
        let address = address
            .parse()
            .map_err(|_| Error::new(ErrorKind::ImagePullFailed, "the address is malformed"))?;
        self.agents.send(&Method::GET, &address, &headers, None)
    }
}
