//! `magikrun pod run`

use super::follow::Follower;
use super::simple::exit_code;
use crate::cli::print;
use crate::cni;
use crate::error::{Error, ErrorKind, Result};
use crate::pod::manifest::{PodSpec, read_limited};
use crate::pod::plan::Network;
use crate::pod::{PodHost, PodOptions, run as run_pods};
use crate::storage::config::Config;
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Manifest, YAML or JSON; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Return as soon as the pods run; this is the default
    #[arg(short, long, conflicts_with = "attach")]
    detach: bool,
    /// Show what the containers write, and end with the pods
    #[arg(short, long)]
    attach: bool,
    /// Network: none, host, pasta, cni[:NAME] or ns:PATH [default: pasta if a hostPort is asked for, else none]
    #[arg(long, value_name = "NETWORK", value_parser = parse_network)]
    network: Option<Wanted>,
    /// Cgroup below which the pods have theirs, or a slice with --systemd-cgroup [default: /magikrun or magikrun.slice]
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Program that extends the infra container
    #[arg(long, value_name = "PROGRAM")]
    extension: Vec<PathBuf>,
}

/// A network as the command line names it.
#[derive(Debug, Clone)]
enum Wanted {
    Known(Network),
    /// By its name, or the host's default.
    Cni(Option<String>),
}

impl Wanted {
    /// Looks for the network where the operator's configuration says.
    fn find(self) -> Result<Network> {
        match self {
            Self::Known(network) => Ok(network),
            Self::Cni(name) => {
                let network = cni::Network::find(&Config::load()?.cni, name.as_deref())?;
                Ok(Network::Cni(Box::new(network)))
            }
        }
    }
}

fn parse_network(text: &str) -> Result<Wanted, String> {
    match text {
        "none" => Ok(Wanted::Known(Network::None)),
        "host" => Ok(Wanted::Known(Network::Host)),
        "pasta" => Ok(Wanted::Known(Network::Pasta)),
        "cni" => Ok(Wanted::Cni(None)),
        text => match (text.strip_prefix("cni:"), text.strip_prefix("ns:")) {
            (Some(name), _) if !name.is_empty() => Ok(Wanted::Cni(Some(name.to_owned()))),
            (_, Some(path)) if path.starts_with('/') => Ok(Wanted::Known(Network::Path(PathBuf::from(path)))),
            _ => Err("must be none, host, pasta, cni[:NAME] or ns:PATH".to_owned()),
        },
    }
}

/// Reads a manifest from a file or standard input.
pub fn read_manifest(file: &std::path::Path) -> Result<Vec<u8>> {
    let name = file.display().to_string();
    if name == "-" {
        return read_limited(std::io::stdin().lock(), &name);
    }
    let opened = std::fs::File::open(file).map_err(|e| {
        Error::from(e).wrap(format!("cannot read manifest '{name}'")).with_kind(ErrorKind::InvalidManifest)
    })?;
    read_limited(opened, &name)
}

/// `magikrun pod run`
pub fn run(host: &PodHost, args: Args) -> Result<u8> {
    let manifest = read_manifest(&args.file)?;
    let pods = PodSpec::all_from_yaml(manifest)
        .map_err(|e| e.wrap(format!("cannot run '{}'", args.file.display())))?;
    for warning in pods.iter().flat_map(|pod| &pod.warnings) {
        tracing::warn!("{warning}");
    }
    let parent = args.cgroup_parent.filter(|path| !path.is_empty());
    let extensions: Result<Vec<_>> = args
        .extension
        .iter()
        .map(|path| {
            std::fs::canonicalize(path)
                .map_err(|e| Error::from(e).wrap(format!("cannot find extension '{}'", path.display())))
        })
        .collect();
    let network = args.network.map(Wanted::find).transpose()?;
    let options = PodOptions { network, cgroup_parent: parent, extensions: extensions? };
    let handles = run_pods(host, &pods, &options)?;
    if !args.attach {
        for handle in &handles {
            print(&handle.id)?;
        }
        return Ok(0);
    }
    let mut code = 0;
    let mut follower = Follower::default();
    for handle in &handles {
        follower.add(host.store.open(&handle.id)?, handles.len() > 1);
    }
    for status in follower.until_end(host)? {
        code = code.max(exit_code(&status));
    }
    Ok(code)
}
