//! The table in `docs/cve.md`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every advisory of runc, crun and youki that was published from 2019 to September 2026, and one from before that still
/// decides how processes enter containers. New ones are added here first.
const PUBLISHED: [&str; 35] = [
    "CVE-2016-9962",
    "CVE-2019-5736",
    "CVE-2019-16884",
    "CVE-2019-18837",
    "CVE-2019-19921",
    "GHSA-g54h-m393-cpwq",
    "CVE-2021-30465",
    "CVE-2021-43784",
    "CVE-2022-24769",
    "CVE-2022-27650",
    "CVE-2022-29162",
    "CVE-2023-25809",
    "CVE-2023-27561",
    "CVE-2023-28642",
    "CVE-2024-3154",
    "GHSA-c5pj-mqfh-rvc3",
    "CVE-2024-21626",
    "CVE-2024-45310",
    "CVE-2025-24965",
    "CVE-2025-27612",
    "CVE-2025-31133",
    "CVE-2025-52565",
    "CVE-2025-52881",
    "CVE-2025-54867",
    "CVE-2025-62161",
    "CVE-2025-62596",
    "CVE-2026-30892",
    "CVE-2026-41579",
    "GHSA-xjvp-4fhw-gc47",
    "CVE-2026-47766",
    "GHSA-7vwr-4279-7gq5",
    "CVE-2026-84042",
    "CVE-2026-88264",
    "CVE-2026-88265",
    "GHSA-f42g-r5jj-qh4j",
];

/// Every advisory of the crates of wasmtime that the backend uses, from 2023 to October 2026.
const ENGINE: [&str; 48] = [
    "CVE-2023-26489",
    "CVE-2023-27477",
    "CVE-2023-30624",
    "CVE-2023-41880",
    "CVE-2024-30266",
    "CVE-2024-47763",
    "CVE-2024-47813",
    "CVE-2024-51745",
    "CVE-2025-53901",
    "CVE-2025-61670",
    "CVE-2025-62711",
    "CVE-2025-64345",
    "CVE-2026-24116",
    "CVE-2026-27195",
    "CVE-2026-27204",
    "CVE-2026-27572",
    "CVE-2026-34941",
    "CVE-2026-34942",
    "CVE-2026-34943",
    "CVE-2026-34944",
    "CVE-2026-34945",
    "CVE-2026-34946",
    "CVE-2026-34971",
    "CVE-2026-34983",
    "CVE-2026-34987",
    "CVE-2026-34988",
    "CVE-2026-35186",
    "CVE-2026-35195",
    "GHSA-p8xm-42r7-89xg",
    "CVE-2026-47261",
    "CVE-2026-54786",
    "CVE-2026-58494",
    "GHSA-hgjw-h833-99q9",
    "GHSA-2hw9-mc66-jc2q",
    "GHSA-x84v-gj2h-g759",
    "GHSA-vqjp-4c8c-hfgg",
    "GHSA-c9gc-w9vx-w86p",
    "GHSA-j2g9-4prp-pf6h",
    "GHSA-m63x-6p34-q65x",
    "GHSA-jqpg-j7w6-42pr",
    "GHSA-w4qr-p94g-mjhv",
    "GHSA-j366-h8gg-77pm",
    "GHSA-gqmc-89g8-p25r",
    "GHSA-96f6-r43r-8c24",
    "GHSA-mr2v-56j5-cmfc",
    "GHSA-cfhf-m2cr-62wj",
    "GHSA-hw8m-q44c-ggrf",
    "GHSA-32h6-97mm-8q3c",
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of the table: the advisories, and what is written of the replay.
fn rows() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(repository().join("docs/cve.md")).expect("docs/cve.md");
    let lines = text.lines().filter(|line| line.starts_with("| CVE") || line.starts_with("| GHSA"));
    lines
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 4, "a row has four cells: {line}");
            (cells[0].to_owned(), cells[3].to_owned())
        })
        .collect()
}

/// Every test of this crate, and of the one that runs in an emulated machine, as `module::name`.
fn tests() -> Vec<String> {
    [tests_in("tests/cve"), tests_in("tests/microvm")].concat()
}

fn tests_in(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(repository().join(folder)).expect("the folder of the tests") {
        let path: PathBuf = entry.expect("an entry").path();
        let module = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a test file");
        for part in text.split("#[test]\nfn ").skip(1) {
            found.push(format!("{module}::{}", part.split('(').next().expect("a name")));
        }
    }
    found
}

#[test]
fn every_published_advisory_has_a_row() {
    let rows = rows();
    for id in PUBLISHED.iter().chain(&ENGINE) {
        let written = rows.iter().filter(|(ids, _)| ids.contains(*id)).count();
        assert_eq!(written, 1, "{id} must have one row in docs/cve.md");
    }
}

#[test]
fn every_row_names_a_test_that_exists_or_says_why_there_is_none() {
    let tests = tests();
    for (ids, replay) in rows() {
        let named: Vec<_> = replay.split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect();
        assert!(!named.is_empty() || replay.starts_with("cannot apply: "), "{ids}: '{replay}'");
        for name in named {
            assert!(tests.iter().any(|test| test == name), "{ids} names '{name}', which does not exist");
        }
    }
}

#[test]
fn every_replay_belongs_to_a_row() {
    let rows: BTreeMap<_, _> = rows().into_iter().collect();
    for test in tests_in("tests/cve").iter().filter(|test| !test.starts_with("document::")) {
        assert!(
            rows.values().any(|replay| replay.contains(&format!("`{test}`"))),
            "{test} is not in docs/cve.md"
        );
    }
}
