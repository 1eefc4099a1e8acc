//! The message: CloudEvents 1.0 attributes and a body of bytes, immutable, in one buffer that is also its stored form.
//!
//! What attributes hold is checked as far as a look at their bytes can tell, by one table: a URI has no character that none
//! can have, a media type has its two parts.
//!
//! Invariants: a `Message` made by [`Message::new`] is valid (attributes checked, UTF-8, extensions sorted and unique), and one read
//! back by [`Message::decode`] can be read without a panic, whatever the bytes were; cloning one copies no bytes;
//! encoding happens once, where the message comes in, and from then on every layer passes the same buffer along.
//!
//! The stored form, version 1, little endian:
//! `version u8, present u8, extensions u16, lengths u16 x 7 (id, source, type, subject, time, content type, schema)`,
//! then those texts, then per extension `name u16, value u16` and both texts. That is the *head*. The body follows it.

use bytes::{BufMut, Bytes, BytesMut};

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 18;
const TEXTS: usize = 7;
/// Most characters of a value that an error shows.
const SHOWN_CHARS_MAX: usize = 80;

/// Longest single attribute, in bytes.
pub const ATTRIBUTE_BYTES_MAX: usize = 8 * 1024;
/// Most extension attributes on one message.
pub const EXTENSIONS_MAX: usize = 64;
/// Longest extension name, in bytes. CloudEvents advises 20; producers exceed it.
pub const EXTENSION_NAME_BYTES_MAX: usize = 64;

/// A CloudEvents message. See the module's head for its form.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    buffer: Bytes,
    /// Where each of the seven texts ends; each starts where the one before it ends.
    ends: [u32; TEXTS],
    head_bytes: u32,
}

/// The attributes of a message to be, borrowed from wherever they were read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a> {
    /// Unique within `source`.
    pub id: &'a str,
    /// A URI reference that names the producer.
    pub source: &'a str,
    /// The kind of event, `type` in CloudEvents.
    pub kind: &'a str,
    /// What the event is about, within its source.
    pub subject: Option<&'a str>,
    /// RFC 3339; kept byte for byte.
    pub time: Option<&'a str>,
    /// `datacontenttype`: the media type of the body.
    pub content_type: Option<&'a str>,
    /// `dataschema`: a URI.
    pub data_schema: Option<&'a str>,
    /// Name and canonical text of each extension, in any order.
    pub extensions: &'a [(&'a str, &'a str)],
}

