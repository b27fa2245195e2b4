//! Overlays of many layers: `lowerdir+` options, one a layer.

use super::plan::MountPlan;
use super::{attach, idmap};
use crate::error::{Context as _, ErrorKind, Result};
use crate::runtime::procfs;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};

/// Option with one lower directory, below those before it.
const LAYER: &str = "lowerdir+";
/// Option with all lower directories.
const LAYERS: &str = "lowerdir";
/// Options with a directory that is written to.
const WRITABLE: [&str; 2] = ["upperdir", "workdir"];

/// Opens the directories of an overlay for a container that cannot reach them, and maps the layers to its ids if the mount
/// asks for that. Its options lead to copies of the mounts that they are on, which [`attach_layers`] attaches.
pub(super) fn open(mount: &mut MountPlan) -> Result<()> {
    let mut layers: Vec<OwnedFd> = Vec::new();
    let mut writable: Option<(PathBuf, String)> = None;
    for option in &mut mount.options.data {
        let Some((key, path)) = option.split_once('=') else { continue };
        let cannot = || format!("cannot open '{path}'");
        let path = Path::new(path);
        if key == LAYER {
            let tree = attach::clone_path(path, false).context(cannot)?;
            if let Some(mappings) = &mount.mappings {
                idmap::map(&tree, mappings, false)?;
            }
            *option = format!("{key}={}", procfs::path_of(&tree)?);
            layers.push(tree);
        } else if WRITABLE.contains(&key) {
            // Both must be on one mount: that of the directory that they are in.
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            if writable.as_ref().is_none_or(|(known, _)| known != parent) {
                let tree = attach::clone_path(parent, false).context(cannot)?;
                writable = Some((parent.to_owned(), procfs::path_of(&tree)?));
                layers.push(tree);
            }
            let base = writable.as_ref().map(|(_, base)| base.as_str()).unwrap_or_default();
            *option = format!("{key}={base}/{}", name.to_string_lossy());
        }
    }
    mount.layers = layers;
    Ok(())
}

/// Attaches the opened directories to `at`, one over the other: overlayfs takes only what is in the mount namespace that it
/// is mounted from. The overlay itself will cover them.
pub(super) fn attach_layers(mount: &MountPlan, at: BorrowedFd<'_>) -> Result<()> {
    let mut layers = mount.layers.iter();
    layers.try_for_each(|layer| attach::attach(layer.as_fd(), at)).context(|| "cannot attach the layers")
}

fn directory(path: &str) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .or_kind(ErrorKind::InvalidBundle, || format!("cannot open '{path}'"))
}

/// The same options for kernels without `lowerdir+` (before 6.8): all layers in one option, short enough for the one page
/// that mount(2) takes. The descriptors must stay open until the overlay is mounted.
pub(super) fn in_one_option(data: &[String]) -> Result<(Vec<String>, Vec<OwnedFd>)> {
    let is_layer = |option: &&String| option.split('=').next() == Some(LAYER);
    let layers = data.iter().filter(is_layer).filter_map(|option| option.split_once('='));
    let opened = layers.map(|(_, path)| directory(path)).collect::<Result<Vec<_>>>()?;
    let mut data: Vec<String> = data.iter().filter(|option| !is_layer(option)).cloned().collect();
    if !opened.is_empty() {
        let paths = opened.iter().map(procfs::path_of).collect::<Result<Vec<_>>>()?;
        data.insert(0, format!("{LAYERS}={}", paths.join(":")));
    }
    Ok((data, opened))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_and_twenty_eight_layers_fit_into_one_page() {
        let mut data: Vec<String> = (0..128).map(|_| format!("{LAYER}=/")).collect();
        data.push("upperdir=/u".to_owned());
        let (data, opened) = in_one_option(&data).unwrap();
        assert_eq!(opened.len(), 128);
        assert_eq!(data[1..], ["upperdir=/u"]);
        assert!(data[0].starts_with("lowerdir=/proc/self/fd/") && data[0].len() < 4096 - 1024);
        let plain = vec!["lowerdir=/a:/b".to_owned()];
        assert_eq!(in_one_option(&plain).unwrap().0, plain);
    }
}
