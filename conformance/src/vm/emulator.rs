//! QEMU of a newer Debian, unpacked with its libraries and kept in the cache: nested guests run in two thirds of the time that that of the
//! stable release of 2023 takes.

use crate::cache;
use crate::debian::run;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

/// The release, and its package.
const RELEASE: &str = "trixie";
const PACKAGE: &str = "qemu-system-x86";
/// Loads the program with the libraries of its release, by the linker of that.
const LINKER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
/// Where its firmware is.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// The program and its first arguments, downloaded first where it is missing: 60 MB.
pub(super) fn arguments() -> Result<Vec<std::ffi::OsString>> {
    let folder = cache::folder_of("qemu", &[RELEASE, PACKAGE], make)?;
    let mut arguments = vec![folder.join(LINKER).into(), "--library-path".into()];
    arguments.extend([folder.join(LIBRARIES).into(), folder.join(PROGRAM).into()]);
    for firmware in FIRMWARE {
        arguments.extend(["-L".into(), folder.join(firmware).into()]);
    }
    Ok(arguments)
}

fn make(folder: &Path) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=extract", "--format=directory"]);
    run(command.arg(format!("--include={PACKAGE}")).arg(RELEASE).arg(folder)).map(drop)
}
