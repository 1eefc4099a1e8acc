//! Message bodies as CEL values: built straight from the JSON parser, and only as far as some expression looks.
//!
//! Strings borrow from the body where JSON writes them without escapes. Containers and copied strings are shared, so that
//! an expression that puts one value into a thousand results copies pointers, not trees.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use cel::common::value::Val;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::shared::Shared;

/// Most JSON values of one body that expressions may look at, about 100 bytes each while they run.
pub(crate) const VALUES_MAX: u32 = 250_000;

/// Which parts of `data` an expression can look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// Everything from here on.
    All,
    /// These fields, if it is an object; whether it is one.
    Fields(BTreeMap<String, Want>),
}

impl Default for Want {
    fn default() -> Self {
        Self::Fields(BTreeMap::new())
    }
}

impl Want {
    /// What `self` or `other` look at.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Fields(mut fields), Self::Fields(more)) => {
                for (name, want) in more {
                    let both = match fields.remove(&name) {
                        Some(known) => known.and(want),
                        None => want,
                    };
                    fields.insert(name, both);
                }
                Self::Fields(fields)
            }
            _ => Self::All,
        }
    }

    /// Adds everything at and below `path`.
    pub(crate) fn add(&mut self, path: &[&str]) {
        match (self, path) {
            (Self::All, _) => {}
            (want, []) => *want = Self::All,
            (Self::Fields(fields), [first, rest @ ..]) => fields.entry((*first).to_owned()).or_default().add(rest),
        }
    }
}

/// A CEL value that may borrow from a message for `'m`.
pub(crate) type BoxedVal<'m> = Box<dyn Val + 'm>;

/// A body as a value.
pub(crate) struct Parsed<'m> {
    /// The value.
    pub(crate) value: BoxedVal<'m>,
    /// What one operation on it can take or make at most: the bytes of its longest string, and how many values it has.
    pub(crate) weight: u64,
}

/// The CEL value of `body`, which is JSON, as far as `want` goes.
///
/// Integers become `int`, or `uint` where they need it; other numbers `double`. Nesting is bounded by the parser at 128.
///
/// # Errors
/// What is wrong with the JSON and where, never quoting it; or that it has more than [`VALUES_MAX`] values.
pub(crate) fn parse<'m>(body: &'m [u8], want: &Want) -> Result<Parsed<'m>, String> {
    let tally = Tally { left: Cell::new(VALUES_MAX), longest_bytes: Cell::new(0) };
    let mut parser = serde_json::Deserializer::from_slice(body);
    let node = Node { want, tally: &tally };
    let value = node.deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
    let weight = tally.longest_bytes.get() as u64 + u64::from(VALUES_MAX - tally.left.get());
    value.map(|value| Parsed { value, weight }).map_err(|error| describe(&error))
}

/// What is counted while a body is read.
struct Tally {
    left: Cell<u32>,
    longest_bytes: Cell<usize>,
}

fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    match error.classify() {
        _ if what.starts_with(TOO_MANY) => what.to_owned(),
        serde_json::error::Category::Eof => "the body is not JSON: it ends too early".to_owned(),
        _ => format!("the body is not JSON: {what} at line {} column {}", error.line(), error.column()),
    }
}

const TOO_MANY: &str = "the body has more than";

/// One JSON value about to be read.
#[derive(Clone, Copy)]
struct Node<'w> {
    want: &'w Want,
    tally: &'w Tally,
}

impl Node<'_> {
    fn count<E: Error>(&self) -> Result<(), E> {
        let left = self.tally.left.get().checked_sub(1);
        self.tally.left.set(left.ok_or_else(|| E::custom(format_args!("{TOO_MANY} {VALUES_MAX} JSON values")))?);
        Ok(())
    }

    fn see(&self, text: &str) {
        let longest = &self.tally.longest_bytes;
        longest.set(longest.get().max(text.len()));
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = BoxedVal<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<BoxedVal<'de>, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = BoxedVal<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<BoxedVal<'de>, E> {
        Ok(Box::new(CelNull))
    }

    fn visit_bool<E>(self, value: bool) -> Result<BoxedVal<'de>, E> {
        Ok(Box::new(CelBool::from(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<BoxedVal<'de>, E> {
        Ok(Box::new(CelInt::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<BoxedVal<'de>, E> {
        Ok(i64::try_from(value)
            .map_or_else(|_| Box::new(CelUInt::from(value)) as BoxedVal<'de>, |value| Box::new(CelInt::from(value))))
    }

    fn visit_f64<E>(self, value: f64) -> Result<BoxedVal<'de>, E> {
        Ok(Box::new(CelDouble::from(value)))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<BoxedVal<'de>, E> {
        self.see(value);
        Ok(Box::new(CelString::from(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<BoxedVal<'de>, E> {
        self.see(value);
        Ok(Box::new(Shared::new(CelString::from(value.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<BoxedVal<'de>, A::Error> {
        let mut list: Vec<BoxedVal<'de>> = Vec::new();
        if *self.want == Want::All {
            while let Some(item) = items.next_element_seed(self)? {
                list.push(item);
            }
        } else {
            while items.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(Box::new(Shared::new(CelList::from(list))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<BoxedVal<'de>, A::Error> {
        let mut map: HashMap<CelMapKey<'de>, BoxedVal<'de>> = HashMap::new();
        while let Some(Name(name)) = entries.next_key()? {
            let want = match self.want {
                Want::All => Some(&Want::All),
                Want::Fields(fields) => fields.get(name.inner()),
            };
            let Some(want) = want else {
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            self.see(&name);
            let value = entries.next_value_seed(Node { want, tally: self.tally })?;
            map.insert(CelMapKey::String(name), value);
        }
        Ok(Box::new(Shared::new(CelMap::from(map))))
    }
}

/// An object's key, borrowed where it can be.
struct Name<'de>(CelString<'de>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(CelString::from(value)))
            }
            fn visit_str<E>(self, value: &str) -> Result<Name<'de>, E> {
                Ok(Name(CelString::from(value.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}
