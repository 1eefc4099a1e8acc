//! The names that people write: topics, queues, consumers and schedules. Validated once, then cheap to clone and never a bare string.

use std::fmt;
use std::sync::Arc;

/// Longest name of a queue, consumer or schedule, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest topic, in bytes.
pub const TOPIC_BYTES_MAX: usize = 255;

/// Why a text is not a name of the kind it was given as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is not a {kind}: {reason}")]
pub struct NameError {
    /// What it was to be: `topic`, `queue name`, `consumer name`.
    pub kind: &'static str,
    /// What was given.
    pub given: String,
    /// What is wrong, and what is allowed.
    pub reason: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name that `text` spells.
            ///
            /// # Errors
            /// [`NameError`] when `text` breaks the rules of such a name.
            pub fn new(text: &str) -> Result<Self, NameError> {
                $check(text).map_err(|reason| NameError { kind: $kind, given: text.to_owned(), reason })?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

name!(
    /// The dotted name that a producer publishes to: `github.push`, `orders.created`.
    ///
    /// One or more words of `A-Z a-z 0-9 _ -`, joined by single dots; up to 255 bytes.
    Topic, "topic", check_topic
);
name!(
    /// A queue's name: starts with one of `A-Z a-z 0-9`, then also `. _ -`; up to 128 bytes.
    QueueName, "queue name", check_name
);
name!(
    /// A consumer's name, under the rules of a queue's.
    ConsumerName, "consumer name", check_name
);

name!(
    /// A schedule's name, under the rules of a queue's.
    ScheduleName, "schedule name", check_name
);

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn check_topic(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(format!("it has {} bytes, more than {TOPIC_BYTES_MAX}", text.len()));
    }
    for word in text.split('.') {
        if word.is_empty() {
            return Err("a word between the dots is empty".into());
        }
        if let Some(bad) = word.chars().find(|c| !c.is_ascii() || !is_word_byte(*c as u8)) {
            return Err(format!(
                "it contains {bad:?}; words have letters a-z and A-Z, digits, '_' and '-', with dots between them"
            ));
        }
    }
    Ok(())
}

fn check_name(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("it has {} bytes, more than {NAME_BYTES_MAX}", text.len()));
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() {
        return Err("it must start with a letter a-z, A-Z or a digit".into());
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii() || !(is_word_byte(*c as u8) || *c == '.')) {
        return Err(format!("it contains {bad:?}; letters a-z and A-Z, digits, '.', '_' and '-' are allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics() {
        for good in ["a", "github.push", "orders.created-2_x", "A.b.C"] {
            assert_eq!(Topic::new(good).map(|t| t.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.#", "h\u{e9}", &"x".repeat(256)] {
            assert!(Topic::new(bad).is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn names() {
        for good in ["a", "reviews.dead", "9-x_Y"] {
            assert!(QueueName::new(good).is_ok(), "{good:?} was refused");
        }
        for bad in ["", ".a", "-a", "a/b", "a b", "\u{e9}", &"x".repeat(129)] {
            assert!(QueueName::new(bad).is_err(), "{bad:?} passed");
        }
        // Also a letter, but none of those.
        let error = QueueName::new("\u{fc}mlaut").expect_err("it passed").reason;
        assert_eq!(error, "it must start with a letter a-z, A-Z or a digit");
    }
}
