//! What this host can do, and the system calls that no library wraps safely.

pub mod confinement;
pub mod detect;
pub mod memory;
pub mod parallel;
pub mod raw;
pub mod read_only;
pub mod selfexe;
pub mod small_file;
pub mod socket;
pub mod stdio;
pub mod sys;
pub mod userns;
pub mod worker;
