//! Our own containerd shim, which belongs to another package of the workspace.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The folder with our own shim and the runtime beside it: that of the runtime that the environment names, if it has one. Otherwise the shim
/// is built first, in the profile of the runtime, so that it is never an older one that is tested.
pub fn shim_folder() -> PathBuf {
    let named = std::env::var_os("MAGIKRUN_TEST_RUNTIME").map(PathBuf::from);
    let named = named.and_then(|runtime| Some(runtime.parent()?.to_owned()));
    if let Some(folder) = named.filter(|folder| folder.join("containerd-shim-magikrun-v2").exists()) {
        return folder;
    }
    static BUILT: OnceLock<()> = OnceLock::new();
    let runtime = option_env!("CARGO_BIN_EXE_magikrun").map(PathBuf::from);
    let runtime = runtime.expect("these tests belong to the package magikrun");
    let folder = runtime.parent().expect("a folder").to_owned();
    BUILT.get_or_init(|| {
        let mut command = Command::new(env!("CARGO"));
        command.args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "containerd-shim-magikrun",
            "--target-dir",
        ]);
        command.arg(folder.parent().expect("the folder of all profiles"));
        if folder.ends_with("release") {
            command.arg("--release");
        }
        let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(status.expect("cargo runs").success(), "the shim could not be built");
    });
    folder
}
