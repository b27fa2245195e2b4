//! What this host can do, and the system calls that no library wraps safely.

pub mod sys;
