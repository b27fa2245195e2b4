//! Overlays of many layers: `lowerdir+` options, one a layer.

use super::plan::MountPlan;
use super::{attach, idmap};
use crate::error::{Context as _, ErrorKind, Result};
use crate::runtime::procfs;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::path::Path;

/// Option with one lower directory, below those before it.
const LAYER: &str = "lowerdir+";
/// Option with all lower directories.
const LAYERS: &str = "lowerdir";
/// Options with a directory that is written to.
const WRITABLE: [&str; 2] = ["upperdir", "workdir"];

/// Opens the directories of an overlay for a container that cannot reach them, and maps the layers to its ids if the mount
/// asks for that. Its options lead to the open directories afterwards.
pub(super) fn open(mount: &mut MountPlan) -> Result<()> {
    let mut opened = Vec::new();
    for option in &mut mount.options.data {
        let Some((key, path)) = option.split_once('=') else { continue };
        let directory = match &mount.mappings {
            Some(mappings) if key == LAYER => {
                let tree =
                    attach::clone_path(Path::new(path), false).context(|| format!("cannot open '{path}'"))?;
                idmap::map(&tree, mappings, false)?;
                tree
            }
            _ if key == LAYER || WRITABLE.contains(&key) => directory(path)?,
            _ => continue,
        };
        *option = format!("{key}={}", procfs::path_of(&directory)?);
        opened.push(directory);
    }
    mount.opened = opened;
    Ok(())
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
