//! What is on disk: state records, locks, atomic writes, the blob store and the operator's configuration.

pub mod atomic;
pub mod blobs;
pub mod cache;
pub mod config;
pub mod config_file;
pub mod lock;
pub mod overview;
pub mod state_root;
pub mod tree;
pub mod trust;
