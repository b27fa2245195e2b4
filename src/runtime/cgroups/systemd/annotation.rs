//! Annotations `org.systemd.property.NAME`: properties of the unit that the caller chooses, with values in the text
//! format of GVariant, as runc reads them.

use super::property::{Property, Value, array, text};
use crate::error::{Error, ErrorKind, Result};
use rustbus::params::{Base, Param};
use std::collections::HashMap;

/// What the names of these annotations begin with.
const PREFIX: &str = "org.systemd.property.";
/// Shorter names are a mistake: runc's rule.
const MIN_NAME: usize = 3;

/// The properties that annotations name, sorted by name.
pub fn properties(annotations: &HashMap<String, String>) -> Result<Vec<Property>> {
    let named = annotations.iter().filter_map(|(key, value)| Some((key, key.strip_prefix(PREFIX)?, value)));
    let mut all = named.map(|(key, name, value)| property(key, name, value)).collect::<Result<Vec<_>>>()?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn property(key: &str, name: &str, value: &str) -> Result<Property> {
    let invalid = |what: String| Error::new(ErrorKind::InvalidBundle, format!("annotation {key}{what}"));
    if name.len() < MIN_NAME {
        return Err(invalid(format!(" name incorrect: name {name:?} is too short")));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(invalid(format!(" name incorrect: name {name:?} contains invalid characters")));
    }
    let parsed = parse(value).map_err(|e| invalid(format!("={value} value parse error: {e}")))?;
    // `TimeoutStopSec` is a setting of unit files; the property is `TimeoutStopUSec`.
    let Some(stem) = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()))
    else {
        return Ok(Property::new(name, parsed));
    };
    let micros =
        microseconds(&parsed).ok_or_else(|| invalid(format!("={value} value parse error: not a number")))?;
    Ok(Property::new(format!("{stem}USec"), Param::Base(Base::Uint64(micros))))
}

fn microseconds(seconds: &Value) -> Option<u64> {
    let Param::Base(base) = seconds else { return None };
    let seconds = match base {
        Base::Double(bits) => f64::from_bits(*bits),
        Base::Byte(value) => f64::from(*value),
        Base::Int16(value) => f64::from(*value),
        Base::Uint16(value) => f64::from(*value),
        Base::Int32(value) => f64::from(*value),
        Base::Uint32(value) => f64::from(*value),
        Base::Int64(value) => *value as f64,
        Base::Uint64(value) => *value as f64,
        _ => return None,
    };
    (seconds >= 0.0).then_some((seconds * 1e6) as u64)
}

/// Parses a value in the text format of GVariant: booleans, numbers, texts and arrays, with or without a type.
pub fn parse(value: &str) -> Result<Value> {
    let mut parser = Parser { rest: value.trim() };
    let parsed = parser.value(None)?;
    if parser.rest.is_empty() { Ok(parsed) } else { Err(parser.unexpected()) }
}

struct Parser<'a> {
    rest: &'a str,
}

/// Keywords for types, and their letters in D-Bus.
const TYPES: [(&str, &str); 10] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("double", "d"),
    ("int16", "n"),
    ("int32", "i"),
    ("int64", "x"),
    ("string", "s"),
    ("uint16", "q"),
    ("uint32", "u"),
    ("uint64", "t"),
];

impl<'a> Parser<'a> {
    fn unexpected(&self) -> Error {
        let what = if self.rest.is_empty() { "the end" } else { self.rest };
        Error::new(ErrorKind::InvalidBundle, format!("unexpected {what}"))
    }

    /// Takes what is accepted from the front, and space after it.
    fn take(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let (taken, rest) = self.rest.split_at(self.rest.find(|c| !accept(c)).unwrap_or(self.rest.len()));
        self.rest = rest.trim_start();
        taken
    }

    fn eat(&mut self, token: char) -> bool {
        let after = self.rest.strip_prefix(token);
        self.rest = after.map_or(self.rest, str::trim_start);
        after.is_some()
    }

    /// The next value; of the type `wanted`, where that is known.
    fn value(&mut self, wanted: Option<&str>) -> Result<Value> {
        match self.rest.chars().next() {
            Some('@') => {
                self.eat('@');
                let signature = self.take(|c| c.is_ascii_lowercase());
                self.value(Some(signature))
            }
            Some('[') => self.array(wanted),
            Some(quote @ ('\'' | '"')) => self.quoted(quote),
            Some(c) if c.is_ascii_alphabetic() => self.word(wanted),
            Some(_) => self.number(wanted.unwrap_or_default()),
            None => Err(self.unexpected()),
        }
    }

    fn word(&mut self, wanted: Option<&str>) -> Result<Value> {
        let before = self.rest;
        let word = self.take(|c| c.is_ascii_alphanumeric());
        if let Some((_, letter)) = TYPES.iter().find(|(name, _)| *name == word) {
            return self.value(Some(letter));
        }
        if let ("true" | "false", None | Some("b")) = (word, wanted) {
            Ok(Param::Base(Base::Boolean(word == "true")))
        } else {
            self.rest = before;
            Err(self.unexpected())
        }
    }

