//! Messages in their stored form.
//!
//! Asserts, of arbitrary bytes: if they decode, head and body are those bytes, no accessor panics, and where the attributes
//! are valid ones, a message made of them has equal attributes and decodes to itself. `decode` promises less than `new`: it
//! does not repeat the checks of attributes, so bytes that decode need not be what `new` would have written.
//!
//! Asserts, of arbitrary attributes: what `new` accepts decodes to an equal message with the attributes that were put in,
//! and no shorter head decodes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use pelton_core::message::{Attributes, Message};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    id: &'a str,
    source: &'a str,
    kind: &'a str,
    subject: Option<&'a str>,
    content_type: Option<&'a str>,
    data_schema: Option<&'a str>,
    extensions: Vec<(&'a str, &'a str)>,
    data: &'a [u8],
}

fuzz_target!(|bytes: &[u8]| {
    decode(bytes);
    if let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) {
        encode(&input);
    }
});

fn decode(bytes: &[u8]) {
    let Ok(message) = Message::decode(Bytes::copy_from_slice(bytes)) else { return };
    assert_eq!(message.as_bytes(), bytes);
    assert_eq!([message.head(), message.data()].concat(), bytes);
    assert_eq!(message.data_bytes(), message.data());
    let _ = (message.is_json(), format!("{message:?}"));
    let extensions: Vec<_> = message.extensions().collect();
    let Ok(again) = Message::new(&attributes(&message, &extensions), message.data()) else { return };
    let mut sorted = extensions.clone();
    sorted.sort_unstable();
    assert_eq!(again.extensions().collect::<Vec<_>>(), sorted);
    let attributes = |message| format!("{:?}", attributes(message, &[]));
    assert_eq!(attributes(&again), attributes(&message));
    assert_eq!(again.data(), message.data());
    assert_eq!(Message::decode(again.as_bytes().clone()).as_ref(), Ok(&again));
}

fn encode(input: &Input<'_>) {
    let &Input { id, source, kind, subject, content_type, data_schema, ref extensions, data } = input;
    let time = (data.len() % 2 == 0).then_some("2026-01-31T12:00:00.5+01:00");
    let given = Attributes { id, source, kind, subject, time, content_type, data_schema, extensions };
    let Ok(message) = Message::new(&given, data) else { return };
    let back = Message::decode(message.as_bytes().clone()).expect("what was encoded decodes");
    assert_eq!(back, message);
    let mut sorted = extensions.clone();
    sorted.sort_unstable();
    assert_eq!(back.extensions().collect::<Vec<_>>(), sorted);
    for (name, value) in extensions {
        assert_eq!(back.extension(name), Some(*value));
    }
    let given = Attributes { extensions: &[], ..given };
    assert_eq!(format!("{:?}", attributes(&back, &[])), format!("{given:?}"));
    assert_eq!(back.data(), data);
    let shorter = message.as_bytes().slice(..message.head().len() - 1);
    assert!(Message::decode(shorter).is_err(), "a head that lacks its last byte decodes");
}

fn attributes<'a>(message: &'a Message, extensions: &'a [(&'a str, &'a str)]) -> Attributes<'a> {
    Attributes {
        id: message.id(),
        source: message.source(),
        kind: message.kind(),
        subject: message.subject(),
        time: message.time(),
        content_type: message.content_type(),
        data_schema: message.data_schema(),
        extensions,
    }
}
