//! The command line that containerd uses: flags in Go's style, then an action.

use clap::Parser as _;
use std::ffi::OsString;
use std::path::PathBuf;

/// Keeps the containers of magikrun for containerd, which starts this program
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "containerd-shim-magikrun-v2", disable_version_flag = true)]
pub struct Flags {
    /// Log more
    #[arg(long)]
    pub debug: bool,
    /// Namespace of containerd that the container belongs to
    #[arg(long, value_name = "NAME", default_value = "")]
    pub namespace: String,
    /// Id of the container
    #[arg(long, value_name = "ID", default_value = "")]
    pub id: String,
    /// Directory of the bundle, where it is not the working directory
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Socket of containerd
    #[arg(long, value_name = "PATH", default_value = "")]
    pub address: String,
    /// Program that publishes events: events are sent to TTRPC_ADDRESS instead
    #[arg(long, value_name = "PROGRAM", default_value = "")]
    pub publish_binary: String,
    /// Print what this shim and its runtime support, as a message for containerd
    #[arg(long)]
    pub info: bool,
    /// Print the version
    #[arg(short, long)]
    pub version: bool,
    /// What to do; without it, serve the socket that is standard input
    #[arg(value_enum)]
    pub action: Option<Action>,
}

/// What containerd asks the program for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    /// Start a server for the bundle in the working directory, or find the one of its pod
    Start,
    /// Remove what a dead server has left
    Delete,
}

/// Parses the arguments, the program's name first.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Flags, clap::Error> {
    Flags::try_parse_from(args.map(two_dashes))
}

/// Go's `-name` as `--name`.
fn two_dashes(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.starts_with('-') && !text.starts_with("--") && text.len() > 2 => {
            format!("-{text}").into()
        }
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Flags {
        parse(line.split(' ').map(OsString::from)).unwrap()
    }

    #[test]
    fn the_page_describes_every_option() {
        let page = include_str!("../../../man/containerd-shim-magikrun-v2.8").replace('\\', "");
        for option in <Flags as clap::CommandFactory>::command().get_arguments() {
            if let Some(name) = option.get_long() {
                assert!(
                    page.contains(&format!(".TP\nfB--{name}fR")) || page.contains(&format!(", fB--{name}fR")),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn what_containerd_writes_is_understood() {
        let flags = parsed(
            "shim -namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id a-b -debug start",
        );
        assert_eq!((flags.namespace.as_str(), flags.id.as_str()), ("k8s.io", "a-b"));
        assert_eq!((flags.address.as_str(), flags.debug), ("/run/c.sock", true));
        assert_eq!(flags.action, Some(Action::Start));
        let flags = parsed("shim -namespace n -address a -publish-binary= -id i -bundle /b delete");
        assert_eq!(flags.bundle, Some("/b".into()));
        assert_eq!(flags.action, Some(Action::Delete));
        assert!(parsed("shim -v").version && parsed("shim -info").info);
    }
}
