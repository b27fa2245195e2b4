//! The host's side of what is said to a microVM: `vminit`, the first process of the guest, answers. The guest is hostile: what it sends is
//! limited in size, every wait has a deadline, and nothing that it says is believed further than its type goes.

pub mod client;
pub mod connection;
pub mod memory;
pub mod session;

pub use client::Guest;
pub use vm_protocol as protocol;
