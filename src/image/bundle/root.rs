//! Root file systems out of shared layers: an overlay that the runtime mounts, described in the bundle's configuration.
//!
//! The first mount of the configuration has the destination `/` and the type `overlay`. Runtimes that know no such mount
//! refuse the bundle, since its own root is empty.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::image::Image;
use crate::image::store::{ImageStore, Layer, privileged};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, Mount, MountBuilder, Spec};
use std::path::Path;

/// Name of the directory in a bundle that receives what the container writes.
pub(super) const UPPER: &str = "upper";
/// Name of the directory in a bundle that overlayfs works in.
pub(super) const WORK: &str = "work";

/// Makes the directories of an overlay in the bundle, and the mount in its configuration.
pub(super) fn overlay(store: &ImageStore, image: &Image, bundle: &Path, spec: &mut Spec) -> Result<()> {
    store.register_bundle(bundle)?;
    let (upper, work) = (bundle.join(UPPER), bundle.join(WORK));
    for directory in [&upper, &work] {
        std::fs::create_dir(directory)
            .or_kind(ErrorKind::Storage, || format!("cannot make '{}'", directory.display()))?;
    }
    copy_root_metadata(image.layers(), &upper)?;
    let owner = mapped_root(spec).filter(|_| privileged());
    let mut options = lower(image.layers());
    options.push(format!("upperdir={}", upper.display()));
    options.push(format!("workdir={}", work.display()));
    options.push("userxattr".to_owned());
    if let Some((uid, gid)) = owner {
        for directory in [&upper, &work] {
            std::os::unix::fs::chown(directory, Some(uid), Some(gid))?;
        }
        options.push("idmap".to_owned());
    }
    let mut mounts = vec![mount("/", options)?];
    mounts.append(&mut spec.mounts().clone().unwrap_or_default());
    spec.set_mounts(Some(mounts));
    Ok(())
}

/// Who root of a user namespace that the configuration makes is on the host.
fn mapped_root(spec: &Spec) -> Option<(u32, u32)> {
    let linux = spec.linux().as_ref()?;
    let makes = |n: &LinuxNamespace| n.typ() == LinuxNamespaceType::User && n.path().is_none();
    let root = |mappings: &Option<Vec<LinuxIdMapping>>| {
        mappings.iter().flatten().find(|m| m.container_id() == 0).map(LinuxIdMapping::host_id)
    };
    linux.namespaces().iter().flatten().any(makes).then_some(())?;
    Some((root(linux.uid_mappings())?, root(linux.gid_mappings())?))
}

/// The root of the overlay is that of the upper directory.
fn copy_root_metadata(layers: &[Layer], upper: &Path) -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let Some(top) = layers.last() else { return Ok(()) };
    let metadata = std::fs::metadata(&top.path)?;
    let _ = std::os::unix::fs::chown(upper, Some(metadata.uid()), Some(metadata.gid()));
    Ok(std::fs::set_permissions(upper, std::fs::Permissions::from_mode(metadata.mode() & 0o7777))?)
}

/// One option a layer, the topmost first: `lowerdir+` of Linux 6.5, which takes more layers than fit into one option.
fn lower(layers: &[Layer]) -> Vec<String> {
    layers.iter().rev().map(|layer| format!("lowerdir+={}", layer.path.display())).collect()
}

fn mount(destination: &str, options: Vec<String>) -> Result<Mount> {
    MountBuilder::default()
        .destination(destination)
        .typ("overlay")
        .source("overlay")
        .options(options)
        .build()
        .map_err(|e| Error::new(ErrorKind::BundleBuildFailed, e.to_string()))
}

/// A mount of an image's files at `destination` in a container, read-only: an image volume. The bundle that gets it must be
/// registered with [`ImageStore::register_bundle`], or made by a [`super::BundleBuilder`] in overlay mode.
pub fn image_mount(store: &ImageStore, image: &Image, destination: &str) -> Result<Mount> {
    let mut options = lower(image.layers());
    // An overlay without an upper directory has at least two lower ones.
    options.push(format!("lowerdir+={}", store.empty_directory()?.display()));
    if options.len() == 1 {
        options.push(options[0].clone());
    }
    options.extend(["userxattr", "ro", "nosuid", "nodev"].map(str::to_owned));
    mount(destination, options)
}
