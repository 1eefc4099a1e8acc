//! The stored row of a message.
//!
//! Asserts, of arbitrary bytes, and of the same with the checksums that belong to them: nothing panics; what is read stays so
//! through every step but for what the step changes. Asserts, of a row made of arbitrary parts and steps: what was put in is
//! read back; with any one bit flipped but in the checksum of its place, or cut short, it is refused.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use pelton_core::clock::WallMs;
use pelton_core::engine::{DeadCode, DeadReason, PRIORITY_MAX};
use pelton_core::message::{Attributes, Message};
use pelton_core::name::Topic;
use pelton_engine_redb::fuzzing::{Body, Death, New, Row, Step, change_row, new_row, rank, read_row};

/// Of the layout that `row.rs` of the engine describes.
const VERSION: u8 = 2;
const HEADER_BYTES: usize = 76;
const AT_DEATH_BYTES: usize = 14;
const AT_CONTENT_SUM: usize = 64;
const AT_HEADER_SUM: usize = 68;
const AT_PLACE_SUM: usize = 72;
const DETAIL_BYTES_MAX: usize = 4096;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    topic: &'a str,
    id: &'a str,
    subject: Option<&'a str>,
    data: &'a [u8],
    external: Option<bool>,
    hops: u8,
    priority: u8,
    expires: Option<u64>,
    key: Option<u64>,
    dead: Option<Reason<'a>>,
    entry: u64,
    accepted: u64,
    body: u64,
    changes: Vec<Change<'a>>,
    flipped: u32,
    cut: u32,
}

#[derive(Debug, Arbitrary)]
struct Reason<'a> {
    code: u8,
    detail: &'a str,
    /// How often the detail stands there: a short input has a reason that is too long.
    times: u8,
}

#[derive(Debug, Arbitrary)]
enum Change<'a> {
    StampDeath { origin: u32, at: u64 },
    Attempts(u32),
    History(u32),
    Alone(bool),
    Chosen(bool),
    Die { origin: u32, at: u64, reason: Reason<'a> },
    Revive,
}

fuzz_target!(|bytes: &[u8]| {
    let input = Input::arbitrary_take_rest(Unstructured::new(bytes));
    let changes = input.as_ref().map(|input| input.changes.as_slice()).unwrap_or_default();
    let body = Bytes::from_static(b"a body");
    for bytes in [Some(bytes.to_vec()), sealed(bytes)].into_iter().flatten().map(Bytes::from) {
        let _ = read_row(&bytes, Some(&body));
        if let Some((row, message)) = read_row(&bytes, None) {
            assert!(rank(row.priority) <= PRIORITY_MAX);
            check_changes(&bytes, row, &message, None, changes);
        }
    }
    if let Ok(input) = &input {
        check_made(input);
    }
});

/// The bytes as a row whose version and checksums are right; none where they are too short for that.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    *bytes.first_mut()? = VERSION;
    let death = bytes.get(AT_DEATH_BYTES..AT_DEATH_BYTES + 2)?;
    let death = usize::from(u16::from_le_bytes([death[0], death[1]]));
    let content = crc32fast::hash(bytes.get(HEADER_BYTES + death..)?);
    bytes[AT_CONTENT_SUM..AT_HEADER_SUM].copy_from_slice(&content.to_le_bytes());
    let mut header = crc32fast::Hasher::new();
    header.update(&bytes[..AT_HEADER_SUM]);
    header.update(&bytes[HEADER_BYTES..HEADER_BYTES + death]);
    bytes[AT_HEADER_SUM..AT_PLACE_SUM].copy_from_slice(&header.finalize().to_le_bytes());
    Some(bytes)
}

fn check_made(input: &Input<'_>) {
    let topic = Topic::new(input.topic).unwrap_or_else(|_| Topic::new("t").expect("a topic"));
    let plain = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
    let given = Attributes { id: input.id, subject: input.subject, ..plain };
    let message = Message::new(&given, input.data);
    let message = message.unwrap_or_else(|_| Message::new(&plain, input.data).expect("a message"));
    let external = input.external.map(|shared| (crc32fast::hash(input.data), shared));
    let dead = input.dead.as_ref().map(reason);
    let (priority, expires) = (input.priority % (PRIORITY_MAX + 1), input.expires.map(WallMs));
    let new = New { hops: input.hops, priority, expires, key: input.key, dead, external };
    let (entry, accepted, id) = (input.entry, WallMs(input.accepted), input.body.max(1));
    let stamp = Step::Stamp { entry, accepted, body: external.map(|_| id) };
    let bytes = change_row(&new_row(&topic, &message, &new), &[stamp]).expect("a new row is one");
    let body = external.map(|(checksum, shared)| Body { id, bytes: input.data.len() as u32, checksum, shared });
    let expected = Row {
        entry,
        accepted,
        hops: input.hops,
        priority,
        attempts: 0,
        history: 0,
        expires: expires.map(|expires| WallMs(expires.0.max(1))),
        key: input.key,
        alone: false,
        chosen: false,
        body,
        cost: bytes.len() as u64 + body.map_or(0, |body| u64::from(body.bytes)),
        death: new.dead.map(|reason| Death { origin: 0, at: WallMs(0), reason: kept(&reason) }),
        topic,
    };
    let elsewhere = external.map(|_| message.data_bytes());
    let bytes = check_changes(&bytes, expected, &message, elsewhere.as_ref(), &input.changes);
    check_damage(&bytes, elsewhere.as_ref(), input);
}

