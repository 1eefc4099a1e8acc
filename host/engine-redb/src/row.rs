//! A message as a value of `ready` or `due`: a fixed header that is patched without decoding, then texts, then the body.
//!
//! Version 2, little endian. Header of 76 bytes: `version u8, flags u8, hops u8, priority u8, attempts u32, history u32,
//! topic bytes u16, death bytes u16, entry u64, accepted ms u64, body id u64, body bytes u32, checksum of the body u32,
//! expires ms u64, key u64, checksum of the content u32, checksum of the header and the death u32, checksum of the place u32`. Then the death
//! (`origin queue u32, at ms u64, code u8, detail`), the topic, the message's head and, unless it lies in `bodies`, its
//! body: these three are the content. `attempts` counts since the message came into its queue (accepted, redriven or dead);
//! `history` counts rows ever written to `attempts`, the table.
//!
//! The checksums (CRC-32) are there because redb trusts a file that was closed in order: what the disk changed since then
//! must not be delivered. The one of the header is made anew with every patch, the one of the content by who encodes it, and that of
//! the place, its queue and key, by who stores it: a message is not found where it does not belong. The first does not cover the last.
//!
//! Invariant: a [`Row`] has been checked for version, lengths and its header's checksum, so that its accessors can't fail; one that
//! comes from a table, for its place too.

use bytes::{Bytes, BytesMut};
use pelton_core::clock::WallMs;
use pelton_core::engine::{DeadCode, DeadReason};
use pelton_core::message::Message;
use pelton_core::name::Topic;

use crate::failure::Failure;
use crate::store::Place;

const VERSION: u8 = 2;
const HEADER_BYTES: usize = 76;
const DEATH_BYTES: usize = 13;
/// Longest text of a death that is kept; the rest is cut.
const DETAIL_BYTES_MAX: usize = 4096;

const FLAG_SHARED: u8 = 1;
const FLAG_KEYED: u8 = 2;
const FLAG_ALONE: u8 = 4;
const FLAG_CHOSEN: u8 = 8;

const AT_FLAGS: usize = 1;
const AT_HOPS: usize = 2;
const AT_PRIORITY: usize = 3;
const AT_ATTEMPTS: usize = 4;
const AT_HISTORY: usize = 8;
const AT_TOPIC_BYTES: usize = 12;
const AT_DEATH_BYTES: usize = 14;
const AT_ENTRY: usize = 16;
const AT_ACCEPTED: usize = 24;
const AT_BODY: usize = 32;
const AT_BODY_BYTES: usize = 40;
const AT_BODY_SUM: usize = 44;
const AT_EXPIRES: usize = 48;
const AT_KEY: usize = 56;
const AT_CONTENT_SUM: usize = 64;
const AT_HEADER_SUM: usize = 68;
const AT_PLACE_SUM: usize = 72;

/// A body that lies in `bodies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyRef {
    pub(crate) id: u64,
    pub(crate) bytes: u32,
    pub(crate) checksum: u32,
    /// Whether `body_refs` counts its users.
    pub(crate) shared: bool,
}

/// Where, when and why a message died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) origin: u32,
    pub(crate) at: WallMs,
    pub(crate) reason: DeadReason,
}

/// A checked row, borrowed from a page or a buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a>(&'a [u8]);

