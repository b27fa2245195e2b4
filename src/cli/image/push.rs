//! `magikrun image push`, `login` and `logout`

use super::super::print;
use super::progress::Bars;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::image::{ImageService, login};
use crate::platform::stdio;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::io::IsTerminal as _;

/// Arguments of `push`.
#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// Name of an image, or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Name to push it to [default: its own]
    #[arg(value_name = "NAME")]
    to: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Arguments of `login`.
#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    /// Host and port of the registry
    #[arg(value_name = "REGISTRY")]
    registry: String,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

/// Arguments of `logout`.
#[derive(Debug, clap::Args)]
pub struct LogoutArgs {
    /// Host and port of the registry
    #[arg(value_name = "REGISTRY")]
    registry: String,
}

/// `magikrun image push`
pub fn push(service: &ImageService, args: &PushArgs) -> Result<()> {
    let bars = Bars::new(args.quiet);
    let to = service.push(&args.image, args.to.as_deref(), &bars)?;
    print(&to)
}

/// `magikrun image login`
pub fn login(args: &LoginArgs) -> Result<()> {
    let user = match &args.username {
        Some(user) => user.clone(),
        None => ask("User name: ", true)?,
    };
    let password = if args.password_stdin { line()? } else { ask("Password: ", false)? };
    let path = login::login(&args.registry, &user, &password)?;
    print(&format!("logged in; the password is in '{}'", path.display()))
}

/// `magikrun image logout`
pub fn logout(args: &LogoutArgs) -> Result<()> {
    if login::logout(&args.registry)? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("not logged in to '{}'", args.registry)))
}

fn line() -> Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context(|| "cannot read standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks on the terminal; a secret is not shown.
fn ask(question: &str, shown: bool) -> Result<String> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Error::new(
            ErrorKind::Usage,
            "there is no terminal to ask on: use --username and --password-stdin",
        ));
    }
    stdio::prompt(question);
    let old = tcgetattr(&input)?;
    if !shown {
        let mut quiet = old.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Flush, &quiet)?;
    }
    let answer = line();
    tcsetattr(&input, OptionalActions::Now, &old)?;
    if !shown {
        stdio::tell("");
    }
    answer
}
