//! Networks without privileges through pasta(1), of Debian's package passt: its arguments, and its process.

mod arguments;
mod process;

pub use arguments::{Forward, pasta};
pub use process::{Pasta, start};
