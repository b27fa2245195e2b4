//! Mounts mapped to other ids.

use super::plan::IdMappings;
use crate::error::{Context as _, Result};
use crate::platform::sys::clone::{CloneArgs, clone3};
use crate::platform::sys::mount::{MountAttr, mount_setattr};
use oci_spec::runtime::LinuxIdMapping;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;
use rustix::process::{Pid, Signal, WaitOptions};

/// Maps the ids of a detached mount.
pub(super) fn map(tree: &OwnedFd, mappings: &IdMappings, recursive: bool) -> Result<()> {
    let namespace = user_namespace(mappings)?;
    let attr = MountAttr {
        set: MountAttrFlags::from_bits_retain(libc::MOUNT_ATTR_IDMAP as u32),
        user_namespace: Some(namespace.as_fd()),
        ..MountAttr::NONE
    };
    mount_setattr(tree.as_fd(), recursive, &attr)
        .context(|| "cannot map the mount to other ids (the file system must support it)")
}

/// A user namespace with these mappings, held by nothing but the descriptor.
fn user_namespace(mappings: &IdMappings) -> Result<OwnedFd> {
    let args = CloneArgs { flags: libc::CLONE_NEWUSER as u64, ..CloneArgs::default() };
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let holder = clone3(&args, || {
        let _ = nix::unistd::close(std::os::fd::AsRawFd::as_raw_fd(&theirs));
        // Ends when the parent closes its end, or dies.
        let _ = rustix::io::read(&ours, &mut [0u8]);
        0
    })?;
    let opened = (|| {
        write(holder.pid, "gid", &mappings.gids)?;
        write(holder.pid, "uid", &mappings.uids)?;
        let path = format!("/proc/{}/ns/user", holder.pid);
        rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .context(|| format!("cannot open '{path}'"))
    })();
    let _ = rustix::process::pidfd_send_signal(&holder.pidfd, Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| {
        rustix::process::waitpid(Pid::from_raw(holder.pid), WaitOptions::empty())
    });
    opened
}

fn write(pid: i32, kind: &str, mappings: &[LinuxIdMapping]) -> Result<()> {
    let line = |m: &LinuxIdMapping| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size());
    let path = format!("/proc/{pid}/{kind}_map");
    let lines: String = mappings.iter().map(line).collect();
    std::fs::write(&path, lines).context(|| format!("cannot write '{path}'"))
}
