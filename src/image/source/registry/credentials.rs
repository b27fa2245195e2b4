//! Credentials: the files of podman and docker, and the helpers that they name.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::reference::Reference;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Key of docker's registry in the files, from the days of the first protocol.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
/// Other keys of docker's registry.
const DOCKER_HOSTS: [&str; 2] = ["docker.io", "index.docker.io"];
/// User name that says that the secret is a token.
const TOKEN_USER: &str = "<token>";
/// Prefix of the names of helpers.
const HELPER: &str = "docker-credential-";

/// Who we are for a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name; empty with an identity token.
    pub user: String,
    /// Password or identity token.
    secret: String,
    /// The secret is an identity token (OAuth2 refresh token).
    pub is_token: bool,
    /// Where they are from, for messages.
    pub origin: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials of '{}' from {}", self.user, self.origin)
    }
}

impl Credentials {
    /// A user name and a password.
    pub fn new(user: &str, secret: &str, origin: String) -> Self {
        let is_token = user == TOKEN_USER;
        let user = if is_token { String::new() } else { user.to_owned() };
        Self { user, secret: secret.to_owned(), is_token, origin }
    }

    /// Password or identity token.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The value of the header for basic authentication.
    pub fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.secret)))
    }

    /// What they are called in messages.
    pub fn describe(&self) -> String {
        if self.is_token {
            format!("the identity token from {}", self.origin)
        } else {
            format!("the credentials of user '{}' from {}", self.user, self.origin)
        }
    }
}

/// The file of podman (`containers-auth.json(5)`) or docker.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AuthFile {
    auths: HashMap<String, Auth>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    identitytoken: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Finds the credentials for a repository, in the files of podman and docker in their order; none for anonymous use.
pub fn find(reference: &Reference) -> Result<Option<Credentials>> {
    for path in files() {
        match std::fs::read(&path) {
            Err(_) => {}
            Ok(data) => {
                let file: AuthFile = serde_json::from_slice(&data)
                    .or_kind(ErrorKind::ImagePullFailed, || {
                        format!("cannot read credentials '{}'", path.display())
                    })?;
                if let Some(found) = in_file(&file, reference, &path)? {
                    return Ok(Some(found));
                }
            }
        }
    }
    Ok(None)
}

