//! The root file system of a container: a plan made from the configuration by the parent, carried out by the child.
//!
//! Everything inside the root is reached by descriptor and never twice by path (see `resolve`); mounts are made
//! detached and attached last (see `attach`).

mod attach;
mod cgroup_mounts;
mod classic;
mod copy_up;
mod devices;
mod enter;
mod idmap;
mod masks;
mod mounts;
mod null;
mod options;
mod overlay;
mod plan;
mod prepare;
mod resolve;

pub use enter::{enter, enter_inner, finish};
pub use options::known_mount_options;
pub use plan::{CgroupMount, IdMappings, PlanContext, RootfsPlan};
pub use prepare::{Prepared, prepare, unescape};
