//! What this host can do, and the system calls that no library wraps safely.

pub mod selfexe;
pub mod sys;
