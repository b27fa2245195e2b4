//! What `make deb` and `make dist` make: the same bytes each time, and nothing that stays when the package goes. Executables that
//! stand in for ours keep that fast; one package is of those of the release.
mod common;

use common::{Output, finish, release_path, require_program};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Executables that answer what packaging asks.
fn stand_ins(dir: &Path) -> [PathBuf; 3] {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        common::write_script(&path, text);
        path
    };
    let ours = "#!/bin/sh\ncase $1 in --version) echo 'magikrun version 9.8.7' ;; completion) echo \"# $2\" ;; esac\n";
    let nothing = "#!/bin/sh\n";
    [write("magikrun", ours), write("containerd-shim-magikrun-v2", nothing), write("vminit", nothing)]
}

/// The executables of the release, which `make test` has built.
fn released() -> [PathBuf; 3] {
    let beside = |name: &str| release_path().with_file_name(name);
    [release_path(), beside("containerd-shim-magikrun-v2"), beside("vminit")]
}

#[track_caller]
fn package(kind: &str, out: &Path) -> Output {
    let programs = tempfile::tempdir().unwrap();
    package_of(stand_ins(programs.path()), kind, out)
}

#[track_caller]
fn package_of([binary, shim, vminit]: [PathBuf; 3], kind: &str, out: &Path) -> Output {
    let mut command = Command::new(root().join("tools/package.sh"));
    command
        .arg(kind)
        .arg(out)
        .env("BINARY", binary)
        .env("SHIM", shim)
        .env("VMINIT", vminit)
        .env("SOURCE_DATE_EPOCH", "1700000000");
    finish(command, None).success()
}

/// Every file of a directory, its name and content.
fn content(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    all.sort();
    all
}

fn dpkg(root: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("dpkg");
    command
        .arg(format!("--root={}", root.display()))
        .args(["--force-depends", "--force-script-chrootless"])
        .args(args);
    finish(command, None).success()
}

/// A root where dpkg has installed nothing.
fn empty_debian() -> TempDir {
    let host = TempDir::new().unwrap();
    for dir in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
        fs::create_dir_all(host.path().join(dir)).unwrap();
    }
    fs::write(host.path().join("var/lib/dpkg/status"), "").unwrap();
    host
}

