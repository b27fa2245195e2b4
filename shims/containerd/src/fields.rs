//! Fields of a protobuf message by their numbers, for those of which little is read here.

use crate::error::{Error, Result};
use containerd_shim_protos::protobuf::well_known_types::empty::Empty;
use containerd_shim_protos::protobuf::{Message as _, UnknownValueRef};
use std::collections::BTreeMap;

/// A message of which only numbers of fields are known.
#[derive(Debug)]
pub struct Fields(Empty);

impl Fields {
    /// Reads a message.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Ok(Self(Empty::parse_from_bytes(bytes)?))
    }

    fn values(&self, number: u32) -> impl Iterator<Item = UnknownValueRef<'_>> {
        self.0
            .special_fields
            .unknown_fields()
            .iter()
            .filter(move |field| field.0 == number)
            .map(|field| field.1)
    }

    fn all(&self, number: u32) -> impl Iterator<Item = &[u8]> {
        self.values(number).filter_map(|value| match value {
            UnknownValueRef::LengthDelimited(bytes) => Some(bytes),
            _ => None,
        })
    }

    /// A number; 0 if there is none.
    pub fn number(&self, number: u32) -> u64 {
        let numbers = self.values(number).filter_map(|value| match value {
            UnknownValueRef::Varint(value) => Some(value),
            _ => None,
        });
        numbers.last().unwrap_or(0)
    }

    /// Every text of a list.
    pub fn texts(&self, number: u32) -> Result<Vec<String>> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
        let texts: Result<Vec<_>, _> = self.all(number).map(text).collect();
        texts.map_err(|_| Error::invalid(format!("field {number} is not UTF-8")))
    }

    /// A text; empty if there is none.
    pub fn text(&self, number: u32) -> Result<String> {
        Ok(self.texts(number)?.pop().unwrap_or_default())
    }

    /// Bytes; none if there are none.
    pub fn data(&self, number: u32) -> &[u8] {
        self.all(number).last().unwrap_or_default()
    }

    /// A message; one without fields if there is none.
    pub fn message(&self, number: u32) -> Result<Self> {
        Self::parse(self.data(number))
    }

    /// Every message of a list.
    pub fn messages(&self, number: u32) -> Result<Vec<Self>> {
        self.all(number).map(Self::parse).collect()
    }

    /// A map of texts.
    pub fn map(&self, number: u32) -> Result<BTreeMap<String, String>> {
        let entry = |bytes| {
            let entry = Self::parse(bytes)?;
            Ok((entry.text(1)?, entry.text(2)?))
        };
        self.all(number).map(entry).collect()
    }
}
