//! `magikrun completion`

use crate::error::Result;
use clap_complete::Shell;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell to complete for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// `magikrun completion`
pub fn run(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "magikrun", &mut script);
    super::print(String::from_utf8_lossy(&script).trim_end())
}
