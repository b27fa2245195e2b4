//! `magikrun config`: what holds of the operator's configuration, and where each value came from.

use super::context::Global;
use super::list::{Format, table};
use super::print;
use super::store::image_store;
use crate::error::Result;
use crate::image::store::STORE_VARIABLE;
use crate::storage::config::{CONFIG_VARIABLE, Config, DEFAULT_CONFIG, Loaded};
use serde_json::{Value, json};
use std::path::Path;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print every value and where it came from; this is the default
    Show {
        /// Form of the list
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        format: Format,
    },
}

/// A value, by its table and key, and where it came from.
#[derive(Debug, PartialEq)]
struct Row {
    key: String,
    value: Value,
    source: String,
}

/// `magikrun config`
pub fn run(global: &Global, args: &Args) -> Result<()> {
    let loaded = Config::load_with_source()?;
    let mut rows = rows(&loaded)?;
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let images = image_store(&loaded.config)?;
    settle(&mut rows, "stores.images", &images, is_set(STORE_VARIABLE).then_some(STORE_VARIABLE));
    let (state, named_by) = global.state_root(&loaded.config);
    settle(&mut rows, "stores.state", &state, named_by);
    let file = loaded.file.as_ref().map(|(path, _)| path.display().to_string());
    let Action::Show { format } = args.action.as_ref().unwrap_or(&Action::Show { format: Format::Table });
    match format {
        Format::Json => {
            let entry = |row: &Row| json!({"key": row.key, "value": row.value, "source": row.source});
            let values: Vec<Value> = rows.iter().map(entry).collect();
            print(&serde_json::to_string_pretty(&json!({"file": file, "values": values}))?)
        }
        Format::Table => {
            let file =
                file.unwrap_or_else(|| format!("none ({DEFAULT_CONFIG}, or what {CONFIG_VARIABLE} names)"));
            let lines = rows.into_iter().map(|row| vec![row.key, shown(&row.value), row.source]);
            print(&format!(
                "configuration: {file}\n\n{}",
                table(&["KEY", "VALUE", "SOURCE"], lines)?.trim_end()
            ))
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// All values, with the line of the file that sets them.
fn rows(loaded: &Loaded) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let all = serde_json::to_value(&loaded.config)?;
    for (table, members) in all.as_object().into_iter().flatten() {
        for (key, value) in members.as_object().into_iter().flatten() {
            let set = loaded.file.as_ref().and_then(|(path, text)| {
                let line = line_of(text, table, key)?;
                Some(format!("{}:{line}", path.display()))
            });
            let source = set.unwrap_or_else(|| "default".to_owned());
            rows.push(Row { key: format!("{table}.{key}"), value: value.clone(), source });
        }
    }
    Ok(rows)
}

/// The line that sets a key, counted from one; none if no line does.
fn line_of(text: &str, table: &str, key: &str) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let members = document.get_ref().get(table)?.get_ref().as_table()?;
    let (name, _) = members.iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
    Some(text[..name.span().start].matches('\n').count() + 1)
}

/// Puts in what holds where the file is not the last to say it; `named_by` is what has said it.
fn settle(rows: &mut [Row], key: &str, path: &Path, named_by: Option<&str>) {
    if let Some(row) = rows.iter_mut().find(|row| row.key == key) {
        row.value = json!(path);
        if let Some(name) = named_by {
            row.source = if name.starts_with('-') { name.to_owned() } else { format!("environment: {name}") };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_key_is_found_however_it_is_written() {
        let text = "# limits\n[limits]\nmax_layers = 3\n\n[wasm]\n  fuel = 5\n";
        assert_eq!(line_of(text, "limits", "max_layers"), Some(3));
        assert_eq!(line_of(text, "wasm", "fuel"), Some(6));
        assert_eq!(line_of(text, "wasm", "store"), None);
        assert_eq!(line_of("limits.max_layers = 3\n", "limits", "max_layers"), Some(1));
        assert_eq!(line_of("\nlimits = { max_layers = 3 }\n", "limits", "max_layers"), Some(2));
    }

    #[test]
    fn every_value_is_listed_with_its_source() {
        let rows = rows(&Loaded::default()).unwrap();
        assert!(rows.iter().all(|row| row.source == "default"));
        for key in ["limits.max_containers", "wasm.fuel", "stores.images", "annotations.allowed"] {
            assert!(rows.iter().any(|row| row.key == key), "{key}");
        }
    }
}
