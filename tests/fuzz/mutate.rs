//! Mutations: of bytes, and of JSON as a tree, so that what comes out is still read far enough to matter.

use serde_json::{Value, json};

/// Makes mutations from a seed.
pub struct Mutator(fastrand::Rng);

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Mutates an input: as a tree where it is JSON, sometimes as bytes, sometimes both.
    pub fn bytes(&mut self, input: &[u8]) -> Vec<u8> {
        let tree = serde_json::from_slice::<Value>(input).ok().filter(|_| self.0.u8(..4) > 0);
        let Some(mut value) = tree else { return self.flip(input.to_vec()) };
        let times = self.0.usize(1..4);
        self.value(&mut value, times);
        let text = value.to_string().into_bytes();
        if self.0.u8(..8) == 0 { self.flip(text) } else { text }
    }

    fn flip(&mut self, mut data: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.0.usize(1..5) {
            let at = self.0.usize(..=data.len());
            match self.0.u8(..5) {
                0 => data.truncate(at),
                1 => data.insert(at, self.0.u8(..)),
                2 => {
                    let end = (at + self.0.usize(..16)).min(data.len());
                    data.drain(at..end);
                }
                3 => {
                    let end = (at + self.0.usize(..64)).min(data.len());
                    let copy = data[at..end].to_vec();
                    let to = self.0.usize(..=data.len());
                    data.splice(to..to, copy);
                }
                _ => {
                    if let Some(byte) = data.get_mut(at) {
                        *byte ^= 1 << self.0.u8(..8);
                    }
                }
            }
        }
        data
    }

    /// Mutates a tree at so many places.
    pub fn value(&mut self, value: &mut Value, times: usize) {
        for _ in 0..times {
            let count = size(value);
            let place = self.0.usize(..count);
            let other = self.0.usize(..count);
            let other = node(value, &mut other.clone()).cloned();
            let Some(node) = node(value, &mut place.clone()) else { continue };
            let new = match self.0.u8(..4) {
                0 => other.unwrap_or(Value::Null),
                1 => self.interesting(|_| true),
                // Of the same kind, so that it is not the parser that refuses it.
                _ => self.interesting(|new| std::mem::discriminant(new) == std::mem::discriminant(node)),
            };
            self.change(node, new);
        }
    }

    fn change(&mut self, node: &mut Value, new: Value) {
        match node {
            Value::Array(items) if !items.is_empty() && self.0.bool() => {
                let at = self.0.usize(..items.len());
                match self.0.u8(..3) {
                    0 => drop(items.remove(at)),
                    1 => items.push(items[at].clone()),
                    _ => items.push(new),
                }
            }
            Value::Object(map) if !map.is_empty() && self.0.bool() => {
                let at = self.0.usize(..map.len());
                let name = map.keys().nth(at).cloned().unwrap_or_default();
                map.remove(&name);
            }
            Value::String(text) if self.0.bool() => {
                let mut data = self.flip(std::mem::take(text).into_bytes());
                data.truncate(5000);
                *text = String::from_utf8_lossy(&data).into_owned();
            }
            Value::Number(number) if self.0.bool() => {
                let near = number.as_i64().unwrap_or_default().wrapping_add(self.0.i64(-2..=2));
                *node = json!(near);
            }
            node => *node = new,
        }
    }

    /// A value at the edge of what is allowed.
    fn interesting(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        let all = [
            Value::Null,
            json!(true),
            json!(false),
            json!(0),
            json!(-1),
            json!(1),
            json!(u32::MAX),
            json!(i64::MAX),
            json!(i64::MIN),
            json!(u64::MAX),
            json!(1.5),
            json!(""),
            json!("/"),
            json!("."),
            json!("../.."),
            json!("/proc/self"),
            json!("a\0b"),
            json!("\u{fffd}é\n"),
            json!("x".repeat(300)),
            json!("x/".repeat(2100)),
            json!("ro,rw,bind,rbind,remount"),
            json!([]),
            json!({}),
            json!([[[]]]),
            json!(["bind", "tmpcopyup", "idmap", "remount"]),
        ];
        let all: Vec<Value> = all.into_iter().filter(fits).collect();
        self.0.choice(all).unwrap_or(Value::Null)
    }
}

/// The number of nodes of a tree.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        _ => 0,
    }
}

/// Node number `at`, counted from the root, depth first.
fn node<'a>(value: &'a mut Value, at: &mut usize) -> Option<&'a mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| node(item, at)),
        Value::Object(map) => map.values_mut().find_map(|item| node(item, at)),
        _ => None,
    }
}
