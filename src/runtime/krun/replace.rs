//! Becoming `magikrun-krun`, the same program linked with libkrun.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::selfexe;
use std::convert::Infallible;
use std::path::{Path, PathBuf};

/// Name of the program.
const NAME: &str = "magikrun-krun";
/// Where it is, seen from the directory of this program, if not beside it.
const LIBEXEC: &str = "../libexec/magikrun";
/// Variable with which a program tells the version of the one that it replaces; it also keeps two from replacing each
/// other for ever.
const MARKER: &str = "_MAGIKRUN_KRUN";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// In the program with libkrun: refuses to stand in for one of another version.
pub fn check_version() -> Result<()> {
    match std::env::var(MARKER) {
        Ok(version) if version != VERSION => {
            crate::bail!(
                RuntimeUnavailable,
                "cannot stand in for magikrun {version}: this is {NAME} {VERSION}; install one version of both"
            )
        }
        _ => Ok(()),
    }
}

/// Executes the program with libkrun in the place of this one: with the same arguments, environment and descriptors.
///
/// Returns when there is no such program.
pub fn replace() -> Result<Infallible> {
    if std::env::var_os(MARKER).is_some() {
        crate::bail!(
            RuntimeUnavailable,
            "cannot run a microVM: '{NAME}' is a link to a program without libkrun"
        );
    }
    let program = program()?;
    selfexe::execute_in_place(&program, (MARKER, VERSION))
        .or_kind(ErrorKind::RuntimeUnavailable, || format!("cannot execute '{}'", program.display()))
}

/// Where the program with libkrun is.
pub fn program() -> Result<PathBuf> {
    find(&selfexe::path()?)
}

/// Whether the program with libkrun is there.
pub fn is_installed() -> bool {
    program().is_ok()
}

/// The variable by which the program with libkrun knows that this one executes it, as `NAME=VALUE`.
pub fn marker() -> String {
    format!("{MARKER}={VERSION}")
}

/// A file that is installed with this program: beside it, or in libexec.
pub fn installed(own: &Path, name: &str) -> Option<PathBuf> {
    let directory = own.parent()?;
    [directory.join(name), directory.join(LIBEXEC).join(name)].into_iter().find(|path| path.is_file())
}

fn find(own: &Path) -> Result<PathBuf> {
    installed(own, NAME).ok_or_else(|| {
        let directory = own.parent().unwrap_or(own).display();
        Error::new(
            ErrorKind::RuntimeUnavailable,
            format!(
                "cannot run a microVM: there is no '{NAME}' in '{directory}' nor in '{directory}/{LIBEXEC}'"
            ),
        )
    })
}
