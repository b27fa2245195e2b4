//! Configuration files of others: read whole, replaced whole.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::undo::Undo;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// The text of a file; none if there is no such file.
pub fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::from(e).with_kind(ErrorKind::Usage).wrap("it cannot be read")),
    }
}

/// Replaces a file, or makes it with its directories. Readers see the old text or the new one; its owner and mode stay, and so
/// does a link that leads to it.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().ok_or_else(|| Error::from_errno(libc::EISDIR))?;
    let mut undo = Undo::new();
    make_directories(directory, &mut undo)?;
    match write_by_rename(&path, text) {
        Ok(()) => {
            undo.commit();
            Ok(())
        }
        Err(e) => Err(undo.unwind(e)),
    }
}

fn make_directories(directory: &Path, undo: &mut Undo<'_>) -> Result<()> {
    let missing: Vec<PathBuf> =
        directory.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    for path in missing.into_iter().rev() {
        std::fs::create_dir(&path).context(|| format!("cannot make '{}'", path.display()))?;
        undo.push("remove a directory", move || Ok(std::fs::remove_dir(path)?));
    }
    Ok(())
}

fn write_by_rename(path: &Path, text: &str) -> Result<()> {
    let old = std::fs::metadata(path).ok();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.magikrun~"));
    let written =
        write_new(&temporary, text, old.as_ref()).and_then(|()| Ok(std::fs::rename(&temporary, path)?));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, text: &str, old: Option<&Metadata>) -> Result<()> {
    // What an interrupted call has left is overwritten; a link is not followed.
    let _ = std::fs::remove_file(path);
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    if let Some(old) = old {
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
        file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
    }
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}
