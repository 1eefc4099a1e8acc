//! Lease tokens, and handles of scheduled messages, as text.
//!
//! Asserts: every token's text reads back as that token, and every handle's as that handle; a text that reads as either is
//! its only spelling, also where the check of a handle fits; the error for any other text repeats at most 80 characters of
//! it. One character of a handle changed, and it names nothing.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use pelton_core::broker::ScheduledHandle;
use pelton_core::clock::WallMs;
use pelton_core::engine::{EntryId, LeaseToken, QueueId};
use sha2::{Digest as _, Sha256};

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Token { queue: u32, entry: u64, epoch: u64, attempt: u32, accepted: u64, nonce: u64 },
    Text(&'a str),
    Handle { due: u64, first: (u32, u64), others: Vec<(u32, u64)>, changed: u16, to: u8 },
    HandleText(&'a str),
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
        Input::Handle { due, first, others, changed, to } => {
            let places: Vec<_> = [first].into_iter().chain(others).collect();
            let named = places.iter().map(|(queue, position)| format!(".{queue:x}-{position:x}")).collect::<String>();
            let text = with_check(&format!("{due:x}{named}"));
            let handle: ScheduledHandle = text.parse().expect("a handle in its only spelling");
            assert_eq!((handle.due(), handle.targets(), handle.to_string()), (WallMs(due), places.len(), text.clone()));
            check_slip(&text, usize::from(changed), to);
        }
        Input::HandleText(text) => {
            check_handle(text);
            check_handle(&with_check(text));
        }
    }
});

/// The text with the check of a handle behind it.
fn with_check(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    format!("{text}.{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3])
}

fn check_handle(text: &str) {
    match text.parse::<ScheduledHandle>() {
        Ok(handle) => assert_eq!(handle.to_string(), text),
        Err(error) => assert!(error.to_string().chars().count() <= 80 + 100, "{error}"),
    }
}

fn check_slip(text: &str, at: usize, to: u8) {
    let mut slipped = text.as_bytes().to_vec();
    let at = at % slipped.len();
    slipped[at] = to & 0x7f;
    let slipped = String::from_utf8(slipped).expect("it is ASCII");
    assert!(slipped == text || slipped.parse::<ScheduledHandle>().is_err(), "{slipped}, not {text}");
}
