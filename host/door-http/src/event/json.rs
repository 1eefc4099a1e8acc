//! The JSON event format: an event or an array of events to messages, in one pass that borrows from the request.
//!
//! JSON data keeps the bytes that it had in the request. What is wrong with one event of a batch does not end the pass,
//! so that a producer learns of all of them at once.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pelton_core::message::{Attributes, EXTENSIONS_MAX, Message, is_json_type};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Defect;
use crate::limits::{BATCH_MESSAGES_MAX, ITEMS_LISTED_MAX};

/// Why a body is no event and no batch of events.
#[derive(Debug)]
pub enum Malformed {
    /// It is not JSON, from this place on.
    Syntax(serde_json::Error),
    /// It is JSON of another shape: the message at this place is no object, or the body no array.
    Shape {
        /// Its place in the batch; none when the body as a whole has the wrong shape.
        index: Option<usize>,
        /// What was expected, and where.
        detail: String,
    },
    /// Events that break a rule of CloudEvents.
    Events {
        /// The first [`ITEMS_LISTED_MAX`] with their places.
        faults: Vec<(usize, Defect)>,
        /// How many there are in all.
        count: usize,
    },
    /// More than [`BATCH_MESSAGES_MAX`] events.
    TooMany,
}

/// The message that `text`, one event, describes.
///
/// # Errors
/// [`Malformed`]; never `TooMany`.
pub fn parse_one(text: &str) -> Result<Message, Malformed> {
    let event: EventJson<'_> = serde_json::from_str(text).map_err(|error| malformed(error, None))?;
    event.into_message().map_err(|defect| Malformed::Events { faults: vec![(0, defect)], count: 1 })
}

/// Passes the messages that `text`, an array of events, describes to `sink`, in order.
///
/// # Errors
/// [`Malformed`]; what was passed to `sink` before is void then.
pub fn parse_batch(text: &str, sink: &mut dyn FnMut(Message)) -> Result<(), Malformed> {
    let mut batch = Batch { sink, begun: false, seen: 0, faults: Vec::new(), fault_count: 0 };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = batch.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    if batch.seen > BATCH_MESSAGES_MAX {
        return Err(Malformed::TooMany);
    }
    parsed.map_err(|error| malformed(error, batch.begun.then_some(batch.seen)))?;
    match batch.fault_count {
        0 => Ok(()),
        count => Err(Malformed::Events { faults: batch.faults, count }),
    }
}

fn malformed(error: serde_json::Error, index: Option<usize>) -> Malformed {
    if error.is_data() { Malformed::Shape { index, detail: shape(&error) } } else { Malformed::Syntax(error) }
}

/// What the parser says of JSON that is of another type than expected, in words that do not speak of its own types.
fn shape(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let parts = text.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "));
    let Some((given, expected)) = parts else { return text };
    let given = match given {
        "sequence" => "a list",
        "map" => "an object",
        other => other,
    };
    // The place of a whole body says nothing.
    let expected = expected.strip_suffix(" at line 1 column 0").unwrap_or(expected);
    format!("it is {given}; expected is {expected}")
}

struct Batch<'s> {
    sink: &'s mut dyn FnMut(Message),
    /// It is an array.
    begun: bool,
    seen: usize,
    faults: Vec<(usize, Defect)>,
    fault_count: usize,
}

