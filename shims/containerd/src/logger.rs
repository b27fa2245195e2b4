//! The log: lines in containerd's format on standard error, which is a FIFO that containerd reads while the server runs.

use std::io::Write as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // The transport tells of every client that hangs up as of an error.
        let foreign = !record.target().starts_with("containerd_shim_magikrun");
        if foreign && log::max_level() < log::LevelFilter::Debug {
            return;
        }
        let level = match record.level() {
            log::Level::Error => "error",
            log::Level::Warn => "warning",
            log::Level::Info => "info",
            log::Level::Debug | log::Level::Trace => "debug",
        };
        line(level, &record.args().to_string());
    }

    fn flush(&self) {}
}

/// Sets up the log. Call once.
pub fn init(debug: bool) {
    let level = if debug { log::LevelFilter::Debug } else { log::LevelFilter::Info };
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Writes one line; a reader that is slow or gone loses it.
pub fn line(level: &str, message: &str) {
    let time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let message = serde_json::Value::from(message);
    let line = format!("time=\"{time}\" level={level} msg={message} runtime={}\n", crate::NAME);
    let _ = std::io::stderr().write_all(line.as_bytes());
}
