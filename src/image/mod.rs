//! Images, and the platform that they are for.

pub use crate::platform::detect::{Arch, Capability, Os, Platform};
