//! Images: names, sources, the store, safe unpacking, and bundles made from them.
//!
//! ```no_run
//! use magikrun::image::{BundleBuilder, ImageService, OciContainerConfig};
//!
//! # fn main() -> magikrun::Result<()> {
//! let images = ImageService::new()?;
//! let image = images.pull("registry.example/app:1.0")?;
//! let builder = BundleBuilder::with_storage(images.storage().clone())?;
//! let bundle = builder.build_oci_bundle(&image, &OciContainerConfig {
//!     name: "my-container".to_owned(),
//!     command: Some(vec!["/bin/sh".to_owned()]),
//!     ..Default::default()
//! })?;
//! println!("{}", bundle.path().display());
//! # Ok(()) }
//! ```

pub mod bundle;
pub mod extract;
#[expect(clippy::module_inception, reason = "the type of the module's name")]
pub mod image;
pub mod login;
pub mod manifest;
pub mod mount;
mod opaque;
pub mod platform;
pub mod progress;
mod pull;
mod push;
pub mod reference;
pub mod save;
pub mod service;
pub mod source;
pub mod store;
mod transfer;

pub use crate::platform::detect::{Arch, Capability, Os, Platform};
pub use bundle::{Bundle, BundleBuilder, OciContainerConfig, RootMode, Seccomp, image_mount, open_module};
pub use image::Image;
pub use reference::{Location, Reference};
pub use service::{ImageService, PullOptions, PullPolicy};
pub use source::Secret;
pub use store::{ImageRecord, ImageStore};
