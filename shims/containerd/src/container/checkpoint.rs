//! Saving the processes of a container as files, and bringing them back.

use super::Container;
use crate::error::{Context as _, Result};
use crate::runtime::{Streams, arguments};
use crate::stdio::Prepared;
use containerd_shim_protos::api::CheckpointTaskRequest;
use containerd_shim_protos::events::task::TaskCheckpointed;
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::shim::oci::CheckpointOptions;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folder of the bundle in which CRIU works, and leaves its log.
const WORK: &str = "criu-work";

/// A checkpoint that `start` will bring back, and the streams for it.
pub(super) struct Restore {
    pub image: String,
    pub prepared: Prepared,
    pub streams: Streams,
}

impl Container {
    /// Saves the state of the container.
    pub fn checkpoint(&self, request: &CheckpointTaskRequest) -> Result<()> {
        let options = match request.options.as_ref() {
            Some(any) => CheckpointOptions::parse_from_bytes(&any.value)?,
            None => CheckpointOptions::default(),
        };
        let image = first([&request.path, &options.image_path, &self.options.criu_image_path]);
        let work = Work::new(first([&options.work_path, &self.options.criu_work_path]), &self.bundle)?;
        let mut args: Vec<OsString> = vec!["checkpoint".into()];
        if !image.is_empty() {
            args.extend(arguments([&"--image-path", &image]));
        }
        args.extend(arguments([&"--work-path", &work.path]));
        args.extend(flags(&options));
        args.push(self.id.clone().into());
        self.runtime.run("OCI runtime checkpoint failed", &args, Streams::null())?;
        work.finish();
        let event = TaskCheckpointed {
            container_id: self.id.clone(),
            checkpoint: image.to_owned(),
            ..Default::default()
        };
        self.shim.publisher.publish("checkpointed", &event);
        Ok(())
    }

    /// Brings the first process back.
    pub(super) fn restore(self: &Arc<Self>, restore: Restore) -> Result<()> {
        let Restore { image, prepared, streams } = restore;
        let work = Work::new(&self.options.criu_work_path, &self.bundle)?;
        let birth = self.shim.reaper.birth();
        let mut args = arguments([
            &"restore",
            &"--bundle",
            &self.bundle,
            &"--image-path",
            &image,
            &"--work-path",
            &work.path,
            &"--detach",
            &"--no-subreaper",
        ]);
        self.common_arguments(&mut args, &prepared);
        args.push(self.id.clone().into());
        self.runtime.run("OCI runtime restore failed", &args, streams)?;
        work.finish();
        let pid = self.adopt(prepared)?;
        self.claim_init(&birth, pid);
        Ok(())
    }
}

/// The first that is not empty, if there is one.
fn first<const N: usize>(choices: [&str; N]) -> &str {
    choices.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

/// What the options of a checkpoint are on the runtime's command line.
fn flags(options: &CheckpointOptions) -> Vec<OsString> {
    let switches = [
        (!options.exit, "--leave-running"),
        (options.open_tcp, "--tcp-established"),
        (options.external_unix_sockets, "--ext-unix-sk"),
        (options.terminal, "--shell-job"),
        (options.file_locks, "--file-locks"),
    ];
    let mut args: Vec<OsString> =
        switches.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag.into()).collect();
    for namespace in &options.empty_namespaces {
        args.extend(arguments([&"--empty-ns", namespace]));
    }
    if !options.cgroups_mode.is_empty() {
        args.extend(arguments([&"--manage-cgroups-mode", &options.cgroups_mode]));
    }
    args
}

/// Where CRIU works. Its log would otherwise become a part of the checkpoint.
struct Work {
    path: PathBuf,
    is_ours: bool,
}

impl Work {
    /// The folder that is wanted, or one of the bundle.
    fn new(wanted: &str, bundle: &Path) -> Result<Self> {
        if !wanted.is_empty() {
            return Ok(Self { path: wanted.into(), is_ours: false });
        }
        let path = bundle.join(WORK);
        std::fs::create_dir_all(&path).context(|| format!("cannot make '{}'", path.display()))?;
        Ok(Self { path, is_ours: true })
    }

    /// Nobody needs the log of what went well. That of a failure, which the error names, stays until the bundle goes.
    fn finish(self) {
        if self.is_ours {
            let _ = std::fs::remove_dir_all(self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_of_the_command_line() {
        let words = |options: &CheckpointOptions| {
            flags(options)
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(words(&CheckpointOptions::default()), "--leave-running");
        let options = CheckpointOptions {
            exit: true,
            open_tcp: true,
            file_locks: true,
            empty_namespaces: vec!["network".to_owned()],
            cgroups_mode: "soft".to_owned(),
            ..Default::default()
        };
        let expected = "--tcp-established --file-locks --empty-ns network --manage-cgroups-mode soft";
        assert_eq!(words(&options), expected);
    }

    #[test]
    fn a_folder_of_our_own_is_there_while_it_is_needed() {
        let bundle = tempfile::tempdir().unwrap();
        let work = Work::new("", bundle.path()).unwrap();
        let path = work.path.clone();
        assert!(path.is_dir() && path.starts_with(bundle.path()));
        work.finish();
        assert!(!path.exists());
        let wanted = Work::new(bundle.path().to_str().unwrap(), Path::new("/nowhere")).unwrap();
        wanted.finish();
        assert!(bundle.path().is_dir());
    }
}