/// Why attributes or stored bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// An attribute breaks a rule of CloudEvents 1.0.
    #[error("attribute '{attribute}' {reason}")]
    Attribute {
        /// The attribute, as CloudEvents spells it.
        attribute: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// More extensions than [`EXTENSIONS_MAX`].
    #[error("{0} extension attributes; at most {EXTENSIONS_MAX} are allowed")]
    TooManyExtensions(usize),
    /// The stored bytes are not a message of version 1.
    #[error("the stored message is damaged: {0}")]
    Stored(&'static str),
}

impl Message {
    /// The message with these attributes and this body.
    ///
    /// # Errors
    /// [`InvalidMessage`] naming the attribute that breaks CloudEvents 1.0 or a limit of this module.
    pub fn new(attributes: &Attributes<'_>, data: &[u8]) -> Result<Self, InvalidMessage> {
        check_attributes(attributes)?;
        let mut extensions = attributes.extensions.to_vec();
        extensions.sort_unstable();
        if let Some(twice) = extensions.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(invalid(twice[0].0, "stands twice"));
        }
        Ok(Self::encode(attributes, &extensions, data))
    }

    fn encode(attributes: &Attributes<'_>, extensions: &[(&str, &str)], data: &[u8]) -> Self {
        let optional = [attributes.subject, attributes.time, attributes.content_type, attributes.data_schema];
        let texts: [&str; TEXTS] = [
            attributes.id,
            attributes.source,
            attributes.kind,
            optional[0].unwrap_or_default(),
            optional[1].unwrap_or_default(),
            optional[2].unwrap_or_default(),
            optional[3].unwrap_or_default(),
        ];
        let text_bytes: usize = texts.iter().map(|text| text.len()).sum();
        let extension_bytes: usize = extensions.iter().map(|(name, value)| 4 + name.len() + value.len()).sum();
        let head_bytes = FIXED_BYTES + text_bytes + extension_bytes;
        let mut buffer = BytesMut::with_capacity(head_bytes + data.len());
        let present = optional.iter().enumerate().fold(0, |bits, (at, text)| bits | (u8::from(text.is_some()) << at));
        buffer.put_u8(VERSION);
        buffer.put_u8(present);
        put_length(&mut buffer, extensions.len());
        let mut ends = [0; TEXTS];
        let mut end = FIXED_BYTES;
        for (text, slot) in texts.iter().zip(&mut ends) {
            put_length(&mut buffer, text.len());
            end += text.len();
            *slot = offset(end);
        }
        for text in texts {
            buffer.put_slice(text.as_bytes());
        }
        for (name, value) in extensions {
            put_length(&mut buffer, name.len());
            put_length(&mut buffer, value.len());
            buffer.put_slice(name.as_bytes());
            buffer.put_slice(value.as_bytes());
        }
        buffer.put_slice(data);
        Self { buffer: buffer.freeze(), ends, head_bytes: offset(head_bytes) }
    }

    /// The message whose stored form (head, then body) is `buffer`.
    ///
    /// # Errors
    /// [`InvalidMessage::Stored`] when the bytes are of another version, too short or not UTF-8.
    pub fn decode(buffer: Bytes) -> Result<Self, InvalidMessage> {
        let damaged = InvalidMessage::Stored;
        if buffer.len() < FIXED_BYTES {
            return Err(damaged("it is shorter than its header"));
        }
        if buffer[0] != VERSION {
            return Err(damaged("its version is unknown"));
        }
        let mut ends = [0; TEXTS];
        let mut end = FIXED_BYTES;
        for (at, slot) in ends.iter_mut().enumerate() {
            end += length_at(&buffer, 4 + 2 * at);
            *slot = offset(end);
        }
        if buffer.len() < end {
            return Err(damaged("its attributes are cut short"));
        }
        for _ in 0..length_at(&buffer, 2) {
            if buffer.len() < end + 4 {
                return Err(damaged("its extensions are cut short"));
            }
            end += 4 + length_at(&buffer, end) + length_at(&buffer, end + 2);
        }
        if buffer.len() < end {
            return Err(damaged("its extensions are cut short"));
        }
        let message = Self { buffer, ends, head_bytes: offset(end) };
        message.check_utf8()?;
        Ok(message)
    }

    fn check_utf8(&self) -> Result<(), InvalidMessage> {
        let damaged = |_| InvalidMessage::Stored("an attribute is not UTF-8");
        let mut start = FIXED_BYTES;
        for end in self.ends {
            std::str::from_utf8(&self.buffer[start..end as usize]).map_err(damaged)?;
            start = end as usize;
        }
        for (name, value) in self.raw_extensions() {
            std::str::from_utf8(name).map_err(damaged)?;
            std::str::from_utf8(value).map_err(damaged)?;
        }
        Ok(())
    }

    /// Unique within [`source`](Self::source).
    #[must_use]
    pub fn id(&self) -> &str {
        self.text(0)
    }

    /// A URI reference that names the producer.
    #[must_use]
    pub fn source(&self) -> &str {
        self.text(1)
    }

    /// The kind of event: the CloudEvents attribute `type`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text(2)
    }

    /// What the event is about, within its source.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.optional(3)
    }

    /// RFC 3339, as the producer wrote it.
    #[must_use]
    pub fn time(&self) -> Option<&str> {
        self.optional(4)
    }

    /// The media type of the body: `datacontenttype`.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.optional(5)
    }

    /// `dataschema`: a URI.
    #[must_use]
    pub fn data_schema(&self) -> Option<&str> {
        self.optional(6)
    }

    /// Whether there is any extension; a cheap first look.
    #[must_use]
    pub fn has_extensions(&self) -> bool {
        self.head_bytes > self.ends[TEXTS - 1]
    }

    /// Name and value of each extension, sorted by name.
    pub fn extensions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.raw_extensions().map(|(name, value)| (checked_text(name), checked_text(value)))
    }

    /// The value of the extension `name`.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extensions().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The attribute that CloudEvents calls `name`, extensions among them; none where the message has none.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        match name {
            "id" => Some(self.id()),
            "source" => Some(self.source()),
            "type" => Some(self.kind()),
            "subject" => self.subject(),
            "time" => self.time(),
            "datacontenttype" => self.content_type(),
            "dataschema" => self.data_schema(),
            _ => self.extension(name),
        }
    }

    /// The body.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.buffer[self.head_bytes as usize..]
    }

    /// The body, sharing this message's buffer.
    #[must_use]
    pub fn data_bytes(&self) -> Bytes {
        self.buffer.slice(self.head_bytes as usize..)
    }

    /// The attributes in stored form, without the body.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.buffer[..self.head_bytes as usize]
    }

    /// The whole stored form: head, then body. [`decode`](Self::decode) reads it.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.buffer
    }

    /// Whether the content type says that the body is JSON; see [`is_json_type`].
    #[must_use]
    pub fn is_json(&self) -> bool {
        is_json_type(self.content_type())
    }

    fn text(&self, at: usize) -> &str {
        let start = if at == 0 { FIXED_BYTES } else { self.ends[at - 1] as usize };
        checked_text(&self.buffer[start..self.ends[at] as usize])
    }

    fn optional(&self, at: usize) -> Option<&str> {
        (self.buffer[1] & (1 << (at - 3)) != 0).then(|| self.text(at))
    }

    fn raw_extensions(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut at = self.ends[TEXTS - 1] as usize;
        std::iter::from_fn(move || {
            if at >= self.head_bytes as usize {
                return None;
            }
            let name_end = at + 4 + length_at(&self.buffer, at);
            let value_end = name_end + length_at(&self.buffer, at + 2);
            let pair = (&self.buffer[at + 4..name_end], &self.buffer[name_end..value_end]);
            at = value_end;
            Some(pair)
        })
    }
}

