//! `magikrun ps`

use super::list::Format;
use super::print;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::runtime::lifecycle;
use crate::runtime::options::Host;
use crate::vm::connection::shown;
use crate::vm::protocol::message::ProcessInfo;
use std::io::Write as _;
use std::process::Command;
use tabwriter::TabWriter;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the list
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Id of the container
    #[arg(value_name = "CONTAINER-ID")]
    id: String,
    /// Options for ps(1) [default: -ef]
    #[arg(value_name = "PS-OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// `magikrun ps`
pub fn run(host: &Host, args: &Args) -> Result<()> {
    // After the id everything belongs to ps, except our own option in its long forms.
    let (format, options) = split_format(args)?;
    if let Some(processes) = lifecycle::guest_processes(host, &args.id)? {
        return print_guest(format, &processes);
    }
    let pids = lifecycle::pids(host, &args.id)?;
    if format == Format::Json {
        return print(&serde_json::to_string(&pids)?);
    }
    let options = if options.is_empty() { vec!["-ef".to_owned()] } else { options };
    let output = Command::new("ps").args(&options).output().context(|| "cannot execute 'ps'")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        crate::bail!(Usage, "ps failed: {said}");
    }
    print(&rows_of(&String::from_utf8_lossy(&output.stdout), &pids)?)
}

/// The processes of a guest, which no ps(1) of the host can show.
fn print_guest(format: Format, processes: &[ProcessInfo]) -> Result<()> {
    if format == Format::Json {
        let pids: Vec<_> = processes.iter().map(|process| process.pid).collect();
        return print(&serde_json::to_string(&pids)?);
    }
    let mut table = TabWriter::new(Vec::new()).padding(2);
    let row = |process: &ProcessInfo| {
        let ProcessInfo { pid, parent, uid, state, cpu, command, .. } = process;
        // What a guest says must not control a terminal.
        format!("{uid}\t{pid}\t{parent}\t{state}\t{}.{:02}\t{}", cpu / 1000, cpu % 1000 / 10, shown(command))
    };
    let rows: Vec<_> = processes.iter().map(row).collect();
    write!(table, "UID\tPID\tPPID\tS\tTIME\tCMD\n{}", rows.join("\n"))
        .context(|| "cannot format the table")?;
    let text = table.into_inner().map_err(|e| Error::new(ErrorKind::System, e.to_string()))?;
    print(&String::from_utf8_lossy(&text))
}

fn split_format(args: &Args) -> Result<(Format, Vec<String>)> {
    let parse = |text: &str| {
        <Format as clap::ValueEnum>::from_str(text, false)
            .map_err(|_| Error::new(ErrorKind::Usage, format!("invalid format option: {text}")))
    };
    match args.options.as_slice() {
        [first, rest @ ..] if first.starts_with("--format=") => {
            Ok((parse(&first["--format=".len()..])?, rest.to_vec()))
        }
        [first, value, rest @ ..] if first == "--format" => Ok((parse(value)?, rest.to_vec())),
        all => Ok((args.format, all.to_vec())),
    }
}

/// The header and the rows of these processes.
fn rows_of(table: &str, pids: &[i32]) -> Result<String> {
    let mut lines = table.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| Error::new(ErrorKind::Usage, "couldn't find PID field in ps output"))?;
    let mut rows = vec![header];
    rows.extend(lines.filter(|line| {
        let pid = line.split_whitespace().nth(column).and_then(|text| text.parse::<i32>().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    }));
    Ok(rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_container_s_rows_are_shown() {
        let table = "UID PID CMD\nroot 1 init\nroot 22 sh -c x\nroot 222 y\n";
        assert_eq!(rows_of(table, &[22]).unwrap(), "UID PID CMD\nroot 22 sh -c x");
        assert!(rows_of("CMD\n", &[1]).is_err());
    }
}