impl<'de> DeserializeSeed<'de> for &mut Batch<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Batch<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of CloudEvents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut events: A) -> Result<(), A::Error> {
        self.begun = true;
        while let Some(event) = events.next_element::<EventJson<'_>>()? {
            let index = self.seen;
            self.seen += 1;
            if self.seen > BATCH_MESSAGES_MAX {
                return Err(de::Error::custom("too many events"));
            }
            match event.into_message() {
                Ok(message) => (self.sink)(message),
                Err(defect) => {
                    self.fault_count += 1;
                    if self.faults.len() < ITEMS_LISTED_MAX {
                        self.faults.push((index, defect));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The attributes that CloudEvents itself defines; [`EventJson::texts`] is in this order.
const KNOWN: [&str; 8] = ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"];

/// An event as it stands in the text.
#[derive(Default)]
struct EventJson<'a> {
    texts: [Option<Cow<'a, str>>; KNOWN.len()],
    extensions: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    data: Option<&'a RawValue>,
    data_base64: Option<Cow<'a, str>>,
    /// The first thing that is wrong with it.
    defect: Option<Defect>,
}

impl<'a> EventJson<'a> {
    fn into_message(self) -> Result<Message, Defect> {
        if let Some(defect) = self.defect {
            return Err(defect);
        }
        let [spec_version, id, source, kind, subject, time, content_type, data_schema] = &self.texts;
        if let Some(defect) = Defect::spec_version(spec_version.as_deref()) {
            return Err(defect);
        }
        let extensions: Vec<(&str, &str)> = self.extensions.iter().map(|(name, value)| (&**name, &**value)).collect();
        let attributes = Attributes {
            id: id.as_deref().unwrap_or_default(),
            source: source.as_deref().unwrap_or_default(),
            kind: kind.as_deref().unwrap_or_default(),
            subject: subject.as_deref(),
            time: time.as_deref(),
            content_type: content_type.as_deref(),
            data_schema: data_schema.as_deref(),
            extensions: &extensions,
        };
        let data = body(self.data, self.data_base64.as_deref(), content_type.as_deref())?;
        Ok(Message::new(&attributes, &data)?)
    }

    /// Puts `value` where it belongs; a null is the same as no attribute.
    fn take(&mut self, key: Key<'a>, value: Scalar<'a>) {
        let name = key.name();
        let text = match value {
            Scalar::Null => return,
            Scalar::Text(text) => text,
            Scalar::Other(text) if matches!(key, Key::Extension(_)) => Cow::Owned(text),
            Scalar::Other(text) => return self.fault(name, &format!("must be a string, but is {text}")),
            Scalar::Unfit(what) => return self.fault(name, &format!("must be a string, but is {what}")),
        };
        let slot = match key {
            Key::Text(at) => &mut self.texts[at],
            Key::DataBase64 => &mut self.data_base64,
            Key::Extension(_) if self.extensions.len() >= EXTENSIONS_MAX => {
                return self.fault(name, &format!("is one too many: at most {EXTENSIONS_MAX} extensions are allowed"));
            }
            Key::Extension(name) => return self.extensions.push((name, text)),
            Key::Data => unreachable!("data is taken as it stands"),
        };
        if slot.replace(text).is_some() {
            self.fault(name, "stands twice");
        }
    }

    fn fault(&mut self, name: impl AsRef<str>, reason: &str) {
        self.defect.get_or_insert_with(|| Defect::attribute(&super::shorten(name.as_ref()), reason));
    }
}

/// The bytes that the event's data stands for.
fn body<'a>(
    data: Option<&'a RawValue>,
    base64: Option<&str>,
    content_type: Option<&str>,
) -> Result<Cow<'a, [u8]>, Defect> {
    match (data, base64) {
        (None, None) => Ok(Cow::Borrowed(&[])),
        (Some(_), Some(_)) => {
            Err(Defect::attribute("data_base64", "stands beside 'data'; only one of them is allowed"))
        }
        (None, Some(base64)) => {
            let bytes = BASE64_STANDARD.decode(base64);
            bytes.map(Cow::Owned).map_err(|error| Defect::attribute("data_base64", &format!("is not base64: {error}")))
        }
        (Some(raw), None) => {
            let raw = raw.get();
            if is_json_type(content_type) || !raw.starts_with('"') {
                return Ok(Cow::Borrowed(raw.as_bytes()));
            }
            // A string under another content type is the body's text itself.
            if let Ok(plain) = serde_json::from_str::<&str>(raw) {
                return Ok(Cow::Borrowed(plain.as_bytes()));
            }
            let text = serde_json::from_str::<String>(raw);
            text.map(|text| Cow::Owned(text.into_bytes()))
                .map_err(|error| Defect::attribute("data", &format!("is not text: {error}")))
        }
    }
}

impl<'de> Deserialize<'de> for EventJson<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EventVisitor)
    }
}

struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = EventJson<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the attributes of a CloudEvent")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<EventJson<'de>, A::Error> {
        let mut event = EventJson::default();
        while let Some(key) = members.next_key::<Key<'de>>()? {
            if matches!(key, Key::Data) {
                if event.data.replace(members.next_value()?).is_some() {
                    event.fault("data", "stands twice");
                }
            } else {
                let value = members.next_value()?;
                event.take(key, value);
            }
        }
        Ok(event)
    }
}

/// A member's name.
enum Key<'a> {
    /// An index into [`KNOWN`].
    Text(usize),
    Data,
    DataBase64,
    Extension(Cow<'a, str>),
}

impl<'a> Key<'a> {
    fn known(name: &str) -> Option<Self> {
        match name {
            "data" => Some(Self::Data),
            "data_base64" => Some(Self::DataBase64),
            _ => KNOWN.iter().position(|known| *known == name).map(Self::Text),
        }
    }

    fn name(&self) -> Cow<'a, str> {
        match self {
            Self::Text(at) => Cow::Borrowed(KNOWN[*at]),
            Self::Data => Cow::Borrowed("data"),
            Self::DataBase64 => Cow::Borrowed("data_base64"),
            Self::Extension(name) => name.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of an attribute")
    }

    fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Key<'de>, E> {
        Ok(Key::known(name).unwrap_or(Key::Extension(Cow::Borrowed(name))))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Key<'de>, E> {
        Ok(Key::known(name).unwrap_or_else(|| Key::Extension(Cow::Owned(name.to_owned()))))
    }
}

