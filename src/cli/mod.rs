//! The command line: runc's, and what crun adds. One file a command: its arguments and its action.

mod bundle;
mod checkpoint;
mod completion;
mod config;
mod container_args;
mod context;
mod create;
mod delete;
mod doctor;
mod events;
mod exec;
mod features;
mod hints;
mod image;
mod kill;
mod list;
mod pod;
mod ps;
mod report;
mod restore;
mod run;
mod setup;
mod signals;
mod simple;
mod size;
mod spec;
mod store;
mod update;
mod users;
mod version;

use crate::error::{Error, ErrorKind, Result};
use crate::platform::stdio;
use crate::runtime::krun::engine::Libkrun;
use crate::runtime::wasm::{linked, outcome};
use clap::{ArgAction, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use context::Global;
use std::ffi::{CStr, OsString};

/// Exit status of errors of our own.
const FAILURE: u8 = 1;
/// Exit status of errors of our own in `exec`, apart from those of the program: as runc has it.
const EXEC_FAILURE: u8 = 255;

/// Commands that put processes into containers, from where our executable can be reached.
pub const ENTERING: [&CStr; 4] = [c"create", c"run", c"exec", c"restore"];

/// OCI runtime for Linux containers, WebAssembly and microVMs
#[derive(Debug, Parser)]
#[command(name = "magikrun", disable_version_flag = true, max_term_width = 110)]
#[command(subcommand_value_name = "COMMAND", subcommand_help_heading = "Commands")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a bundle from an image
    Bundle(bundle::Args),
    /// Save the state of a running container with criu
    Checkpoint(checkpoint::Args),
    /// Print a completion script for a shell
    Completion(completion::Args),
    /// Show the operator's configuration and where each value came from
    Config(config::Args),
    /// Create a container
    Create(create::Args),
    /// Delete a container and everything it holds
    Delete(delete::Args),
    /// Show what works on this machine, what is missing, and what mends it
    Doctor(doctor::Args),
    /// Show out-of-memory events and resource usage of a container
    Events(events::Args),
    /// Run a further process in a container
    Exec(exec::Args),
    /// Show what this runtime supports
    Features,
    /// Pull, list and remove images
    Image(image::Args),
    /// Send a signal to a container
    Kill(kill::Args),
    /// List containers
    List(list::Args),
    /// Freeze all processes of a container
    Pause(simple::Args),
    /// Run pods from Kubernetes manifests, atomically
    Pod(pod::Args),
    /// Show the processes of a container
    Ps(ps::Args),
    /// Bring a container back from a checkpoint
    Restore(restore::Args),
    /// Let the processes of a paused container go on
    Resume(simple::Args),
    /// Create and start a container
    Run(run::Args),
    /// Write the configuration with which podman, containerd, Docker or CRI-O knows this runtime
    Setup(setup::Args),
    /// Write a configuration to start from
    Spec(spec::Args),
    /// Start a created container
    Start(simple::Args),
    /// Print the state of a container
    State(simple::Args),
    /// Change the limits of a container
    Update(update::Args),
}

/// The command line as data; for the man pages' test and for completions.
pub fn command() -> clap::Command {
    let version = clap::Arg::new("version")
        .short('v')
        .long("version")
        .action(ArgAction::Version)
        .help("Print version, commit and the version of the runtime specification");
    // Callers add options to those that they give anyway, as podman does with --runtime-flag: the last one counts.
    Cli::command().version(version::text()).arg(version).args_override_self(true)
}

/// Runs the command line of this process and returns its exit status.
pub fn main() -> u8 {
    linked::link();
    main_with(Libkrun::Beside)
}

