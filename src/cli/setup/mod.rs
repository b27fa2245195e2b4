//! `magikrun setup`: writes the configuration with which an engine knows this runtime, and takes it back.

mod bodies;
mod file;
mod handlers;
mod marked;
mod plan;
#[cfg(test)]
mod tests;

use super::print;
use crate::error::{Context as _, Error, ErrorKind, Result};
use clap::ValueEnum;
use plan::Change;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose configuration
    #[arg(value_name = "ENGINE")]
    engine: Engine,
    /// Show what would be written, and write nothing
    #[arg(long, conflicts_with = "undo")]
    print: bool,
    /// Take back what was written
    #[arg(long)]
    undo: bool,
    /// Directory that stands for /, to prepare the root file system of another machine
    #[arg(long, value_name = "DIR", default_value = "/")]
    prefix: PathBuf,
    /// Path of this program on that machine [default: that of the program that runs]
    #[arg(long, value_name = "FILE")]
    runtime: Option<PathBuf>,
}

/// Programs that call runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// podman, by containers.conf.d.
    Podman,
    /// containerd, by its config.toml.
    Containerd,
    /// The Docker engine, by its daemon.json.
    Docker,
    /// CRI-O, by crio.conf.d.
    Crio,
}

/// Where things are.
struct Places {
    prefix: PathBuf,
    /// This program, as configurations name it.
    runtime: String,
    /// Directory of podman's configuration for this user.
    containers: PathBuf,
}

impl Places {
    fn at(&self, path: &str) -> PathBuf {
        self.prefix.join(path.trim_start_matches('/'))
    }
}

/// `magikrun setup`
pub fn run(args: &Args) -> Result<()> {
    let places = places(args)?;
    let path = file_of(args.engine, &places);
    let cannot = || format!("cannot set up '{}'", path.display());
    let now = file::read(&path).context(cannot)?;
    let change = change(args.engine, &places, now.as_deref(), args.undo).context(cannot)?;
    let shown = path.display();
    match change {
        Change::Nothing => print(&format!("{shown} is as it should be: nothing to do")),
        Change::Write(text) => {
            print(&format!("# {shown}\n{}", text.trim_end()))?;
            if args.print {
                return Ok(());
            }
            file::replace(&path, &text).context(cannot)?;
            print(&format!("\nwritten: {shown}\n{}", next_step(args.engine)))
        }
        Change::Remove => {
            std::fs::remove_file(&path).context(|| format!("cannot remove '{shown}'"))?;
            print(&format!("removed: {shown}\n{}", next_step(args.engine)))
        }
    }
}

fn places(args: &Args) -> Result<Places> {
    let runtime = match &args.runtime {
        Some(path) => path.clone(),
        None => std::env::current_exe().context(|| "cannot find the path of this program")?,
    };
    if !runtime.is_absolute() {
        crate::bail!(
            Usage,
            "cannot use '{}' as the path of the runtime: it is not absolute",
            runtime.display()
        );
    }
    let runtime = runtime.into_os_string().into_string().map_err(|_| {
        Error::new(ErrorKind::Usage, "cannot use the path of this program: it is not valid UTF-8")
    })?;
    let containers = if rustix::process::geteuid().is_root() || args.prefix != Path::new("/") {
        args.prefix.join("etc/containers")
    } else {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
        let config =
            config.ok_or_else(|| Error::new(ErrorKind::Usage, "cannot find your configuration: set HOME"))?;
        config.join("containers")
    };
    Ok(Places { prefix: args.prefix.clone(), runtime, containers })
}

fn file_of(engine: Engine, places: &Places) -> PathBuf {
    match engine {
        Engine::Podman => places.containers.join("containers.conf.d/magikrun.conf"),
        Engine::Containerd => places.at("/etc/containerd/config.toml"),
        Engine::Docker => places.at("/etc/docker/daemon.json"),
        Engine::Crio => places.at("/etc/crio/crio.conf.d/magikrun.conf"),
    }
}

fn change(engine: Engine, places: &Places, now: Option<&str>, undo: bool) -> Result<Change> {
    let runtime = places.runtime.as_str();
    match (engine, undo) {
        (Engine::Podman | Engine::Crio, true) => plan::undo_own_file(now),
        (Engine::Podman, false) => plan::own_file(now, &bodies::podman(runtime, &podman_files(places)?)),
        (Engine::Crio, false) => plan::own_file(now, &handlers::crio(&found(places))),
        (Engine::Containerd, true) => plan::undo_containerd(now),
        (Engine::Containerd, false) => {
            let handlers = found(places);
            plan::containerd(now, |found| handlers::containerd(found, &handlers))
        }
        (Engine::Docker, true) => plan::undo_docker(now),
        (Engine::Docker, false) => plan::docker(now, runtime),
    }
}

fn found(places: &Places) -> Vec<handlers::Handler> {
    handlers::find(&places.runtime, |path| places.at(&path.to_string_lossy()).exists())
}

/// The files that podman reads before ours, in their order.
fn podman_files(places: &Places) -> Result<Vec<String>> {
    let mut paths =
        vec![places.at("/usr/share/containers/containers.conf"), places.containers.join("containers.conf")];
    let own = places.containers.join("containers.conf.d");
    let entries = std::fs::read_dir(&own).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut dropped: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|end| end == "conf"))
        .filter(|path| path.file_name().is_some_and(|name| name < "magikrun.conf"))
        .collect();
    dropped.sort();
    paths.append(&mut dropped);
    let texts: Result<Vec<_>> = paths.iter().map(|path| file::read(path)).collect();
    Ok(texts?.into_iter().flatten().collect())
}

/// What makes the engine take notice.
fn next_step(engine: Engine) -> &'static str {
    match engine {
        Engine::Podman => "podman reads it at its next call: podman --runtime magikrun run ...",
        Engine::Containerd => "make containerd read it: systemctl restart containerd",
        Engine::Docker => "make Docker read it: systemctl reload docker",
        Engine::Crio => "make CRI-O read it: systemctl restart crio",
    }
}