/// A member's value. Every JSON value is one, so that a wrong type is an event's defect and not the end of the pass.
enum Scalar<'a> {
    Null,
    Text(Cow<'a, str>),
    /// The canonical text of a boolean or an integer: right for an extension, wrong elsewhere.
    Other(String),
    /// What no attribute can be.
    Unfit(&'static str),
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value of an attribute")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Other(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Other(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Other(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Unfit("a number with a fraction"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar<'de>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Unfit("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Scalar<'de>, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Unfit("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(members: &str) -> String {
        format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{members}}}"#)
    }

    /// What becomes of an event with these further members: its body, or what is wrong with it.
    fn check(members: &str, expected: &str) {
        let shown = match parse_one(&event(members)) {
            Ok(message) => String::from_utf8_lossy(message.data()).into_owned(),
            Err(Malformed::Events { faults, .. }) => faults[0].1.detail.clone(),
            Err(other) => format!("{other:?}"),
        };
        assert_eq!(shown, expected, "{members}");
    }

    #[test]
    fn data_becomes_the_body() {
        check("", "");
        check(r#","data":{"b" : 1.50,  "a":[]}"#, r#"{"b" : 1.50,  "a":[]}"#);
        check(r#","data":"text""#, r#""text""#);
        check(r#","data":null"#, "null");
        check(r#","datacontenttype":"text/plain","data":"a\u00e4\n""#, "a\u{e4}\n");
        check(r#","data":"plain","datacontenttype":"text/plain""#, "plain");
        check(r#","data":{"a":1},"datacontenttype":"application/xml""#, r#"{"a":1}"#);
        check(r#","data":"x","datacontenttype":"application/vnd.a+json""#, r#""x""#);
        check(r#","data_base64":"aGV5""#, "hey");
    }

    #[test]
    fn defects_name_their_attribute() {
        check(r#","data_base64":"a!""#, "attribute 'data_base64' is not base64: Invalid symbol 33, offset 1.");
        check(
            r#","data_base64":"","data":1"#,
            "attribute 'data_base64' stands beside 'data'; only one of them is allowed",
        );
        check(r#","data":1,"data":1"#, "attribute 'data' stands twice");
        check(r#","id":"2""#, "attribute 'id' stands twice");
        check(r#","subject":[{"deep":[]}]"#, "attribute 'subject' must be a string, but is an array");
        check(r#","subject":7"#, "attribute 'subject' must be a string, but is 7");
        check(r#","extra":1.5"#, "attribute 'extra' must be a string, but is a number with a fraction");
        check(r#","Extra":"x""#, "attribute 'Extra' is no extension name: only a-z and 0-9 are allowed");
        check(r#","extra":"x","extra":"x""#, "attribute 'extra' stands twice");
        check(r#","time":"noon""#, "attribute 'time' is 'noon', which is not RFC 3339, such as 2026-01-31T12:00:00Z");
        check(
            r#","data":"\ud800","datacontenttype":"a/b""#,
            "attribute 'data' is not text: unexpected end of hex escape at line 1 column 8",
        );
    }

    #[test]
    fn what_is_required_is_required() {
        for (missing, name) in [("specversion", "specversion"), ("id", "id"), ("source", "source"), ("type", "type")] {
            let text = event("").replace(&format!("\"{missing}\":"), "\"other\":");
            let Err(Malformed::Events { faults, .. }) = parse_one(&text) else { panic!("{text} passed") };
            assert_eq!(faults[0].1.attribute.as_deref(), Some(name));
        }
    }

    #[test]
    fn attributes_and_extensions_are_taken_over() {
        let message = parse_one(&event(
            r#","subject":"a\"b","time":"2026-01-31T12:00:00.5+01:00","dataschema":"urn:x","n":-7,"flag":true,"none":null,"te\u0078t":"\u00e4""#,
        ))
        .expect("valid");
        assert_eq!((message.subject(), message.data_schema()), (Some("a\"b"), Some("urn:x")));
        assert_eq!(message.time(), Some("2026-01-31T12:00:00.5+01:00"));
        let extensions: Vec<_> = message.extensions().collect();
        assert_eq!(extensions, [("flag", "true"), ("n", "-7"), ("text", "\u{e4}")]);
    }

    #[test]
    fn a_batch_reports_every_bad_event() {
        let text = format!("[{},{},{{}},{}]", event(""), event(r#","subject":"""#), event(""));
        let mut taken = 0;
        let Err(Malformed::Events { faults, count }) = parse_batch(&text, &mut |_| taken += 1) else {
            panic!("it passed")
        };
        let places: Vec<_> = faults.iter().map(|(index, defect)| (*index, defect.attribute.as_deref())).collect();
        assert_eq!((places, count, taken), (vec![(1, Some("subject")), (2, Some("specversion"))], 2, 2));
    }

    #[test]
    fn a_batch_has_an_end() {
        let of = |count: usize| format!("[{}]", vec![event(""); count].join(","));
        let mut taken = 0;
        assert!(parse_batch(&of(BATCH_MESSAGES_MAX), &mut |_| taken += 1).is_ok());
        assert_eq!(taken, BATCH_MESSAGES_MAX);
        assert!(matches!(parse_batch(&of(BATCH_MESSAGES_MAX + 1), &mut |_| {}), Err(Malformed::TooMany)));
    }

    #[test]
    fn other_json_and_no_json_are_told_apart() {
        assert!(matches!(parse_one("[]"), Err(Malformed::Shape { index: None, .. })));
        assert!(matches!(parse_one("{\"id\":"), Err(Malformed::Syntax(_))));
        assert!(matches!(parse_one(&(event("") + " x")), Err(Malformed::Syntax(_))));
        assert!(matches!(parse_batch("{}", &mut |_| {}), Err(Malformed::Shape { index: None, .. })));
        let text = format!("[{},5]", event(""));
        assert!(matches!(parse_batch(&text, &mut |_| {}), Err(Malformed::Shape { index: Some(1), .. })));
        assert!(matches!(parse_batch("[] []", &mut |_| {}), Err(Malformed::Syntax(_))));
    }

    #[test]
    fn extensions_have_an_end() {
        let of = |count: usize| (0..count).map(|n| format!(",\"e{n}\":\"\"")).collect::<String>();
        assert!(parse_one(&event(&of(EXTENSIONS_MAX))).is_ok());
        check(&of(EXTENSIONS_MAX + 1), "attribute 'e64' is one too many: at most 64 extensions are allowed");
    }
}