impl<'a> Row<'a> {
    /// Checks that `bytes` are a row of this version whose parts lie within it and whose header is as it was written.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Failure> {
        let damaged = |what: &str| Failure::Damaged(format!("a stored message is damaged: {what}"));
        if bytes.len() < HEADER_BYTES {
            return Err(damaged("it is shorter than its header"));
        }
        if bytes[0] != VERSION {
            return Err(damaged(&format!("its version is {}, not {VERSION}", bytes[0])));
        }
        let row = Self(bytes);
        let death = row.death_bytes();
        if death != 0 && death < DEATH_BYTES || bytes.len() < HEADER_BYTES + death + row.topic_bytes() {
            return Err(damaged("its parts are longer than it"));
        }
        if row.u32_at(AT_HEADER_SUM) != row.header_sum() {
            return Err(damaged("the checksum of its header is wrong"));
        }
        Ok(row)
    }

    /// The row that was read at this place of this queue: [`parse`](Self::parse), and a check that it belongs there.
    pub(crate) fn at(queue: u32, place: Place, bytes: &'a [u8]) -> Result<Self, Failure> {
        let row = Self::parse(bytes)?;
        if row.u32_at(AT_PLACE_SUM) == place_sum(queue, place) {
            return Ok(row);
        }
        let position = place.position();
        Err(Failure::Damaged(format!(
            "message {} lies where none should be: at {position} of queue {queue}",
            row.entry()
        )))
    }

    /// Checks that topic, head and inline body are as they were written.
    pub(crate) fn check_content(self) -> Result<Self, Failure> {
        if crc32fast::hash(&self.0[self.texts_at()..]) == self.u32_at(AT_CONTENT_SUM) {
            Ok(self)
        } else {
            Err(Failure::Damaged(format!("the checksum of message {} is wrong", self.entry())))
        }
    }

    fn header_sum(self) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&self.0[..AT_HEADER_SUM]);
        if self.death_bytes() != 0 {
            sum.update(&self.0[HEADER_BYTES..self.texts_at()]);
        }
        sum.finalize()
    }

    fn has(self, flag: u8) -> bool {
        self.0[AT_FLAGS] & flag != 0
    }

    /// 0 to 9.
    pub(crate) fn priority(self) -> u8 {
        self.0[AT_PRIORITY]
    }

    /// When it expires.
    pub(crate) fn expires(self) -> Option<WallMs> {
        Some(WallMs(self.u64_at(AT_EXPIRES))).filter(|expires| expires.0 != 0)
    }

    /// The hash of what it is kept in order by.
    pub(crate) fn key(self) -> Option<u64> {
        self.has(FLAG_KEYED).then(|| self.u64_at(AT_KEY))
    }

    /// A delivery of it was lost with its process.
    pub(crate) fn is_alone(self) -> bool {
        self.has(FLAG_ALONE)
    }

    /// The time that it waits for was chosen by its handler.
    pub(crate) fn is_chosen(self) -> bool {
        self.has(FLAG_CHOSEN)
    }

    fn u16_at(self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
    }

    fn u32_at(self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[at..at + 4]);
        u32::from_le_bytes(bytes)
    }

    fn u64_at(self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    fn topic_bytes(self) -> usize {
        self.u16_at(AT_TOPIC_BYTES)
    }

    fn death_bytes(self) -> usize {
        self.u16_at(AT_DEATH_BYTES)
    }

    pub(crate) fn hops(self) -> u8 {
        self.0[AT_HOPS]
    }

    pub(crate) fn attempts(self) -> u32 {
        self.u32_at(AT_ATTEMPTS)
    }

    pub(crate) fn history(self) -> u32 {
        self.u32_at(AT_HISTORY)
    }

    pub(crate) fn entry(self) -> u64 {
        self.u64_at(AT_ENTRY)
    }

    pub(crate) fn accepted(self) -> WallMs {
        WallMs(self.u64_at(AT_ACCEPTED))
    }

    pub(crate) fn body(self) -> Option<BodyRef> {
        let id = self.u64_at(AT_BODY);
        let (bytes, checksum) = (self.u32_at(AT_BODY_BYTES), self.u32_at(AT_BODY_SUM));
        (id != 0).then(|| BodyRef { id, bytes, checksum, shared: self.has(FLAG_SHARED) })
    }

    /// Bytes that the message takes in its queue: this row, and its body wherever that is.
    pub(crate) fn cost(self) -> u64 {
        self.0.len() as u64 + self.body().map_or(0, |body| u64::from(body.bytes))
    }

    /// The queue that it died in; none on a message that lives.
    pub(crate) fn origin(self) -> Option<u32> {
        (self.death_bytes() != 0).then(|| self.u32_at(HEADER_BYTES))
    }

    pub(crate) fn death(self) -> Result<Option<Death>, Failure> {
        let Some(origin) = self.origin() else { return Ok(None) };
        let damaged = || Failure::Damaged("a dead letter's reason is damaged".to_owned());
        let code = code_of(self.0[HEADER_BYTES + 12]).ok_or_else(damaged)?;
        let detail = &self.0[HEADER_BYTES + DEATH_BYTES..HEADER_BYTES + self.death_bytes()];
        let detail = std::str::from_utf8(detail).map_err(|_| damaged())?.to_owned();
        Ok(Some(Death { origin, at: WallMs(self.u64_at(HEADER_BYTES + 4)), reason: DeadReason { code, detail } }))
    }

    fn texts_at(self) -> usize {
        HEADER_BYTES + self.death_bytes()
    }

    pub(crate) fn topic(self) -> Result<Topic, Failure> {
        let at = self.texts_at();
        std::str::from_utf8(&self.0[at..at + self.topic_bytes()])
            .ok()
            .and_then(|text| Topic::new(text).ok())
            .ok_or_else(|| Failure::Damaged(format!("the topic of message {} is damaged", self.entry())))
    }

    /// Where the message's head starts in this row.
    fn message_at(self) -> usize {
        self.texts_at() + self.topic_bytes()
    }

    /// This row with another death, or none, and everything else as it is.
    fn with_death(self, death: &[u8]) -> RowBuffer {
        let mut bytes = Vec::with_capacity(self.0.len() + death.len());
        bytes.extend_from_slice(&self.0[..HEADER_BYTES]);
        bytes.extend_from_slice(death);
        bytes.extend_from_slice(&self.0[self.texts_at()..]);
        let mut buffer = RowBuffer(bytes);
        buffer.patch(AT_DEATH_BYTES, &length(death.len()).to_le_bytes());
        buffer
    }

    /// This row as that of a message that died now. Where it was dead already, its origin stays: that is where its
    /// handler is. The dead don't expire.
    pub(crate) fn died(self, death: &Death) -> RowBuffer {
        let origin = self.origin().unwrap_or(death.origin);
        let mut buffer = self.with_death(&encode_death(&Death { origin, ..death.clone() }));
        buffer.patch(AT_EXPIRES, &0_u64.to_le_bytes());
        buffer.set_flag(FLAG_ALONE | FLAG_CHOSEN, false);
        buffer
    }

    /// This row as that of a message that starts anew: alive, with no attempts. Its history stays.
    pub(crate) fn revived(self) -> RowBuffer {
        let mut buffer = self.with_death(&[]);
        buffer.set_attempts(0);
        buffer.set_flag(FLAG_ALONE | FLAG_CHOSEN, false);
        buffer
    }

    pub(crate) fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn to_buffer(self) -> RowBuffer {
        RowBuffer(self.0.to_vec())
    }
}

