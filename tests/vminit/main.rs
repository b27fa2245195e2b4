//! The first process of a microVM, without the microVM.
mod command;
#[path = "../common/mod.rs"]
mod common;
mod control;
mod exec;
mod hostile;
mod input;
mod life;
mod machine;
mod members;

/// Largest release binary, in bytes: it is in the memory of every guest.
const SIZE_LIMIT: u64 = 3 << 20;

#[test]
fn the_program_is_static_and_small() {
    // The dev profile keeps symbols and checks; the release binary is measured where `make` has built it.
    let release = std::env::var_os("MAGIKRUN_RELEASE").map(std::path::PathBuf::from);
    let path = release.map_or_else(machine::vminit, |release| release.with_file_name("vminit"));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; 'make' builds it", path.display()));
    assert_eq!(bytes[..5], *b"\x7fELF\x02", "not a 64-bit ELF file");
    assert_eq!(bytes[0x10..0x12], [2, 0], "it is position independent");
    let limit = if path.to_string_lossy().contains("/release/") { SIZE_LIMIT } else { 16 << 20 };
    assert!((bytes.len() as u64) < limit, "{} bytes are more than {limit}", bytes.len());
}
