//! What a container made from an image is to be like: arguments that `bundle` and `run --image` share.

use crate::error::{Error, ErrorKind, Result};
use crate::image::{OciContainerConfig, Seccomp};
use oci_spec::runtime::{Mount, MountBuilder};

/// Arguments.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct ContainerArgs {
    /// Program to run instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Set a variable, or with a name alone pass on one's own
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// User and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Mount a directory or file of the host
    #[arg(short, long, value_name = "SOURCE:DESTINATION[:ro]")]
    volume: Vec<String>,
    /// Host name of the container
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Memory limit, with k, m or g; 0: none [default: 256m]
    #[arg(short, long, value_name = "BYTES", value_parser = super::size::parse)]
    memory: Option<i64>,
    /// Processors, as in 1.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<f64>,
    /// Most processes [default: 2048]
    #[arg(long, value_name = "NUMBER")]
    pids_limit: Option<i64>,
    /// Allocate a terminal
    #[arg(short, long)]
    tty: bool,
    /// Make the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Use the host's network
    #[arg(long)]
    host_network: bool,
    /// Filter its system calls by the profile in this file, or `unconfined` [default: the host's profile]
    #[arg(long, value_name = "FILE")]
    seccomp: Option<String>,
    /// Run it with this backend: native, wasm, krun
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
}

impl ContainerArgs {
    /// Whether it is to run as a microVM.
    pub fn wants_microvm(&self) -> bool {
        self.backend.as_deref() == Some("krun")
    }

    /// The same for the library. `args` are those of the program.
    pub fn config(self, name: &str, args: Vec<String>) -> Result<OciContainerConfig> {
        let memory = self.memory.map(u64::try_from).transpose();
        Ok(OciContainerConfig {
            name: name.to_owned(),
            command: self.entrypoint.map(|program| vec![program]),
            args: (!args.is_empty()).then_some(args),
            env: self.env.into_iter().filter_map(variable).collect(),
            user: self.user,
            working_dir: self.workdir,
            hostname: self.hostname,
            mounts: self.volume.iter().map(|volume| mount(volume)).collect::<Result<_>>()?,
            memory: memory.map_err(|_| Error::new(ErrorKind::Usage, "a memory limit is not negative"))?,
            cpus: self.cpus,
            pids: self.pids_limit,
            terminal: self.tty,
            read_only: self.read_only,
            host_network: self.host_network,
            backend: self.backend,
            seccomp: self.seccomp.map_or(Seccomp::Default, seccomp),
            ..OciContainerConfig::default()
        })
    }
}

fn seccomp(profile: String) -> Seccomp {
    if profile == "unconfined" { Seccomp::Unconfined } else { Seccomp::File(profile.into()) }
}

/// A name alone takes the value from our environment, if it is set there.
fn variable(pair: String) -> Option<String> {
    if pair.contains('=') {
        return Some(pair);
    }
    std::env::var(&pair).ok().map(|value| format!("{pair}={value}"))
}

fn mount(volume: &str) -> Result<Mount> {
    let invalid =
        || Error::new(ErrorKind::Usage, format!("invalid volume '{volume}': it is SOURCE:DESTINATION[:ro]"));
    let (source, destination, mode) = match volume.split(':').collect::<Vec<_>>().as_slice() {
        [source, destination] => (*source, *destination, "rw"),
        [source, destination, mode @ ("ro" | "rw")] => (*source, *destination, *mode),
        _ => return Err(invalid()),
    };
    if source.is_empty() || !destination.starts_with('/') {
        return Err(invalid());
    }
    let source = std::path::absolute(source).map_err(Error::from)?;
    let options: Vec<String> = ["rbind", "rprivate", mode].map(str::to_owned).to_vec();
    MountBuilder::default()
        .destination(destination)
        .typ("bind")
        .source(source)
        .options(options)
        .build()
        .map_err(|e| Error::new(ErrorKind::Usage, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_bound() {
        let bound = mount("/a:/b:ro").unwrap();
        assert_eq!(bound.destination(), std::path::Path::new("/b"));
        assert!(bound.options().as_ref().unwrap().contains(&"ro".to_owned()));
        for wrong in ["/a", "/a:b", ":/b", "/a:/b:x", "/a:/b:ro:z"] {
            assert!(mount(wrong).is_err(), "{wrong}");
        }
        assert_eq!(variable("A=b".to_owned()).unwrap(), "A=b");
        assert_eq!(variable("SURELY_NOT_SET_ANYWHERE".to_owned()), None);
    }
}
