//! CloudEvents 1.0 on the wire: the JSON format, one or many, the header form, and the way back to JSON.
//!
//! Pure: text in, messages out. It borrows from the request and builds each message once, in its stored form.

mod headers;
mod json;
mod write;

use pelton_core::message::InvalidMessage;

pub(crate) use self::headers::{from_headers, has_event_headers};
pub use self::json::{Malformed, parse_batch, parse_one};
pub use self::write::MessageJson;

/// The version of CloudEvents spoken here.
const SPEC_VERSION: &str = "1.0";

/// What keeps a well-formed text from being an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The attribute, as CloudEvents spells it; none when it is about the event as a whole.
    pub attribute: Option<String>,
    /// For people: names the attribute too.
    pub detail: String,
}

impl Defect {
    fn attribute(name: &str, reason: &str) -> Self {
        Self { attribute: Some(name.to_owned()), detail: format!("attribute '{name}' {reason}") }
    }

    /// The defect of a specversion other than [`SPEC_VERSION`], or of none.
    fn spec_version(given: Option<&str>) -> Option<Self> {
        match given {
            Some(SPEC_VERSION) => None,
            Some(other) => {
                Some(Self::attribute("specversion", &format!("is '{}'; only '1.0' is supported", shorten(other))))
            }
            None => Some(Self::attribute("specversion", "is required; it is '1.0'")),
        }
    }
}

impl From<InvalidMessage> for Defect {
    fn from(error: InvalidMessage) -> Self {
        let detail = error.to_string();
        match error {
            InvalidMessage::Attribute { attribute, .. } => Self { attribute: Some(attribute), detail },
            _ => Self { attribute: None, detail },
        }
    }
}

/// So much of a foreign text as an error repeats.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}
