//! The layers of an overlay, of which there may be more than mount(2) takes.

use crate::error::{Context as _, Error, Result};
use std::borrow::Cow;
use std::fs::File;
use std::os::fd::AsRawFd as _;

/// What the option that names them begins with.
pub const OPTION: &str = "lowerdir=";
/// What mount(2) takes as data, in bytes: one page, with the end.
const DATA_LIMIT: usize = 4095;

/// Makes the data of an overlay of many layers fit: the folder that all layers are in is named by a descriptor, which must
/// stay open until it is mounted.
pub fn fitting(data: &str) -> Result<(Cow<'_, str>, Option<File>)> {
    if data.len() <= DATA_LIMIT {
        return Ok((data.into(), None));
    }
    let too_long =
        || Error::invalid(format!("its options have {} bytes, more than {DATA_LIMIT}", data.len()));
    let layers = data.split(',').find_map(|option| option.strip_prefix(OPTION)).ok_or_else(too_long)?;
    let common = common_folder(layers.split(':')).ok_or_else(too_long)?;
    let folder = File::open(common).context(|| format!("cannot open '{common}'"))?;
    let short = format!("/proc/self/fd/{}/", folder.as_raw_fd());
    let layers_short: Vec<_> = layers
        .split(':')
        .map(|layer| format!("{short}{}", layer[common.len()..].trim_start_matches('/')))
        .collect();
    let data = data.replacen(layers, &layers_short.join(":"), 1);
    if data.len() > DATA_LIMIT {
        return Err(too_long());
    }
    Ok((data.into(), Some(folder)))
}

/// The deepest folder that all paths are below.
fn common_folder<'a>(mut paths: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let first = paths.next()?;
    let mut common = &first[..first.rfind('/')?];
    for path in paths {
        while !path.strip_prefix(common).is_some_and(|rest| rest.starts_with('/')) {
            common = &common[..common.rfind('/')?];
        }
    }
    (!common.is_empty()).then_some(common)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn many_layers_are_shortened_by_their_common_folder() {
        let folder = tempfile::tempdir().unwrap();
        let layer = |n: usize| format!("{}/some/long/folder/of/snapshots/{n}/fs", folder.path().display());
        (0..128).for_each(|n| std::fs::create_dir_all(layer(n)).unwrap());
        let layers: Vec<_> = (0..128).map(layer).collect();
        let data = format!("workdir=/w,upperdir=/u,lowerdir={}", layers.join(":"));
        assert!(data.len() > DATA_LIMIT);
        let (short, _open) = fitting(&data).unwrap();
        assert!(
            short.len() <= DATA_LIMIT && short.starts_with("workdir=/w,upperdir=/u,lowerdir=/proc/self/fd/")
        );
        let last = short.rsplit(':').next().unwrap();
        assert!(last.ends_with("/127/fs") && Path::new(last).is_dir(), "{last}");
        assert_eq!(common_folder(["/a/b/c", "/a/bc/d"].into_iter()), Some("/a"));
        assert_eq!(common_folder(["/a", "/b"].into_iter()), None);
    }
}
