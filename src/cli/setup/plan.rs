//! What a file of an engine's configuration becomes: pure, from what it holds now.

use super::handlers::{self, Found};
use super::marked::{Split, mark, split};
use crate::error::{Context as _, Error, ErrorKind, Result};
use serde_json::{Value, json};

/// The name that configurations get for this runtime.
pub const NAME: &str = "magikrun";

/// What becomes of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// It is as it should be.
    Nothing,
    /// It gets this content.
    Write(String),
    /// It goes.
    Remove,
}

/// A file that is ours alone gets `body`.
pub fn own_file(now: Option<&str>, body: &str) -> Result<Change> {
    let wanted = mark(body);
    match now {
        None => Ok(Change::Write(wanted)),
        Some(now) if now == wanted => Ok(Change::Nothing),
        Some(now) if is_only_ours(&split(now)?) => Ok(Change::Write(wanted)),
        Some(_) => Err(Error::new(ErrorKind::Usage, "it exists, and 'magikrun setup' has not written it")),
    }
}

/// A file that is ours alone goes.
pub fn undo_own_file(now: Option<&str>) -> Result<Change> {
    match now {
        None => Ok(Change::Nothing),
        Some(now) if is_only_ours(&split(now)?) => Ok(Change::Remove),
        Some(_) => Err(Error::new(ErrorKind::Usage, "'magikrun setup' has not written it")),
    }
}

fn is_only_ours(split: &Split<'_>) -> bool {
    split.ours.is_some() && split.before.is_empty() && split.after.is_empty()
}

/// The table of containerd's plugins that has the runtimes, by the version of its configuration: 2 is that of containerd 1.x, 3 came
/// with 2.0, and 4, which moves other sections alone, with 2.3.
fn containerd_plugin(document: &toml::Table) -> Result<&'static str> {
    match document.get("version").and_then(toml::Value::as_integer) {
        Some(2) => Ok("io.containerd.grpc.v1.cri"),
        Some(3 | 4) => Ok("io.containerd.cri.v1.runtime"),
        _ => Err(Error::new(
            ErrorKind::NotSupported,
            "its format is none of versions 2 to 4; 'containerd config migrate' prints it in a current one",
        )),
    }
}

/// containerd's config.toml gets a block at its end, which `body` makes.
///
/// A file that it imports would not do: containerd 1.x takes the whole section of a plugin from the last file that has it, so
/// what the operator set for runc would be lost.
pub fn containerd(now: Option<&str>, body: impl Fn(Found) -> String) -> Result<Change> {
    let nothing = Found { plugin: "io.containerd.grpc.v1.cri", alone: true, systemd: false };
    let alone = || format!("version = 2\n\n{}", body(nothing));
    let Some(now) = now else { return Ok(Change::Write(mark(&alone()))) };
    let split = split(now)?;
    if is_only_ours(&split) {
        return own_file(Some(now), &alone());
    }
    let theirs = format!("{}{}", split.before, split.after);
    let document = parse_toml(&theirs)?;
    let plugin = containerd_plugin(&document)?;
    let runtimes =
        document.get("plugins").and_then(|plugins| plugins.get(plugin)?.get("containerd")?.get("runtimes"));
    let systemd = runtimes.and_then(|all| all.get("runc")?.get("options")?.get("SystemdCgroup")?.as_bool());
    let found = Found { plugin, alone: runtimes.is_none(), systemd: systemd == Some(true) };
    let ours = mark(&body(found));
    if split.ours == Some(&ours) {
        return Ok(Change::Nothing);
    }
    let gap = if theirs.is_empty() || theirs.ends_with('\n') { "" } else { "\n" };
    let wanted = format!("{theirs}{gap}{ours}");
    parse_toml(&wanted).map_err(|_| {
        let taken = handlers::names().find(|name| runtimes.is_some_and(|all| all.get(name).is_some()));
        let taken = taken.unwrap_or(NAME);
        Error::new(
            ErrorKind::Usage,
            format!("it has a runtime '{taken}' that 'magikrun setup' has not written"),
        )
    })?;
    Ok(Change::Write(wanted))
}