/// [`main`] of a program with libkrun, or beside it. What runs WebAssembly is not in it, unless that is linked.
pub fn main_with(libkrun: Libkrun) -> u8 {
    // A process of a container that runs a module: it was executed for that, and its command line is the module's.
    if let Some(status) = linked::run() {
        return status;
    }
    crate::platform::sys::signal::ignore_sigpipe();
    if stdio::open_all().is_err() {
        return FAILURE;
    }
    if let Some(status) = crate::pod::role_with(libkrun) {
        return status;
    }
    // Before the command line is parsed, which would have to be done again; `dispatch` does it for all the others.
    if std::env::args_os()
        .skip(1)
        .any(|arg| ENTERING.iter().any(|name| name.to_bytes() == arg.as_encoded_bytes()))
    {
        let _ = crate::platform::selfexe::protect();
    }
    let cli = match parse() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    // Before anything is opened: a number that is free now would become one of ours and be passed on.
    let preserved = check_preserved(cli.command.preserve_fds());
    if let Err(e) = report::init(&cli.global) {
        stdio::tell(format_args!("magikrun: {e}"));
        return FAILURE;
    }
    let is_exec = match &cli.command {
        Command::Exec(_) => true,
        Command::Pod(args) => args.is_exec(),
        _ => false,
    };
    let own_failure = if is_exec { EXEC_FAILURE } else { FAILURE };
    match preserved.and_then(|()| dispatch(cli, libkrun)) {
        Ok(status) => status,
        Err(e) => {
            report::error(&e);
            if e.kind() == ErrorKind::MissingImport { outcome::MISSING_IMPORT } else { own_failure }
        }
    }
}

/// The command line with one of the commands that callers call most, by its name; `None` for the others.
fn narrow(name: &str) -> Option<clap::Command> {
    use clap::Args as _;
    let augment = match name {
        "create" => create::Args::augment_args,
        "start" | "state" | "pause" | "resume" => simple::Args::augment_args,
        "run" => run::Args::augment_args,
        "exec" => exec::Args::augment_args,
        "kill" => kill::Args::augment_args,
        "delete" => delete::Args::augment_args,
        "list" => list::Args::augment_args,
        _ => return None,
    };
    let global = Global::augment_args(clap::Command::new("magikrun").subcommand_required(true));
    let global = global.args_override_self(true);
    Some(global.subcommand(augment(clap::Command::new(name.to_owned()))))
}

/// Parses with only the command that is named, since making all of them takes longer than most operations. What does not
/// parse that way is parsed in full, also for its message.
fn parse_narrow(args: &[OsString]) -> Option<Cli> {
    let command = args.iter().skip(1).find_map(|arg| narrow(arg.to_str()?))?;
    let matches =
        command.disable_help_flag(true).disable_version_flag(true).try_get_matches_from(args).ok()?;
    Cli::from_arg_matches(&matches).ok()
}

fn parse() -> Result<Cli, u8> {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if args.len() == 1 {
        // As runc does: who says nothing asks what there is.
        args.push("--help".into());
    }
    if let Some(cli) = parse_narrow(&args) {
        return Ok(cli);
    }
    let matches = command().try_get_matches_from(args);
    match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => Ok(cli),
        Err(e) if !e.use_stderr() => {
            // Help or version was asked for.
            let _ = e.print();
            Err(0)
        }
        Err(e) => {
            let error = usage_error(&e);
            report::before_init(&error);
            Err(FAILURE)
        }
    }
}

impl Command {
    fn preserve_fds(&self) -> u32 {
        match self {
            Self::Create(args) => args.preserve_fds,
            Self::Run(args) => args.create.preserve_fds,
            Self::Exec(args) => args.preserve_fds,
            _ => 0,
        }
    }
}

/// All descriptors that are to be passed on must be open.
fn check_preserved(count: u32) -> Result<()> {
    for number in (3..).take(count as usize) {
        if std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err() {
            crate::bail!(Usage, "unable to preserve fd {number}: it is not open (--preserve-fds {count})");
        }
    }
    Ok(())
}

/// One line of clap's message: what is wrong, without the usage that follows, and what would be right.
fn usage_error(e: &clap::Error) -> Error {
    let text = e.to_string();
    let mut lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let rest = lines.filter(|line| !line.is_empty() && !line.starts_with("For more"));
    let (tips, more): (Vec<&str>, Vec<&str>) = rest.partition(|line| line.starts_with("tip: "));
    let tips = hints::hint(e).unwrap_or_else(|| tips.join(", ").replace("tip: ", ""));
    let mut message = if more.is_empty() { first } else { format!("{first} {}", more.join(", ")) };
    if !tips.is_empty() {
        message = format!("{message} ({tips})");
    }
    Error::new(ErrorKind::Usage, message)
}

