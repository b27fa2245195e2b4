//! The volumes of a pod in a microVM, as its guest gets them.

use super::Monitor;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::pod::microvm::{Volume, VolumeMount};
use crate::pod::plan::config::{environment, is_read_only, source_key, sub_path};
use crate::pod::plan::{ContainerPlan, VolumeKind, VolumePlan};
use std::path::Path;

impl Monitor<'_> {
    /// The volumes as the pod's microVM sees them.
    pub(super) fn guest_volumes(&self) -> Result<Vec<Volume>> {
        let shared =
            self.plan().volumes.iter().filter(|volume| !matches!(volume.source, VolumeKind::Image { .. }));
        let volume = |volume: &VolumePlan| {
            let place = self.place(volume);
            let found = std::fs::metadata(&place).context(|| format!("cannot find '{}'", place.display()))?;
            if !found.is_dir() && !found.is_file() {
                crate::bail!(
                    NotSupported,
                    "volume '{}': '{}' is neither a directory nor a regular file: a microVM cannot have it",
                    volume.name,
                    place.display()
                );
            }
            let mut mounts = self.plan().containers.iter().flat_map(|container| &container.mounts);
            let written = mounts.any(|mount| mount.volume == volume.name && !mount.read_only);
            let read_only = !written || is_read_only(self.plan(), &volume.name);
            Ok(Volume { name: volume.name.clone(), place, directory: found.is_dir(), read_only })
        };
        shared.map(volume).collect()
    }

    /// What a container of the pod's microVM mounts of its volumes.
    pub(super) fn volume_mounts(&self, container: &ContainerPlan) -> Result<Vec<VolumeMount>> {
        let env = environment(container, &self.facts);
        let mut mounts = Vec::new();
        for mount in &container.mounts {
            let key = source_key(mount, &sub_path(mount.sub_path.as_ref(), &env));
            let volume = self.plan().volumes.iter().find(|volume| volume.name == mount.volume);
            // Images are in the containers' roots already.
            let (Some(volume), Some(source)) = (volume, self.facts.sources.get(&key)) else { continue };
            let below = if key.1.is_empty() { String::new() } else { below(&self.place(volume), source)? };
            mounts.push(VolumeMount {
                volume: mount.volume.clone(),
                below,
                target: mount.target.clone(),
                read_only: mount.read_only || is_read_only(self.plan(), &mount.volume),
            });
        }
        Ok(mounts)
    }
}

/// The path below a volume of what is open there: without the links that led to it, which may lead elsewhere later.
fn below(volume: &Path, opened: &str) -> Result<String> {
    let cannot = || format!("cannot find a subPath in '{}'", volume.display());
    let path = std::fs::read_link(opened).context(cannot)?;
    let root = std::fs::canonicalize(volume).context(cannot)?;
    let below = path.strip_prefix(&root).map_err(|_| Error::new(ErrorKind::InvalidManifest, cannot()))?;
    Ok(below.display().to_string())
}
