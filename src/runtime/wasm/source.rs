//! Finding a module: in a bundle that is not yet a container, or in a running container.

use crate::error::{Context as _, Error, ErrorKind, Result};
use oci_spec::runtime::{Mount, Process, Spec};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// Where the paths of a container lead.
#[derive(Debug)]
pub struct Tree {
    /// The root; where that is an overlay which is still to be mounted, its layers, the uppermost first.
    roots: Vec<OwnedFd>,
    /// Bind mounts that are still to be made: destination and source, the last one first.
    mounts: Vec<(PathBuf, PathBuf)>,
}

/// A module that was found.
#[derive(Debug)]
pub struct Source {
    /// Its path in the container.
    pub path: PathBuf,
    file: File,
}

impl Tree {
    /// The tree of a bundle, where the mounts are not made yet.
    pub fn of_bundle(bundle: &Path, rootfs: &Path, spec: &Spec) -> Result<Self> {
        let mut mounts: Vec<_> =
            bind_mounts(bundle, spec).map(|(destination, source, _)| (destination, source)).collect();
        mounts.reverse();
        let layers = layers(bundle, spec);
        let roots = if layers.is_empty() { vec![rootfs.to_owned()] } else { layers };
        Ok(Self { roots: roots.iter().map(|root| open_directory(root)).collect::<Result<_>>()?, mounts })
    }

    /// The tree of a running container, with its mounts; `below` is where in that a container has its root which is inside it.
    pub fn of_process(pid: i32, below: &str) -> Result<Self> {
        let path = format!("/proc/{pid}/root{below}");
        Ok(Self { roots: vec![open_directory(Path::new(&path))?], mounts: Vec::new() })
    }

    /// Opens a file by its path in the container, without leaving the container.
    fn open(&self, path: &Path) -> Result<File, Errno> {
        // Not blocking, since a FIFO may have the name.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mount = self
            .mounts
            .iter()
            .find_map(|(destination, source)| path.strip_prefix(destination).ok().map(|rest| (source, rest)));
        let fd = match mount {
            // A single file.
            Some((source, rest)) if rest.as_os_str().is_empty() => {
                rustix::fs::open(source, flags, Mode::empty())?
            }
            Some((source, rest)) => {
                let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let source = rustix::fs::open(source, directory, Mode::empty())?;
                openat2(source, rest, flags, Mode::empty(), inside)?
            }
            None => {
                let open = |root: &OwnedFd| openat2(root, path, flags, Mode::empty(), inside);
                let found = self.roots.iter().map(open).find(|found| !matches!(found, Err(Errno::NOENT)));
                found.unwrap_or(Err(Errno::NOENT))?
            }
        };
        let stat = fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(File::from(fd)),
            // What an upper layer has removed.
            FileType::CharacterDevice if stat.st_rdev == 0 => Err(Errno::NOENT),
            _ => Err(Errno::ACCESS),
        }
    }
}

/// The bind mounts of a configuration: where they are seen, what they show, and whether they are read-only.
pub fn bind_mounts(bundle: &Path, spec: &Spec) -> impl Iterator<Item = (PathBuf, PathBuf, bool)> {
    spec.mounts().iter().flatten().filter_map(move |mount| {
        let has =
            |names: &[&str]| mount.options().iter().flatten().any(|option| names.contains(&option.as_str()));
        if mount.typ().as_deref() != Some("bind") && !has(&["bind", "rbind"]) {
            return None;
        }
        Some((mount.destination().clone(), bundle.join(mount.source().as_ref()?), has(&["ro", "rro"])))
    })
}