fn dispatch(cli: Cli, libkrun: Libkrun) -> Result<u8> {
    let Cli { global, command } = cli;
    // These put processes into containers, from where our executable can be reached.
    let enters = match &command {
        Command::Create(_) | Command::Run(_) | Command::Exec(_) | Command::Restore(_) => true,
        Command::Pod(args) => args.enters_containers(),
        _ => false,
    };
    if enters {
        crate::platform::selfexe::protect()?;
    }
    let host = || global.host(libkrun);
    match command {
        Command::Create(args) => create::run(&host()?, args),
        Command::Exec(args) => return exec::run(&host()?, args),
        Command::Restore(args) => return restore::run(&host()?, args, &global.criu),
        Command::Run(args) => return run::run(&host()?, args),
        Command::Pod(args) => return pod::run(args, host),
        Command::Doctor(args) => return doctor::run(&args),
        Command::Bundle(args) => bundle::run(args),
        Command::Checkpoint(args) => checkpoint::run(&host()?, args, &global.criu),
        Command::Completion(args) => completion::run(&args),
        Command::Config(args) => config::run(&global, &args),
        Command::Delete(args) => delete::run(&host()?, &args),
        Command::Events(args) => events::run(&host()?, &args),
        Command::Features => features::run(),
        Command::Image(args) => image::run(&args),
        Command::Kill(args) => kill::run(&host()?, &args),
        Command::List(args) => list::run(&host()?, &args),
        Command::Pause(args) => simple::pause(&host()?, &args),
        Command::Ps(args) => ps::run(&host()?, &args),
        Command::Resume(args) => simple::resume(&host()?, &args),
        Command::Setup(args) => setup::run(&args),
        Command::Spec(args) => spec::run(&args),
        Command::Start(args) => simple::start(&host()?, &args),
        Command::State(args) => simple::state(&host()?, &args),
        Command::Update(args) => update::run(&host()?, &args),
    }
    .map(|()| 0)
}

/// Prints a line to standard output. A closed pipe is an error and not a panic.
fn print(text: &str) -> Result<()> {
    use crate::error::Context as _;
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .context(|| "cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn the_short_way_takes_what_the_long_way_takes() {
        let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in [
            "magikrun --root start --log=l --log-format json create --bundle b --pid-file=p id --no-pivot",
            "magikrun run -d id",
            "magikrun exec -t -u 1:2 id sh -c exit",
            "magikrun --systemd-cgroup kill id 9",
            "magikrun --root a --root=b --log-format text --log-format=json state id",
            "magikrun exec -e A=1 -e B=2 --cap CAP_KILL --cap CAP_CHOWN id sh",
        ] {
            let short = parse_narrow(&args(line));
            let long = Cli::from_arg_matches(&command().try_get_matches_from(args(line)).unwrap()).unwrap();
            // A value that looks like a command only costs time.
            if let Some(short) = short {
                assert_eq!(format!("{short:?}"), format!("{long:?}"), "{line}");
            }
        }
        assert!(parse_narrow(&args("magikrun run -d id")).is_some());
        for line in ["magikrun run", "magikrun run --help", "magikrun --version", "magikrun list --nonsense"]
        {
            assert!(parse_narrow(&args(line)).is_none(), "{line}");
        }
    }

    #[test]
    fn a_wrong_argument_is_one_line() {
        for args in [
            &["magikrun", "create", "--nonsense", "x"][..],
            &["magikrun", "start"],
            &["magikrun", "nonsense"],
        ] {
            let e = command().try_get_matches_from(args).unwrap_err();
            let message = usage_error(&e).message().to_owned();
            assert!(
                !message.is_empty() && !message.contains('\n') && !message.contains("Usage"),
                "{message}"
            );
        }
    }
}
