//! `magikrun pod exec`

use crate::error::{Context as _, Result};
use crate::pod::{PodHost, operations};
use crate::runtime::lifecycle;
use crate::runtime::options::{ExecArgs, ExecOptions, ExecProcess};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id or name of the pod
    #[arg(value_name = "POD")]
    pod: String,
    /// Container [default: the first that the pod is for]
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// `magikrun pod exec`
pub fn run(host: &PodHost, args: Args) -> Result<u8> {
    let pod = host.store.open(&args.pod)?;
    let id = operations::container(&pod, args.container.as_deref())?;
    if !args.stdin {
        let null = std::fs::File::open("/dev/null").context(|| "cannot open '/dev/null'")?;
        rustix::stdio::dup2_stdin(&null).context(|| "cannot close standard input")?;
    }
    let process = ExecArgs { args: args.command, tty: args.tty, ..ExecArgs::default() };
    let executed = pod.place(&host.host, &id).and_then(|(place, member)| {
        let options =
            ExecOptions { id: place, member, process: ExecProcess::Args(process), ..ExecOptions::default() };
        lifecycle::exec(&pod.containers(&host.host), &options)
    });
    executed.map_err(|e| e.wrap(format!("cannot exec in container '{id}' of pod '{}'", pod.record.name)))
}
