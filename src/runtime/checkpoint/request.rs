//! What is asked of criu: pure functions.

use super::rpc::{InheritFd, Mode, Options, PageServer};
use super::{CgroupMode, CheckpointOptions, CriuOptions, RestoreOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::rootfs::CgroupMount;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::path::{Path, PathBuf};

/// The request to save the process `pid`, whose cgroup for freezing is `freezer`.
pub(super) fn dump(
    options: &CheckpointOptions,
    spec: &Spec,
    cgroups: &[CgroupMount],
    pid: i32,
    freezer: Option<&Path>,
) -> Result<Options> {
    let mut all = common(&options.criu);
    all.pid = Some(pid);
    all.leave_running = Some(options.leave_running || options.pre_dump);
    all.track_mem = Some(options.pre_dump || options.parent_path.is_some());
    all.freeze_cgroup = freezer.map(|path| path.display().to_string());
    if let Some(parent) = &options.parent_path {
        if parent.is_absolute() {
            crate::bail!(Usage, "--parent-path must be relative to --image-path");
        }
        all.parent_img = Some(parent.display().to_string());
    }
    all.page_server = options.page_server.as_deref().map(page_server).transpose()?;
    for (path, _) in external_mounts(spec, cgroups) {
        let path = path.display();
        all.external.push(format!("mnt[{path}]:{path}"));
    }
    all.external.extend(external_namespaces(spec));
    Ok(all)
}

fn page_server(server: &str) -> Result<PageServer> {
    let parts =
        server.rsplit_once(':').and_then(|(address, port)| Some((address, port.parse::<u16>().ok()?)));
    let (address, port) = parts.ok_or_else(|| {
        Error::new(ErrorKind::Usage, "Use --page-server ADDRESS:PORT to specify page server")
    })?;
    Ok(PageServer { address: Some(address.to_owned()), port: Some(port.into()) })
}

/// The request to bring a container back below `root`, a mount. `descriptors` are what the standard descriptors of its
/// first process were connected to.
pub(super) fn restore(
    options: &RestoreOptions,
    spec: &Spec,
    cgroups: &[CgroupMount],
    root: &Path,
    descriptors: &[String],
) -> Options {
    let mut all = common(&options.criu);
    all.restore_sibling = Some(true);
    all.root = Some(root.display().to_string());
    for (path, source) in external_mounts(spec, cgroups) {
        all.external.push(format!("mnt[{}]:{}", path.display(), source.display()));
    }
    // A pipe or socket cannot be saved: the restored process gets our standard descriptor of the same number.
    let pipes = (0..).zip(descriptors).filter(|(_, target)| target.contains("pipe:"));
    all.inherit_fds = pipes.map(|(fd, key)| InheritFd { key: key.clone(), fd }).collect();
    all
}

fn common(options: &CriuOptions) -> Options {
    let mode = match options.cgroup_mode {
        CgroupMode::Soft => Mode::Soft,
        CgroupMode::Full => Mode::Full,
        CgroupMode::Strict => Mode::Strict,
        CgroupMode::Ignore => Mode::Ignore,
    };
    let allow = &options.allow;
    Options {
        manage_cgroups: Some(true),
        manage_cgroups_mode: Some(mode.into()),
        evasive_devices: Some(true),
        // The master of a terminal is outside: we have handed it out, and will again.
        orphan_pts_master: Some(true),
        tcp_established: Some(allow.tcp_established),
        tcp_skip_in_flight: Some(allow.tcp_skip_in_flight),
        ext_unix_sk: Some(allow.ext_unix_sk),
        shell_job: Some(allow.shell_job),
        file_locks: Some(allow.file_locks),
        link_remap: Some(allow.link_remap),
        auto_dedup: Some(options.auto_dedup),
        lazy_pages: Some(options.lazy_pages),
        status_fd: options.status_fd,
        empty_ns: options.empty_network.then_some(libc::CLONE_NEWNET as u32),
        lsm_profile: options.lsm_profile.clone(),
        lsm_mount_context: options.lsm_mount_context.clone(),
        ..Options::default()
    }
}

/// Mounts of the host's files, of the container's cgroups too: criu cannot save them, only connect them again. Each with
/// its source.
fn external_mounts(spec: &Spec, cgroups: &[CgroupMount]) -> Vec<(PathBuf, PathBuf)> {
    let mut all = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let option = |name: &str| mount.options().iter().flatten().any(|option| option == name);
        let path = mount.destination();
        if mount.typ().as_deref() == Some("cgroup") {
            // A name is empty where one hierarchy is all there is.
            let place = |cgroup: &CgroupMount| {
                if cgroup.name.is_empty() { path.clone() } else { path.join(&cgroup.name) }
            };
            all.extend(cgroups.iter().map(|cgroup| (place(cgroup), cgroup.directory.clone())));
        } else if mount.typ().as_deref() == Some("bind") || option("bind") || option("rbind") {
            all.push((path.clone(), mount.source().clone().unwrap_or_default()));
        }
    }
    all
}

