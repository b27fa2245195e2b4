//! Volumes and the files that each container gets: made before the containers, in a mount namespace of the monitor's own, so
//! that no mount outlives the pod.

use super::Monitor;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::platform::sys::mount::{MountAttr, mount_setattr};
use crate::platform::sys::security::unshare;
use crate::platform::userns::{has_id, is_nested};
use crate::pod::plan::config::{SHM_SIZE, TTY_GROUP};
use crate::pod::plan::users::Users;
use crate::pod::plan::{FilePlan, VolumeKind, VolumePlan};
use crate::runtime::krun::guest;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MountFlags, OpenTreeFlags, open_tree};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Mode of shared memory and of other directories that everybody may write to.
const SHARED_MODE: u32 = 0o1777;

impl Monitor<'_> {
    /// Makes the volumes, shared memory and the directories of the pod.
    pub(super) fn make_volumes(&mut self) -> Result<()> {
        self.host_mounts = Some(own_mounts()?);
        let record = &self.orders.record;
        (self.facts.ids, self.facts.has_tty_group) = (record.ids, has_id(TTY_GROUP));
        for directory in
            [record.running.join("etc"), record.running.join("volumes"), record.data.join("volumes")]
        {
            make_directory(&directory, 0o711)?;
        }
        make_directory(&self.log_directory(), 0o700)?;
        // The containers of a guest share its own memory.
        if !self.plan().host_ipc && self.plan().vm.is_none() {
            let shm = record.running.join("shm");
            mount_memory(&shm, Some(SHM_SIZE), SHARED_MODE, self.owner(None))?;
            self.facts.shm = Some(shm.display().to_string());
        }
        // A user namespace has no devices but those that every container has.
        let on_host = self.plan().users == Users::Host;
        if on_host && self.members.iter().any(|member| member.plan.privileged) {
            self.facts.devices = host_devices(Path::new("/dev"));
        }
        for volume in &self.plan().volumes {
            self.make_volume(volume).context(|| format!("cannot make volume '{}'", volume.name))?;
        }
        Ok(())
    }

    /// Goes back to the host's mount namespace; with the last container, the pod's own is gone, and what was mounted in it.
    pub(super) fn leave_mounts(&mut self) {
        if let Some(host) = self.host_mounts.take()
            && let Err(e) = move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Mount))
        {
            tracing::warn!("cannot leave the pod's mount namespace: {e}");
        }
    }

    /// Does something among the host's mounts, where plugins of networks belong.
    pub(super) fn on_host_mounts<T>(&self, job: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(host) = &self.host_mounts else { return job() };
        let cannot = || "cannot change the mount namespace";
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty()).context(cannot)?;
        let enter = |namespace: &OwnedFd| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount)).context(cannot)
        };
        enter(host)?;
        let done = job();
        enter(&own)?;
        done
    }

    /// Where a volume is.
    pub(super) fn place(&self, volume: &VolumePlan) -> PathBuf {
        let record = &self.orders.record;
        match &volume.source {
            // Those of images are part of each container's bundle.
            VolumeKind::Image { .. } => PathBuf::new(),
            VolumeKind::Directory { .. } => record.data.join("volumes").join(&volume.name),
            VolumeKind::Memory { .. } | VolumeKind::Files(_) => {
                record.running.join("volumes").join(&volume.name)
            }
            VolumeKind::Host { path, .. } => PathBuf::from(path),
            VolumeKind::Claim { name, .. } => self.orders.data.join("volumes").join(name),
        }
    }

    /// Who owns what is made for the pod: its root, and a group that may write.
    fn owner(&self, group: Option<u32>) -> Owner {
        let ids = self.orders.record.ids;
        let on_host = |id| ids.map_or(id, |ids| ids.on_host(id));
        Owner { root: on_host(0), group: group.map(on_host) }
    }

    fn make_volume(&self, volume: &VolumePlan) -> Result<()> {
        let (path, group) = (self.place(volume), self.plan().fs_group);
        let owner = self.owner(group);
        match &volume.source {
            VolumeKind::Directory { mode } => {
                make_directory(&path, *mode)?;
                owner.give(&path)?;
                give_to_group(&path, owner.group, *mode)
            }
            VolumeKind::Memory { size, mode } => mount_memory(&path, *size, *mode, owner),
            VolumeKind::Image { .. } => Ok(()),
            VolumeKind::Files(files) => write_files(&path, files, owner),
            VolumeKind::Host { kind, .. } => check_host_path(&path, kind),
            VolumeKind::Claim { .. } => {
                make_directory(&self.store.claims(), 0o711)?;
                if !path.exists() {
                    make_directory(&path, 0o777)?;
                }
                give_to_group(&path, group, 0o777)
            }
        }
    }

    /// Writes what each container gets as `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
    pub(super) fn write_names(&mut self) -> Result<()> {
        let etc = self.orders.record.running.join("etc");
        let plan = self.plan();
        let mut hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
        let guest = [guest::address().to_owned()];
        let addresses = match &plan.vm {
            // The name must lead to an address that the containers have.
            Some(_) if !self.status.pod_ips.is_empty() => &guest[..],
            _ => &self.status.pod_ips[..],
        };
        let own = if addresses.is_empty() { std::slice::from_ref(&self.facts.pod_ip) } else { addresses };
        let names = match &plan.subdomain {
            Some(subdomain) => format!("{0}.{subdomain}\t{0}", plan.hostname),
            None => plan.hostname.clone(),
        };
        hosts.extend(own.iter().map(|address| format!("{address}\t{names}\n")));
        for (address, names) in &plan.host_aliases {
            hosts += &format!("{address}\t{}\n", names.join("\t"));
        }
        let hostname = format!("{}\n", plan.hostname);
        for (name, text) in [("hosts", &hosts), ("hostname", &hostname), ("resolv.conf", &plan.resolv_conf)] {
            let path = etc.join(name);
            std::fs::write(&path, text)
                .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)))
                .context(|| format!("cannot write '{}'", path.display()))?;
            self.owner(None).give(&path)?;
        }
        self.facts.etc = etc.display().to_string();
        Ok(())
    }
}