/// The block goes, and the file if it has nothing else.
pub fn undo_containerd(now: Option<&str>) -> Result<Change> {
    let Some(now) = now else { return Ok(Change::Nothing) };
    let found = split(now)?;
    Ok(match found.ours {
        None => Change::Nothing,
        Some(_) if is_only_ours(&found) => Change::Remove,
        Some(_) => Change::Write(format!("{}{}", found.before, found.after)),
    })
}

fn parse_toml(text: &str) -> Result<toml::Table> {
    let wrong = |e: toml::de::Error| Error::new(ErrorKind::Usage, e.message().to_owned());
    toml::from_str(text).map_err(|e| wrong(e).wrap("it is not valid TOML"))
}

/// Docker's daemon.json gets a member of `runtimes`; everything else stays, in its order.
pub fn docker(now: Option<&str>, path: &str) -> Result<Change> {
    let mut document = daemon(now)?;
    let runtimes =
        document.as_object_mut().map(|members| members.entry("runtimes").or_insert_with(|| json!({})));
    let Some(runtimes) = runtimes.and_then(Value::as_object_mut) else {
        crate::bail!(Usage, "its 'runtimes' is not an object");
    };
    match runtimes.get(NAME) {
        Some(entry) if entry == &json!({"path": path}) => return Ok(Change::Nothing),
        Some(entry) if !is_our_entry(entry) => {
            crate::bail!(Usage, "it has a runtime '{NAME}' that 'magikrun setup' has not written");
        }
        _ => runtimes.insert(NAME.to_owned(), json!({"path": path})),
    };
    Ok(Change::Write(pretty(&document, now)?))
}

/// The member goes, `runtimes` if it is empty then, and the file if there is nothing else in it.
pub fn undo_docker(now: Option<&str>) -> Result<Change> {
    let mut document = daemon(now)?;
    let Some(members) = document.as_object_mut() else { return Ok(Change::Nothing) };
    let Some(runtimes) = members.get_mut("runtimes").and_then(Value::as_object_mut) else {
        return Ok(Change::Nothing);
    };
    match runtimes.get(NAME) {
        Some(entry) if is_our_entry(entry) => runtimes.shift_remove(NAME),
        Some(_) => crate::bail!(Usage, "'magikrun setup' has not written its runtime '{NAME}'"),
        None => return Ok(Change::Nothing),
    };
    if runtimes.is_empty() {
        members.shift_remove("runtimes");
    }
    if members.is_empty() { Ok(Change::Remove) } else { Ok(Change::Write(pretty(&document, now)?)) }
}

/// What we write has a path and nothing else, and JSON has no place for a mark.
fn is_our_entry(entry: &Value) -> bool {
    let path = entry.get("path").and_then(Value::as_str).unwrap_or_default();
    path.ends_with("/magikrun") && entry.as_object().is_some_and(|members| members.len() == 1)
}

fn daemon(now: Option<&str>) -> Result<Value> {
    let text = now.filter(|text| !text.trim().is_empty()).unwrap_or("{}");
    let document: Value = serde_json::from_str(text).or_kind(ErrorKind::Usage, || "it is not valid JSON")?;
    if document.is_object() {
        Ok(document)
    } else {
        Err(Error::new(ErrorKind::Usage, "it is not a JSON object"))
    }
}

/// Indented as the file was.
fn pretty(document: &Value, now: Option<&str>) -> Result<String> {
    use serde::Serialize as _;
    let first = now.unwrap_or_default().lines().find(|line| line.starts_with([' ', '\t']));
    let indent = first.map_or("  ", |line| &line[..line.len() - line.trim_start().len()]);
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
    document.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    text.push(b'\n');
    Ok(String::from_utf8_lossy(&text).into_owned())
}
