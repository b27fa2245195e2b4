//! The runtimes under test.

use crate::cache;
use crate::debian::{Release, run};
use crate::environment::Place;
use anyhow::{Context as _, Result, anyhow, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In the working directory of a program: the script that is the runtime under test with the state root [`STATE`].
pub(crate) const WRAPPER: &str = "runtime";
/// In the working directory of a program: the state root.
pub(crate) const STATE: &str = "state";

/// An executable with the command line of an OCI runtime.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    /// The name in the table and of the file of expected failures.
    pub(crate) name: String,
    /// The absolute path.
    pub(crate) program: PathBuf,
    /// What it says of its version.
    pub(crate) version: String,
    /// What it needs beside itself, as absolute paths.
    pub(crate) needs: Vec<PathBuf>,
}

/// A runtime of Debian sid, and the packages of its libraries that the machine may not have, or not new enough.
struct FromSid {
    package: &'static str,
    program: &'static str,
    libraries: &'static [&'static str],
}

const CRUN: FromSid = FromSid {
    package: "crun",
    program: "usr/bin/crun",
    libraries: &["libblake3-0", "libc6", "libcap2", "libjson-c5", "libseccomp2", "libsystemd0"],
};

const RUNC: FromSid =
    FromSid { package: "runc", program: "usr/sbin/runc", libraries: &["libc6", "libseccomp2"] };

impl Runtime {
    /// Finds a runtime by its name or path.
    ///
    /// `magikrun` is the one given; `runc` the machine's; `crun` and `runc-sid` are Debian sid's, which are downloaded;
    /// everything with a slash is a path.
    pub(crate) fn find(name: &str, magikrun: &Path) -> Result<Self> {
        let (program, needs) = match name {
            "magikrun" => (magikrun.to_owned(), Vec::new()),
            "runc" => (on_path("runc")?, Vec::new()),
            "crun" => from_sid(&CRUN)?,
            "runc-sid" => from_sid(&RUNC)?,
            path if path.contains('/') => (PathBuf::from(path), Vec::new()),
            _ => bail!("cannot find runtime '{name}': neither magikrun, runc, crun, runc-sid nor a path"),
        };
        let program = fs::canonicalize(&program)
            .with_context(|| format!("cannot find runtime '{name}': '{}'", program.display()))?;
        let text = run(Command::new(&program).arg("--version"))?;
        let version = text.lines().next().and_then(|line| line.split_whitespace().last());
        let version = version.ok_or_else(|| anyhow!("'{}' does not tell its version", program.display()))?;
        let name =
            Path::new(name).file_name().map_or(name.into(), |file| file.to_string_lossy()).into_owned();
        Ok(Self { name, version: version.to_owned(), program, needs })
    }

    /// Why the runtime cannot do anything at all in an environment.
    pub(crate) fn cannot_run_in(&self, place: Place) -> Option<&'static str> {
        let hybrid = Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists();
        (self.name == "crun" && place == Place::Host && hybrid)
            .then_some("crun refuses hosts that have both versions of cgroups")
    }
}

/// Writes a file that can be executed at once. A process of its own does that: a child that another thread of this one starts meanwhile
/// has everything that is open here until it executes its program, and nothing is executed that can be written to.
pub(crate) fn executable(path: &Path, text: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), text)?;
    run(Command::new("install").args(["-m", "755"]).args([file.path(), path]))?;
    Ok(())
}

fn on_path(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| anyhow!("cannot find '{name}' on PATH: install Debian's package '{name}'"))
}

/// Downloads a runtime of Debian sid with its libraries, and makes it use them; answers its path and all its files.
fn from_sid(wanted: &FromSid) -> Result<(PathBuf, Vec<PathBuf>)> {
    // The executable names its loader and libraries by absolute paths, so the folder's place is a part of the recipe.
    let base = cache::folder()?.to_string_lossy().into_owned();
    let recipe: Vec<&str> =
        [wanted.package, wanted.program, &base].into_iter().chain(wanted.libraries.iter().copied()).collect();
    let folder = cache::folder_of(&format!("{}-sid", wanted.package), &recipe, |folder| {
        let packages: Vec<_> =
            std::iter::once(wanted.package).chain(wanted.libraries.iter().copied()).collect();
        Release::open("sid")?.unpack(&packages, folder)
    })?;
    let program = folder.join("bin").join(wanted.package);
    if !program.exists() {
        // After the rename, since the paths in the executable are those of the final folder.
        patch(&folder, wanted.program, &program)?;
    }
    Ok((program, vec![folder]))
}

/// Makes a copy of an executable that uses the loader and the libraries of `folder`.
fn patch(folder: &Path, original: &str, copy: &Path) -> Result<()> {
    let libraries = folder.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let loader = fs::read_dir(&libraries)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux-")));
    let loader = loader.ok_or_else(|| anyhow!("libc6 has no loader"))?;
    fs::create_dir_all(folder.join("bin"))?;
    let half = copy.with_extension("half");
    fs::copy(folder.join(original), &half)?;
    run(Command::new("patchelf")
        .arg("--set-interpreter")
        .arg(loader)
        .arg("--set-rpath")
        .arg(libraries)
        .arg(&half))?;
    fs::rename(half, copy)?;
    Ok(())
}
