//! Sorting the fields of a manifest into what is used, what has no effect and what is refused.

use super::fields::Rule::{Harmless, List, Object, Refused, Value as Plain};
use super::fields::{Rule, Type};
use super::findings::Findings;
use super::similar;
use serde_json::{Map, Value};

/// Types of which an object holds exactly one of these fields; with `true` it may also hold none.
const ONE_OF: [(&str, &[&str], bool); 5] = [
    ("Probe", &["exec", "httpGet", "tcpSocket", "grpc"], false),
    ("LifecycleHandler", &["exec", "httpGet", "tcpSocket", "sleep"], false),
    ("EnvVarSource", &[], false),
    ("VolumeProjection", &[], false),
    // Without a source it is an empty directory.
    ("Volume", &[], true),
];

/// Walks `object` by the table of its type: what is unknown or refused becomes an error, what is harmless a warning, and both
/// are taken out, as are nulls, which mean "not set".
pub fn sift(object: &mut Map<String, Value>, table: &Type, path: &str, findings: &mut Findings) {
    check_one_of(object, table, path, findings);
    let names: Vec<String> = object.keys().cloned().collect();
    for name in names {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let rule = table.fields.iter().find(|(known, _)| *known == name).map(|(_, rule)| rule);
        let keep = match (object.get_mut(&name), rule) {
            (None | Some(Value::Null), _) => false,
            (Some(value), Some(rule)) => keep(value, rule, &at, findings),
            (Some(_), None) => {
                findings.error(&at, unknown(&name, table));
                false
            }
        };
        if !keep {
            object.remove(&name);
        }
    }
}

fn keep(value: &mut Value, rule: &Rule, at: &str, findings: &mut Findings) -> bool {
    match rule {
        Plain => true,
        Object(inner) => {
            if let Value::Object(map) = value {
                sift(map, inner, at, findings);
            }
            true
        }
        List(inner) => {
            for (number, item) in value.as_array_mut().into_iter().flatten().enumerate() {
                if let Value::Object(map) = item {
                    sift(map, inner, &format!("{at}[{number}]"), findings);
                }
            }
            true
        }
        Harmless(_) | Refused(_) if is_default(value) => false,
        Harmless(why) => {
            findings.warn(at, format!("has no effect: {why}"));
            false
        }
        Refused(why) => {
            findings.error(at, format!("not supported: {why}"));
            false
        }
    }
}

fn unknown(name: &str, table: &Type) -> String {
    match similar::nearest(name, table.fields.iter().map(|(known, _)| *known)) {
        Some(known) => format!("unknown field (is '{known}' meant?)"),
        None => "unknown field".to_owned(),
    }
}

fn check_one_of(object: &Map<String, Value>, table: &Type, path: &str, findings: &mut Findings) {
    let Some((_, names, may_be_none)) = ONE_OF.iter().find(|(name, ..)| *name == table.name) else { return };
    let is_choice = |name: &str| name != "name" && (names.is_empty() || names.contains(&name));
    let set: Vec<&str> = object
        .iter()
        .filter(|(name, value)| is_choice(name) && !value.is_null())
        .map(|(n, _)| n.as_str())
        .collect();
    match set.as_slice() {
        [] if !may_be_none => findings.error(path, "needs one of its fields that say what it is"),
        [_, _, ..] => findings.error(path, format!("may have only one of {}", set.join(", "))),
        _ => {}
    }
}

/// True for the value that a field has when it is not set.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