/// Whether a body of this content type is JSON: `application/json`, `text/json`, `*/*+json`, or no type at all.
#[must_use]
pub fn is_json_type(content_type: Option<&str>) -> bool {
    content_type.is_none_or(|full| {
        let media = full.split(';').next().unwrap_or_default().trim();
        media.eq_ignore_ascii_case("application/json")
            || media.eq_ignore_ascii_case("text/json")
            || media.len() > 5 && media.as_bytes()[media.len() - 5..].eq_ignore_ascii_case(b"+json")
    })
}

impl std::fmt::Debug for Message {
    /// Attributes only: bodies are never logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id())
            .field("source", &self.source())
            .field("type", &self.kind())
            .field("data_bytes", &self.data().len())
            .finish_non_exhaustive()
    }
}

fn put_length(buffer: &mut BytesMut, length: usize) {
    buffer.put_u16_le(u16::try_from(length).expect("attribute limits are checked before encoding"));
}

fn length_at(buffer: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([buffer[at], buffer[at + 1]]))
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a head has at most 11 texts and 64 extensions of 8 KiB")
}

fn checked_text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("attributes are UTF-8: checked by `new` and `decode`")
}

fn invalid(attribute: &str, reason: impl Into<String>) -> InvalidMessage {
    InvalidMessage::Attribute { attribute: attribute.to_owned(), reason: reason.into() }
}

fn check_attributes(attributes: &Attributes<'_>) -> Result<(), InvalidMessage> {
    for (name, text) in [("id", attributes.id), ("source", attributes.source), ("type", attributes.kind)] {
        if text.is_empty() {
            return Err(invalid(name, "is required and must not be empty"));
        }
        check_text(name, text)?;
    }
    let optional = [
        ("subject", attributes.subject),
        ("time", attributes.time),
        ("datacontenttype", attributes.content_type),
        ("dataschema", attributes.data_schema),
    ];
    for (name, text) in optional {
        let Some(text) = text else { continue };
        if text.is_empty() {
            return Err(invalid(name, "must not be empty; leave it out instead"));
        }
        check_text(name, text)?;
    }
    check_uri("source", attributes.source)?;
    if let Some(schema) = attributes.data_schema {
        check_uri("dataschema", schema)?;
        check_scheme("dataschema", schema)?;
    }
    if let Some(content_type) = attributes.content_type {
        check_media_type(content_type)?;
    }
    if let Some(time) = attributes.time
        && time.parse::<jiff::Timestamp>().is_err()
    {
        return Err(invalid("time", format!("is '{time}', which is not RFC 3339, such as 2026-01-31T12:00:00Z")));
    }
    if attributes.extensions.len() > EXTENSIONS_MAX {
        return Err(InvalidMessage::TooManyExtensions(attributes.extensions.len()));
    }
    attributes.extensions.iter().try_for_each(|(name, value)| check_extension(name, value))
}