/// What a new message's row says beside its message.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts<'a> {
    pub(crate) hops: u8,
    pub(crate) priority: u8,
    pub(crate) expires: Option<WallMs>,
    pub(crate) key: Option<u64>,
    pub(crate) dead: Option<&'a DeadReason>,
    /// Its body lies in `bodies`, shared or not, with this checksum.
    pub(crate) external: Option<External>,
}

/// A body that will lie in `bodies`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct External {
    pub(crate) bytes: u32,
    pub(crate) checksum: u32,
    pub(crate) shared: bool,
}

/// A row that its owner may patch. Its header's checksum is right after every call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowBuffer(Vec<u8>);

impl RowBuffer {
    /// A new message's row. Its body is left out if `body_bytes` says that it will lie in `bodies`; entry, time, body id
    /// and the queue of a death are patched in by the writer.
    pub(crate) fn new(topic: &Topic, message: &Message, facts: &Facts<'_>) -> Self {
        let Facts { hops, priority, expires, key, dead, external } = *facts;
        let death = dead
            .map(|reason| encode_death(&Death { origin: 0, at: WallMs(0), reason: reason.clone() }))
            .unwrap_or_default();
        let content = if external.is_some() { message.head() } else { message.as_bytes() };
        let topic = topic.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + death.len() + topic.len() + content.len());
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(&death);
        bytes.extend_from_slice(topic);
        bytes.extend_from_slice(content);
        let mut row = Self(bytes);
        let keyed = if key.is_some() { FLAG_KEYED } else { 0 };
        let shared = if external.is_some_and(|body| body.shared) { FLAG_SHARED } else { 0 };
        row.put(0, &[VERSION, keyed | shared, hops, priority]);
        row.put(AT_EXPIRES, &expires.map_or(0, |expires| expires.0.max(1)).to_le_bytes());
        row.put(AT_KEY, &key.unwrap_or(0).to_le_bytes());
        row.put(AT_CONTENT_SUM, &crc32fast::hash(&row.0[HEADER_BYTES + death.len()..]).to_le_bytes());
        row.put(AT_TOPIC_BYTES, &length(topic.len()).to_le_bytes());
        row.put(AT_DEATH_BYTES, &length(death.len()).to_le_bytes());
        if let Some(External { bytes, checksum, .. }) = external {
            row.put(AT_BODY_BYTES, &bytes.to_le_bytes());
            row.put(AT_BODY_SUM, &checksum.to_le_bytes());
        }
        row.seal();
        row
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn seal(&mut self) {
        let sum = self.view().header_sum();
        self.put(AT_HEADER_SUM, &sum.to_le_bytes());
    }

