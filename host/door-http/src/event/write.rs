//! A message as JSON: the CloudEvents JSON format, readable where the body allows it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pelton_core::message::Message;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

/// Writes a message in the CloudEvents JSON format.
///
/// A body that is JSON by type and in fact stands in `data` as it is; text of another type as a string; everything else
/// in `data_base64`. An empty body has neither.
pub struct MessageJson<'a>(pub &'a Message);

impl Serialize for MessageJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("specversion", super::SPEC_VERSION)?;
        map.serialize_entry("id", message.id())?;
        map.serialize_entry("source", message.source())?;
        map.serialize_entry("type", message.kind())?;
        let optional = [
            ("subject", message.subject()),
            ("time", message.time()),
            ("datacontenttype", message.content_type()),
            ("dataschema", message.data_schema()),
        ];
        for (name, text) in optional {
            if let Some(text) = text {
                map.serialize_entry(name, text)?;
            }
        }
        for (name, value) in message.extensions() {
            map.serialize_entry(name, value)?;
        }
        let data = message.data();
        let as_json = || serde_json::from_slice::<&RawValue>(data).ok();
        if data.is_empty() {
        } else if message.is_json() {
            match as_json() {
                Some(raw) => map.serialize_entry("data", raw)?,
                None => map.serialize_entry("data_base64", &BASE64_STANDARD.encode(data))?,
            }
        } else {
            match std::str::from_utf8(data) {
                Ok(text) => map.serialize_entry("data", text)?,
                Err(_) => map.serialize_entry("data_base64", &BASE64_STANDARD.encode(data))?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use pelton_core::message::Attributes;

    use super::super::parse_one;
    use super::*;

    #[test]
    fn what_is_written_reads_back_as_the_same_message() {
        let check = |content_type, data: &[u8], expected: &str| {
            let extensions = [("traceparent", "00-\u{e4}")];
            let base = Attributes { id: "1\"2", source: "/s", kind: "t", ..Attributes::default() };
            let attributes = Attributes { content_type, subject: Some("x y"), extensions: &extensions, ..base };
            let message = Message::new(&attributes, data).expect("valid");
            let text = serde_json::to_string(&MessageJson(&message)).expect("it can be written");
            assert!(text.ends_with(expected), "{text} does not end with {expected}");
            let back = parse_one(&text).expect("it can be read");
            assert_eq!(back, message, "{text}");
        };
        check(None, b"{\"a\" : 1.0}", "\"data\":{\"a\" : 1.0}}");
        check(Some("application/json"), b"not json", "\"data_base64\":\"bm90IGpzb24=\"}");
        check(Some("application/json"), b"\xff", "\"data_base64\":\"/w==\"}");
        check(Some("text/plain"), b"a\nb", "\"data\":\"a\\nb\"}");
        check(Some("text/plain"), b"\xff", "\"data_base64\":\"/w==\"}");
        check(Some("text/plain"), b"", "\"traceparent\":\"00-\u{e4}\"}");
    }
}
