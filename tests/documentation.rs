//! The man pages say what the command line takes, and the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(page(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Pages of other programs, whose own tests hold them against their command lines.
const OTHERS: [&str; 3] = ["containerd-shim-magikrun-v2.8", "magikrun-krun.8", "vminit.8"];
/// Pages that describe no command, each with a test below.
const FORMATS: [&str; 3] = ["magikrun-annotations.7", "magikrun-pod.5", "magikrun.toml.5"];

/// Options that every command has, described in magikrun(8).
const EVERYWHERE: [&str; 1] = ["--help"];

/// The options that the help of a command shows: `--long` and `-s`.
fn options(command: &clap::Command) -> BTreeSet<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional());
    let names = shown.flat_map(|arg| {
        let long = arg.get_long().map(|name| format!("--{name}"));
        let short = arg.get_short().map(|letter| format!("-{letter}"));
        [long, short]
    });
    names.flatten().filter(|name| !EVERYWHERE.contains(&name.as_str()) && name != "-h").collect()
}

/// The options that a page, or a part of one, describes: the line after each `.TP`.
fn described(text: &str) -> BTreeSet<String> {
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

/// The commands below a command, that which shows their help excepted.
fn below(command: &clap::Command) -> impl Iterator<Item = &clap::Command> {
    command.get_subcommands().filter(|sub| sub.get_name() != "help")
}

/// Holds a page against a command: options in its text, commands below it as subsections of COMMANDS with theirs.
fn check_page(name: &str, command: &clap::Command) {
    let text = read(name);
    let own = options(command);
    let (rest, parts) = match text.split_once(".SH COMMANDS\n") {
        Some((before, after)) if below(command).next().is_some() => {
            let (commands, after) = after.split_once(".SH ").unwrap_or((after, ""));
            (format!("{before}.SH {after}"), commands.split(".SS ").skip(1).map(str::to_owned).collect())
        }
        _ => (text, Vec::new()),
    };
    assert_eq!(described(&rest), own, "{name}");
    let parts: Vec<(String, &str)> = parts
        .iter()
        .map(|part: &String| part.split_once('\n').expect("a title"))
        .map(|(title, text)| (title.replace("\\-", "-"), text))
        .collect();
    let titles: Vec<&str> = parts.iter().map(|(title, _)| title.as_str()).collect();
    assert_eq!(titles, below(command).map(clap::Command::get_name).collect::<Vec<_>>(), "{name}");
    for (sub, (title, text)) in below(command).zip(&parts) {
        assert!(
            text.replace("\\-", "-").starts_with(&format!("\\fB{title}\\fR")),
            "{name}: {title} has no synopsis"
        );
        // What holds for all of them is described once.
        let its: BTreeSet<String> = options(sub).difference(&own).cloned().collect();
        assert_eq!(described(text), its, "{name}: {title}");
    }
}

#[test]
fn every_command_has_a_page_with_its_options_and_no_others() {
    let mut command = magikrun::cli::command();
    command.build();
    assert_eq!(described(&read("magikrun.8")), options(&command), "magikrun.8");
    for sub in below(&command) {
        check_page(&format!("magikrun-{}.8", sub.get_name()), sub);
    }
}

#[test]
fn every_page_belongs_to_a_command_and_names_it() {
    let command = magikrun::cli::command();
    let overview = read("magikrun.8");
    for entry in std::fs::read_dir(page("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if FORMATS.contains(&name.as_str()) {
            let (title, section) = name.rsplit_once('.').unwrap();
            let named = format!("{} ({section})", title.replace('-', "\\-"));
            assert!(overview.contains(&named), "magikrun.8 does not refer to {named}");
            continue;
        }
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

/// The text of a page without the escapes of hyphens and fonts.
fn plain(name: &str) -> String {
    let text = read(name);
    text.replace("\\-", "-").replace("\\(aq", "'").replace("\\(ha", "^").replace("\\(dq", "\"")
}

/// What a page has in bold: the names that it describes.
fn bold(name: &str) -> BTreeSet<String> {
    let text = plain(name);
    let words = text.split("\\fB").skip(1).filter_map(|rest| rest.split("\\fR").next());
    words.map(|word| word.trim().to_owned()).collect()
}

/// The commands in the examples of a page: lines between `.nf` and `.fi`.
fn examples(name: &str) -> Vec<String> {
    let text = plain(name);
    let Some((_, examples)) = text.split_once(".SH EXAMPLES\n") else { return Vec::new() };
    let examples = examples.split(".SH ").next().unwrap();
    let blocks = examples.split(".nf\n").skip(1).filter_map(|rest| rest.split(".fi").next());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// The words of a line as a shell has them, with its operators as words of their own.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => all.extend(word.take()),
            (None, '|' | '>' | '<' | ';' | '&' | '(' | ')') => {
                all.extend(word.take());
                all.push(c.to_string());
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    all.extend(word);
    all
}

/// The commands of ours in a line.
fn calls(line: &str) -> Vec<Vec<String>> {
    let all = words(line);
    let operator = |word: &String| matches!(word.as_str(), "|" | ">" | "<" | ";" | "&" | "(" | ")");
    all.split(operator)
        .filter(|call| call.first().is_some_and(|word| word == "magikrun"))
        .map(<[_]>::to_vec)
        .collect()
}

#[test]
fn the_examples_of_the_pages_are_commands_that_exist() {
    for entry in std::fs::read_dir(page("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let calls: Vec<_> = examples(&name).iter().flat_map(|line| calls(line)).collect();
        let needed = name.ends_with(".8") && !OTHERS.contains(&name.as_str());
        assert!(!needed || !calls.is_empty(), "{name} has no example");
        for call in calls {
            let parsed = magikrun::cli::command().try_get_matches_from(&call);
            assert!(parsed.is_ok(), "{name}: {}: {}", call.join(" "), parsed.unwrap_err());
        }
    }
}

#[test]
fn the_page_of_annotations_names_those_that_have_an_effect_and_no_others() {
    let names = bold("magikrun-annotations.7");
    let known = magikrun::runtime::validate::unsafe_annotations();
    for name in &known {
        assert!(names.contains(*name), "{name} is not described");
    }
    let ours =
        names.iter().filter(|name| name.starts_with("org.magikrun.") && name.len() > "org.magikrun.".len());
    for name in ours {
        assert!(known.contains(&name.as_str()), "{name} is described and does not exist");
    }
}

#[test]
fn the_page_of_the_configuration_has_every_key_and_no_others() {
    let known = serde_json::to_value(magikrun::storage::config::Config::default()).unwrap();
    let tables = known.as_object().unwrap();
    let text = plain("magikrun.toml.5");
    for (table, keys) in tables {
        let section = text.split(&format!(".SH [{table}]\n")).nth(1).unwrap_or_else(|| panic!("[{table}]"));
        let section = section.split(".SH ").next().unwrap();
        let described: BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("\\fB")?.split_once("\\fR = ").map(|(key, _)| key))
            .collect();
        let keys: BTreeSet<&str> = keys.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(described, keys, "[{table}]");
        for key in keys.iter().filter_map(|key| Some((key, known[table][key].as_u64()?))) {
            assert!(section.contains(&format!("\\fB{}\\fR = \\fI{}\\fR", key.0, key.1)), "{key:?}");
        }
    }
    assert_eq!(text.matches(".SH [").count(), tables.len());
    let example = examples("magikrun.toml.5").join("\n");
    toml::from_str::<magikrun::storage::config::Config>(&example).unwrap();
}

#[test]
fn the_page_of_the_manifest_has_every_field_of_pods_containers_and_volumes() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pod/manifest");
    let tables =
        ["fields.rs", "fields/volumes.rs"].map(|name| std::fs::read_to_string(source.join(name)).unwrap());
    let names = bold("magikrun-pod.5");
    for kind in ["PodSpec", "Container", "Probe", "SecurityContext", "PodSecurityContext", "Volume"] {
        let start = format!("name: \"{kind}\",");
        let table =
            tables.iter().find_map(|text| text.split_once(&start)).unwrap_or_else(|| panic!("{kind}")).1;
        for line in table.split("\n    ],").next().unwrap().lines() {
            let Some((field, rule)) =
                line.trim().strip_prefix("(\"").and_then(|rest| rest.split_once("\", "))
            else {
                continue;
            };
            let supported =
                rule.starts_with("Plain") || rule.starts_with("Object") || rule.starts_with("List");
            assert!(names.contains(field) || !supported, "{kind}.{field}");
        }
    }
    let manifest = examples("magikrun-pod.5").join("\n");
    magikrun::pod::PodSpec::from_yaml(manifest).unwrap();
}

/// The fields of a section of the manifest's page, each as `TYPE.FIELD`.
fn listed(section: &str) -> BTreeSet<String> {
    let text = plain("magikrun-pod.5");
    let section = text.split(&format!(".SH {section}\n")).nth(1).unwrap().split("\n.SH ").next().unwrap();
    let word = regex_lite::Regex::new(r"\\f([BI])(\w+)\\fR").unwrap();
    let mut kind = String::new();
    let mut all = BTreeSet::new();
    for found in word.captures_iter(section) {
        if &found[1] == "B" {
            found[2].clone_into(&mut kind);
        } else {
            assert!(all.insert(format!("{kind}.{}", &found[2])), "{kind}.{} is listed twice", &found[2]);
        }
    }
    all
}

#[test]
fn the_page_of_the_manifest_has_every_field_that_is_refused_or_has_no_effect_and_no_others() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pod/manifest");
    let read = |name: &str| std::fs::read_to_string(source.join(name)).unwrap();
    let tables = read("fields.rs") + &read("fields/volumes.rs");
    let table = regex_lite::Regex::new(r#"name: "(\w+)",\s+fields: &\[([^\]]*)\]"#).unwrap();
    let field = regex_lite::Regex::new(r#"\("(\w+)", (\w+)"#).unwrap();
    let mut rules: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for kind in table.captures_iter(&tables) {
        for found in field.captures_iter(&kind[2]) {
            let path = format!("{}.{}", &kind[1], &found[1]);
            rules.entry(found[2].to_owned()).or_default().insert(path);
        }
    }
    assert!(rules.values().map(BTreeSet::len).sum::<usize>() > 250, "all tables are found");
    assert_eq!(listed("REFUSED"), rules["Refused"]);
    assert_eq!(listed("WITHOUT EFFECT"), rules["Harmless"]);
}

/// The crates that a manifest depends on, those of its tests excepted.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let document: toml::Table = toml::from_str(&std::fs::read_to_string(manifest).unwrap()).unwrap();
    let all = document["dependencies"].as_table().unwrap().iter();
    // What is of this repository is no dependency.
    all.filter(|(_, how)| how.get("path").is_none()).map(|(name, _)| name.clone()).collect()
}

#[test]
fn every_dependency_has_a_line_that_says_what_it_is_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let design = std::fs::read_to_string(root.join("docs/design.md")).unwrap();
    let section = design.split("## Dependencies\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let described: BTreeSet<&str> =
        section.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).collect();
    let mut all = dependencies(&root.join("Cargo.toml"));
    for entry in std::fs::read_dir(root.join("shims")).unwrap() {
        all.extend(dependencies(&entry.unwrap().path().join("Cargo.toml")));
    }
    for name in &all {
        assert!(described.contains(name.as_str()), "{name} has no line in docs/design.md");
    }
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let listed = rows.flat_map(|row| row.split([',', '('])).map(|name| name.trim().trim_end_matches(')'));
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap();
    for name in listed.filter(|name| !name.is_empty() && *name != "crate" && !name.contains(' ')) {
        assert!(lock.contains(&format!("name = \"{name}\"\n")), "{name} is described and not used");
    }
}

/// The last line that a shell prints.
fn in_shell(shell: &str, program: &str) -> String {
    let mut command = std::process::Command::new(shell);
    command.args(if shell == "bash" { &["--norc", "-c"][..] } else { &["-c"] }).arg(program);
    let output = command.output().unwrap_or_else(|e| panic!("this test needs {shell}: {e}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn shells_complete_the_ids_of_what_exists() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let runtime = env!("CARGO_BIN_EXE_magikrun");
    // It completes what the program prints; here one that knows a container, an image and a pod.
    let stand_in = "#!/bin/sh\ncase \"$*\" in\n'list --quiet') echo web1 ;;\n'image list'*) printf 'NAME ID\\nbox:1 x\\n' ;;\n\
                    'pod list --quiet') echo pod1 ;;\nesac\n";
    std::fs::write(at("magikrun"), stand_in).unwrap();
    std::fs::set_permissions(at("magikrun"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("export PATH={}:$PATH\n", dir.path().display());
    for (line, expected) in [
        ("magikrun start w", "web1"),
        ("magikrun --root x exec w", "web1"),
        ("magikrun image rm b", "box:1"),
        ("magikrun pod exec p", "pod1"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let bash = format!(
            "{path}source <({runtime} completion bash)\nCOMP_WORDS=({line})\nCOMP_CWORD={}\n\
             _magikrun_lists magikrun {} {}\necho \"${{COMPREPLY[@]}}\"\n",
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        assert!(in_shell("bash", &bash).split_whitespace().any(|word| word == expected), "bash: {line}");
        let fish = format!(
            "set -x PATH {} $PATH\n{runtime} completion fish | source\ncomplete -C '{line}'\n",
            dir.path().display()
        );
        assert!(in_shell("fish", &fish).split_whitespace().any(|word| word == expected), "fish: {line}");
    }
    let zsh = format!(
        "{runtime} completion zsh > {0}/_magikrun && zsh -n {0}/_magikrun && echo good",
        dir.path().display()
    );
    assert_eq!(in_shell("sh", &zsh), "good\n");
}

#[test]
fn the_table_of_limits_has_every_constant_and_no_others() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(root.join("src/limits.rs")).unwrap();
    let constants: BTreeSet<&str> =
        source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next()).collect();
    let document = std::fs::read_to_string(root.join("docs/compatibility.md")).unwrap();
    let listed: BTreeSet<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        .collect();
    assert_eq!(listed, constants);
    let keys = serde_json::to_value(magikrun::storage::config::Config::default()).unwrap();
    let tables = ["limits.", "wasm.max", "timeouts.", "vm."];
    let is_key = |word: &&str| tables.iter().any(|table| word.starts_with(table)) && !word.contains(' ');
    for key in document.split('`').filter(is_key) {
        let (table, key) = key.split_once('.').unwrap();
        assert!(keys[table].get(key).is_some(), "{table}.{key}");
    }
}
