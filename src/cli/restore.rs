//! `magikrun restore`

use super::checkpoint::Shared;
use crate::error::Result;
use crate::runtime::checkpoint::{self, RestoreOptions};
use crate::runtime::options::{CreateOptions, Host, RunOptions};
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    #[command(flatten)]
    shared: Shared,
    /// Directory of the bundle
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Unix socket that receives the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Return as soon as the container runs
    #[arg(short, long)]
    detach: bool,
    /// File to write the pid of the container's first process to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Do not adopt and reap orphaned processes of the container
    #[arg(long)]
    no_subreaper: bool,
    /// Do not use pivot_root(2): accepted, criu decides
    #[arg(long)]
    no_pivot: bool,
    /// Security profile to restore with
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// SELinux context for mounts
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
}

/// `magikrun restore`
pub fn run(host: &Host, args: Args, criu: &Path) -> Result<u8> {
    let mut shared = args.shared.options(criu);
    shared.lsm_profile = args.lsm_profile;
    shared.lsm_mount_context = args.lsm_mount_context;
    let options = RestoreOptions {
        criu: shared,
        run: RunOptions {
            create: CreateOptions {
                id: args.id,
                bundle: args.bundle,
                pid_file: args.pid_file,
                console_socket: args.console_socket,
                no_pivot: args.no_pivot,
                ..CreateOptions::default()
            },
            detach: args.detach,
            keep: false,
            no_subreaper: args.no_subreaper,
        },
    };
    checkpoint::restore(host, &options)
}
