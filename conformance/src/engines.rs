//! Container engines of other releases of Debian, for the tests of engines: unpacked, never installed. They are dynamic, but need no newer
//! libraries than the oldest release that is tested on has.

use crate::cache;
use crate::debian::{Release, run};
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::process::Command;

/// containerd with `ctr` and runc's shim, and Docker's daemon and client.
const PACKAGES: [&str; 3] = ["containerd", "docker.io", "docker-cli"];
/// What must run, and where the packages have it.
const PROGRAMS: [&str; 3] = ["usr/bin/containerd", "usr/sbin/dockerd", "usr/bin/docker"];

/// The folder with the engines of a release, which are downloaded when it does not exist yet.
pub(crate) fn folder(release: &str) -> Result<PathBuf> {
    let recipe: Vec<&str> = std::iter::once(release).chain(PACKAGES).collect();
    cache::folder_of(&format!("engines-{release}"), &recipe, |folder| {
        Release::open(release)?.unpack(&PACKAGES, folder)?;
        for program in PROGRAMS {
            run(Command::new(folder.join(program)).arg("--version"))
                .with_context(|| format!("'{program}' of Debian {release} does not run on this machine"))?;
        }
        Ok(())
    })
}
