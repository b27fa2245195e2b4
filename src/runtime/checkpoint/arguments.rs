//! The command lines of criu: pure functions.

use super::{CgroupMode, CheckpointOptions, CriuOptions, RestoreOptions};
use crate::error::{Error, ErrorKind, Result};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use std::path::Path;

/// Options of `criu dump` or `criu pre-dump`.
pub(super) fn dump(options: &CheckpointOptions, spec: &Spec, pid: i32, log: &str) -> Result<Vec<String>> {
    let command = if options.pre_dump { "pre-dump" } else { "dump" };
    let mut all = common(command, &options.criu, log);
    all.extend(["--tree".to_owned(), pid.to_string()]);
    if options.leave_running {
        all.push("--leave-running".to_owned());
    }
    if options.pre_dump || options.parent_path.is_some() {
        all.push("--track-mem".to_owned());
    }
    if let Some(parent) = &options.parent_path {
        if parent.is_absolute() {
            crate::bail!(Usage, "--parent-path must be relative to --image-path");
        }
        all.extend(["--prev-images-dir".to_owned(), parent.display().to_string()]);
    }
    if let Some(server) = &options.page_server {
        let (address, port) =
            server.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).ok_or_else(|| {
                Error::new(ErrorKind::Usage, "Use --page-server ADDRESS:PORT to specify page server")
            })?;
        all.extend(["--page-server", "--address", address, "--port", port].map(str::to_owned));
    }
    for mount in external_mounts(spec) {
        let path = mount.destination().display();
        all.extend(["--external".to_owned(), format!("mnt[{path}]:{path}")]);
    }
    all.extend(external_namespaces(spec, |kind, path| {
        use std::os::unix::fs::MetadataExt as _;
        let inode = std::fs::metadata(path).map(|meta| meta.ino()).unwrap_or(0);
        format!("{kind}[{inode}]:{}", namespace_key(kind))
    }));
    Ok(all)
}

/// Options of `criu restore`.
pub(super) fn restore(
    options: &RestoreOptions,
    spec: &Spec,
    root: &Path,
    pid_file: &Path,
    descriptors: &[String],
    log: &str,
) -> Vec<String> {
    let mut all = common("restore", &options.criu, log);
    all.extend(["--restore-detached", "--restore-sibling", "--root"].map(str::to_owned));
    all.extend([root.display().to_string(), "--pidfile".to_owned(), pid_file.display().to_string()]);
    for mount in external_mounts(spec) {
        let path = mount.destination().display();
        let source = mount.source().as_deref().unwrap_or(Path::new("")).display();
        all.extend(["--external".to_owned(), format!("mnt[{path}]:{source}")]);
    }
    // A pipe or socket cannot be saved: the restored process gets our standard descriptor of the same number.
    for (number, target) in descriptors.iter().enumerate().filter(|(_, target)| target.contains("pipe:")) {
        all.extend(["--inherit-fd".to_owned(), format!("fd[{number}]:{target}")]);
    }
    all
}

fn common(command: &str, options: &CriuOptions, log: &str) -> Vec<String> {
    let mode = match options.cgroup_mode {
        CgroupMode::Soft => "soft",
        CgroupMode::Full => "full",
        CgroupMode::Strict => "strict",
        CgroupMode::Ignore => "ignore",
    };
    let mut all = vec![
        command.to_owned(),
        "--images-dir".to_owned(),
        options.image_path.display().to_string(),
        "--work-dir".to_owned(),
        options.work_path.display().to_string(),
        "--log-file".to_owned(),
        log.to_owned(),
        "-v4".to_owned(),
        format!("--manage-cgroups={mode}"),
    ];
    all.extend(options.flags.iter().cloned());
    all
}

/// Mounts of the host's files: criu cannot save them, only connect them again.
fn external_mounts(spec: &Spec) -> impl Iterator<Item = &Mount> {
    spec.mounts().iter().flatten().filter(|mount| {
        let option = |name: &str| mount.options().iter().flatten().any(|option| option == name);
        mount.typ().as_deref() == Some("bind") || option("bind") || option("rbind")
    })
}

fn namespace_key(kind: &str) -> String {
    format!("extRoot{}NS", kind[..1].to_uppercase() + &kind[1..])
}

fn external_namespaces(spec: &Spec, name: impl Fn(&str, &Path) -> String) -> Vec<String> {
    let linux = spec.linux().as_ref();
    let all = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
    all.filter_map(|namespace| {
        let kind = match namespace.typ() {
            LinuxNamespaceType::Network => "net",
            LinuxNamespaceType::Pid => "pid",
            _ => return None,
        };
        let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty())?;
        Some(["--external".to_owned(), name(kind, path)])
    })
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::options::RunOptions;
    use serde_json::json;

    fn criu() -> CriuOptions {
        CriuOptions {
            criu: "criu".into(),
            image_path: "/i".into(),
            work_path: "/w".into(),
            cgroup_mode: CgroupMode::Soft,
            flags: vec!["--shell-job".to_owned()],
        }
    }

    fn spec() -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.0.0",
            "mounts": [
                {"destination": "/data", "type": "bind", "source": "/host/data", "options": ["rbind"]},
                {"destination": "/proc", "type": "proc", "source": "proc"},
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
        let line = dump(&options, &spec(), 7, "dump.log").unwrap().join(" ");
        assert_eq!(
            line,
            "dump --images-dir /i --work-dir /w --log-file dump.log -v4 --manage-cgroups=soft --shell-job --tree 7 \
             --leave-running --track-mem --prev-images-dir ../before --page-server --address ::1 --port 99 \
             --external mnt[/data]:/data"
        );
        let wrong = CheckpointOptions { page_server: Some("nowhere".to_owned()), ..options };
        assert!(dump(&wrong, &spec(), 7, "dump.log").is_err());
    }

    #[test]
    fn a_restore_connects_mounts_and_pipes_again() {
        let options = RestoreOptions { criu: criu(), run: RunOptions::default() };
        let descriptors = ["/dev/null".to_owned(), "pipe:[5]".to_owned()];
        let line = restore(&options, &spec(), Path::new("/r"), Path::new("/p"), &descriptors, "restore.log");
        assert!(line.join(" ").ends_with(
            "--restore-detached --restore-sibling --root /r --pidfile /p --external mnt[/data]:/host/data \
             --inherit-fd fd[1]:pipe:[5]"
        ));
    }
}
