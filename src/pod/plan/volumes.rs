//! Volumes.

use super::env::field_value;
use super::{Context, FilePlan, VolumeKind, resources};
use crate::error::Result;
use crate::pod::manifest::types::{DataVolume, DownwardVolume, Projection, Quantity, Volume, VolumeSource};
use crate::pod::manifest::{Data, PodSpec};
use std::collections::BTreeMap;

/// Mode of an empty directory, as in Kubernetes: every user of the pod may write.
const DIRECTORY_MODE: u32 = 0o777;
/// Mode of a file of a config map, secret or downward volume.
const FILE_MODE: u32 = 0o644;

/// What a volume is.
pub fn volume(pod: &PodSpec, volume: &Volume, context: &Context) -> Result<VolumeKind> {
    let Some(source) = &volume.source else { return Ok(VolumeKind::Directory { mode: DIRECTORY_MODE }) };
    Ok(match source {
        VolumeSource::EmptyDir(dir) => {
            let mode = dir.mode.unwrap_or(DIRECTORY_MODE);
            if dir.medium == "Memory" {
                VolumeKind::Memory { size: dir.size_limit.as_ref().and_then(Quantity::value), mode }
            } else {
                VolumeKind::Directory { mode }
            }
        }
        VolumeSource::HostPath(host) => VolumeKind::Host { path: host.path.clone(), kind: host.kind.clone() },
        VolumeSource::PersistentVolumeClaim(claim) => VolumeKind::Claim {
            name: format!("{}_{}", pod.metadata.namespace(), claim.claim_name),
            read_only: claim.read_only,
        },
        VolumeSource::ConfigMap(data) => files(data_files(data, &pod.config_maps, FILE_MODE)),
        VolumeSource::Secret(data) => files(data_files(data, &pod.secrets, FILE_MODE)),
        VolumeSource::DownwardApi(downward) => files(downward_files(pod, downward, FILE_MODE, context)?),
        VolumeSource::Projected(projected) => {
            let mode = projected.default_mode.unwrap_or(FILE_MODE);
            let mut all = Vec::new();
            for source in &projected.sources {
                all.extend(match source {
                    Projection::ConfigMap(data) => data_files(data, &pod.config_maps, mode),
                    Projection::Secret(data) => data_files(data, &pod.secrets, mode),
                    Projection::DownwardApi(downward) => downward_files(pod, downward, mode, context)?,
                });
            }
            files(all)
        }
        VolumeSource::Image(image) => VolumeKind::Image { reference: image.reference.clone() },
    })
}

/// The last file of each path wins.
fn files(files: Vec<FilePlan>) -> VolumeKind {
    let by_path: BTreeMap<String, FilePlan> =
        files.into_iter().map(|file| (file.path.clone(), file)).collect();
    VolumeKind::Files(by_path.into_values().collect())
}

fn data_files(volume: &DataVolume, objects: &BTreeMap<String, Data>, mode: u32) -> Vec<FilePlan> {
    let Some(data) = objects.get(&volume.name) else { return Vec::new() };
    let mode = volume.default_mode.unwrap_or(mode);
    match &volume.items {
        None => {
            let all = data.values.iter();
            all.map(|(key, content)| FilePlan { path: key.clone(), mode, content: content.clone() }).collect()
        }
        Some(items) => {
            let chosen = items.iter().filter_map(|item| {
                let content = data.values.get(&item.key)?.clone();
                Some(FilePlan { path: item.path.clone(), mode: item.mode.unwrap_or(mode), content })
            });
            chosen.collect()
        }
    }
}

fn downward_files(
    pod: &PodSpec,
    volume: &DownwardVolume,
    mode: u32,
    context: &Context,
) -> Result<Vec<FilePlan>> {
    let mode = volume.default_mode.unwrap_or(mode);
    let file = |item: &crate::pod::manifest::types::DownwardFile| {
        let content = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_value(pod, &field.field_path, context),
            (None, Some(reference)) => {
                let name = reference.container_name.as_deref().unwrap_or_default();
                resources::field(pod, name, &reference.resource, reference.divisor.as_ref(), context)?
            }
            (None, None) => String::new(),
        };
        Ok(FilePlan {
            path: item.path.clone(),
            mode: item.mode.unwrap_or(mode),
            content: content.into_bytes(),
        })
    };
    volume.items.iter().map(file).collect()
}
