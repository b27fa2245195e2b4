//! What the checks look at: files below a root, and what was asked of the kernel once.

use crate::cli::store::image_store;
use crate::error::Result;
use crate::platform::detect::Platform;
use crate::runtime::seccomp::supported_flags;
use crate::storage::config::Config;
use std::path::{Path, PathBuf};

/// Where programs are looked for besides the search path, which for users often lacks the system's.
const SYSTEM_PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A machine as the checks see it. Nothing in them asks for anything else, so a test can make one up.
pub struct Host {
    /// What stands for `/`.
    pub root: PathBuf,
    /// What was probed.
    pub platform: Platform,
    /// Flags of seccomp(2) that the kernel knows.
    pub seccomp_flags: Vec<&'static str>,
    /// Who asks: the effective user id.
    pub uid: u32,
    /// Whether that is root of the host, and not of a user namespace.
    pub privileged: bool,
    /// Directories where programs are looked for.
    pub path: Vec<PathBuf>,
    /// Home directory of the user, for configuration of their own.
    pub home: Option<PathBuf>,
    /// What is wrong with the operator's configuration, if something is.
    pub config_fault: Option<String>,
    /// The image store.
    pub store: PathBuf,
}

impl Host {
    /// This machine, for the user of this process.
    pub fn this() -> Result<Self> {
        let uid = rustix::process::geteuid();
        let searched = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::split_paths(&searched).chain(SYSTEM_PATH.iter().map(PathBuf::from)).collect();
        let (config, config_fault) = match Config::load() {
            Ok(config) => (config, None),
            Err(e) => (Config::default(), Some(e.message().to_owned())),
        };
        Ok(Self {
            root: PathBuf::from("/"),
            platform: Platform::detect(),
            seccomp_flags: supported_flags(),
            uid: uid.as_raw(),
            privileged: uid.is_root() && !crate::platform::userns::is_nested(),
            path,
            home: std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
            config_fault,
            store: image_store(&config)?,
        })
    }

    /// A path of this machine.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether there is something.
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.at(path).exists()
    }

    /// The text of a file; none if it cannot be read.
    pub fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        std::fs::read_to_string(self.at(path)).ok()
    }

    /// The files in a directory whose names end so, in the order in which programs read them.
    pub fn files(&self, directory: impl AsRef<Path>, end: &str) -> Vec<PathBuf> {
        let directory = directory.as_ref();
        let entries = std::fs::read_dir(self.at(directory)).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name());
        let mut found: Vec<PathBuf> = names
            .filter(|name| name.to_string_lossy().ends_with(end))
            .map(|name| directory.join(name))
            .collect();
        found.sort();
        found
    }

    /// Where a program is.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        self.path.iter().map(|directory| directory.join(name)).find(|path| self.at(path).is_file())
    }

    /// The name of the user, by the machine's passwd(5).
    pub fn user_name(&self) -> Option<String> {
        self.text("/etc/passwd")?.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(self.uid)).then(|| name.to_owned())
        })
    }
}
