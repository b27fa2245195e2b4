//! The global options, and what follows from them and the environment.

use crate::error::Result;
use crate::platform::userns;
use crate::runtime::cgroups::Driver;
use crate::runtime::krun::engine::Libkrun;
use crate::runtime::options::Host;
use crate::storage::config::Config;
use crate::storage::state_root::StateRoot;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// Where the state of containers lives for root.
const STATE_ROOT: &str = "/run/magikrun";

/// Options that stand before the command.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory for the state of containers [default: /run/magikrun, or $XDG_RUNTIME_DIR/magikrun for rootless]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where to log: FILE, journald:NAME or syslog:NAME [default: standard error]
    #[arg(long, value_name = "DESTINATION")]
    pub(super) log: Option<String>,
    /// Format of the log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Log messages of this level and above: error, warning, info, debug
    #[arg(long, value_name = "LEVEL")]
    pub(super) log_level: Option<LogLevel>,
    /// Log debug messages too
    #[arg(long)]
    pub(super) debug: bool,
    /// Manage cgroups through systemd; cgroupsPath is then "slice:prefix:name"
    #[arg(long)]
    systemd_cgroup: bool,
    /// Who manages cgroups
    #[arg(long, value_name = "MANAGER", conflicts_with = "systemd_cgroup")]
    cgroup_manager: Option<CgroupManager>,
    /// The criu program for checkpoint and restore
    #[arg(long, value_name = "FILE", default_value = "criu")]
    pub(super) criu: PathBuf,
    /// Ignore missing permissions for cgroups
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    rootless: Rootless,
}

/// Formats of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines of `key=value`.
    Text,
    /// Lines of JSON.
    Json,
}

/// Levels of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// Warnings too.
    #[value(alias = "warn")]
    Warning,
    /// Information too.
    Info,
    /// Everything but traces.
    Debug,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CgroupManager {
    Cgroupfs,
    Systemd,
    Disabled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rootless {
    True,
    False,
    Auto,
}

impl Global {
    /// Where state is, and which option or variable says so, if one does.
    pub fn state_root(&self, config: &Config) -> (PathBuf, Option<&'static str>) {
        if let Some(root) = &self.root {
            return (root.clone(), Some("--root"));
        }
        if let Some(root) = &config.stores.state {
            return (root.clone(), None);
        }
        let root = default_root(is_unprivileged(), std::env::var_os("XDG_RUNTIME_DIR"));
        let is_default = root == Path::new(STATE_ROOT);
        (root, (!is_default).then_some("XDG_RUNTIME_DIR"))
    }

    /// What holds for every operation of this call.
    pub fn host(&self, libkrun: Libkrun) -> Result<Host> {
        let rootless = match self.rootless {
            Rootless::True => true,
            Rootless::False => false,
            Rootless::Auto => is_unprivileged(),
        };
        let config = Config::load()?;
        let (root, _) = self.state_root(&config);
        let cgroup_driver = match self.cgroup_manager {
            None | Some(CgroupManager::Cgroupfs) if !self.systemd_cgroup => Driver::Cgroupfs,
            Some(CgroupManager::Disabled) => Driver::Disabled,
            _ => Driver::Systemd,
        };
        Ok(Host {
            root: StateRoot::new(root),
            cgroup_driver,
            rootless,
            max_containers: config.limits.max_containers,
            wasm: config.wasm,
            annotations: config.annotations,
            vm: config.vm,
            timeouts: config.timeouts,
            libkrun,
            called_as: std::env::args().next().unwrap_or_default(),
        })
    }
}

fn is_unprivileged() -> bool {
    !rustix::process::geteuid().is_root() || userns::is_nested()
}

/// An empty variable is an unset one: conmon sets it so for root.
fn default_root(unprivileged: bool, runtime_dir: Option<std::ffi::OsString>) -> PathBuf {
    match runtime_dir.filter(|dir| unprivileged && !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("magikrun"),
        None => PathBuf::from(STATE_ROOT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_root_follows_the_user_and_an_empty_variable_is_unset() {
        assert_eq!(default_root(false, Some("/run/user/0".into())), Path::new(STATE_ROOT));
        assert_eq!(default_root(true, Some("/run/user/7".into())), Path::new("/run/user/7/magikrun"));
        assert_eq!(default_root(true, Some("".into())), Path::new(STATE_ROOT));
    }
}
