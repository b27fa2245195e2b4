//! Keeping credentials where podman and docker find them.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::source::{auth_files, check_login};
use crate::platform::sys::random::unique_id;
use base64::Engine as _;
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Asks the registry whether it takes the credentials, and keeps them. Answers the file.
pub fn login(registry: &str, user: &str, password: &str) -> Result<PathBuf> {
    check_login(registry, user, password).context(|| format!("cannot log in to '{registry}'"))?;
    let path = file()?;
    let mut all = read(&path)?;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let auths = all.entry("auths").or_insert_with(|| json!({}));
    auths[registry] = json!({"auth": auth});
    write(&path, &all)?;
    Ok(path)
}

/// Forgets the credentials for a registry. False if there were none.
pub fn logout(registry: &str) -> Result<bool> {
    let mut found = false;
    for path in auth_files().into_iter().filter(|path| path.exists()) {
        let mut all = read(&path)?;
        let removed =
            all.get_mut("auths").and_then(Value::as_object_mut).and_then(|auths| auths.remove(registry));
        if removed.is_some() {
            write(&path, &all)?;
            found = true;
        }
    }
    Ok(found)
}

fn file() -> Result<PathBuf> {
    let file = auth_files().into_iter().next();
    file.ok_or_else(|| {
        Error::new(ErrorKind::Usage, "there is no place for credentials: set REGISTRY_AUTH_FILE")
    })
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        data => data
            .map_err(Error::from)
            .and_then(|data| Ok(serde_json::from_slice(&data)?))
            .or_kind(ErrorKind::Usage, || format!("cannot read credentials '{}'", path.display())),
    }
}

/// Replaces the file; nobody else may read it.
fn write(path: &Path, all: &Map<String, Value>) -> Result<()> {
    let temporary = path.with_file_name(format!(".{}", unique_id()?));
    let written = (|| -> Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(all)?)?;
        file.sync_all()?;
        Ok(std::fs::rename(&temporary, path)?)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.or_kind(ErrorKind::Storage, || format!("cannot write credentials '{}'", path.display()))
}