/// Namespaces that were joined and not made: criu leaves them alone.
fn external_namespaces(spec: &Spec) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let linux = spec.linux().as_ref();
    let all = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    all.filter_map(|namespace| {
        let (kind, key) = match namespace.typ() {
            LinuxNamespaceType::Network => ("net", "extRootNetNS"),
            LinuxNamespaceType::Pid => ("pid", "extRootPidNS"),
            _ => return None,
        };
        let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty())?;
        let inode = std::fs::metadata(path).map(|meta| meta.ino()).unwrap_or(0);
        Some(format!("{kind}[{inode}]:{key}"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::checkpoint::Allow;
    use crate::runtime::options::RunOptions;
    use serde_json::json;

    fn criu() -> CriuOptions {
        let allow = Allow { shell_job: true, ..Allow::default() };
        CriuOptions { image_path: "/i".into(), work_path: "/w".into(), allow, ..CriuOptions::default() }
    }

    fn spec() -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.0.0",
            "mounts": [
                {"destination": "/data", "type": "bind", "source": "/host/data", "options": ["rbind"]},
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/cg", "type": "cgroup", "source": "cgroup"},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_dump_names_the_process_and_what_is_outside() {
        let options = CheckpointOptions {
            id: "x".to_owned(),
            criu: criu(),
            parent_path: Some("../before".into()),
            leave_running: true,
            page_server: Some("::1:99".to_owned()),
            pre_dump: false,
        };
        let all = dump(&options, &spec(), &[], 7, Some(Path::new("/c"))).unwrap();
        assert_eq!((all.pid, all.leave_running, all.track_mem), (Some(7), Some(true), Some(true)));
        assert_eq!(all.page_server, Some(PageServer { address: Some("::1".to_owned()), port: Some(99) }));
        assert_eq!(
            (all.parent_img.as_deref(), all.freeze_cgroup.as_deref()),
            (Some("../before"), Some("/c"))
        );
        assert_eq!(all.external, ["mnt[/data]:/data"]);
        assert_eq!(all.shell_job, Some(true));
        let wrong = CheckpointOptions { page_server: Some("nowhere".to_owned()), ..options };
        assert!(dump(&wrong, &spec(), &[], 7, None).is_err());
    }

    #[test]
    fn a_restore_connects_mounts_and_pipes_again() {
        let options = RestoreOptions { criu: criu(), run: RunOptions::default() };
        let cgroups = ["", "pids"].map(|name| CgroupMount {
            name: name.to_owned(),
            directory: Path::new("/h").join(name),
            root: "/h".into(),
            links: Vec::new(),
        });
        let descriptors = ["/dev/null".to_owned(), "pipe:[5]".to_owned()];
        let all = restore(&options, &spec(), &cgroups, Path::new("/r"), &descriptors);
        assert_eq!(all.external, ["mnt[/data]:/host/data", "mnt[/cg]:/h/", "mnt[/cg/pids]:/h/pids"]);
        assert_eq!(all.inherit_fds, [InheritFd { key: "pipe:[5]".to_owned(), fd: 1 }]);
        assert_eq!((all.restore_sibling, all.root.as_deref()), (Some(true), Some("/r")));
    }
}