/// The layers of the overlay that a configuration mounts as its root, the uppermost first.
fn layers(bundle: &Path, spec: &Spec) -> Vec<PathBuf> {
    let is_root = |mount: &&Mount| {
        mount.typ().as_deref() == Some("overlay") && mount.destination().as_path() == Path::new("/")
    };
    let Some(mount) = spec.mounts().iter().flatten().find(is_root) else { return Vec::new() };
    let options: Vec<(&str, &str)> =
        mount.options().iter().flatten().filter_map(|option| option.split_once('=')).collect();
    let of =
        |wanted: &'static str| options.iter().filter(move |(key, _)| *key == wanted).map(|(_, value)| *value);
    let lower = of("lowerdir+").chain(of("lowerdir").flat_map(|all| all.split(':')));
    of("upperdir").chain(lower).map(|path| bundle.join(path)).collect()
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .or_kind(ErrorKind::InvalidBundle, || format!("cannot open root file system '{}'", path.display()))
}

/// Where a command may be: as it is called if that has a slash, else in the directories of PATH and in the working directory,
/// where images of a single module have it.
fn candidates(process: &Process) -> Vec<PathBuf> {
    let Some(name) = process.args().as_ref().and_then(|args| args.first()) else { return Vec::new() };
    let cwd = process.cwd();
    if name.contains('/') {
        return vec![clean(&cwd.join(name))];
    }
    let mut env = process.env().iter().flatten().rev();
    let path = env.find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default();
    let directories = path.split(':').filter(|directory| !directory.is_empty()).map(Path::new);
    directories.chain([cwd.as_path()]).map(|directory| clean(&cwd.join(directory).join(name))).collect()
}

/// Without `.`; `..` stays, for what it means depends on where links lead.
fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

/// Finds the module that a process object names. The words are runc's for a missing program.
pub fn find(tree: &Tree, process: &Process) -> Result<Source> {
    let name = process.args().as_ref().and_then(|args| args.first()).cloned().unwrap_or_default();
    let mut last = Errno::NOENT;
    for path in candidates(process) {
        match tree.open(&path) {
            Ok(file) => return Ok(Source { path, file }),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => last = e,
        }
    }
    let cause = match last {
        Errno::NOENT if !name.contains('/') => "executable file not found in $PATH".to_owned(),
        Errno::NOENT => format!("stat {name}: {}", crate::error::errno_text(libc::ENOENT)),
        e => crate::error::errno_text(e.raw_os_error()),
    };
    let text = format!("exec: {name:?}: {cause}");
    Err(Error::from_parts(ErrorKind::ExecFailed, text, Some(last.raw_os_error())))
}

impl Source {
    /// True if it starts like a module or component in the binary format.
    pub fn has_magic(&self) -> bool {
        let mut magic = [0u8; 4];
        std::os::unix::fs::FileExt::read_exact_at(&self.file, &mut magic, 0).is_ok() && magic == *MAGIC
    }

    /// True if it is a module in the binary format, or is called as one in the text format is.
    pub fn is_module(&self) -> bool {
        self.has_magic() || self.path.extension().is_some_and(|extension| extension == "wat")
    }

    fn cannot(&self) -> String {
        format!("cannot read '{}'", self.path.display())
    }

    /// What the file system says of it.
    pub fn metadata(&self) -> Result<Metadata> {
        self.file.metadata().context(|| self.cannot())
    }

    /// Reads it, if it has at most `limit` bytes.
    pub fn read(&self, limit: u64) -> Result<Vec<u8>> {
        let cannot = || self.cannot();
        let mut bytes = Vec::new();
        let length = self.metadata()?.len();
        if length <= limit {
            bytes.reserve_exact(length as usize + 1);
            (&self.file).take(limit + 1).read_to_end(&mut bytes).context(cannot)?;
        }
        if length > limit || bytes.len() as u64 > limit {
            crate::bail!(
                InvalidBundle,
                "{}: it has more than {limit} bytes, the limit for WebAssembly modules ({})",
                cannot(),
                super::settings::MODULE_SIZE
            );
        }
        Ok(bytes)
    }
}

