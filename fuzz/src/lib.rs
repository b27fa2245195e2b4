//! What is fuzzed. `tests/fuzz` of magikrun includes the same functions and drives them without a fuzzer.

pub mod targets;
