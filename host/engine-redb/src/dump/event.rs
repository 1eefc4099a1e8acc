//! A message in the CloudEvents JSON format, on one line, and back: the same bytes come out that went in.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pelton_core::message::{Attributes, Message, is_json_type};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::value::RawValue;

const SPEC_VERSION: &str = "1.0";
/// Members that are no extensions.
const KNOWN: [&str; 10] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data", "data_base64"];

/// Writes a message as an object. JSON stands in `data` as it is, text as a string, and everything else in `data_base64`; JSON
/// with a line break in it as well, since the object is to be one line and the body to keep its bytes.
pub(super) struct EventJson<'a>(pub(super) &'a Message);

impl Serialize for EventJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", SPEC_VERSION)?;
        for name in ["id", "source", "type", "subject", "time", "datacontenttype", "dataschema"] {
            if let Some(value) = message.attribute(name) {
                map.serialize_entry(name, value)?;
            }
        }
        for (name, value) in message.extensions() {
            map.serialize_entry(name, value)?;
        }
        let data = message.data();
        let text = std::str::from_utf8(data).ok();
        let json = text.filter(|text| message.is_json() && !text.contains(['\n', '\r'])).and_then(as_json);
        match (json, text) {
            _ if data.is_empty() => {}
            (Some(json), _) => map.serialize_entry("data", json)?,
            (None, Some(text)) if !message.is_json() => map.serialize_entry("data", text)?,
            _ => map.serialize_entry("data_base64", &BASE64_STANDARD.encode(data))?,
        }
        map.end()
    }
}

/// The text, if it is JSON and nothing else: blanks around it would be lost.
fn as_json(text: &str) -> Option<&RawValue> {
    serde_json::from_str::<&RawValue>(text).ok().filter(|json| json.get() == text)
}

/// The message that an object describes; an error is a sentence that names the attribute.
pub(super) fn read(text: &RawValue) -> Result<Message, String> {
    let members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text.get())
        .map_err(|error| format!("'message' is no event: {}", super::line::said(&error)))?;
    let value = |name: &str| members.get(name).map(|value| scalar(name, value)).transpose();
    match value("specversion")?.as_deref() {
        Some(SPEC_VERSION) => {}
        Some(other) => return Err(format!("attribute 'specversion' is '{other}'; {SPEC_VERSION} is expected")),
        None => return Err("attribute 'specversion' is missing".to_owned()),
    }
    let mut extensions = Vec::new();
    for (name, text) in &members {
        if !KNOWN.contains(&name.as_ref()) {
            extensions.push((name.as_ref(), scalar(name, text)?));
        }
    }
    let extensions: Vec<(&str, &str)> = extensions.iter().map(|(name, value)| (*name, value.as_ref())).collect();
    let required = |name: &'static str| value(name)?.ok_or_else(|| format!("attribute '{name}' is missing"));
    let (id, source, kind) = (required("id")?, required("source")?, required("type")?);
    let (subject, time) = (value("subject")?, value("time")?);
    let (content_type, data_schema) = (value("datacontenttype")?, value("dataschema")?);
    let attributes = Attributes {
        id: &id,
        source: &source,
        kind: &kind,
        subject: subject.as_deref(),
        time: time.as_deref(),
        content_type: content_type.as_deref(),
        data_schema: data_schema.as_deref(),
        extensions: &extensions,
    };
    let data = body(members.get("data").copied(), value("data_base64")?.as_deref(), content_type.as_deref())?;
    Message::new(&attributes, &data).map_err(|error| error.to_string())
}

/// The text of an attribute. Numbers and booleans, which others may write for extensions, are texts to us.
fn scalar<'a>(name: &str, value: &'a RawValue) -> Result<Cow<'a, str>, String> {
    let raw = value.get();
    match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(raw)
            .map(Cow::Owned)
            .map_err(|error| format!("attribute '{name}' is no text: {}", super::line::said(&error))),
        Some(b'{' | b'[' | b'n') | None => Err(format!("attribute '{name}' is no text")),
        Some(_) => Ok(Cow::Borrowed(raw)),
    }
}