fn check_extension(name: &str, value: &str) -> Result<(), InvalidMessage> {
    const RESERVED: [&str; 10] = [
        "id",
        "source",
        "type",
        "subject",
        "time",
        "datacontenttype",
        "dataschema",
        "specversion",
        "data",
        "data_base64",
    ];
    if name.is_empty() || name.len() > EXTENSION_NAME_BYTES_MAX {
        return Err(invalid(name, format!("must have a name of 1 to {EXTENSION_NAME_BYTES_MAX} bytes")));
    }
    if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(invalid(name, "is no extension name: only a-z and 0-9 are allowed"));
    }
    if RESERVED.contains(&name) {
        return Err(invalid(name, "is an attribute of CloudEvents itself, not an extension"));
    }
    check_text(name, value)
}

fn check_text(name: &str, text: &str) -> Result<(), InvalidMessage> {
    if text.len() > ATTRIBUTE_BYTES_MAX {
        return Err(invalid(name, format!("has {} bytes; at most {ATTRIBUTE_BYTES_MAX} are allowed", text.len())));
    }
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(invalid(name, format!("contains the control character {control:?}")));
    }
    Ok(())
}

/// A character that can stand in a URI, or beyond ASCII: that RFC 3987 allows, and producers write it.
const IN_URI: u8 = 1;
/// A character of a token (RFC 9110, section 5.6.2): of the parts of a media type.
const IN_TOKEN: u8 = 2;

/// What each byte can be part of.
const BYTES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let is_text = byte > 0x20 && byte != 0x7f;
        if is_text && !matches!(byte as u8, b'<' | b'>' | b'"' | b'{' | b'}' | b'|' | b'\\' | b'^' | b'`') {
            table[byte] |= IN_URI;
        }
        let is_mark = matches!(
            byte as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        if is_mark || (byte as u8).is_ascii_alphanumeric() {
            table[byte] |= IN_TOKEN;
        }
        byte += 1;
    }
    table
};

/// Whether all of `text` can be part of `what`.
fn consists_of(what: u8, text: &str) -> bool {
    text.bytes().all(|byte| BYTES[usize::from(byte)] & what != 0)
}

/// Checks that `text` has no character that no URI reference has (RFC 3986); its parts are not looked at.
fn check_uri(name: &str, text: &str) -> Result<(), InvalidMessage> {
    if consists_of(IN_URI, text) {
        return Ok(());
    }
    let bad = text.chars().find(|c| c.is_ascii() && BYTES[*c as usize] & IN_URI == 0).unwrap_or_default();
    let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    Err(invalid(
        name,
        format!("is '{shown}', which is no URI reference such as /shop/1: {bad:?} is not allowed in one"),
    ))
}

/// Checks that the URI `text` starts with a scheme.
fn check_scheme(name: &str, text: &str) -> Result<(), InvalidMessage> {
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if is_scheme {
        return Ok(());
    }
    let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    Err(invalid(
        name,
        format!("is '{shown}', which is no URI such as https://example.com/order.json: it has no scheme"),
    ))
}

