//! `magikrun pod`: atomic pods.

mod attach;
mod copy;
mod exec;
mod follow;
mod forward;
mod list;
mod logs;
mod run;
mod session;
mod simple;
mod stats;
mod status;
mod validate;

use crate::cli::store::StoreArgs;
use crate::error::Result;
use crate::pod::PodHost;
use crate::runtime::options::Host;
use clap::Subcommand;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what the containers of a pod write from now on, or connect with one
    Attach(attach::Args),
    /// Copy files between a container and this host
    Cp(copy::Args),
    /// Remove a pod with its logs and volumes; stop it first if it runs
    Delete(simple::DeleteArgs),
    /// Show what has happened to a pod
    Events(follow::EventArgs),
    /// Run a command in a container of a pod
    Exec(exec::Args),
    /// Remove what interrupted commands have left
    Gc,
    /// List pods
    List(list::Args),
    /// Show what the containers of a pod have written
    Logs(logs::Args),
    /// Forward ports of this host to a pod
    PortForward(forward::Args),
    /// Run the pods of a manifest: all of them, or nothing at all
    Run(run::Args),
    /// Show how much of the host's resources the containers of a pod use
    Stats(stats::Args),
    /// Show the state of a pod
    Status(status::Args),
    /// Stop a pod, and keep its logs
    Stop(simple::StopArgs),
    /// Tell what of a manifest would be refused or have no effect, and do nothing
    Validate(validate::Args),
    /// Wait until a pod has ended
    Wait(simple::PodArgs),
}

impl Args {
    /// True for the commands that put processes into containers, from where our executable can be reached.
    pub fn enters_containers(&self) -> bool {
        matches!(self.command, Command::Run(_) | Command::Exec(_))
    }

    /// True for a command whose failures must be told from those of the program that it runs.
    pub fn is_exec(&self) -> bool {
        matches!(self.command, Command::Exec(_))
    }
}

/// `magikrun pod`
pub fn run(args: Args, host: impl FnOnce() -> Result<Host>) -> Result<u8> {
    let done = |result: Result<()>| result.map(|()| 0);
    if let Command::Validate(args) = &args.command {
        return validate::run(args);
    }
    let host = PodHost::new(host()?, args.store.service()?);
    match args.command {
        Command::Attach(args) => attach::run(&host, &args),
        Command::Cp(args) => done(copy::run(&host, &args)),
        Command::Delete(args) => done(simple::delete(&host, &args)),
        Command::Events(args) => done(follow::events(&host, &args)),
        Command::Exec(args) => exec::run(&host, args),
        Command::Gc => done(simple::gc(&host)),
        Command::List(args) => done(list::run(&host, &args)),
        Command::Logs(args) => done(logs::run(&host, &args)),
        Command::PortForward(args) => done(forward::run(&host, &args)),
        Command::Run(args) => run::run(&host, args),
        Command::Stats(args) => done(stats::run(&host, &args)),
        Command::Status(args) => done(status::run(&host, &args)),
        Command::Stop(args) => done(simple::stop(&host, &args)),
        Command::Validate(args) => validate::run(&args),
        Command::Wait(args) => simple::wait(&host, &args),
    }
}

/// A table with its columns in line.
fn table(rows: &[Vec<String>]) -> Result<String> {
    use crate::error::Context as _;
    use std::io::Write as _;
    let mut writer = tabwriter::TabWriter::new(Vec::new()).padding(3);
    for row in rows {
        writeln!(writer, "{}", row.join("\t")).context(|| "cannot format the table")?;
    }
    let bytes =
        writer.into_inner().map_err(|e| crate::error::Error::from(std::io::Error::other(e.to_string())))?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
