//! The directories that a program is given where there is no container whose file system it could have.

use super::source;
use super::view::kernel_mounts;
use crate::error::Result;
use oci_spec::runtime::{Root, Spec};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A directory that a program is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preopen {
    /// Where it is.
    pub path: PathBuf,
    /// What the program calls it.
    pub name: String,
    /// Nothing can be changed in it.
    pub read_only: bool,
}

/// The root file system of a bundle, and the bind mounts beside it: there are no other mounts without a container.
///
/// A directory with a procfs, or another view of the kernel, in it is refused: `/proc/self/mem` leads out of the sandbox.
pub fn of_bundle(spec: &Spec, bundle: &Path, rootfs: &Path) -> Result<Vec<Preopen>> {
    let root = Preopen {
        path: rootfs.to_owned(),
        name: "/".to_owned(),
        read_only: spec.root().as_ref().and_then(Root::readonly).unwrap_or(false),
    };
    let binds = source::bind_mounts(bundle, spec).filter(|(_, source, _)| source.is_dir());
    let binds = binds.map(|(destination, path, read_only)| Preopen {
        path,
        name: destination.display().to_string(),
        read_only,
    });
    let all: Vec<Preopen> = [root].into_iter().chain(binds).collect();
    if cfg!(target_os = "linux") {
        let kernel = kernel_mounts(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
        all.iter().try_for_each(|preopen| refuse_kernel(preopen, &kernel))?;
    }
    Ok(all)
}

fn refuse_kernel(preopen: &Preopen, kernel: &[PathBuf]) -> Result<()> {
    let path = std::fs::canonicalize(&preopen.path)?;
    match kernel.iter().find(|mount| mount.starts_with(&path) || path.starts_with(mount)) {
        Some(mount) => crate::bail!(
            InvalidBundle,
            "cannot give '{}' to the module: '{}' shows the kernel, and is hidden only in containers",
            preopen.path.display(),
            mount.display()
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_which_the_kernel_can_be_seen_is_refused() {
        let kernel = [PathBuf::from("/proc"), PathBuf::from("/sys")];
        for (path, refused) in [("/", true), ("/proc", true), ("/sys/kernel", true), ("/tmp", false)] {
            let preopen = Preopen { path: path.into(), name: "/".to_owned(), read_only: true };
            assert_eq!(refuse_kernel(&preopen, &kernel).is_err(), refused, "{path}");
        }
    }
}