/// The credentials for a repository in the text of such a file, which came with what is pulled: programs that it names are not run.
pub fn given(text: &[u8], reference: &Reference, origin: &str) -> Result<Option<Credentials>> {
    let file: AuthFile = serde_json::from_slice(text)
        .or_kind(ErrorKind::ImagePullFailed, || format!("cannot read credentials from {origin}"))?;
    for key in keys(reference) {
        if let Some((_, auth)) = file.auths.iter().find(|(name, _)| normal(name) == key)
            && let Some(found) = of_auth(auth, origin.to_owned())?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The files, in the order in which podman looks at them.
pub fn files() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("REGISTRY_AUTH_FILE") {
        return vec![path];
    }
    let home = set("HOME");
    let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let runtime = set("XDG_RUNTIME_DIR").map_or_else(
        || PathBuf::from(format!("/run/containers/{}/auth.json", rustix::process::geteuid().as_raw())),
        |directory| directory.join("containers/auth.json"),
    );
    let config =
        set("XDG_CONFIG_HOME").or_else(|| in_home(".config")).map(|c| c.join("containers/auth.json"));
    let docker = set("DOCKER_CONFIG").or_else(|| in_home(".docker")).map(|d| d.join("config.json"));
    [Some(runtime), config, docker].into_iter().flatten().collect()
}

/// Keys of a repository, the most specific first: `host/team/app`, `host/team`, `host`.
pub fn keys(reference: &Reference) -> Vec<String> {
    let name = reference.name();
    let mut keys = vec![name.clone()];
    while let Some((shorter, _)) = keys.last().and_then(|key| key.rsplit_once('/')) {
        keys.push(shorter.to_owned());
    }
    keys
}

/// A key as it stands in a file, without what old versions of docker added.
fn normal(key: &str) -> &str {
    if key == DOCKER_KEY || DOCKER_HOSTS.contains(&key) {
        return DOCKER_HOSTS[0];
    }
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2")
}

fn in_file(file: &AuthFile, reference: &Reference, path: &Path) -> Result<Option<Credentials>> {
    let origin = || format!("'{}'", path.display());
    for key in keys(reference) {
        if let Some((_, helper)) = file.cred_helpers.iter().find(|(name, _)| normal(name) == key)
            && let Some(found) = ask_helper(helper, reference)?
        {
            return Ok(Some(found));
        }
        if let Some((_, auth)) = file.auths.iter().find(|(name, _)| normal(name) == key)
            && let Some(found) = of_auth(auth, origin())?
        {
            return Ok(Some(found));
        }
    }
    match &file.creds_store {
        Some(helper) if !helper.is_empty() => ask_helper(helper, reference),
        _ => Ok(None),
    }
}

fn of_auth(auth: &Auth, origin: String) -> Result<Option<Credentials>> {
    if let Some(token) = auth.identitytoken.as_ref().filter(|token| !token.is_empty()) {
        return Ok(Some(Credentials::new(TOKEN_USER, token, origin)));
    }
    if let (Some(user), Some(password), None) = (&auth.username, &auth.password, &auth.auth) {
        return Ok(Some(Credentials::new(user, password, origin)));
    }
    let Some(encoded) = auth.auth.as_ref().filter(|auth| !auth.is_empty()) else { return Ok(None) };
    let malformed = || Error::new(ErrorKind::ImagePullFailed, format!("malformed credentials in {origin}"));
    let decoded = STANDARD.decode(encoded.trim()).map_err(|_| malformed())?;
    let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
    let (user, secret) = decoded.split_once(':').ok_or_else(malformed)?;
    Ok(Some(Credentials::new(user, secret.trim_end_matches('\0'), origin.clone())))
}

/// Asks a helper program: docker's `docker-credential-helpers` protocol.
fn ask_helper(name: &str, reference: &Reference) -> Result<Option<Credentials>> {
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        crate::bail!(ImagePullFailed, "'{}' is no name of a credential helper", name.escape_default());
    }
    let program = format!("{HELPER}{name}");
    let cannot = || format!("cannot ask credential helper '{program}'");
    let key = if reference.registry() == DOCKER_HOSTS[0] { DOCKER_KEY } else { reference.registry() };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .or_kind(ErrorKind::ImagePullFailed, cannot)?;
    if let Some(mut input) = child.stdin.take() {
        // One that does not read it will say so.
        let _ = input.write_all(key.as_bytes());
    }
    let output = child.wait_with_output().or_kind(ErrorKind::ImagePullFailed, cannot)?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        // The words of the protocol for "there are none".
        if said.contains("credentials not found") {
            return Ok(None);
        }
        crate::bail!(ImagePullFailed, "{}: {said}", cannot());
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output.stdout).or_kind(ErrorKind::ImagePullFailed, cannot)?;
    Ok(Some(Credentials::new(&answer.username, &answer.secret, format!("helper '{program}'"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(file: serde_json::Value, name: &str) -> Option<(String, String)> {
        let file: AuthFile = serde_json::from_value(file).unwrap();
        let found = in_file(&file, &name.parse().unwrap(), Path::new("/x")).unwrap();
        found.map(|c| (c.user.clone(), c.secret().to_owned()))
    }

    #[test]
    fn the_most_specific_key_is_used() {
        let auth = |pair: &str| json!({"auth": STANDARD.encode(pair)});
        let file = json!({"auths": {
            "r.example": auth("host:1"), "r.example/team": auth("team:2"), "r.example/team/app": auth("app:3:x"),
            "https://index.docker.io/v1/": auth("hub:4"), "https://old.example/v2/": auth("old:5"),
            "t.example": {"identitytoken": "T"}, "empty.example": {},
        }});
        let some = |user: &str, secret: &str| Some((user.to_owned(), secret.to_owned()));
        for (name, expected) in [
            ("r.example/team/app:1", some("app", "3:x")),
            ("r.example/team/other", some("team", "2")),
            ("r.example/elsewhere", some("host", "1")),
            ("alpine", some("hub", "4")),
            ("old.example/a", some("old", "5")),
            ("t.example/a", some("", "T")),
            ("empty.example/a", None),
            ("r.example.evil/a", None),
        ] {
            assert_eq!(found(file.clone(), name), expected, "{name}");
        }
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let credentials = Credentials::new("user", "secret", "x".to_owned());
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