/// That the row is `expected` with this message, and remains so through all changes but for what they change. The last of it.
fn check_changes(
    bytes: &[u8],
    mut expected: Row,
    message: &Message,
    elsewhere: Option<&Bytes>,
    changes: &[Change<'_>],
) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let check = |bytes: &[u8], expected: &Row| {
        let (row, read) = read_row(&Bytes::copy_from_slice(bytes), elsewhere).expect("a row of ours is read");
        assert_eq!(&row, expected);
        assert_eq!(&read, message);
    };
    check(&bytes, &expected);
    for change in changes {
        let Some(step) = apply(change, &mut expected) else { continue };
        bytes = change_row(&bytes, &[step]).expect("a row of ours stays one");
        expected.cost = bytes.len() as u64 + expected.body.map_or(0, |body| u64::from(body.bytes));
        check(&bytes, &expected);
    }
    bytes
}

/// The change as a step, and what it makes of the row by the words of the engine; none where nobody would do that.
fn apply(change: &Change<'_>, row: &mut Row) -> Option<Step> {
    Some(match change {
        Change::StampDeath { origin, at } => {
            let (origin, at) = (*origin, WallMs(*at));
            let reason = row.death.take()?.reason;
            row.death = Some(Death { origin, at, reason });
            row.expires = None;
            Step::StampDeath { origin, at }
        }
        Change::Attempts(attempts) => {
            row.attempts = *attempts;
            Step::Attempts(*attempts)
        }
        Change::History(history) => {
            row.history = *history;
            Step::History(*history)
        }
        Change::Alone(alone) => {
            row.alone = *alone;
            Step::Alone(*alone)
        }
        Change::Chosen(chosen) => {
            row.chosen = *chosen;
            Step::Chosen(*chosen)
        }
        Change::Die { origin, at, reason: given } => {
            let death = Death { origin: *origin, at: WallMs(*at), reason: reason(given) };
            let origin = row.death.as_ref().map_or(death.origin, |first| first.origin);
            row.death = Some(Death { origin, at: death.at, reason: kept(&death.reason) });
            (row.expires, row.alone, row.chosen) = (None, false, false);
            Step::Die(death)
        }
        Change::Revive => {
            (row.death, row.attempts, row.alone, row.chosen) = (None, 0, false, false);
            Step::Revive
        }
    })
}

fn check_damage(bytes: &[u8], elsewhere: Option<&Bytes>, input: &Input<'_>) {
    // The place is checked by who reads the row there.
    let checked = (bytes.len() - (HEADER_BYTES - AT_PLACE_SUM)) * 8;
    let flipped = input.flipped as usize % checked;
    let flipped = if flipped < AT_PLACE_SUM * 8 { flipped } else { flipped + (HEADER_BYTES - AT_PLACE_SUM) * 8 };
    let mut damaged = bytes.to_vec();
    damaged[flipped / 8] ^= 1 << (flipped % 8);
    assert_eq!(read_row(&damaged.into(), elsewhere), None, "bit {flipped} is flipped");
    let cut = input.cut as usize % bytes.len();
    assert_eq!(read_row(&Bytes::copy_from_slice(&bytes[..cut]), elsewhere), None, "{cut} bytes are left");
}

fn reason(reason: &Reason<'_>) -> DeadReason {
    let code = DeadCode::ALL[usize::from(reason.code) % DeadCode::ALL.len()];
    DeadReason { code, detail: reason.detail.repeat(usize::from(reason.times)) }
}

/// As much of the reason as is kept.
fn kept(reason: &DeadReason) -> DeadReason {
    let end = reason.detail.floor_char_boundary(DETAIL_BYTES_MAX);
    DeadReason { code: reason.code, detail: reason.detail[..end].to_owned() }
}