    fn patch(&mut self, at: usize, bytes: &[u8]) {
        self.put(at, bytes);
        self.seal();
    }

    fn set_flag(&mut self, flag: u8, on: bool) {
        let flags = self.0[AT_FLAGS];
        self.patch(AT_FLAGS, &[if on { flags | flag } else { flags & !flag }]);
    }

    /// The parts that only the writer knows.
    pub(crate) fn stamp(&mut self, entry: u64, accepted: WallMs, body: Option<u64>) {
        self.put(AT_ENTRY, &entry.to_le_bytes());
        self.put(AT_ACCEPTED, &accepted.0.to_le_bytes());
        self.put(AT_BODY, &body.unwrap_or(0).to_le_bytes());
        self.seal();
    }

    /// Where and when the message died; its reason is in the row already.
    pub(crate) fn stamp_death(&mut self, origin: u32, at: WallMs) {
        self.put(HEADER_BYTES, &origin.to_le_bytes());
        self.put(HEADER_BYTES + 4, &at.0.to_le_bytes());
        self.put(AT_EXPIRES, &0_u64.to_le_bytes());
        self.seal();
    }

    /// Where it is about to be stored.
    pub(crate) fn lie_at(&mut self, queue: u32, place: Place) {
        self.put(AT_PLACE_SUM, &place_sum(queue, place).to_le_bytes());
    }

    pub(crate) fn set_attempts(&mut self, attempts: u32) {
        self.patch(AT_ATTEMPTS, &attempts.to_le_bytes());
    }

    pub(crate) fn set_history(&mut self, history: u32) {
        self.patch(AT_HISTORY, &history.to_le_bytes());
    }

    /// Marks it to be handled alone, or not.
    pub(crate) fn set_alone(&mut self, alone: bool) {
        self.set_flag(FLAG_ALONE, alone);
    }

    /// Says whether the time that it waits for was chosen by its handler.
    pub(crate) fn set_chosen(&mut self, chosen: bool) {
        self.set_flag(FLAG_CHOSEN, chosen);
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A view of it; it was built by this module, so that nothing needs to be checked.
    pub(crate) fn view(&self) -> Row<'_> {
        Row(&self.0)
    }
}