/// Who owns something that is made for a pod: ids of the host.
#[derive(Clone, Copy)]
struct Owner {
    root: u32,
    group: Option<u32>,
}

impl Owner {
    /// Gives a file or directory to the pod's root, if that is another than ours.
    fn give(self, path: &Path) -> Result<()> {
        if self.root == 0 {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.root), Some(self.root))
            .context(|| format!("cannot give '{}' to user {}", path.display(), self.root))
    }
}

/// Leaves the host's mount namespace, which is returned, for a copy of it, where mounts of the host still show up.
fn own_mounts() -> Result<OwnedFd> {
    let cannot = || "cannot make a mount namespace for the pod";
    if is_nested() {
        // The host's belongs to others, and could not be entered again: a copy stands for it.
        unshare(libc::CLONE_NEWNS as u64).context(cannot)?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let host = rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty()).context(cannot)?;
    unshare(libc::CLONE_NEWNS as u64).context(cannot)?;
    let root = open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLOEXEC).context(cannot)?;
    let attr =
        MountAttr { propagation: Some(rustix::mount::MountPropagationFlags::DOWNSTREAM), ..MountAttr::NONE };
    mount_setattr(root.as_fd(), true, &attr).context(cannot)?;
    Ok(host)
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    let cannot = || format!("cannot make directory '{}'", path.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .or_kind(ErrorKind::Storage, cannot)?;
    // Whatever the file mode creation mask.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).or_kind(ErrorKind::Storage, cannot)
}

/// Lets a group write to a directory, and own what is made in it.
fn give_to_group(path: &Path, group: Option<u32>, mode: u32) -> Result<()> {
    let Some(group) = group else { return Ok(()) };
    let cannot = || format!("cannot give '{}' to group {group}", path.display());
    std::os::unix::fs::chown(path, None, Some(group)).context(cannot)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o2770)).context(cannot)
}

