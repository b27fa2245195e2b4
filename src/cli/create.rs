//! `magikrun create`, and the arguments that it shares with `run`.

use crate::error::Result;
use crate::runtime::lifecycle;
use crate::runtime::options::{CreateOptions, Host};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Id of the new container, unique on this host
    #[arg(value_name = "CONTAINER-ID")]
    pub(super) id: String,
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Configuration to use instead of config.json in the bundle
    #[arg(short = 'f', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Unix socket that receives the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the container's first process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// File to write the pid of the container's first process to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Do not use pivot_root(2): for a root file system on a ramdisk
    #[arg(long)]
    no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Pass this many descriptors on, after the standard ones and those of LISTEN_FDS
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
}

impl Args {
    /// The same for the operation.
    pub fn options(self) -> CreateOptions {
        CreateOptions {
            id: self.id,
            bundle: self.bundle,
            owned_bundle: false,
            config: self.config,
            pid_file: self.pid_file,
            console_socket: self.console_socket,
            pidfd_socket: self.pidfd_socket,
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            preserve_fds: self.preserve_fds,
            guest: None,
            together: None,
        }
    }
}

/// `magikrun create`
pub fn run(host: &Host, args: Args) -> Result<()> {
    lifecycle::create(host, &args.options()).map_err(|e| e.wrap("magikrun create failed"))
}
