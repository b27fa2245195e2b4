//! Networks without privileges through pasta(1), and those of virtual machines through passt(1), both of Debian's package passt:
//! their arguments, and their processes.

mod arguments;
mod ping;
mod process;

pub use arguments::{Forward, passt, pasta};
pub use ping::allow_ping;
pub use process::{Pasta, connect, start};