fn mount_memory(path: &Path, size: Option<u64>, mode: u32, owner: Owner) -> Result<()> {
    make_directory(path, 0o700)?;
    let size = size.map(|bytes| format!("size={bytes},")).unwrap_or_default();
    let mode = if owner.group.is_some() { mode | 0o2770 } else { mode };
    let data = format!("{size}mode={mode:o},uid={},gid={}", owner.root, owner.group.unwrap_or(owner.root));
    let data = std::ffi::CString::new(data).map_err(|_| Error::from_errno(libc::EINVAL))?;
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, data.as_c_str())
        .context(|| format!("cannot mount a tmpfs on '{}'", path.display()))
}

fn write_files(directory: &Path, files: &[FilePlan], owner: Owner) -> Result<()> {
    make_directory(directory, 0o755)?;
    owner.give(directory)?;
    for file in files {
        let path = directory.join(&file.path);
        let cannot = || format!("cannot write '{}'", path.display());
        let parents = Path::new(&file.path).ancestors().skip(1).collect::<Vec<_>>();
        for parent in parents.into_iter().rev().filter(|parent| !parent.as_os_str().is_empty()) {
            make_directory(&directory.join(parent), 0o755)?;
            owner.give(&directory.join(parent))?;
        }
        std::fs::write(&path, &file.content).context(cannot)?;
        owner.give(&path)?;
        // A group that the pod's volumes belong to can read them.
        let mode = if owner.group.is_some() { file.mode | 0o040 } else { file.mode };
        if let Some(group) = owner.group {
            std::os::unix::fs::chown(&path, None, Some(group)).context(cannot)?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).context(cannot)?;
    }
    Ok(())
}

/// Checks what is at a path of the host, or makes it: the types of Kubernetes.
fn check_host_path(path: &Path, kind: &str) -> Result<()> {
    let cannot = || format!("cannot make '{}'", path.display());
    match kind {
        "DirectoryOrCreate" if !path.exists() => {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).context(cannot)?;
        }
        "FileOrCreate" if !path.exists() => drop(std::fs::File::create_new(path).context(cannot)?),
        _ => {}
    }
    let found = std::fs::metadata(path).context(|| format!("cannot find '{}'", path.display()))?.file_type();
    let right = match kind {
        "Directory" | "DirectoryOrCreate" => found.is_dir(),
        "File" | "FileOrCreate" => found.is_file(),
        "Socket" => found.is_socket(),
        "CharDevice" => found.is_char_device(),
        "BlockDevice" => found.is_block_device(),
        _ => true,
    };
    if right { Ok(()) } else { crate::bail!(InvalidManifest, "'{}' is not of type {kind}", path.display()) }
}

/// The devices of the host below `directory`, as the runtime specification has them. Terminals and what is mounted in /dev are
/// each container's own.
fn host_devices(directory: &Path) -> Vec<Value> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        let kind = FileType::from_raw_mode(metadata.mode());
        let own = ["pts", "shm", "mqueue", "hugepages", "ptmx", "console", "fd"];
        if own.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let letter = match kind {
            FileType::CharacterDevice => "c",
            FileType::BlockDevice => "b",
            FileType::Directory => {
                all.extend(host_devices(&path));
                continue;
            }
            _ => continue,
        };
        let device = metadata.rdev();
        all.push(json!({
            "path": path, "type": letter, "major": rustix::fs::major(device), "minor": rustix::fs::minor(device),
            "fileMode": metadata.mode() & 0o7777, "uid": metadata.uid(), "gid": metadata.gid(),
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_host_must_be_what_it_is_said_to_be() {
        let tmp = tempfile::tempdir().unwrap();
        check_host_path(tmp.path(), "Directory").unwrap();
        check_host_path(&tmp.path().join("d/e"), "DirectoryOrCreate").unwrap();
        check_host_path(&tmp.path().join("f"), "FileOrCreate").unwrap();
        check_host_path(Path::new("/dev/null"), "CharDevice").unwrap();
        assert!(check_host_path(tmp.path(), "File").is_err());
        assert!(check_host_path(&tmp.path().join("g"), "").is_err());
    }
}