fn body<'a>(
    data: Option<&'a RawValue>,
    base64: Option<&str>,
    content_type: Option<&str>,
) -> Result<Cow<'a, [u8]>, String> {
    match (data, base64) {
        (None, None) => Ok(Cow::Borrowed(&[])),
        (Some(_), Some(_)) => Err("'data_base64' stands beside 'data'; only one of them is allowed".to_owned()),
        (None, Some(base64)) => BASE64_STANDARD
            .decode(base64)
            .map(Cow::Owned)
            .map_err(|error| format!("'data_base64' is not base64: {error}")),
        (Some(raw), None) if is_json_type(content_type) || !raw.get().starts_with('"') => {
            Ok(Cow::Borrowed(raw.get().as_bytes()))
        }
        (Some(raw), None) => serde_json::from_str::<String>(raw.get())
            .map(|text| Cow::Owned(text.into_bytes()))
            .map_err(|error| format!("'data' is no text: {}", super::line::said(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_comes_back_as_it_was_on_one_line() {
        let check = |content_type, data: &[u8], expected: &str| {
            let extensions = [("traceparent", "00-\u{e4}"), ("partitionkey", "a\"b")];
            let base = Attributes { id: "1\"2", source: "/s", kind: "t", ..Attributes::default() };
            let attributes = Attributes { content_type, subject: Some("x y"), extensions: &extensions, ..base };
            let message = Message::new(&attributes, data).expect("valid");
            let text = serde_json::to_string(&EventJson(&message)).expect("it can be written");
            assert!(!text.contains('\n') && text.ends_with(expected), "{text} does not end with {expected}");
            let raw: &RawValue = serde_json::from_str(&text).expect("it is JSON");
            assert_eq!(read(raw), Ok(message), "{text}");
        };
        check(None, b"{\"a\" : 1.0}", "\"data\":{\"a\" : 1.0}}");
        check(None, b"\"text\"", "\"data\":\"text\"}");
        check(None, b" {}", "\"data_base64\":\"IHt9\"}");
        check(None, b"{\n}", "\"data_base64\":\"ewp9\"}");
        check(Some("application/json"), b"not json", "\"data_base64\":\"bm90IGpzb24=\"}");
        check(Some("application/json"), b"\xff", "\"data_base64\":\"/w==\"}");
        check(Some("text/plain"), b"a\nb", "\"data\":\"a\\nb\"}");
        check(Some("text/plain"), b"\xff", "\"data_base64\":\"/w==\"}");
        check(Some("text/plain"), b"", "\"traceparent\":\"00-\u{e4}\"}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |members: &str, expected: &str| {
            let text = format!("{{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\"{members}}}");
            let raw: &RawValue = serde_json::from_str(&text).expect("it is JSON");
            assert_eq!(read(raw).map(|_| ()), Err(expected.to_owned()), "{text}");
        };
        check(r#","subject":{}"#, "attribute 'subject' is no text");
        check(r#","subject":null"#, "attribute 'subject' is no text");
        check(r#","data":1,"data_base64":"""#, "'data_base64' stands beside 'data'; only one of them is allowed");
        check(r#","data_base64":"?""#, "'data_base64' is not base64: Invalid symbol 63, offset 0.");
        check(r#","Extra":"x""#, "attribute 'Extra' is no extension name: only a-z and 0-9 are allowed");
        let raw: &RawValue = serde_json::from_str("{\"id\":\"1\"}").expect("it is JSON");
        assert_eq!(read(raw), Err("attribute 'specversion' is missing".to_owned()));
        let raw: &RawValue = serde_json::from_str("7").expect("it is JSON");
        let error = read(raw).expect_err("no object");
        assert!(error.starts_with("'message' is no event: "), "{error}");
    }

    #[test]
    fn numbers_and_booleans_of_others_are_texts() {
        let text = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","n":7,"flag":true}"#;
        let raw: &RawValue = serde_json::from_str(text).expect("it is JSON");
        let message = read(raw).expect("valid");
        assert_eq!(message.extensions().collect::<Vec<_>>(), [("flag", "true"), ("n", "7")]);
    }
}
