//! One way to tell what happened: on standard error, in the log, in runc's words and format where callers read it.

use super::context::{Global, LogFormat, LogLevel};
use crate::error::{Context as _, Error, Result};
use crate::platform::stdio;
use serde_json::json;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// `LOG_DAEMON` of syslog(3), shifted.
const FACILITY_DAEMON: u8 = 3 << 3;

/// Where messages go.
enum Destination {
    Stderr,
    File(File),
    Syslog { socket: UnixDatagram, name: String },
    Journald,
}

static TO_STDERR_TOO: OnceLock<bool> = OnceLock::new();

/// Sets up the log. Call once, before anything logs.
pub fn init(global: &Global) -> Result<()> {
    let destination = destination(global.log.as_deref())?;
    let level = match global.log_level {
        _ if global.debug => LevelFilter::DEBUG,
        Some(LogLevel::Error) => LevelFilter::ERROR,
        Some(LogLevel::Warning) => LevelFilter::WARN,
        Some(LogLevel::Debug) => LevelFilter::DEBUG,
        Some(LogLevel::Info) | None => LevelFilter::INFO,
    };
    // Like runc: an error is always on standard error, also when the log is elsewhere.
    let _ = TO_STDERR_TOO.set(!matches!(destination, Destination::Stderr));
    let installed = if matches!(destination, Destination::Journald) {
        let name = journal_name(global.log.as_deref());
        let layer = tracing_journald::layer().context(|| "cannot log to the journal")?;
        let layer = layer.with_syslog_identifier(name);
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer.with_filter(level)))
    } else {
        let layer = LogLayer { destination, format: global.log_format, debug: level == LevelFilter::DEBUG };
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer.with_filter(level)))
    };
    installed.map_err(|e| Error::new(crate::error::ErrorKind::System, e.to_string()))
}

fn journal_name(log: Option<&str>) -> String {
    let name = log.and_then(|log| log.strip_prefix("journald:")).unwrap_or_default();
    if name.is_empty() { "magikrun".to_owned() } else { name.to_owned() }
}

fn destination(log: Option<&str>) -> Result<Destination> {
    let Some(log) = log.filter(|log| !log.is_empty()) else { return Ok(Destination::Stderr) };
    if log.starts_with("journald:") {
        return Ok(Destination::Journald);
    }
    if let Some(name) = log.strip_prefix("syslog:") {
        let socket = UnixDatagram::unbound()
            .and_then(|socket| socket.connect("/dev/log").map(|()| socket))
            .context(|| "cannot log to syslog at '/dev/log'")?;
        let name = if name.is_empty() { "magikrun" } else { name };
        return Ok(Destination::Syslog { socket, name: name.to_owned() });
    }
    let path = log.strip_prefix("file:").unwrap_or(log);
    if path == "/dev/stderr" {
        return Ok(Destination::Stderr);
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
    file.map(Destination::File).context(|| format!("cannot open log '{path}'"))
}

/// Reports the error that ends the program.
pub fn error(e: &Error) {
    tracing::error!("{e}");
    if TO_STDERR_TOO.get() == Some(&true) {
        stdio::tell(format_args!("magikrun: {e}"));
    }
}

/// Reports an error of the command line itself; the log that it names, if it can be read so far, gets it too.
pub fn before_init(e: &Error) {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        args.iter().enumerate().find_map(|(n, arg)| match arg.strip_prefix(name) {
            Some("") => args.get(n + 1).cloned(),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        })
    };
    stdio::tell(format_args!("magikrun: {e}"));
    if let Some(log) = value("--log")
        && let Ok(Destination::File(mut file)) = destination(Some(&log))
    {
        let json = value("--log-format").as_deref() == Some("json");
        let _ = file.write_all(line("error", e.message(), json).as_bytes());
    }
}

struct LogLayer {
    destination: Destination,
    format: LogFormat,
    debug: bool,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        // What libraries say of an error is in the error that they return; the rest is for who looks for faults.
        if !target.starts_with(env!("CARGO_PKG_NAME")) && !self.debug {
            return;
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.write(level, &message.0);
    }
}

impl LogLayer {
    fn write(&self, level: Level, message: &str) {
        let name = level_name(level);
        let json = self.format == LogFormat::Json;
        // There is nobody to tell when the log itself fails.
        let _ = match &self.destination {
            Destination::Stderr if json => std::io::stderr().write_all(line(name, message, true).as_bytes()),
            Destination::Stderr => {
                let prefix = if level == Level::ERROR { String::new() } else { format!("{name}: ") };
                std::io::stderr().write_all(format!("magikrun: {prefix}{message}\n").as_bytes())
            }
            // One write a line, so that lines of several processes do not mix.
            Destination::File(file) => { file }.write_all(line(name, message, json).as_bytes()),
            Destination::Syslog { socket, name } => {
                let priority = FACILITY_DAEMON | severity(level);
                let id = std::process::id();
                socket.send(format!("<{priority}>{name}[{id}]: {message}").as_bytes()).map(drop)
            }
            Destination::Journald => Ok(()),
        };
    }
}

/// The message of an event, with its fields if it has any.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        _ => "debug",
    }
}

/// Severities of syslog(3).
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// A line of the log in the form that conmon and containerd read: that of logrus.
fn line(level: &str, message: &str, json: bool) -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let time = now.format(&Rfc3339).unwrap_or_default();
    if json {
        format!("{}\n", json!({"level": level, "msg": message, "time": time}))
    } else {
        format!("time=\"{time}\" level={level} msg={}\n", json!(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_callers_parse() {
        let record: serde_json::Value = serde_json::from_str(&line("error", "a \"b\"\nc", true)).unwrap();
        assert_eq!(record["level"], "error");
        assert_eq!(record["msg"], "a \"b\"\nc");
        assert!(record["time"].as_str().unwrap().ends_with('Z'));
        let text = line("warning", "a \"b\"", false);
        assert!(
            text.starts_with("time=\"2") && text.ends_with(" level=warning msg=\"a \\\"b\\\"\"\n"),
            "{text}"
        );
    }
}
