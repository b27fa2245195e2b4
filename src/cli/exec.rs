//! `magikrun exec`

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::lifecycle;
use crate::runtime::options::{ExecArgs, ExecOptions, ExecProcess, Host};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Command to run and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Unix socket that receives the master of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Working directory in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// User and group of the process
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Additional group
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// File with an OCI process object to use instead of a command
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Return as soon as the process runs
    #[arg(short, long)]
    detach: bool,
    /// File to write the pid of the process to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// AppArmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Set the no_new_privs attribute
    #[arg(long)]
    no_new_privs: bool,
    /// Add a capability
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// Pass this many descriptors on, after the standard ones
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
    /// Run in a sub-cgroup of the container
    #[arg(long, value_name = "[CONTROLLER,...:]PATH")]
    cgroup: Vec<String>,
    /// Allow it in a paused container: the process then waits until the container is resumed
    #[arg(long)]
    ignore_paused: bool,
    /// Do not adopt and reap orphaned processes
    #[arg(long, hide = true)]
    no_subreaper: bool,
}

/// `magikrun exec`
pub fn run(host: &Host, args: Args) -> Result<u8> {
    let process = match args.process {
        Some(path) => ExecProcess::File(path),
        None if args.command.is_empty() => {
            return Err(Error::new(ErrorKind::Usage, "exec failed: process args cannot be empty"));
        }
        None => ExecProcess::Args(ExecArgs {
            args: args.command,
            cwd: args.cwd,
            env: args.env,
            user: args.user,
            additional_gids: args.additional_gids,
            tty: args.tty,
            cap: args.cap,
            apparmor: args.apparmor,
            process_label: args.process_label,
            no_new_privs: args.no_new_privs,
        }),
    };
    let options = ExecOptions {
        id: args.id,
        member: None,
        process,
        console_socket: args.console_socket,
        pidfd_socket: args.pidfd_socket,
        detach: args.detach,
        pid_file: args.pid_file,
        preserve_fds: args.preserve_fds,
        cgroup: args.cgroup,
        ignore_paused: args.ignore_paused,
        no_subreaper: args.no_subreaper,
    };
    lifecycle::exec(host, &options).map_err(|e| e.wrap("exec failed"))
}
