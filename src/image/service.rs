//! The library's interface to images.

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::image::Image;
use crate::image::platform::PlatformSpec;
use crate::image::progress::{Progress, Silent};
use crate::image::pull::Pull;
use crate::image::push;
use crate::image::reference::{Location, Reference};
use crate::image::source::{DockerArchive, OciArchive, OciLayout, Registry, Secret, Source, WasmModule};
use crate::image::store::{Damage, ImageRecord, ImageStore, Pruned, Verify, default_root};
use crate::storage::config::{Limits, Registries};
use std::path::Path;

/// When the registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Always: the name may lead to another image by now. What has not changed is not transferred again.
    #[default]
    Always,
    /// Only if the name is not in the store.
    IfMissing,
    /// Never: the name must be in the store.
    Never,
}

/// How to pull.
#[derive(Default)]
pub struct PullOptions<'a> {
    /// When the registry is asked.
    pub policy: PullPolicy,
    /// For which machine; none: this one.
    pub platform: Option<PlatformSpec>,
    /// Blobs at the same time; 0: as many as are useful.
    pub parallel: usize,
    /// Hears how far it is.
    pub progress: Option<&'a dyn Progress>,
    /// Credentials that are looked at before those of this user.
    pub secrets: &'a [Secret],
}

/// Images: pulling, listing, removing.
#[derive(Debug, Clone)]
pub struct ImageService {
    store: ImageStore,
    limits: Limits,
    registries: Registries,
}

impl ImageService {
    /// The service with the usual store: `/var/lib/magikrun` for root, `~/.magikrun` for others.
    pub fn new() -> Result<Self> {
        Ok(Self::with_root(default_root()?))
    }

    /// The service with the store at `root`.
    pub fn with_root(root: impl AsRef<Path>) -> Self {
        let store = ImageStore::new(root.as_ref());
        Self { store, limits: Limits::default(), registries: Registries::default() }
    }

    /// The service with the operator's limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The service with the operator's mirrors and timeouts.
    #[must_use]
    pub fn with_registries(self, registries: Registries) -> Self {
        Self { registries, ..self }
    }

    /// The store.
    pub fn storage(&self) -> &ImageStore {
        &self.store
    }

    /// The limits of what is pulled.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Pulls an image: `REFERENCE`, `oci:PATH[:NAME]`, `oci-archive:PATH[:NAME]`, `docker-archive:PATH[:REFERENCE]`, `wasm:FILE`.
    ///
    /// All threads that this starts have ended when it returns, so a container may be created afterwards.
    pub fn pull(&self, location: &str) -> Result<Image> {
        self.pull_with(location, &PullOptions::default())
    }

    /// Pulls an image with options.
    pub fn pull_with(&self, location: &str, options: &PullOptions<'_>) -> Result<Image> {
        if options.policy != PullPolicy::Always {
            match self.inspect(location).or_else(|e| self.restored(location, e)) {
                Err(e) if may_pull(&e, options.policy) => {}
                found => return found,
            }
        }
        let location: Location = location.parse()?;
        let record = self.pull_from(&location, options).map_err(|e| {
            let kind = if e.kind() == ErrorKind::System { ErrorKind::ImagePullFailed } else { e.kind() };
            e.with_kind(kind)
        });
        Image::load(&self.store, record?)
    }

    /// An image of which layers are missing, once they are unpacked again from what the store has; else the error.
    fn restored(&self, name: &str, e: Error) -> Result<Image> {
        if e.kind() != ErrorKind::BlobNotFound {
            return Err(e);
        }
        let record = self.store.find(name)?;
        self.store.restore(&record, &self.limits)?;
        Image::load(&self.store, record)
    }

    fn pull_from(&self, location: &Location, options: &PullOptions<'_>) -> Result<ImageRecord> {
        let source = open(location, &self.registries, options.secrets)?;
        let platform = options.platform.clone().unwrap_or_else(PlatformSpec::host);
        let pull = Pull {
            store: &self.store,
            source: source.as_ref(),
            platform: &platform,
            limits: &self.limits,
            parallel: options.parallel,
            progress: options.progress.unwrap_or(&Silent),
        };
        pull.run().context(|| format!("cannot pull '{}'", source.name()))
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<ImageRecord>> {
        self.store.records()
    }

    /// Looks for damage in the store.
    pub fn verify(&self, how: Verify) -> Result<Vec<Damage>> {
        self.store.verify(how, &self.limits)
    }

    /// Removes what no name, no bundle and no pull in progress needs.
    pub fn prune(&self) -> Result<Pruned> {
        self.store.prune()
    }

    /// An image in the store, by its name or the beginning of its id.
    pub fn inspect(&self, name: &str) -> Result<Image> {
        Image::load(&self.store, self.store.find(name)?)
    }

    /// Gives an image another name. Answers that in full.
    pub fn tag(&self, image: &str, name: &str) -> Result<String> {
        let reference: Reference = name.parse()?;
        let record = ImageRecord { name: reference.to_string(), ..self.store.find(image)? };
        self.store.lease()?.put_record(&record)?;
        Ok(record.name)
    }

    /// Pulls an image from an archive of podman, docker or [`crate::image::save`].
    pub fn load(&self, path: &Path, name: Option<&str>) -> Result<Image> {
        let name = name.map(str::to_owned);
        let location = match OciArchive::open(path, name.as_deref()) {
            Err(e) if e.message().contains("index.json") => Location::DockerArchive(path.to_owned(), name),
            _ => Location::OciArchive(path.to_owned(), name),
        };
        let record = self.pull_from(&location, &PullOptions::default())?;
        Image::load(&self.store, record)
    }

    /// Pushes an image to a registry, under its own name or another. Answers that in full.
    pub fn push(&self, image: &str, name: Option<&str>, progress: &dyn Progress) -> Result<String> {
        let image = self.inspect(image)?;
        let reference: Reference = name.unwrap_or(image.name()).parse()?;
        push::push(&self.store, &image, &reference, &self.registries, progress)?;
        Ok(reference.to_string())
    }

    /// Forgets a name, or with an id all names of the image. What nothing needs any more is removed by
    /// [`ImageService::prune`]. Answers the names.
    pub fn remove(&self, name: &str) -> Result<Vec<String>> {
        let record = self.store.find(name)?;
        let by_name = name.parse().is_ok_and(|r: Reference| r.to_string() == record.name);
        let mut removed = Vec::new();
        for other in self.list()? {
            let meant = if by_name { other.name == record.name } else { other.id == record.id };
            if meant && self.store.remove_record(&other.name)? {
                removed.push(other.name);
            }
        }
        Ok(removed)
    }
}

/// What is not in the store, or not whole, is pulled.
fn may_pull(e: &Error, policy: PullPolicy) -> bool {
    use ErrorKind::{BlobNotFound, DigestMismatch, ImageNotFound, Usage};
    policy == PullPolicy::IfMissing
        && matches!(e.kind(), ImageNotFound | BlobNotFound | DigestMismatch | Usage)
}

fn open(location: &Location, registries: &Registries, secrets: &[Secret]) -> Result<Box<dyn Source>> {
    Ok(match location {
        Location::OciLayout(path, name) => Box::new(OciLayout::open(path, name.as_deref())?),
        Location::OciArchive(path, name) => Box::new(OciArchive::open(path, name.as_deref())?),
        Location::DockerArchive(path, name) => Box::new(DockerArchive::open(path, name.as_deref())?),
        Location::WasmModule(path) => Box::new(WasmModule::open(path)?),
        Location::Registry(reference) => Box::new(Registry::open(reference, registries, secrets)?),
    })
}
