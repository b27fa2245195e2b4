//! Packages and sources of other releases of Debian, downloaded and unpacked, never installed.
//!
//! Everything happens in a folder of our own with the mirror and the keys of this machine's apt, so that the machine's
//! lists and its lock are left alone.

use crate::{cache, scratch};
use anyhow::{Context as _, Result, anyhow, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The keys of Debian's archive, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Runs a command and requires that it succeeds; answers its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let text = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot start {text}"))?;
    if !output.status.success() {
        bail!("{text}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The mirror of Debian that this machine's apt uses.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI)"]);
    command.args(["Created-By: Packages", "Origin: Debian", "Label: Debian"]);
    let text = run(&mut command)?;
    text.lines()
        .next()
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("cannot find a mirror of Debian in apt's sources"))
}

/// A release of Debian as apt sees it.
pub(crate) struct Release {
    name: String,
    folder: PathBuf,
}

impl Release {
    /// Reads the lists of a release, `sid` for example.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let folder = cache::folder()?.join("apt").join(name);
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("archives/partial"))?;
        let line = format!("[signed-by={KEYRING}] {} {name} main", mirror()?);
        fs::write(folder.join("sources.list"), format!("deb {line}\ndeb-src {line}\n"))?;
        let release = Self { name: name.to_owned(), folder };
        run(release.apt().arg("update"))
            .with_context(|| format!("cannot read the lists of Debian {name}"))?;
        Ok(release)
    }

    fn apt(&self) -> Command {
        let mut command = Command::new("apt-get");
        let mut set = |name: &str, value: &Path| {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        };
        set("Dir::Etc::SourceList", &self.folder.join("sources.list"));
        set("Dir::Etc::SourceParts", Path::new("/dev/null"));
        set("Dir::State::Lists", &self.folder.join("lists"));
        set("Dir::Cache", &self.folder);
        set("APT::Sandbox::User", Path::new("root"));
        command.arg("-qq");
        command
    }

    /// Downloads packages and unpacks them into `target`.
    pub(crate) fn unpack(&self, packages: &[&str], target: &Path) -> Result<()> {
        let download = scratch::folder()?;
        let wanted = packages.iter().map(|package| format!("{package}/{}", self.name));
        run(self.apt().arg("download").args(wanted).current_dir(download.path()))
            .with_context(|| format!("cannot download packages of Debian {}", self.name))?;
        for entry in fs::read_dir(download.path())? {
            run(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(target))?;
        }
        Ok(())
    }

    /// Downloads the upstream part of a source package and unpacks it into `target`.
    pub(crate) fn unpack_source(&self, package: &str, target: &Path) -> Result<()> {
        let download = scratch::folder()?;
        let wanted = format!("{package}/{}", self.name);
        // The description of the source may be gone from the mirror; the archive is all that is needed.
        let result =
            run(self.apt().args(["source", "--download-only", &wanted]).current_dir(download.path()));
        let names =
            fs::read_dir(download.path())?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let archive = names.iter().find(|path| path.to_string_lossy().contains(".orig.tar."));
        let Some(archive) = archive else {
            return Err(result.err().unwrap_or_else(|| anyhow!("it has no upstream archive")))
                .with_context(|| format!("cannot download the source of '{package}'"));
        };
        fs::create_dir_all(target)?;
        run(Command::new("tar").arg("-xf").arg(archive).args(["--strip-components=1", "-C"]).arg(target))?;
        Ok(())
    }
}
