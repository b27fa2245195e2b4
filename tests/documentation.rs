//! The man pages say what the command line takes, and the other way round.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name)
}

/// Pages of other programs, whose own tests hold them against their command lines.
const OTHERS: [&str; 2] = ["containerd-shim-magikrun-v2.8", "vminit.8"];

/// Options that every command has, described in magikrun(8).
const EVERYWHERE: [&str; 1] = ["--help"];

/// The options that the help of a command and of the commands below it shows: `--long` and `-s`.
fn options(command: &clap::Command) -> BTreeSet<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional());
    let names = shown.flat_map(|arg| {
        let long = arg.get_long().map(|name| format!("--{name}"));
        let short = arg.get_short().map(|letter| format!("-{letter}"));
        [long, short]
    });
    let own = names.flatten().filter(|name| !EVERYWHERE.contains(&name.as_str()) && name != "-h");
    // The command line itself has a page for each of its commands.
    let below = command.get_subcommands().filter(|_| command.get_name() != "magikrun").flat_map(options);
    own.chain(below).collect()
}

/// The options that the section OPTIONS, or GLOBAL OPTIONS, of a page describes: the line after each `.TP`.
fn described(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut found = BTreeSet::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line != ".TP" {
            continue;
        }
        let head = lines.next().unwrap_or_default().replace("\\-", "-");
        for word in head.split(|c: char| c.is_whitespace() || matches!(c, ',' | '=' | '\\')) {
            // Fonts are escapes as in \fB: what is left of them starts the word.
            let word = word.trim_start_matches("fB").trim_start_matches("fR").trim_start_matches("fI");
            if word.starts_with('-') && word.len() > 1 {
                found.insert(word.to_owned());
            }
        }
    }
    found.retain(|name| !EVERYWHERE.contains(&name.as_str()) && name != "-h");
    found
}

#[test]
fn every_command_has_a_page_with_its_options_and_no_others() {
    let mut command = magikrun::cli::command();
    command.build();
    assert_eq!(described(&page("magikrun.8")), options(&command), "magikrun.8");
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("magikrun-{}.8", sub.get_name());
        assert_eq!(described(&page(&name)), options(sub), "{name}");
    }
}

#[test]
fn every_page_belongs_to_a_command_and_names_it() {
    let command = magikrun::cli::command();
    let overview = std::fs::read_to_string(page("magikrun.8")).unwrap();
    for entry in std::fs::read_dir(page("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name == "magikrun.8" || OTHERS.contains(&name.as_str()) {
            continue;
        }
        let sub = name.strip_prefix("magikrun-").and_then(|n| n.strip_suffix(".8")).unwrap();
        assert!(command.find_subcommand(sub).is_some(), "{name} describes no command");
        assert!(overview.contains(sub), "magikrun.8 does not name {sub}");
    }
}

#[test]
fn the_pages_are_well_formed() {
    let pages = std::fs::read_dir(page("")).unwrap().map(|entry| entry.unwrap().path());
    let output = std::process::Command::new("man").arg("-l").arg("--warnings=w").args(pages).output();
    let output = output.expect("this test needs man(1): Debian package man-db");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
