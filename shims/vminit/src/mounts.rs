//! Mounts below a root, whose links lead nowhere out of it.

use crate::failure::{Context as _, Result, system};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use vm_protocol::spec::Mount;

/// The type of a file system of the host.
pub const SHARE: &str = "virtiofs";
/// KiB that are read of a share ahead: as much as libkrun takes in one request.
const READ_AHEAD_KIB: &str = "1024";

/// A directory that paths are resolved in.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// What the options of a mount mean.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Flags of the mount.
    pub flags: MountFlags,
    /// Bind with what is mounted below.
    pub recursive: bool,
    /// Propagation to set.
    pub propagation: Option<MountPropagationFlags>,
    /// What the file system is told.
    pub data: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { flags: MountFlags::empty(), recursive: false, propagation: None, data: String::new() }
    }
}

/// Sorts the options of mount(8).
pub fn sort(options: &[String]) -> Options {
    let mut sorted = Options::default();
    let mut data = Vec::new();
    for option in options {
        let (flag, set) = match option.as_str() {
            "ro" => (MountFlags::RDONLY, true),
            "rw" => (MountFlags::RDONLY, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "noatime" => (MountFlags::NOATIME, true),
            "atime" => (MountFlags::NOATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "relatime" => (MountFlags::RELATIME, true),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "dirsync" => (MountFlags::DIRSYNC, true),
            "bind" | "defaults" | "async" => continue,
            "rbind" => {
                sorted.recursive = true;
                continue;
            }
            other => {
                match propagation(other) {
                    Some(flags) => sorted.propagation = Some(flags),
                    None => data.push(other),
                }
                continue;
            }
        };
        sorted.flags.set(flag, set);
    }
    sorted.data = data.join(",");
    sorted
}

fn propagation(option: &str) -> Option<MountPropagationFlags> {
    let (recursive, name) = match option.strip_prefix('r') {
        Some(name) => (MountPropagationFlags::REC, name),
        None => (MountPropagationFlags::empty(), option),
    };
    let flags = match name {
        "private" => MountPropagationFlags::PRIVATE,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "shared" => MountPropagationFlags::SHARED,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(flags | recursive)
}

/// The path by which system calls that know paths only reach a descriptor.
pub fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Finds a path in the guest. No links: whoever can write to a volume could lead a path below it elsewhere.
fn find_without_links(path: &str) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(rustix::fs::CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Walks into what is to be bound. Where the host has mounted something in a share, the kernel mounts a file system when it is first walked
/// into, in the namespace of who walks, and another one in each. So this is done where all containers come from: they share what is mounted
/// there. What cannot be reached is told of when it is bound.
pub fn walk_into(mounts: &[Mount]) {
    for mount in mounts.iter().filter(|mount| mount.kind == "bind" && mount.within.is_none()) {
        let _ = find_without_links(&mount.source);
    }
}

/// Lets the kernel read more of a share at once. Each request leaves the virtual machine, and FUSE drops what it has read of a file when
/// that is opened again, so that a program is read anew for each process that executes it. Without sysfs it stays as it is.
fn read_ahead(share: &OwnedFd) {
    let Ok(stat) = fstat(share) else { return };
    let device = format!("{}:{}", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let _ = std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KIB);
}

impl Root {
    /// Opens a directory as a root.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .context(|| format!("cannot open the root '{}'", path.display()))?;
        Ok(Self(fd))
    }

    /// Finds a path in the root; links are followed inside it.
    pub fn find(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(&self.0, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// Finds a directory in the root, and makes it and those above it where they are missing.
    pub fn make_directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        match self.find(path) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let mut walked = PathBuf::from("/");
        for component in path.components() {
            let Component::Normal(name) = component else {
                if component == Component::ParentDir {
                    return Err(Errno::INVAL);
                }
                continue;
            };
            let parent = self.find(&walked)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            walked.push(name);
        }
        self.find(path)
    }

    /// Finds a file in the root, and makes an empty one where it is missing.
    pub fn make_file(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        match self.find(path) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
        let parent = self.make_directory(parent)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
        self.find(path)
    }

    /// Mounts.
    pub fn mount(&self, mount: &Mount) -> Result<()> {
        let cannot = || format!("cannot mount '{}'", mount.destination.escape_debug());
        let path = Path::new(&mount.destination);
        let options = sort(&mount.options);
        if mount.kind == "bind" || mount.options.iter().any(|option| option == "bind" || option == "rbind") {
            self.bind(mount, path, &options)?;
        } else {
            let target = self.make_directory(path).context(cannot)?;
            let data = CString::new(options.data).map_err(|_| system(cannot()))?;
            let source = if mount.source.is_empty() { &mount.kind } else { &mount.source };
            rustix::mount::mount(
                source.as_str(),
                path_of(&target),
                mount.kind.as_str(),
                options.flags,
                data.as_c_str(),
            )
            .context(cannot)?;
            if mount.kind == SHARE {
                read_ahead(&self.find(path).context(cannot)?);
            }
        }
        let Some(propagation) = options.propagation else { return Ok(()) };
        let target = self.find(path).context(cannot)?;
        rustix::mount::mount_change(path_of(&target), propagation).context(cannot)
    }

    fn bind(&self, mount: &Mount, path: &Path, options: &Options) -> Result<()> {
        let cannot = || {
            format!(
                "cannot mount '{}' to '{}'",
                mount.source.escape_debug(),
                mount.destination.escape_debug()
            )
        };
        let source = match &mount.within {
            Some(directory) => Self::open(Path::new(directory))?.find(Path::new(&mount.source)),
            None => find_without_links(&mount.source),
        }
        .context(cannot)?;
        let stat = fstat(&source).context(cannot)?;
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.make_directory(path),
            _ => self.make_file(path),
        }
        .context(cannot)?;
        self.bind_to(&source, &target, path, options).context(cannot)
    }

    fn bind_to(
        &self,
        source: &OwnedFd,
        target: &OwnedFd,
        path: &Path,
        options: &Options,
    ) -> rustix::io::Result<()> {
        if options.recursive {
            rustix::mount::mount_bind_recursive(path_of(source), path_of(target))?;
        } else {
            rustix::mount::mount_bind(path_of(source), path_of(target))?;
        }
        if options.flags.is_empty() {
            return Ok(());
        }
        let mounted = self.find(path)?;
        rustix::mount::mount_remount(path_of(&mounted), MountFlags::BIND | options.flags, c"")
    }

    /// Makes a path that exists read-only.
    pub fn protect(&self, path: &Path) -> Result<()> {
        let cannot = || format!("cannot make '{}' read-only", path.display());
        let found = match self.find(path) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.context(cannot)?,
        };
        let options = Options { flags: MountFlags::RDONLY, recursive: true, ..Options::default() };
        self.bind_to(&found, &found, path, &options).context(cannot)
    }

    /// Covers a path that exists with nothing.
    pub fn mask(&self, path: &Path) -> Result<()> {
        let cannot = || format!("cannot mask '{}'", path.display());
        let found = match self.find(path) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.context(cannot)?,
        };
        let stat = fstat(&found).context(cannot)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("tmpfs", path_of(&found), "tmpfs", flags, c"size=0").context(cannot)
        } else {
            let null = self.find(Path::new("/dev/null")).context(cannot)?;
            rustix::mount::mount_bind(path_of(&null), path_of(&found)).context(cannot)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_propagation_and_data() {
        let options = ["rbind", "ro", "nosuid", "rslave", "size=64k", "mode=755", "exec"].map(str::to_owned);
        let sorted = sort(&options);
        assert_eq!(sorted.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert!(sorted.recursive);
        assert_eq!(sorted.propagation, Some(MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC));
        assert_eq!(sorted.data, "size=64k,mode=755");
        assert_eq!(sort(&["ro".to_owned(), "rw".to_owned()]), Options::default());
    }

    #[test]
    fn what_is_made_below_a_root_stays_there_whatever_its_links_say() {
        let outside = std::env::temp_dir().join(format!("vminit-mounts-{}", std::process::id()));
        let inside = outside.join("root");
        std::fs::create_dir_all(&inside).unwrap();
        std::os::unix::fs::symlink("../..", inside.join("up")).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("away")).unwrap();
        let root = Root::open(&inside).unwrap();
        root.make_file(Path::new("/up/etc/hosts")).unwrap();
        assert!(inside.join("etc/hosts").is_file());
        root.make_directory(Path::new("/away/made")).unwrap_err();
        root.make_directory(Path::new("a/../../b")).unwrap_err();
        assert!(!outside.join("made").exists());
        std::fs::remove_dir_all(&outside).unwrap();
    }
}
