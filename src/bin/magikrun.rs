//! The magikrun executable.

fn main() {}