    fn array(&mut self, wanted: Option<&str>) -> Result<Value> {
        self.eat('[');
        let mut of = wanted.and_then(|wanted| wanted.strip_prefix('a')).map(str::to_owned);
        let mut values = Vec::new();
        while !self.eat(']') {
            if !values.is_empty() && !self.eat(',') {
                return Err(self.unexpected());
            }
            let value = self.value(of.as_deref())?;
            if of.is_none() {
                let mut signature = String::new();
                value.make_signature(&mut signature);
                of = Some(signature);
            }
            values.push(value);
        }
        let untyped = || Error::new(ErrorKind::InvalidBundle, "an empty array needs a type, as in '@as []'");
        array(&of.ok_or_else(untyped)?, values)
    }

    fn quoted(&mut self, quote: char) -> Result<Value> {
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = self.rest[at + 1..].trim_start();
                    return Ok(text(out));
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => out.push('\n'),
                    Some('t') => out.push('\t'),
                    Some(c @ ('\\' | '\'' | '"')) => out.push(c),
                    _ => return Err(Error::new(ErrorKind::InvalidBundle, "unknown escape in a text")),
                },
                c => out.push(c),
            }
        }
        Err(Error::new(ErrorKind::InvalidBundle, "a text without an end"))
    }

    fn number(&mut self, wanted: &str) -> Result<Value> {
        let before = self.rest;
        let digits = self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.'));
        let wanted = match wanted {
            "" if digits.contains('.') => "d",
            "" => "i",
            wanted => wanted,
        };
        base(digits, wanted).map(Param::Base).ok_or_else(|| {
            self.rest = before;
            self.unexpected()
        })
    }
}

/// A number of a type; none if it does not fit.
fn base(digits: &str, wanted: &str) -> Option<Base<'static>> {
    let integer = || match digits.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16).ok(),
        None => digits.parse::<i128>().ok(),
    };
    Some(match wanted {
        "y" => Base::Byte(integer()?.try_into().ok()?),
        "n" => Base::Int16(integer()?.try_into().ok()?),
        "q" => Base::Uint16(integer()?.try_into().ok()?),
        "i" => Base::Int32(integer()?.try_into().ok()?),
        "u" => Base::Uint32(integer()?.try_into().ok()?),
        "x" => Base::Int64(integer()?.try_into().ok()?),
        "t" => Base::Uint64(integer()?.try_into().ok()?),
        "d" => Base::Double(digits.parse::<f64>().ok()?.to_bits()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> String {
        let parsed = parse(value).unwrap_or_else(|e| panic!("{value}: {e}"));
        let mut signature = String::new();
        parsed.make_signature(&mut signature);
        signature
    }

    #[test]
    fn values_have_the_types_of_gvariant() {
        for (value, signature) in [
            ("true", "b"),
            ("5", "i"),
            ("-5", "i"),
            ("1.5", "d"),
            ("uint64 5", "t"),
            ("@t 5", "t"),
            ("uint64 0x10", "t"),
            ("'a b'", "s"),
            (r#""it\"s""#, "s"),
            ("['a', 'b']", "as"),
            ("[uint32 1, 2]", "au"),
            ("@as []", "as"),
        ] {
            assert_eq!(shown(value), signature, "{value}");
        }
        assert_eq!(parse(r"'it\'s'").unwrap(), text("it's"));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for value in ["", "[]", "['a', 5]", "'open", "nonsense", "byte 256", "uint64 -1", "1 2", "@s 5"] {
            assert!(parse(value).is_err(), "{value}");
        }
    }

    #[test]
    fn names_are_checked_and_seconds_become_microseconds() {
        let one = |name: &str, value: &str| {
            properties(&HashMap::from([(format!("{PREFIX}{name}"), value.to_owned())]))
                .map(|mut all| all.remove(0))
        };
        let micros = |value| Param::Base(Base::Uint64(value));
        assert_eq!(
            one("TimeoutStopSec", "1.5").unwrap(),
            Property::new("TimeoutStopUSec", micros(1_500_000))
        );
        assert_eq!(one("TimeoutStopUSec", "uint64 7").unwrap(), Property::new("TimeoutStopUSec", micros(7)));
        assert_eq!(one("CollectMode", "'inactive'").unwrap(), Property::new("CollectMode", text("inactive")));
        assert!(one("x", "1").unwrap_err().message().contains("is too short"));
        assert!(one("Bad.Name", "1").unwrap_err().message().contains("invalid characters"));
        assert!(one("TimeoutStopSec", "'x'").unwrap_err().message().contains("value parse error"));
        assert!(properties(&HashMap::from([("other".to_owned(), "x".to_owned())])).unwrap().is_empty());
    }
}
