//! CEL values to JSON, the same bytes for the same value: the keys of maps are sorted.

use std::collections::BTreeMap;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelString, CelUInt, Kind};
use cel::common::value::{CowVal, Val};

use super::expression::to_text;

/// How deep lists and maps may stand in one another: what JSON parsers, ours among them, commonly read.
const DEPTH_MAX: usize = 128;

/// `value` as JSON of at most `bytes_max` bytes. Timestamps and durations become strings as `string()` writes them.
///
/// # Errors
/// What in it has no JSON form, or that it is too long or too deep.
pub(crate) fn write(value: &dyn Val, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut writer = Writer { out: Vec::with_capacity(256), bytes_max };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct Writer {
    out: Vec<u8>,
    bytes_max: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.out.len() + bytes.len() > self.bytes_max {
            return Err(format!("the message that it makes has more than {} bytes", self.bytes_max));
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn value(&mut self, value: &dyn Val, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("the message that it makes is nested more than {DEPTH_MAX} deep"));
        }
        let kind = value.get_type().kind();
        match kind {
            Kind::NullType => self.put(b"null"),
            Kind::List => match value.downcast_ref::<CelList<'_>>() {
                Some(list) => self.list(list, depth),
                None => Err(no_form(value)),
            },
            Kind::Map => match value.downcast_ref::<CelMap<'_>>() {
                Some(map) => self.map(map, depth),
                None => Err(no_form(value)),
            },
            Kind::Timestamp | Kind::Duration => {
                let text = to_text(CowVal::Borrowed(value)).ok_or_else(|| no_form(value))?;
                self.text(&text)
            }
            _ => self.scalar(value),
        }
    }

    fn scalar(&mut self, value: &dyn Val) -> Result<(), String> {
        if let Some(text) = value.downcast_ref::<CelString<'_>>() {
            self.text(text.inner())
        } else if let Some(number) = value.downcast_ref::<CelInt>() {
            self.put(number.inner().to_string().as_bytes())
        } else if let Some(number) = value.downcast_ref::<CelUInt>() {
            self.put(number.inner().to_string().as_bytes())
        } else if let Some(number) = value.downcast_ref::<CelDouble>() {
            let number = serde_json::Number::from_f64(*number.inner())
                .ok_or_else(|| format!("the number {} has no form in JSON", number.inner()))?;
            self.put(number.to_string().as_bytes())
        } else if let Some(truth) = value.downcast_ref::<CelBool>() {
            self.put(if *truth.inner() { b"true" } else { b"false" })
        } else {
            Err(no_form(value))
        }
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        // Looked at before it is written: escapes only make it longer.
        if self.out.len() + text.len() > self.bytes_max {
            return self.put(text.as_bytes());
        }
        let quoted = serde_json::to_string(text).map_err(|error| error.to_string())?;
        self.put(quoted.as_bytes())
    }

    fn list(&mut self, list: &CelList<'_>, depth: usize) -> Result<(), String> {
        self.put(b"[")?;
        for (at, item) in list.iter().enumerate() {
            if at > 0 {
                self.put(b",")?;
            }
            self.value(item.as_ref(), depth + 1)?;
        }
        self.put(b"]")
    }

    fn map(&mut self, map: &CelMap<'_>, depth: usize) -> Result<(), String> {
        let mut sorted = BTreeMap::new();
        for (key, value) in map.iter() {
            if sorted.insert(key_text(key), value).is_some() {
                return Err("a map has a key twice, as different types".into());
            }
        }
        self.put(b"{")?;
        for (at, (key, value)) in sorted.iter().enumerate() {
            if at > 0 {
                self.put(b",")?;
            }
            self.text(key)?;
            self.put(b":")?;
            self.value(value.as_ref(), depth + 1)?;
        }
        self.put(b"}")
    }
}

fn key_text<'k>(key: &'k CelMapKey<'_>) -> std::borrow::Cow<'k, str> {
    match key {
        CelMapKey::String(text) => text.inner().into(),
        CelMapKey::Int(number) => number.inner().to_string().into(),
        CelMapKey::UInt(number) => number.inner().to_string().into(),
        CelMapKey::Bool(truth) => truth.inner().to_string().into(),
    }
}

fn no_form(value: &dyn Val) -> String {
    let name = value.get_type().name();
    match value.get_type().kind() {
        Kind::Bytes => "bytes have no form in JSON; convert them with string()".to_owned(),
        Kind::Opaque => format!("an {name} has no form in JSON; end it with .orValue(...)"),
        _ => format!("a {name} has no form in JSON"),
    }
}
