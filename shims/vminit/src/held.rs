//! The mount namespace of a container, held until nothing of the container is left.
//!
//! Where the host has mounted something in a share, the kernel mounts a file system of its own as soon as a container walks there, in the
//! namespace of that. Without us the namespace, and that file system, would end with the last process of the container. Of the files which
//! that closes, FUSE tells the host without waiting, and uses them until the host has answered. A file system that ends while one is in use
//! is a bug to Linux (`generic_shutdown_super`): who runs into it stays dead without ever being waited for. So it is ended here, when the
//! host has answered all that it was told before.

use crate::cgroup::Cgroup;
use crate::failure::{Context as _, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::fs::File;
use std::mem::ManuallyDrop;

/// A mount namespace. Nothing else than [`let_go`] ends it, for at the end of the machine nobody may.
#[derive(Debug)]
pub struct Held(ManuallyDrop<File>);

impl Held {
    /// That of a process.
    pub fn of(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/ns/mnt");
        let file = File::open(&path).context(|| format!("cannot open '{path}'"))?;
        Ok(Self(ManuallyDrop::new(file)))
    }
}

/// What is left of a container whose first process has ended.
#[derive(Debug)]
pub struct Left {
    /// Its cgroup, where the guest's kernel has them.
    pub cgroup: Option<Cgroup>,
    /// Its mounts.
    pub mounts: Held,
}

impl Left {
    /// Whether no process is left of it.
    pub fn is_over(&self) -> bool {
        self.cgroup.as_ref().is_none_or(Cgroup::remove)
    }
}

/// Ends the mounts of containers without processes, after these shares have answered a question: the host answers in the order in which it
/// is told. And one more question, since the end of a file is told when what was still being read of it has come.
pub fn let_go(over: Vec<Left>, shares: &[&str]) {
    let flags = AtFlags::STATX_FORCE_SYNC | AtFlags::NO_AUTOMOUNT;
    for share in shares.iter().chain(shares) {
        let _ = statx(CWD, *share, flags, StatxFlags::BASIC_STATS);
    }
    over.into_iter().for_each(|left| drop(ManuallyDrop::into_inner(left.mounts.0)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn a_namespace_is_there_until_it_is_let_go_of() {
        let pid = std::process::id() as i32;
        let held = Held::of(pid).unwrap();
        let path = format!("/proc/self/fd/{}", held.0.as_raw_fd());
        let own = std::fs::read_link("/proc/self/ns/mnt").ok();
        assert_eq!(std::fs::read_link(&path).ok(), own);
        let_go(vec![Left { cgroup: None, mounts: held }], &["/", "/no/such/share"]);
        assert_ne!(std::fs::read_link(&path).ok(), own);
        Held::of(-1).unwrap_err();
    }
}
