//! The store's keyed hashes: of order keys, identities and bodies. The key is a secret of the file, so that nobody outside can
//! make two texts meet.

use std::hash::Hasher as _;

use pelton_core::engine::OrderKey;
use pelton_core::message::Message;
use pelton_core::name::Topic;
use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128 as _, SipHasher13 as SipHasher13x128};

/// The key of all hashes of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Secret {
    /// One half of the key.
    pub(crate) first: u64,
    /// The other half.
    pub(crate) second: u64,
}

impl Secret {
    /// Two keys with the same hash are kept in one order, which harms nobody.
    pub(crate) fn of_key(&self, key: &OrderKey) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.first, self.second);
        hasher.write(key.0.as_bytes());
        hasher.finish()
    }

    /// The identity of a message on a topic: CloudEvents' `source` and `id`.
    pub(crate) fn of_identity(&self, topic: &Topic, message: &Message) -> u128 {
        let mut hasher = SipHasher13x128::new_with_keys(self.first, self.second);
        for text in [topic.as_str(), message.source(), message.id()] {
            hasher.write_usize(text.len());
            hasher.write(text.as_bytes());
        }
        hasher.finish128().as_u128()
    }

    /// What tells a double from another message with the same identity.
    pub(crate) fn of_body(&self, message: &Message) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.first, self.second);
        hasher.write(message.data());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use pelton_core::message::Attributes;

    use super::*;

    #[test]
    fn identities_differ_in_every_part_and_not_by_where_one_ends() {
        let secret = Secret { first: 1, second: 2 };
        let identity = |topic: &str, source: &str, id: &str| {
            let message =
                Message::new(&Attributes { id, source, kind: "t", ..Attributes::default() }, b"").expect("valid");
            secret.of_identity(&Topic::new(topic).expect("valid"), &message)
        };
        let all = [("a", "b", "c"), ("ab", "c", "d"), ("a", "bc", "d"), ("a", "b", "cd"), ("b", "a", "c")];
        let hashes: std::collections::BTreeSet<u128> = all.iter().map(|(t, s, i)| identity(t, s, i)).collect();
        assert_eq!(hashes.len(), all.len());
        assert_eq!(identity("a", "b", "c"), identity("a", "b", "c"));
    }
}
