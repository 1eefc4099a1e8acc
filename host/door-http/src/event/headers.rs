//! CloudEvents in the header fields of a request: the binary mode of the HTTP binding.

use std::borrow::Cow;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use pelton_core::message::{Attributes, Message};
use percent_encoding::percent_decode_str;

use super::Defect;

const PREFIX: &str = "ce-";

/// Whether the request carries an event in its header fields.
pub(crate) fn has_event_headers(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(PREFIX))
}

/// The message whose attributes stand in `headers` and whose body is `data`.
pub(crate) fn from_headers(headers: &HeaderMap, data: &[u8]) -> Result<Message, Defect> {
    let mut values = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let Some(attribute) = name.as_str().strip_prefix(PREFIX) else { continue };
        let text = std::str::from_utf8(value.as_bytes())
            .map_err(|_| Defect::attribute(attribute, "is not UTF-8; percent-encode it"))?;
        let text = decode(text).ok_or_else(|| Defect::attribute(attribute, "is not UTF-8 once percent-decoded"))?;
        values.push((attribute, text));
    }
    let content_type = headers.get(CONTENT_TYPE).map(|value| std::str::from_utf8(value.as_bytes())).transpose();
    let content_type = content_type.map_err(|_| Defect::attribute("datacontenttype", "is not UTF-8 (Content-Type)"))?;
    build(&values, content_type, data)
}

fn build(values: &[(&str, Cow<'_, str>)], content_type: Option<&str>, data: &[u8]) -> Result<Message, Defect> {
    let mut attributes = Attributes { content_type, ..Attributes::default() };
    let mut spec_version = None;
    let mut extensions = Vec::new();
    for (at, (name, value)) in values.iter().enumerate() {
        if values[..at].iter().any(|(earlier, _)| earlier == name) {
            return Err(Defect::attribute(name, "stands twice"));
        }
        let value = &**value;
        match *name {
            "specversion" => spec_version = Some(value),
            "id" => attributes.id = value,
            "source" => attributes.source = value,
            "type" => attributes.kind = value,
            "subject" => attributes.subject = Some(value),
            "time" => attributes.time = Some(value),
            "dataschema" => attributes.data_schema = Some(value),
            "datacontenttype" => {
                return Err(Defect::attribute(name, "is the header Content-Type itself; leave out ce-datacontenttype"));
            }
            extension => extensions.push((extension, value)),
        }
    }
    if let Some(defect) = Defect::spec_version(spec_version) {
        return Err(defect);
    }
    attributes.extensions = &extensions;
    Ok(Message::new(&attributes, data)?)
}

/// The text behind a header field's value: quotes off (as older producers wrote), then one round of percent-decoding.
///
/// HTTP binding 1.0.2, section 3.1.3.2. None when the result is not UTF-8. A '%' without two digits stands for itself.
fn decode(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(quoted) => {
            let unescaped = unescape(quoted);
            percent_decode_str(&unescaped).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
        }
        None => percent_decode_str(value).decode_utf8().ok(),
    }
}

/// Takes the backslashes off `quoted-pair`s (RFC 9110, section 5.6.4).
fn unescape(quoted: &str) -> String {
    let mut text = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(next) = chars.next() {
        text.push(if next == '\\' { chars.next().unwrap_or('\\') } else { next });
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn parse(pairs: &[(&'static str, &'static str)]) -> Result<Message, String> {
        let mut headers = HeaderMap::new();
        let base = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
        let given = base.iter().filter(|(name, _)| pairs.iter().all(|(other, _)| other != name)).chain(pairs);
        for (name, value) in given {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        from_headers(&headers, b"body").map_err(|defect| defect.detail)
    }

    #[test]
    fn values_are_decoded_once() {
        let check = |given: &'static str, expected: &str| {
            let message = parse(&[("ce-subject", given)]).expect("valid");
            assert_eq!(message.subject(), Some(expected), "{given}");
        };
        check("plain", "plain");
        check("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro \u{20ac} \u{1f600}");
        check("%2525", "%25");
        check("100%", "100%");
        check("\"a \\\"b\\\\c\"", "a \"b\\c");
        check("\"%22\"", "\"");
    }

    #[test]
    fn all_attributes_have_their_header() {
        let message = parse(&[
            ("ce-time", "2026-01-31T12:00:00Z"),
            ("ce-dataschema", "urn:x"),
            ("content-type", "text/plain"),
            ("ce-traceparent", "00-1"),
        ])
        .expect("valid");
        assert_eq!((message.time(), message.data_schema()), (Some("2026-01-31T12:00:00Z"), Some("urn:x")));
        assert_eq!((message.content_type(), message.extension("traceparent")), (Some("text/plain"), Some("00-1")));
        assert_eq!(message.data(), b"body");
    }

    #[test]
    fn defects() {
        let check = |pairs: &[(&'static str, &'static str)], expected: &str| {
            assert_eq!(parse(pairs).expect_err("it passed"), expected);
        };
        check(&[("ce-specversion", "0.3")], "attribute 'specversion' is '0.3'; only '1.0' is supported");
        check(&[("ce-id", "")], "attribute 'id' is required and must not be empty");
        check(&[("ce-subject", "%ff")], "attribute 'subject' is not UTF-8 once percent-decoded");
        check(&[("ce-subject", "%0A")], "attribute 'subject' contains the control character '\\n'");
        check(&[("ce-a", "1"), ("ce-a", "1")], "attribute 'a' stands twice");
        check(&[("ce-my-ext", "1")], "attribute 'my-ext' is no extension name: only a-z and 0-9 are allowed");
        check(
            &[("ce-datacontenttype", "text/plain")],
            "attribute 'datacontenttype' is the header Content-Type itself; leave out ce-datacontenttype",
        );
    }
}
