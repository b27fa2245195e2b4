//! The images of pods: pulled before anything is made, and turned into bundles.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::bundle::MODULE;
use crate::image::{
    BundleBuilder, Image, ImageService, OciContainerConfig, PullOptions, PullPolicy, Seccomp, Secret,
    image_mount,
};
use crate::pod::manifest::types::{self, VolumeSource};
use crate::pod::manifest::{PULL_SECRET_KEY, PodSpec};
use crate::pod::plan::users::IdRange;
use crate::pod::plan::{ContainerPlan, ImageFacts, PodPlan, VolumeKind};
use oci_spec::runtime::Mount;
use std::collections::BTreeMap;
use std::path::Path;

/// The images of pods, by their references in the manifests.
#[derive(Debug, Default)]
pub struct Images {
    all: BTreeMap<String, (Image, ImageFacts)>,
}

impl Images {
    /// Pulls all images of some pods.
    pub fn pull(service: &ImageService, pods: &[PodSpec]) -> Result<Self> {
        let builder = BundleBuilder::with_storage(service.storage().clone())?;
        let mut images = Self::default();
        for pod in pods {
            let secrets = secrets(pod);
            for (what, reference, policy) in wanted(pod) {
                if images.all.contains_key(&reference) {
                    continue;
                }
                let options = PullOptions { policy, secrets: &secrets, ..PullOptions::default() };
                let image = service.pull_with(&reference, &options).context(|| what.clone())?;
                let facts = facts(&builder, &image).context(|| what)?;
                images.all.insert(reference, (image, facts));
            }
        }
        Ok(images)
    }

    /// What plans need to know of each.
    pub fn facts(&self) -> BTreeMap<String, ImageFacts> {
        self.all.iter().map(|(reference, (_, facts))| (reference.clone(), facts.clone())).collect()
    }

    fn image(&self, reference: &str) -> Result<&Image> {
        self.all
            .get(reference)
            .map(|(image, _)| image)
            .ok_or_else(|| Error::new(ErrorKind::BlobNotFound, format!("image '{reference}' was not pulled")))
    }

    /// Makes the bundle of a container of a pod, with the pod's own `ids` if it has any. Its configuration is called `base.json`: the
    /// monitor writes the final one.
    pub fn build(
        &self,
        service: &ImageService,
        (pod, container): (&PodPlan, &ContainerPlan),
        ids: Option<IdRange>,
        bundle: &Path,
    ) -> Result<()> {
        let builder = BundleBuilder::with_storage(service.storage().clone())?;
        let config = OciContainerConfig {
            name: container.name.clone(),
            command: Some(container.args.clone()),
            user: Some(format!("{}:{}", container.uid, container.gid)),
            mounts: self.volumes(service, pod, container)?,
            // The plan has the profile, if there is to be one.
            seccomp: Seccomp::Unconfined,
            ..OciContainerConfig::default()
        };
        let mut draft = builder.draft(self.image(&container.image)?, &config)?;
        if let Some(ids) = ids {
            draft.map_ids(ids.mappings()?);
        }
        draft.write(bundle)?;
        // The store keeps the layers of an image as long as a configuration names them.
        std::fs::copy(bundle.join("config.json"), bundle.join("base.json"))
            .or_kind(ErrorKind::Storage, || {
                format!("cannot copy the configuration in '{}'", bundle.display())
            })?;
        Ok(())
    }

    /// Mounts of the container's volumes that are images.
    fn volumes(
        &self,
        service: &ImageService,
        pod: &PodPlan,
        container: &ContainerPlan,
    ) -> Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        for mount in &container.mounts {
            let volume = pod.volumes.iter().find(|volume| volume.name == mount.volume);
            if let Some(VolumeKind::Image { reference }) = volume.map(|volume| &volume.source) {
                if mount.sub_path.is_some() {
                    crate::bail!(
                        NotSupported,
                        "volume '{}': a subPath of an image is not supported",
                        mount.volume
                    );
                }
                mounts.push(image_mount(service.storage(), self.image(reference)?, &mount.target)?);
            }
        }
        Ok(mounts)
    }
}

/// The credentials for registries that a manifest has for its pod.
fn secrets(pod: &PodSpec) -> Vec<Secret> {
    let all = pod.spec.image_pull_secrets.iter().filter_map(|reference| {
        let text = pod.secrets.get(&reference.name)?.values.get(PULL_SECRET_KEY)?.clone();
        Some(Secret { text, origin: format!("secret '{}' of the manifest", reference.name) })
    });
    all.collect()
}

/// The images that a pod needs: what for, their references, and when the registry is asked.
fn wanted(pod: &PodSpec) -> Vec<(String, String, PullPolicy)> {
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let containers = containers
        .map(|c| (format!("container '{}'", c.name), c.image.clone(), policy(&c.image, c.image_pull_policy)));
    let volumes = pod.spec.volumes.iter().filter_map(|volume| match &volume.source {
        Some(VolumeSource::Image(image)) => {
            let policy = policy(&image.reference, image.pull_policy);
            Some((format!("volume '{}'", volume.name), image.reference.clone(), policy))
        }
        _ => None,
    });
    containers.chain(volumes).collect()
}

/// When the registry is asked: as the manifest says, or always for what is called "latest".
fn policy(reference: &str, wanted: Option<types::PullPolicy>) -> PullPolicy {
    let name = reference.rsplit('/').next().unwrap_or_default();
    let latest = !reference.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
    match wanted {
        Some(types::PullPolicy::Always) => PullPolicy::Always,
        Some(types::PullPolicy::Never) => PullPolicy::Never,
        Some(types::PullPolicy::IfNotPresent) => PullPolicy::IfMissing,
        None if latest => PullPolicy::Always,
        None => PullPolicy::IfMissing,
    }
}

fn facts(builder: &BundleBuilder, image: &Image) -> Result<ImageFacts> {
    let settings = image.settings();
    let draft = builder.draft(
        image,
        &OciContainerConfig { command: Some(vec!["x".to_owned()]), ..OciContainerConfig::default() },
    )?;
    let process = draft.spec().process().clone().unwrap_or_default();
    let user = process.user();
    let mut entrypoint = settings.entrypoint().clone().unwrap_or_default();
    if image.module().is_some() && entrypoint.is_empty() {
        // Arguments of the manifest follow the module, which has no other name.
        entrypoint.push(format!("/{MODULE}"));
    }
    Ok(ImageFacts {
        id: image.id().to_string(),
        entrypoint,
        cmd: settings.cmd().clone().unwrap_or_default(),
        env: settings.env().clone().unwrap_or_default(),
        working_dir: settings.working_dir().clone().unwrap_or_default(),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        stop_signal: settings.stop_signal().clone(),
        wasm: image.is_wasm(),
    })
}