/// Checks that `text` is `type/subtype`, with or without parameters, which are not looked at.
fn check_media_type(text: &str) -> Result<(), InvalidMessage> {
    let media = text.split(';').next().unwrap_or_default().trim();
    let is_part = |part: &str| !part.is_empty() && consists_of(IN_TOKEN, part);
    if media.split_once('/').is_some_and(|(one, other)| is_part(one) && is_part(other)) {
        return Ok(());
    }
    let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    Err(invalid("datacontenttype", format!("is '{shown}', which is no media type such as application/json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Message {
        let attributes = Attributes {
            id: "1",
            source: "/shop",
            kind: "order.created",
            subject: Some("order/7"),
            time: Some("2026-01-31T12:00:00.5+01:00"),
            content_type: Some("application/json"),
            data_schema: None,
            extensions: &[("traceparent", "00-x"), ("partitionkey", "k")],
        };
        Message::new(&attributes, b"{}").expect("valid")
    }

    #[test]
    fn what_was_put_in_comes_out_of_the_stored_form() {
        let message = Message::decode(full().as_bytes().clone()).expect("decodes");
        assert_eq!(message, full());
        assert_eq!((message.id(), message.source(), message.kind()), ("1", "/shop", "order.created"));
        assert_eq!(message.subject(), Some("order/7"));
        assert_eq!(message.time(), Some("2026-01-31T12:00:00.5+01:00"));
        assert_eq!(message.data_schema(), None);
        let extensions: Vec<_> = message.extensions().collect();
        assert_eq!(extensions, [("partitionkey", "k"), ("traceparent", "00-x")], "sorted by name");
        assert_eq!(message.data(), b"{}");
    }

    #[test]
    fn no_prefix_of_a_head_decodes() {
        let whole = full();
        for cut in 0..whole.head().len() {
            assert!(Message::decode(whole.as_bytes().slice(..cut)).is_err(), "{cut} bytes passed");
        }
    }

    #[test]
    fn attributes_are_checked() {
        let base = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
        let bad = [
            (Attributes { id: "", ..base }, "attribute 'id' is required"),
            (Attributes { source: "a\nb", ..base }, "control character"),
            (Attributes { time: Some("yesterday"), ..base }, "not RFC 3339"),
            (Attributes { subject: Some(""), ..base }, "leave it out"),
            (Attributes { source: "a b", ..base }, "'source' is 'a b', which is no URI reference such as /shop/1: ' '"),
            (Attributes { source: "/a|b", ..base }, "'|' is not allowed"),
            (Attributes { source: "a\\b", ..base }, "'\\\\' is not allowed"),
            (Attributes { data_schema: Some("urn:x y"), ..base }, "'dataschema' is 'urn:x y'"),
            (Attributes { data_schema: Some("order.json"), ..base }, "no scheme"),
            (Attributes { data_schema: Some("/a:b"), ..base }, "no scheme"),
            (Attributes { content_type: Some("nonsense"), ..base }, "'nonsense', which is no media type"),
            (Attributes { content_type: Some("text/"), ..base }, "no media type"),
            (Attributes { content_type: Some("/json; a=b/c"), ..base }, "no media type"),
            (Attributes { content_type: Some("text/a b"), ..base }, "no media type"),
            (Attributes { extensions: &[("Bad", "x")], ..base }, "only a-z and 0-9"),
            (Attributes { extensions: &[("data", "x")], ..base }, "of CloudEvents itself"),
            (Attributes { extensions: &[("a", "x"), ("a", "y")], ..base }, "stands twice"),
        ];
        for (attributes, expected) in bad {
            let error = Message::new(&attributes, b"").expect_err(expected).to_string();
            assert!(error.contains(expected), "{error:?} does not say {expected:?}");
        }
    }

    #[test]
    fn what_uris_and_media_types_look_like_passes() {
        let base = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
        for source in [
            "/",
            "a",
            "urn:uuid:6e8bc430",
            "https://h:80/p;x/?q=%20&a[]=1#f",
            "mailto:a@b",
            "../x",
            "caf\u{e9}",
            "(~!$'*+,=)",
        ] {
            assert!(Message::new(&Attributes { source, ..base }, b"").is_ok(), "{source:?} was refused");
        }
        for schema in ["urn:x", "https://example.com/a.json#b", "a+b-c.d:"] {
            let attributes = Attributes { data_schema: Some(schema), ..base };
            assert!(Message::new(&attributes, b"").is_ok(), "{schema:?} was refused");
        }
        for content_type in
            ["a/b", "application/vnd.x+json; charset=\"utf-8\"", "text/plain ;x", "multipart/form-data; boundary=a/b"]
        {
            let attributes = Attributes { content_type: Some(content_type), ..base };
            assert!(Message::new(&attributes, b"").is_ok(), "{content_type:?} was refused");
        }
    }

    #[test]
    fn json_is_known_by_its_content_type() {
        let check = |content_type, expected| {
            let attributes = Attributes { id: "1", source: "/s", kind: "t", content_type, ..Attributes::default() };
            assert_eq!(Message::new(&attributes, b"").expect("valid").is_json(), expected, "{content_type:?}");
        };
        check(None, true);
        check(Some("application/json; charset=utf-8"), true);
        check(Some("application/cloudevents+json"), true);
        check(Some("text/plain"), false);
    }
}
