//! `magikrun list`

use super::print;
use super::users::Users;
use crate::error::{Context as _, Result};
use crate::runtime::container::{self, State};
use crate::runtime::options::Host;
use clap::ValueEnum;
use std::io::Write as _;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Print the ids only
    #[arg(short, long)]
    quiet: bool,
}

/// Forms of lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// `magikrun list`
pub fn run(host: &Host, args: &Args) -> Result<()> {
    if args.quiet {
        let ids = host.root.ids()?;
        return if ids.is_empty() { Ok(()) } else { print(&ids.join("\n")) };
    }
    let mut users = Users::default();
    let all = container::states(host)?.into_iter();
    let states: Vec<State> = all.map(|(state, owner)| State { owner: users.name(owner), ..state }).collect();
    match args.format {
        // As runc has it: callers in Go read no list and an empty list alike.
        Format::Json if states.is_empty() => print("null"),
        Format::Json => print(&serde_json::to_string(&states)?),
        Format::Table => {
            let rows = states
                .into_iter()
                .map(|s| vec![s.id, s.pid.to_string(), s.status.to_string(), s.bundle, s.created, s.owner]);
            print(table(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], rows)?.trim_end())
        }
    }
}

/// Lines in columns under a header, as runc has them.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<String> {
    let cannot = || "cannot format the table";
    let mut writer = tabwriter::TabWriter::new(Vec::new()).minwidth(12).padding(3);
    writeln!(writer, "{}", header.join("\t")).context(cannot)?;
    for row in rows {
        writeln!(writer, "{}", row.join("\t")).context(cannot)?;
    }
    let bytes =
        writer.into_inner().map_err(|e| crate::error::Error::from(std::io::Error::other(e.to_string())))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
