//! `delete`: removes what is left of a container when its server is dead. Also called when all is well, and then there is nothing.

use crate::container::PID_FILE;
use crate::error::{Context as _, Error, Result};
use crate::events::timestamp;
use crate::flags::Flags;
use crate::options::Options;
use crate::reaper::Reaper;
use crate::runtime::{Runtime, Streams, arguments};
use crate::{rootfs, sandbox};
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{Message as _, MessageField};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

/// The exit status of a container whose server has died: as if it had been killed.
const KILLED: u32 = 128 + 9;

/// Ends the container, removes it, and prints the answer. What fails is said, and holds nothing else up: containerd does not ask again.
pub fn delete(flags: &Flags) -> Result<()> {
    if flags.namespace.is_empty() || flags.id.is_empty() {
        return Err(Error::invalid("-namespace and -id are needed: containerd calls this program"));
    }
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().context(|| "cannot find the bundle")?,
    };
    let options = Options::load(&bundle);
    let runtime = Runtime::new(&options, &flags.namespace, &Reaper::start()?);
    let args = arguments([&"delete", &"--force", &flags.id]);
    if let Err(e) = runtime.run("OCI runtime delete failed", &args, Streams::null()) {
        log::error!("{e}");
    }
    rootfs::unmount_all(&bundle.join("rootfs"));
    sandbox::clean(&bundle);
    print(&answer(&bundle.join(PID_FILE)))
}

fn answer(pid_file: &PathBuf) -> DeleteResponse {
    let pid = std::fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse().ok());
    DeleteResponse {
        pid: pid.unwrap_or(0),
        exit_status: KILLED,
        exited_at: MessageField::some(timestamp(SystemTime::now())),
        ..DeleteResponse::default()
    }
}

fn print(answer: &DeleteResponse) -> Result<()> {
    let bytes = answer.write_to_bytes()?;
    std::io::stdout().write_all(&bytes).context(|| "cannot print the answer")
}
