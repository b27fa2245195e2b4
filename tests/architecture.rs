//! The shape of the source: which way dependencies point, where unsafe code may be, how long files are.

use std::path::{Path, PathBuf};

/// The modules from the top down: each may use those after it.
const LAYERS: [&[&str]; 8] = [
    &["cli"],
    &["pod"],
    &["runtime", "image", "infra", "cni"],
    &["passt", "vm"],
    &["storage"],
    &["platform"],
    &["undo"],
    &["error", "limits"],
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The other executables.
fn shims() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("shims")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|names| names.contains(&module)).unwrap_or_else(|| panic!("{module} has no layer"))
}

/// The module below `src/` that a file belongs to.
fn module(path: &Path) -> String {
    let first = path.strip_prefix(source()).unwrap().components().next().unwrap();
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn dependencies_point_one_way() {
    for path in files(&source()) {
        let own = module(&path);
        if matches!(own.as_str(), "lib" | "bin") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("crate::") {
            let name: String = text[at + 7..].chars().take_while(char::is_ascii_lowercase).collect();
            // Macros and re-exports of the crate's root.
            if name == own || name.is_empty() || name == "bail" {
                continue;
            }
            assert!(layer(&name) > layer(&own), "{} uses {name}", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_in_one_place() {
    let allowed = source().join("platform/sys");
    // Compiled code becomes executable there: nothing that the compiler could check.
    let loader = source().join("runtime/wasm/load.rs");
    let fenced = |path: &Path| {
        path.starts_with(&allowed)
            || path == loader
            || path == source().join("platform/sys.rs")
            || path.ends_with("ffi.rs")
    };
    for path in files(&source()).into_iter().chain(files(&shims())) {
        let text = std::fs::read_to_string(&path).unwrap();
        if fenced(&path) {
            continue;
        }
        assert!(!text.contains("unsafe {") && !text.contains("allow(unsafe_code)"), "{}", path.display());
    }
}

#[test]
fn only_the_wasm_backend_has_an_executor() {
    for path in files(&source()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let own = path.starts_with(source().join("runtime/wasm"));
        assert!(own || !text.contains("tokio::"), "{}", path.display());
    }
}

#[test]
fn files_are_short() {
    for path in files(&source()).into_iter().chain(files(&shims())) {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 500, "{} has {lines} lines", path.display());
    }
}
