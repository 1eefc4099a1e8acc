//! Lease tokens as text.
//!
//! Asserts: every token's text reads back as that token; a text that reads as a token is that token's only spelling; the
//! error for any other text repeats at most 80 characters of it.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pelton_core::clock::WallMs;
use pelton_core::engine::{EntryId, LeaseToken, QueueId};

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Token { queue: u32, entry: u64, epoch: u64, attempt: u32, accepted: u64, nonce: u64 },
    Text(&'a str),
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Token { queue, entry, epoch, attempt, accepted, nonce } => {
            let (queue, entry, accepted) = (QueueId(queue), EntryId(entry), WallMs(accepted));
            let token = LeaseToken { queue, entry, epoch, attempt, accepted, nonce };
            assert_eq!(token.to_string().parse(), Ok(token), "{token}");
        }
        Input::Text(text) => match text.parse::<LeaseToken>() {
            Ok(token) => assert_eq!(token.to_string(), text),
            Err(error) => assert!(error.0.chars().count() <= 80 && text.starts_with(&error.0), "{error}"),
        },
    }
});