/// The message in a row and, where the row has none, its body. Copies only to join the two. Checks the content of the row, not of the
/// body, which was checked when it was read.
pub(crate) fn decode_message(row: &Bytes, body: Option<&Bytes>) -> Result<Message, Failure> {
    let head = row.slice(Row::parse(row)?.check_content()?.message_at()..);
    let whole = match body {
        None => head,
        Some(body) => {
            let mut whole = BytesMut::with_capacity(head.len() + body.len());
            whole.extend_from_slice(&head);
            whole.extend_from_slice(body);
            whole.freeze()
        }
    };
    Message::decode(whole).map_err(|error| Failure::Damaged(error.to_string()))
}

/// The checksum of a row's place: its table, and its key there.
fn place_sum(queue: u32, place: Place) -> u32 {
    let (table, detail) = match place {
        Place::Ready { rank, .. } => (0, u64::from(rank)),
        Place::Due { due, .. } => (1, due),
        Place::Parked { key, .. } => (2, key),
    };
    let mut key = [table; 21];
    key[1..5].copy_from_slice(&queue.to_le_bytes());
    key[5..13].copy_from_slice(&detail.to_le_bytes());
    key[13..].copy_from_slice(&place.position().to_le_bytes());
    crc32fast::hash(&key)
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("topics have at most 255 bytes and deaths at most DETAIL_BYTES_MAX more than a header")
}

fn encode_death(death: &Death) -> Vec<u8> {
    let mut cut = death.reason.detail.len().min(DETAIL_BYTES_MAX);
    while !death.reason.detail.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut bytes = Vec::with_capacity(DEATH_BYTES + cut);
    bytes.extend_from_slice(&death.origin.to_le_bytes());
    bytes.extend_from_slice(&death.at.0.to_le_bytes());
    bytes.push(code_number(death.reason.code));
    bytes.extend_from_slice(&death.reason.detail.as_bytes()[..cut]);
    bytes
}

fn code_number(code: DeadCode) -> u8 {
    match code {
        DeadCode::MaxAttempts => 1,
        DeadCode::Rejected => 2,
        DeadCode::RouteFailed => 3,
        DeadCode::TooManyHops => 4,
        DeadCode::MaxAge => 5,
        DeadCode::Expired => 6,
        DeadCode::QueueFull => 7,
    }
}

fn code_of(number: u8) -> Option<DeadCode> {
    DeadCode::ALL.into_iter().find(|code| code_number(*code) == number)
}

#[cfg(test)]
mod tests {
    use pelton_core::message::Attributes;

    use super::*;

    fn message(data: &[u8]) -> Message {
        let attributes = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
        Message::new(&attributes, data).expect("valid")
    }

    fn topic() -> Topic {
        Topic::new("orders.created").expect("valid")
    }

    fn reason(detail: &str) -> DeadReason {
        DeadReason { code: DeadCode::Rejected, detail: detail.to_owned() }
    }

    #[test]
    fn what_is_stamped_and_patched_is_read_back() {
        let mut row = RowBuffer::new(
            &topic(),
            &message(b"body"),
            &Facts { hops: 3, key: Some(9), expires: Some(WallMs(88)), ..Facts::default() },
        );
        row.stamp(7, WallMs(99), None);
        row.set_attempts(2);
        row.set_history(5);
        let view = Row::parse(row.as_bytes()).expect("a row");
        assert_eq!((view.entry(), view.accepted(), view.hops()), (7, WallMs(99), 3));
        assert_eq!((view.attempts(), view.history()), (2, 5));
        assert_eq!((view.body(), view.origin()), (None, None));
        assert_eq!(view.topic().expect("a topic"), topic());
        assert_eq!(view.cost(), row.as_bytes().len() as u64);
        let stored = Bytes::copy_from_slice(row.as_bytes());
        assert_eq!(decode_message(&stored, None).expect("a message"), message(b"body"));
    }

