//! `magikrun pod cp`

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::userns;
use crate::pod::plan::users::IdRange;
use crate::pod::{PodHost, operations};
use crate::runtime::container::Container;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, symlinkat};
use rustix::thread::CapabilitySets;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to copy: a path of this host, or POD:PATH
    #[arg(value_name = "FROM")]
    from: String,
    /// Where to: a path of this host, or POD:PATH; a directory that exists gets it in it
    #[arg(value_name = "TO")]
    to: String,
    /// Container [default: the first that the pod is for]
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
}

/// A directory that paths are resolved in, never beyond it: the root of this host or of a container.
struct Root(OwnedFd);

/// One of the two sides.
struct Side {
    root: Root,
    path: PathBuf,
    /// The first process of the container, on the side of a pod.
    init: Option<i32>,
    /// The ids of the host that the pod has for its own.
    ids: Option<IdRange>,
}

/// `magikrun pod cp`
pub fn run(host: &PodHost, args: &Args) -> Result<()> {
    let from = side(host, &args.from, args.container.as_deref())?;
    let to = side(host, &args.to, args.container.as_deref())?;
    become_root_of(host, &from, &to).map_err(|e| e.wrap(format!("cannot copy as root of '{}'", args.to)))?;
    let (from, from_path, to, to_path) = (from.root, from.path, to.root, to.path);
    let cannot = || format!("cannot copy '{}' to '{}'", args.from, args.to);
    let name = from_path.file_name().map(PathBuf::from);
    // What is named may itself be a link, which is followed; those below are copied as links.
    let source = from.open(&from_path, OFlags::PATH).context(cannot)?;
    let kind = file_type(&source).context(cannot)?;
    let into = to
        .open(&to_path, OFlags::PATH)
        .ok()
        .filter(|fd| file_type(fd).is_ok_and(|t| t == FileType::Directory));
    let target = match (into, name) {
        (Some(_), Some(name)) => to_path.join(name),
        _ => to_path,
    };
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("/")).to_owned();
    let name = target.file_name().ok_or_else(|| Error::new(ErrorKind::Usage, "the target has no name"))?;
    let parent = to.open(&parent, OFlags::DIRECTORY).context(cannot)?;
    let reopened = from.open(&from_path, OFlags::NONBLOCK).context(cannot)?;
    copy(&reopened, kind, &parent, Path::new(name)).context(cannot)
}

/// What is copied belongs to root of the container, as if that had written it.
fn become_root_of(host: &PodHost, from: &Side, to: &Side) -> Result<()> {
    if host.host.rootless {
        // It is the user, who may do in the pod's namespace what root may do in it, and nothing more outside.
        return to.init.or(from.init).map_or(Ok(()), userns::enter);
    }
    let Some(ids) = to.ids else { return Ok(()) };
    let root = ids.on_host(0);
    setfsgid(Gid::from_raw(root));
    setfsuid(Uid::from_raw(root));
    // Along with the id the kernel takes privileges away, which the way to the files needs.
    let all = rustix::thread::capabilities(None)?;
    Ok(rustix::thread::set_capabilities(None, CapabilitySets { effective: all.permitted, ..all })?)
}

fn side(host: &PodHost, text: &str, container: Option<&str>) -> Result<Side> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let pod_path = text.split_once(':').filter(|(pod, _)| !pod.is_empty() && !pod.starts_with(['/', '.']));
    let Some((pod, path)) = pod_path else {
        let path = std::path::absolute(text).context(|| format!("cannot find '{text}'"))?;
        let root = rustix::fs::open("/", flags, Mode::empty()).context(|| "cannot open '/'")?;
        return Ok(Side { root: Root(root), path, init: None, ids: None });
    };
    let pod = host.store.open(pod)?;
    let id = operations::container(&pod, container)?;
    let (place, member) = pod.place(&host.host, &id)?;
    let running = Container::open(&pod.containers(&host.host), &place)?;
    let init = running.live_init().ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidState,
            format!("container '{id}' of pod '{}' does not run", pod.record.name),
        )
    })?;
    // What is around all containers has their files below its root.
    let below = member.map(|member| member.root).unwrap_or_default();
    let root = rustix::fs::open(format!("/proc/{}/root{below}", init.pid), flags, Mode::empty())
        .context(|| format!("cannot open the root of container '{id}'"))?;
    Ok(Side { root: Root(root), path: Path::new("/").join(path), init: Some(init.pid), ids: pod.record.ids })
}

impl Root {
    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }
}

fn file_type(fd: &OwnedFd) -> Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// Copies an open file or directory to `name` in `parent`. Nothing is followed on the way.
fn copy(from: &OwnedFd, kind: FileType, parent: &impl AsFd, name: &Path) -> Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
    match kind {
        FileType::Directory => {
            match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(e).context(|| format!("cannot make '{}'", name.display())),
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            for entry in Dir::read_from(from)? {
                let entry = entry?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    copy_entry(from, entry.file_name(), &made)?;
                }
            }
            rustix::fs::fchmod(&made, mode)?;
        }
        FileType::RegularFile => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
                .context(|| format!("cannot write '{}'", name.display()))?;
            std::io::copy(&mut File::from(from.try_clone()?), &mut File::from(made.try_clone()?))?;
            rustix::fs::fchmod(&made, mode)?;
        }
        _ => tracing::warn!("'{}' is neither a file nor a directory nor a link: left out", name.display()),
    }
    Ok(())
}

fn copy_entry(directory: &OwnedFd, name: &std::ffi::CStr, to: &OwnedFd) -> Result<()> {
    let path = PathBuf::from(name.to_string_lossy().into_owned());
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink {
        let target = readlinkat(directory, name, Vec::new())?;
        let _ = rustix::fs::unlinkat(to, name, AtFlags::empty());
        return Ok(symlinkat(target, to, name)?);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if !matches!(kind, FileType::Directory | FileType::RegularFile) {
        tracing::warn!("'{}' is neither a file nor a directory nor a link: left out", path.display());
        return Ok(());
    }
    let fd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    copy(&fd, kind, to, &path)
}
