//! Bundles made from images, for the backend that is to run them.

mod config;
mod copy;
mod module;
mod root;
mod spec;
mod users;
mod view;

pub use config::{OciContainerConfig, RootMode, Seccomp};
pub use module::open_module;
pub use root::image_mount;
pub use users::Identity;

use crate::error::{Context as _, ErrorKind, Result};
use crate::image::image::Image;
use crate::image::store::{Building, ImageStore};
use crate::platform::confinement::Profile;
use crate::platform::userns::IdMappings;
use crate::storage::tree;
use module::Module;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use std::path::{Path, PathBuf};

/// Name of the root file system's directory in a bundle.
const ROOTFS: &str = "rootfs";
/// Name of a WebAssembly module in a bundle.
pub const MODULE: &str = "module.wasm";
/// The backend of WebAssembly modules, as in the annotation that selects it.
const WASM: &str = "wasm";
/// The backend of microVMs.
const KRUN: &str = "krun";

/// A bundle, in the format that its backend takes. Each is an OCI bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bundle {
    /// `config.json` and `rootfs/`, for Linux containers.
    OciRuntime {
        /// Directory of the bundle.
        path: PathBuf,
    },
    /// `config.json` and the module, for WebAssembly.
    Wasm {
        /// Directory of the bundle.
        path: PathBuf,
        /// The module: in the bundle, or in its root file system.
        module: PathBuf,
    },
    /// `config.json` and `rootfs/`, for microVMs.
    MicroVm {
        /// Directory of the bundle.
        path: PathBuf,
    },
}

impl Bundle {
    /// Directory of the bundle.
    pub fn path(&self) -> &Path {
        match self {
            Self::OciRuntime { path } | Self::Wasm { path, .. } | Self::MicroVm { path } => path,
        }
    }
}

/// Makes bundles from images of one store.
#[derive(Debug, Clone)]
pub struct BundleBuilder {
    store: ImageStore,
}

impl BundleBuilder {
    /// A builder for the images of `storage`.
    pub fn with_storage(storage: ImageStore) -> Result<Self> {
        storage.prepare()?;
        Ok(Self { store: storage })
    }

    /// Makes a bundle in a directory of the store's own. Remove it with [`BundleBuilder::remove`].
    pub fn build_oci_bundle(&self, image: &Image, config: &OciContainerConfig) -> Result<Bundle> {
        let (bundle, building) = self.build(image, config, None)?;
        building.finish()?;
        Ok(bundle)
    }

    /// Makes a bundle in a directory of the store's own for the container whose state is going to be in the directory `state`.
    /// As soon as neither that nor the answered mark is there, the bundle is removed with the next use of the store.
    pub fn build_for_container(
        &self,
        image: &Image,
        config: &OciContainerConfig,
        state: &Path,
    ) -> Result<(Bundle, Building)> {
        self.build(image, config, Some(state))
    }

    fn build(
        &self,
        image: &Image,
        config: &OciContainerConfig,
        state: Option<&Path>,
    ) -> Result<(Bundle, Building)> {
        let mut draft = self.draft(image, config)?;
        let (path, building) = self.store.new_bundle()?;
        let bound = state.map_or(Ok(()), |state| building.for_container(state));
        let bundle = bound.and_then(|()| draft.fill(&path)).inspect_err(|_| {
            let _ = tree::remove(&path);
        })?;
        Ok((bundle, building))
    }

    /// Decides everything about a bundle; nothing is on the disk yet. The configuration can be changed before
    /// [`Draft::write`].
    pub fn draft<'a>(&'a self, image: &'a Image, config: &OciContainerConfig) -> Result<Draft<'a>> {
        let cannot = || format!("cannot build a bundle from image '{}'", image.name());
        let settings = image.settings();
        let text = |name: &str| view::read(image.layers(), "etc", name).map(Option::unwrap_or_default);
        let user = config.user.as_ref().or(settings.user().as_ref()).cloned().unwrap_or_default();
        let identity = (|| users::resolve(&user, &text("passwd")?, &text("group")?))()
            .or_kind(ErrorKind::BundleBuildFailed, cannot)?;
        let mut config = config.clone();
        let module = module::choose(image, &mut config)?;
        let mappings = self.store.mappings();
        let seccomp = match &config.seccomp {
            // The guest has a kernel of its own.
            Seccomp::Default if config.backend.as_deref() == Some(KRUN) => None,
            Seccomp::Default => Some(Profile::of_host()),
            Seccomp::Unconfined => None,
            Seccomp::File(path) => Some(Profile::read(path)),
        };
        let origin = spec::Origin {
            settings: &settings,
            identity: &identity,
            mappings: mappings.as_ref(),
            seccomp: seccomp.transpose().or_kind(ErrorKind::BundleBuildFailed, cannot)?,
        };
        let spec = spec::make(&config, &origin).or_kind(ErrorKind::BundleBuildFailed, cannot)?;
        let format = match config.backend.as_deref() {
            Some(WASM) => Format::Wasm,
            Some(KRUN) => Format::MicroVm,
            _ => Format::OciRuntime,
        };
        Ok(Draft { store: &self.store, image, spec, mappings, format, module, root: config.root })
    }