    #[test]
    fn a_body_elsewhere_is_joined_and_counted() {
        let mut row = {
            let external = Some(External { bytes: 10, checksum: 5, shared: true });
            RowBuffer::new(&topic(), &message(b"0123456789"), &Facts { external, ..Facts::default() })
        };
        row.stamp(7, WallMs(0), Some(6));
        let view = row.view();
        assert_eq!(view.body(), Some(BodyRef { id: 6, bytes: 10, checksum: 5, shared: true }));
        assert_eq!(view.cost(), row.as_bytes().len() as u64 + 10);
        let stored = Bytes::copy_from_slice(row.as_bytes());
        let body = Bytes::from_static(b"0123456789");
        assert_eq!(decode_message(&stored, Some(&body)).expect("a message"), message(b"0123456789"));
    }

    #[test]
    fn dying_and_reviving_change_nothing_else() {
        let mut living = RowBuffer::new(&topic(), &message(b"x"), &Facts { hops: 1, ..Facts::default() });
        living.stamp(9, WallMs(5), None);
        living.set_attempts(3);
        living.set_history(3);
        let first = Death { origin: 4, at: WallMs(50), reason: reason("no") };
        let dead = living.view().died(&first);
        assert_eq!(dead.view().death().expect("a death"), Some(first));
        assert_eq!(dead.view().attempts(), 3);
        let again = dead.view().died(&Death { origin: 8, at: WallMs(60), reason: reason("still no") });
        let expected = Death { origin: 4, at: WallMs(60), reason: reason("still no") };
        assert_eq!(again.view().death().expect("a death"), Some(expected), "the first origin stays");
        let revived = again.view().revived();
        living.set_attempts(0);
        assert_eq!(revived, living);
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let long = "\u{e9}".repeat(DETAIL_BYTES_MAX);
        let row = RowBuffer::new(
            &topic(),
            &message(b""),
            &Facts { dead: Some(&reason(&format!("x{long}"))), ..Facts::default() },
        );
        let death = row.view().death().expect("decodes").expect("is dead");
        assert_eq!(death.reason.detail.len(), DETAIL_BYTES_MAX - 1);
    }

    #[test]
    fn a_row_is_read_where_it_was_stored_and_nowhere_else() {
        let mut row = RowBuffer::new(&topic(), &message(b"x"), &Facts::default());
        let at = Place::Ready { rank: 1, position: 9 };
        row.lie_at(3, at);
        row.set_attempts(2);
        assert!(Row::at(3, at, row.as_bytes()).is_ok(), "a patch leaves it where it is");
        let elsewhere = [
            (4, at),
            (3, Place::Ready { rank: 2, position: 9 }),
            (3, Place::Ready { rank: 1, position: 8 }),
            (3, Place::Due { due: 1, position: 9 }),
            (3, Place::Parked { key: 1, position: 9 }),
        ];
        for (queue, place) in elsewhere {
            let error = Row::at(queue, place, row.as_bytes()).expect_err("it does not belong there").to_string();
            assert!(error.contains("lies where none should be"), "{error}");
        }
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        let mut row =
            RowBuffer::new(&topic(), &message(b"x"), &Facts { dead: Some(&reason("no")), ..Facts::default() });
        let place = Place::Due { due: 5, position: 9 };
        row.lie_at(3, place);
        let read = |bytes: &[u8]| Row::at(3, place, bytes).and_then(Row::check_content).is_ok();
        assert!(read(row.as_bytes()));
        for at in 0..row.0.len() {
            let mut damaged = row.0.clone();
            damaged[at] ^= 16;
            assert!(!read(&damaged), "a flipped bit in byte {at} passed");
        }
        for cut in 0..HEADER_BYTES + DEATH_BYTES {
            assert!(Row::parse(&row.as_bytes()[..cut]).is_err(), "{cut} bytes passed");
        }
        row.0[HEADER_BYTES + 12] = 77;
        assert!(row.view().death().is_err(), "an unknown code passed");
        row.0[0] = VERSION + 1;
        let error = Row::parse(row.as_bytes()).expect_err("a newer row").to_string();
        assert!(error.contains("version is 3"), "{error}");
    }
}