/// Everything below a directory but what dpkg keeps for itself.
fn installed(root: &Path) -> Vec<String> {
    let mut command = Command::new("find");
    command.arg(root).args(["-mindepth", "1", "-not", "-path", "*/var*", "-printf", "%P %y %m\\n"]);
    let mut lines: Vec<String> = finish(command, None).success().stdout.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn the_debian_package_is_the_same_twice_installs_and_leaves_nothing() {
    for program in ["dpkg", "dpkg-deb", "python3"] {
        require_program(program);
    }
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let said = package("deb", one.path()).stdout;
    package("deb", two.path());
    assert!(content(one.path()) == content(two.path()), "the two packages differ");
    let deb = said.trim();
    assert!(deb.contains("/magikrun_9.8.7_"), "{deb}");
    let host = empty_debian();
    dpkg(host.path(), &["--install", deb]);
    let files = installed(host.path());
    for expected in [
        "usr/bin/magikrun f 755",
        "usr/bin/magikrun-wasm l 777",
        "usr/bin/containerd-shim-magikrun-v2 f 755",
        "usr/bin/containerd-shim-magikrun-wasm-v2 l 777",
        "usr/bin/containerd-shim-magikrun-krun-v2 l 777",
        "usr/bin/krun l 777",
        "usr/libexec/magikrun/vminit f 755",
        "usr/share/man/man8/magikrun.8.gz f 644",
        "usr/share/man/man8/magikrun-doctor.8.gz f 644",
        "usr/share/man/man5/magikrun.toml.5.gz f 644",
        "usr/share/bash-completion/completions/magikrun f 644",
        "usr/share/zsh/site-functions/_magikrun f 644",
        "usr/share/fish/vendor_completions.d/magikrun.fish f 644",
        "usr/share/doc/magikrun/copyright f 644",
        "usr/share/doc/magikrun/changelog.gz f 644",
        "usr/share/doc/magikrun/sbom.cdx.json f 644",
        "usr/share/doc/magikrun/licences/INDEX f 644",
    ] {
        assert!(files.iter().any(|file| file == expected), "{expected} is missing");
    }
    let doc = host.path().join("usr/share/doc/magikrun");
    let index = fs::read_to_string(doc.join("licences/INDEX")).unwrap();
    for crate_name in ["wasmtime-", "rustix-", "libcontainer-", "containerd-shim-protos-"] {
        assert!(index.lines().any(|line| line.starts_with(crate_name)), "{crate_name}");
    }
    assert!(
        !index.contains("tempfile-") || index.contains("containerd-shim"),
        "crates of tests are not listed"
    );
    dpkg(host.path(), &["--purge", "magikrun"]);
    assert_eq!(installed(host.path()), Vec::<String>::new());
}

#[test]
fn the_package_of_the_release_installs_programs_that_run() {
    let (out, host) = (TempDir::new().unwrap(), empty_debian());
    let said = package_of(released(), "deb", out.path()).stdout;
    dpkg(host.path(), &["--install", said.trim()]);
    let bin = host.path().join("usr/bin");
    let places = [
        bin.join("magikrun"),
        bin.join("containerd-shim-magikrun-v2"),
        host.path().join("usr/libexec/magikrun/vminit"),
    ];
    for (built, place) in released().iter().zip(&places) {
        assert!(
            fs::read(built).unwrap() == fs::read(place).unwrap(),
            "{} is not what was built",
            place.display()
        );
    }
    let says = |program: &str, args: &[&str]| {
        let mut command = Command::new(bin.join(program));
        command.args(args);
        finish(command, None).success().stdout
    };
    let version = env!("CARGO_PKG_VERSION");
    assert!(said.contains(&format!("/magikrun_{version}_")), "{said}");
    for program in ["magikrun", "magikrun-wasm", "krun"] {
        assert_eq!(says(program, &["--version"]).lines().next().unwrap().rsplit(' ').next(), Some(version));
    }
    for shim in [
        "containerd-shim-magikrun-v2",
        "containerd-shim-magikrun-wasm-v2",
        "containerd-shim-magikrun-krun-v2",
    ] {
        assert!(says(shim, &["-v"]).contains(version), "{shim}");
    }
    for (shell, place) in [
        ("bash", "bash-completion/completions/magikrun"),
        ("zsh", "zsh/site-functions/_magikrun"),
        ("fish", "fish/vendor_completions.d/magikrun.fish"),
    ] {
        let script = fs::read_to_string(host.path().join("usr/share").join(place)).unwrap();
        assert!(script == says("magikrun", &["completion", shell]), "{place}");
    }
}

#[test]
fn tarballs_are_the_same_twice_and_their_checksums_hold() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    package("dist", one.path());
    package("dist", two.path());
    let files = content(one.path());
    assert!(files == content(two.path()), "the two differ");
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(files.len(), 4, "{names:?}");
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict", "magikrun-9.8.7.sha256"]).current_dir(one.path());
    finish(check, None).success();
    let mut list = Command::new("tar");
    list.args(["--list", "--verbose", "--numeric-owner", "--file"]);
    list.arg(one.path().join(names.iter().find(|name| name.contains("linux")).unwrap()));
    let listing = finish(list, None).success().stdout;
    assert!(listing.lines().all(|line| line.contains(" 0/0 ") && line.contains("2023-11-14")), "{listing}");
    let sbom = &files.iter().find(|(name, _)| name.ends_with(".cdx.json")).unwrap().1;
    let sbom: serde_json::Value = serde_json::from_slice(sbom).unwrap();
    assert_eq!((sbom["bomFormat"].as_str(), sbom["specVersion"].as_str()), (Some("CycloneDX"), Some("1.5")));
    let components = sbom["components"].as_array().unwrap();
    let has = |name: &str| components.iter().any(|component| component["name"] == name);
    assert!(has("wasmtime") && has("libseccomp") && has("containerd-shim-magikrun") && !has("wait-timeout"));
    let all_licensed = components
        .iter()
        .all(|component| component["licenses"].is_array() || component["type"] == "application");
    assert!(all_licensed, "{components:?}");
}
