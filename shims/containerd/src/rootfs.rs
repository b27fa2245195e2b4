//! Mounting the root file system that containerd's snapshotter describes.

use crate::error::{Context as _, Error, Result};
use containerd_shim_protos::types::mount::Mount;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::borrow::Cow;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

/// What mount(2) takes as data, in bytes: one page, with the end.
const DATA_LIMIT: usize = 4095;

/// A root file system that is unmounted when this goes away.
pub struct Mounted(Option<PathBuf>);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            unmount_all(path);
        }
    }
}

/// Takes off everything that is mounted on a directory.
pub fn unmount_all(path: &Path) {
    loop {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::BUSY) => {
                if rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH).is_err() {
                    return;
                }
            }
            // EINVAL: nothing is mounted there any more.
            Err(_) => return,
        }
    }
}

/// Mounts a root file system onto `target`; without mounts, the bundle has one already.
pub fn mount(mounts: &[Mount], target: &Path) -> Result<Mounted> {
    if mounts.is_empty() {
        return Ok(Mounted(None));
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(target)
        .context(|| format!("cannot make '{}'", target.display()))?;
    let mounted = Mounted(Some(target.to_owned()));
    for one in mounts {
        mount_one(one, target).context(|| {
            format!("failed to mount rootfs component: cannot mount '{}' of type {}", one.source, one.type_)
        })?;
    }
    Ok(mounted)
}

fn mount_one(mount: &Mount, root: &Path) -> Result<()> {
    let target = inside(root, &mount.target)?;
    let options = Options::parse(&mount.options)?;
    let bind = options.flags.contains(MountFlags::BIND);
    let kind = if bind { "" } else { mount.type_.as_str() };
    let (data, _folder) = fitting(&options.data)?;
    let data = CString::new(data.as_bytes()).map_err(|_| Error::invalid("a null byte in its options"))?;
    rustix::mount::mount(mount.source.as_str(), &target, kind, options.flags, Some(data.as_c_str()))?;
    // A bind takes the flags of what it binds, until it is mounted again.
    let others = options.flags.difference(MountFlags::BIND | MountFlags::REC);
    if bind && !others.is_empty() {
        rustix::mount::mount_remount(&target, MountFlags::BIND | others, c"")?;
    }
    if !options.propagation.is_empty() {
        rustix::mount::mount_change(&target, options.propagation)?;
    }
    Ok(())
}

/// The place of a mount below the root file system.
fn inside(root: &Path, target: &str) -> Result<PathBuf> {
    let target = Path::new(target.trim_start_matches('/'));
    if target.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(Error::invalid(format!("the target '{}' leads out of the root", target.display())));
    }
    Ok(if target.as_os_str().is_empty() { root.to_owned() } else { root.join(target) })
}

/// What the options of a mount mean for mount(2).
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MountFlags,
    propagation: MountPropagationFlags,
    data: String,
}

impl Options {
    fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self {
            flags: MountFlags::empty(),
            propagation: MountPropagationFlags::empty(),
            data: String::new(),
        };
        let mut data = Vec::new();
        for option in options {
            if option == "private" {
                parsed.propagation = MountPropagationFlags::PRIVATE;
                continue;
            }
            let (set, clear) = match option.as_str() {
                "bind" => (MountFlags::BIND, MountFlags::empty()),
                "rbind" => (MountFlags::BIND | MountFlags::REC, MountFlags::empty()),
                "ro" => (MountFlags::RDONLY, MountFlags::empty()),
                "rw" => (MountFlags::empty(), MountFlags::RDONLY),
                "nosuid" => (MountFlags::NOSUID, MountFlags::empty()),
                "suid" => (MountFlags::empty(), MountFlags::NOSUID),
                "nodev" => (MountFlags::NODEV, MountFlags::empty()),
                "dev" => (MountFlags::empty(), MountFlags::NODEV),
                "noexec" => (MountFlags::NOEXEC, MountFlags::empty()),
                "exec" => (MountFlags::empty(), MountFlags::NOEXEC),
                "noatime" => (MountFlags::NOATIME, MountFlags::empty()),
                "nodiratime" => (MountFlags::NODIRATIME, MountFlags::empty()),
                "relatime" => (MountFlags::RELATIME, MountFlags::empty()),
                "strictatime" => (MountFlags::STRICTATIME, MountFlags::empty()),
                "sync" => (MountFlags::SYNCHRONOUS, MountFlags::empty()),
                "dirsync" => (MountFlags::DIRSYNC, MountFlags::empty()),
                "defaults" | "async" | "atime" | "diratime" | "norelatime" => continue,
                "loop" => return Err(Error::invalid("loop devices are not supported")),
                _ => {
                    data.push(option.as_str());
                    continue;
                }
            };
            parsed.flags = (parsed.flags | set).difference(clear);
        }
        parsed.data = data.join(",");
        Ok(parsed)
    }
}

/// Makes the data of an overlay of many layers fit: the folder that all layers are in is named by a descriptor, which must
/// stay open until it is mounted.
fn fitting(data: &str) -> Result<(Cow<'_, str>, Option<File>)> {
    if data.len() <= DATA_LIMIT {
        return Ok((data.into(), None));
    }
    let too_long =
        || Error::invalid(format!("its options have {} bytes, more than {DATA_LIMIT}", data.len()));
    let layers = data.split(',').find_map(|option| option.strip_prefix("lowerdir=")).ok_or_else(too_long)?;
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

    fn options(text: &str) -> Options {
        Options::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn options_are_flags_or_data() {
        let parsed = options("rbind,ro,lowerdir=/a:/b,rw,nosuid,index=off");
        assert_eq!(parsed.flags, MountFlags::BIND | MountFlags::REC | MountFlags::NOSUID);
        assert_eq!(parsed.data, "lowerdir=/a:/b,index=off");
        assert!(Options::parse(&["loop".to_owned()]).is_err());
    }

    #[test]
    fn a_target_stays_below_the_root() {
        assert_eq!(inside(Path::new("/r"), "").unwrap(), Path::new("/r"));
        assert_eq!(inside(Path::new("/r"), "/a/b").unwrap(), Path::new("/r/a/b"));
        assert!(inside(Path::new("/r"), "a/../..").is_err());
    }

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
