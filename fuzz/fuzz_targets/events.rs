//! The CloudEvents JSON format, as the HTTP door reads and writes it.
//!
//! Asserts: an accepted event is a valid message, whose stored form decodes, whose attributes `Message::new` accepts, and
//! whose attributes and body are those that serde_json sees; written as JSON it reads back as the same message. One event
//! is accepted exactly when the batch that holds only it is, as the same message. Places of faults lie in the batch.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pelton_core::message::{Attributes, Message};
use pelton_door_http::event::{Malformed, MessageJson, parse_batch, parse_one};
use pelton_door_http::limits::{BATCH_MESSAGES_MAX, ITEMS_LISTED_MAX};
use serde_json::Value;

fuzz_target!(|text: &str| {
    let one = parse_one(text);
    let single = batch(&format!("[{text}\n]"));
    match (&one, &single) {
        (Ok(message), Ok(messages)) => {
            assert_eq!(messages.as_slice(), std::slice::from_ref(message));
            check_same(message, text);
        }
        (Ok(_), Err(error)) => panic!("refused in a batch: {error:?}"),
        (Err(error), Ok(messages)) => {
            // `A, B` is no event but makes a batch of two, and so does nothing at all of none.
            assert!(messages.len() != 1, "refused alone: {error:?}");
        }
        (Err(Malformed::Events { faults, .. }), Err(Malformed::Events { faults: others, .. })) => {
            assert_eq!(faults, others);
        }
        (Err(_), Err(_)) => {}
    }
    one.iter().chain(single.iter().flatten()).for_each(check_message);
    batch(text).iter().flatten().for_each(check_message);
});

fn batch(text: &str) -> Result<Vec<Message>, Malformed> {
    let mut messages = Vec::new();
    let result = parse_batch(text, &mut |message| messages.push(message));
    if let Err(Malformed::Events { faults, count }) = &result {
        assert_eq!(faults.len(), (*count).min(ITEMS_LISTED_MAX));
        assert!(faults.is_sorted_by_key(|(at, _)| *at) && faults.iter().all(|(at, _)| *at < BATCH_MESSAGES_MAX));
    }
    result.map(|()| messages)
}

fn check_message(message: &Message) {
    assert_eq!(Message::decode(message.as_bytes().clone()).as_ref(), Ok(message));
    let extensions: Vec<_> = message.extensions().collect();
    let attributes = Attributes {
        id: message.id(),
        source: message.source(),
        kind: message.kind(),
        subject: message.subject(),
        time: message.time(),
        content_type: message.content_type(),
        data_schema: message.data_schema(),
        extensions: &extensions,
    };
    assert_eq!(Message::new(&attributes, message.data()).as_ref(), Ok(message));
    let text = serde_json::to_string(&MessageJson(message)).expect("it can be written");
    let back = parse_one(&text).expect("what was written can be read");
    assert_eq!(back.head(), message.head(), "{text}");
    // Space around JSON that came as base64 is lost on the way: the JSON is the same.
    let is_space = |byte: &u8| byte.is_ascii_whitespace();
    let trimmed = |data: &[u8]| -> Vec<u8> {
        let start = data.iter().position(|byte| !is_space(byte)).unwrap_or(data.len());
        let end = data.iter().rposition(|byte| !is_space(byte)).map_or(start, |at| at + 1);
        data[start..end].to_vec()
    };
    if message.is_json() {
        assert_eq!(trimmed(back.data()), trimmed(message.data()), "{text}");
    } else {
        assert_eq!(back.data(), message.data(), "{text}");
    }
}

/// That `message` says what `text` says, as far as serde_json can tell: of a member that stands twice it keeps the last.
fn check_same(message: &Message, text: &str) {
    let Ok(Value::Object(event)) = serde_json::from_str(text) else { return };
    let known = [
        ("id", Some(message.id())),
        ("source", Some(message.source())),
        ("type", Some(message.kind())),
        ("subject", message.subject()),
        ("time", message.time()),
        ("datacontenttype", message.content_type()),
        ("dataschema", message.data_schema()),
    ];
    for (name, text) in known.into_iter().chain(message.extensions().map(|(name, text)| (name, Some(text)))) {
        if let Some(Value::String(expected)) = event.get(name) {
            assert_eq!(text, Some(expected.as_str()), "{name}");
        }
    }
    match event.get("data") {
        Some(data) if message.is_json() => {
            assert_eq!(serde_json::from_slice::<Value>(message.data()).ok().as_ref(), Some(data));
        }
        Some(Value::String(data)) => assert_eq!(message.data(), data.as_bytes()),
        _ => {}
    }
}
