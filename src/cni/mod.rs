//! Networks through plugins of the Container Network Interface, versions 0.3 to 1.1 of its specification.
//!
//! A [`Network`] is a configuration of the administrator's: a chain of plugins. An [`Attachment`] connects one network
//! namespace to it, and is kept until the plugins have taken everything back.

mod attachment;
mod call;
mod network;
mod plugin;

pub use attachment::Attachment;
pub use call::PortMapping;
pub use network::Network;
