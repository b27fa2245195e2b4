//! The built binary: its format, its size and its version.
mod common;

use common::{finish, release_path, runtime_path};
use std::fs;
use std::process::Command;

const ET_EXEC: u16 = 2;
const PT_INTERP: u32 = 3;
const SIZE_LIMIT: u64 = 32 * 1024 * 1024;

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

/// The types of the program headers of a 64-bit ELF file.
fn segments(bytes: &[u8]) -> Vec<u32> {
    let table = usize::try_from(u64_at(bytes, 0x20)).expect("an offset");
    let size = usize::from(u16_at(bytes, 0x36));
    let count = usize::from(u16_at(bytes, 0x38));
    (0..count).map(|number| u32_at(bytes, table + number * size)).collect()
}

fn binary() -> Vec<u8> {
    fs::read(runtime_path()).expect("the runtime is readable")
}

#[test]
fn the_binary_is_not_position_independent() {
    let bytes = binary();
    assert_eq!(&bytes[..5], b"\x7fELF\x02", "not a 64-bit ELF file");
    assert_eq!(u16_at(&bytes, 0x10), ET_EXEC);
}

#[test]
fn the_binary_needs_no_dynamic_linker() {
    assert!(!segments(&binary()).contains(&PT_INTERP), "the binary has an interpreter");
}

/// The release binary: the one that `make test` has built and names.
fn release() -> Vec<u8> {
    let path = release_path();
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; 'make' builds it", path.display()))
}

#[test]
fn the_release_binary_is_static_not_position_independent_and_small() {
    let bytes = release();
    assert_eq!(u16_at(&bytes, 0x10), ET_EXEC);
    assert!(!segments(&bytes).contains(&PT_INTERP), "the release binary has an interpreter");
    let size = bytes.len() as u64;
    assert!(size < SIZE_LIMIT, "{size} bytes are more than {SIZE_LIMIT}");
}

#[test]
fn the_version_has_three_lines_that_callers_read() {
    let mut command = Command::new(runtime_path());
    command.arg("--version");
    let text = finish(command, None).success().stdout;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() >= 3, "{text}");
    let version = lines[0].strip_prefix("magikrun version ").expect("the name and the version");
    assert_eq!(version.split('.').count(), 3, "{text}");
    assert!(version.starts_with(|first: char| first.is_ascii_digit()), "{text}");
    assert!(lines[1].starts_with("commit: "), "{text}");
    assert_eq!(lines[2], "spec: 1.3.0");
}

#[test]
fn help_is_printed_on_standard_output_and_names_every_command() {
    let mut command = Command::new(runtime_path());
    command.arg("--help");
    let text = finish(command, None).success().stdout;
    for name in [
        "create", "start", "state", "kill", "delete", "exec", "run", "list", "ps", "pause", "resume",
        "update",
    ] {
        assert!(text.contains(name), "{name} is missing in: {text}");
    }
}