    /// Removes a bundle with everything that a container has written to it.
    pub fn remove(&self, bundle: &Path) -> Result<()> {
        tree::remove(bundle)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    OciRuntime,
    Wasm,
    MicroVm,
}

/// A bundle that is decided and not yet made.
pub struct Draft<'a> {
    store: &'a ImageStore,
    image: &'a Image,
    spec: Spec,
    mappings: Option<IdMappings>,
    format: Format,
    module: Option<Module>,
    root: RootMode,
}

impl Draft<'_> {
    /// The configuration.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The configuration, to be changed.
    pub fn spec_mut(&mut self) -> &mut Spec {
        &mut self.spec
    }

    /// Has the container in a user namespace with these ids of the host: what it writes to its root belongs to them.
    pub fn map_ids(&mut self, mappings: IdMappings) {
        let mut linux = self.spec.linux().clone().unwrap_or_default();
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        let mut user = LinuxNamespace::default();
        user.set_typ(LinuxNamespaceType::User);
        namespaces.push(user);
        linux.set_namespaces(Some(namespaces));
        linux.set_uid_mappings(Some(mappings.uids));
        linux.set_gid_mappings(Some(mappings.gids));
        self.spec.set_linux(Some(linux));
    }

    /// Makes the bundle in `directory`, which must be empty or not exist, or be what a process has left that died while it was
    /// making one. When that fails, what was made is removed.
    pub fn write(mut self, directory: &Path) -> Result<Bundle> {
        let cannot = || format!("cannot make bundle '{}'", directory.display());
        let existed = directory.exists();
        std::fs::create_dir_all(directory).or_kind(ErrorKind::BundleBuildFailed, cannot)?;
        let path = std::fs::canonicalize(directory).or_kind(ErrorKind::BundleBuildFailed, cannot)?;
        let made = Building::begin(&path).and_then(|building| match self.fill(&path) {
            Ok(bundle) => building.finish().map(|()| bundle),
            Err(e) => {
                building.abandon();
                Err(e)
            }
        });
        made.or_kind(ErrorKind::BundleBuildFailed, cannot).inspect_err(|_| {
            if !existed {
                let _ = std::fs::remove_dir(&path);
            }
        })
    }

    fn fill(&mut self, path: &Path) -> Result<Bundle> {
        // Until the configuration says which layers the bundle uses, nobody may clean the store.
        let _shared = self.store.lock_shared()?;
        self.image.check(self.store)?;
        let rootfs = path.join(ROOTFS);
        std::fs::create_dir(&rootfs)?;
        match self.root {
            _ if self.image.layers().is_empty() => {}
            RootMode::Overlay => root::overlay(self.store, self.image, path, &mut self.spec)?,
            RootMode::Copy => copy::layers(self.image.layers(), &rootfs, self.mappings.as_ref())?,
        }
        let module = self.place_module(path, &rootfs)?;
        std::fs::write(path.join("config.json"), serde_json::to_vec(&self.spec)?)?;
        let path = path.to_owned();
        Ok(match (self.format, module) {
            (Format::Wasm, Some(module)) => Bundle::Wasm { path, module },
            (Format::MicroVm, _) => Bundle::MicroVm { path },
            _ => Bundle::OciRuntime { path },
        })
    }

    /// Puts the module of an artifact into the root file system, where the program of a container is.
    fn place_module(&self, path: &Path, rootfs: &Path) -> Result<Option<PathBuf>> {
        match &self.module {
            Some(Module::Blob(hex)) => {
                let digest = format!("sha256:{}", hex.display()).parse()?;
                let module = rootfs.join(MODULE);
                std::fs::copy(self.store.blobs().path(&digest), &module)?;
                Ok(Some(module))
            }
            Some(Module::InRoot(name)) => Ok(Some(path.join(ROOTFS).join(name))),
            None => Ok(None),
        }
    }
}