/// The first four bytes of a module and of a component.
const MAGIC: &[u8; 4] = b"\0asm";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn process(name: &str, path: &str) -> Process {
        let env = json!([format!("PATH={path}")]);
        serde_json::from_value(json!({"user": {"uid": 0, "gid": 0}, "cwd": "/w", "args": [name], "env": env}))
            .unwrap()
    }

    fn tree() -> (tempfile::TempDir, Tree) {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        for directory in ["root/bin", "root/w", "root/etc", "data"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        std::fs::write(at("root/bin/hello"), b"\0asm").unwrap();
        std::fs::write(at("root/w/local.wat"), "(module)").unwrap();
        std::fs::write(at("data/mounted"), b"\0asm mounted").unwrap();
        std::os::unix::fs::symlink("/../../../bin/hello", at("root/link")).unwrap();
        std::os::unix::fs::symlink("../../data/mounted", at("root/out")).unwrap();
        rustix::fs::mkfifoat(CWD, at("root/fifo"), Mode::RWXU).unwrap();
        let spec: Spec = serde_json::from_value(json!({"ociVersion": "1.0.0", "mounts": [
            {"destination": "/data", "type": "bind", "source": at("data")},
            {"destination": "/one", "source": "data/mounted", "options": ["rbind"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
        ]}))
        .unwrap();
        let tree = Tree::of_bundle(tmp.path(), &at("root"), &spec).unwrap();
        (tmp, tree)
    }

    #[test]
    fn a_module_is_found_by_path_in_path_and_in_the_working_directory() {
        let (_tmp, tree) = tree();
        for (name, found) in [
            ("/bin/hello", "/bin/hello"),
            ("hello", "/bin/hello"),
            ("local.wat", "/w/local.wat"),
            ("./local.wat", "/w/local.wat"),
            ("../bin/hello", "/w/../bin/hello"),
            ("/data/mounted", "/data/mounted"),
            ("/one", "/one"),
            ("/link", "/link"),
        ] {
            assert_eq!(find(&tree, &process(name, "/sbin:/bin")).unwrap().path, Path::new(found), "{name}");
        }
    }

    #[test]
    fn nothing_outside_the_root_and_nothing_but_files_is_found() {
        let (_tmp, tree) = tree();
        for name in
            ["/out", "/../data/mounted", "/data/../../data/mounted", "/fifo", "/bin", "/nosuch", "nosuch"]
        {
            let e = find(&tree, &process(name, "/bin")).unwrap_err();
            assert!(e.message().starts_with(&format!("exec: {name:?}: ")), "{e}");
        }
    }

    #[test]
    fn magic_and_size_are_looked_at() {
        let (_tmp, tree) = tree();
        let module = find(&tree, &process("/bin/hello", "")).unwrap();
        assert!(module.has_magic());
        assert_eq!(module.read(4).unwrap(), b"\0asm");
        assert!(module.read(3).unwrap_err().message().contains("more than 3 bytes"));
        assert!(!find(&tree, &process("local.wat", "")).unwrap().has_magic());
    }

    #[test]
    fn the_layers_of_an_overlay_are_searched_from_the_uppermost_down() {
        let tmp = tempfile::tempdir().unwrap();
        for (layer, text) in [("upper", "new"), ("middle", "old"), ("lowest", "oldest")] {
            std::fs::create_dir_all(tmp.path().join(layer)).unwrap();
            if layer != "upper" {
                std::fs::write(tmp.path().join(layer).join("below"), text).unwrap();
            }
            std::fs::write(tmp.path().join(layer).join("all"), text).unwrap();
        }
        let spec: Spec = serde_json::from_value(json!({"ociVersion": "1.0.0", "mounts": [
            {"destination": "/", "type": "overlay", "source": "overlay",
             "options": ["lowerdir+=middle", "lowerdir+=lowest", "upperdir=upper", "workdir=work"]},
        ]}))
        .unwrap();
        let tree = Tree::of_bundle(tmp.path(), Path::new("/nonexistent"), &spec).unwrap();
        let read = |name: &str| find(&tree, &process(name, "")).unwrap().read(100).unwrap();
        assert_eq!((read("/all"), read("/below")), (b"new".to_vec(), b"old".to_vec()));
        assert!(find(&tree, &process("/none", "")).is_err());
    }
}
