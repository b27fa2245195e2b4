//! `magikrun checkpoint`, and the arguments that it shares with `restore`.

use crate::error::Result;
use crate::runtime::checkpoint::{self, Allow, CgroupMode, CheckpointOptions, CriuOptions};
use crate::runtime::options::Host;
use std::path::{Path, PathBuf};

/// Arguments of both commands.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Shared {
    /// Directory of the image files
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    image_path: PathBuf,
    /// Directory of work files and logs [default: that of the image files]
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Allow external unix sockets
    #[arg(long)]
    ext_unix_sk: bool,
    /// Allow a session leader from outside
    #[arg(long)]
    shell_job: bool,
    /// Allow file locks
    #[arg(long)]
    file_locks: bool,
    /// Allow files that were deleted while open, by linking them back
    #[arg(long)]
    link_remap: bool,
    /// How cgroups are treated
    #[arg(long, value_name = "MODE", default_value = "soft")]
    manage_cgroups_mode: CgroupMode,
    /// Make this namespace, but do not save or restore its properties
    #[arg(long, value_name = "NAMESPACE", value_parser = ["network"])]
    empty_ns: Vec<String>,
    /// Save memory images without duplicates
    #[arg(long)]
    auto_dedup: bool,
    /// Restore memory when it is used
    #[arg(long)]
    lazy_pages: bool,
}

impl Shared {
    /// The same for the operation.
    pub fn options(self, criu: &Path) -> CriuOptions {
        CriuOptions {
            criu: criu.to_owned(),
            work_path: self.work_path.unwrap_or_else(|| self.image_path.clone()),
            image_path: self.image_path,
            cgroup_mode: self.manage_cgroups_mode,
            allow: Allow {
                tcp_established: self.tcp_established,
                tcp_skip_in_flight: false,
                ext_unix_sk: self.ext_unix_sk,
                shell_job: self.shell_job,
                file_locks: self.file_locks,
                link_remap: self.link_remap,
            },
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            // "network" is the only namespace that can be left empty.
            empty_network: !self.empty_ns.is_empty(),
            ..CriuOptions::default()
        }
    }
}

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    #[command(flatten)]
    shared: Shared,
    /// Directory of the images of an earlier pre-dump, relative to that of the image files
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
    /// Leave the container running
    #[arg(long)]
    leave_running: bool,
    /// Leave TCP connections out that are being opened
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// Descriptor to which criu writes when lazy pages are ready
    #[arg(long, value_name = "FD", default_value_t = -1, allow_negative_numbers = true)]
    status_fd: i32,
    /// Send memory pages to a page server
    #[arg(long, value_name = "ADDRESS:PORT")]
    page_server: Option<String>,
    /// Save the memory only, and leave the container running
    #[arg(long)]
    pre_dump: bool,
}

/// `magikrun checkpoint`
pub fn run(host: &Host, args: Args, criu: &Path) -> Result<()> {
    let mut shared = args.shared.options(criu);
    shared.allow.tcp_skip_in_flight = args.tcp_skip_in_flight;
    shared.status_fd = Some(args.status_fd).filter(|fd| *fd >= 0);
    let options = CheckpointOptions {
        id: args.id,
        criu: shared,
        parent_path: args.parent_path,
        leave_running: args.leave_running,
        page_server: args.page_server,
        pre_dump: args.pre_dump,
    };
    checkpoint::checkpoint(host, &options)
}
