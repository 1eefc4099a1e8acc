//! Rows, records and exported lines as the fuzz targets see them. Compiled under `cfg(fuzzing)` only.
//!
//! Nothing is decided here: these are the private functions and their types, made public. What must hold is in `fuzz/`.

use bytes::Bytes;
use pelton_core::clock::WallMs;
use pelton_core::engine::{Attempt, Bounds, DeadReason, QueueDefinition};
use pelton_core::message::Message;
use pelton_core::name::Topic;
use pelton_core::retry::RetryPolicy;

use crate::records::{Counters, Global, NameRecord, Settings};
use crate::row::{self, External, Facts, RowBuffer};
use crate::{dump, history, tables};

/// All that a row says beside its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The first position.
    pub entry: u64,
    /// When it was accepted.
    pub accepted: WallMs,
    /// Components on its way.
    pub hops: u8,
    /// 0 to 9 in a row of ours.
    pub priority: u8,
    /// Since it came into its queue.
    pub attempts: u32,
    /// Attempts ever.
    pub history: u32,
    /// When it expires.
    pub expires: Option<WallMs>,
    /// The hash of what it is kept in order by.
    pub key: Option<u64>,
    /// It is tried alone.
    pub alone: bool,
    /// Its handler chose the time that it waits for.
    pub chosen: bool,
    /// Its body, where that lies elsewhere.
    pub body: Option<Body>,
    /// Bytes that it takes in its queue.
    pub cost: u64,
    /// Set on a dead letter.
    pub death: Option<Death>,
    /// What it was published to.
    pub topic: Topic,
}

/// A body that lies elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    /// Its id; not 0.
    pub id: u64,
    /// Its length.
    pub bytes: u32,
    /// Its CRC-32.
    pub checksum: u32,
    /// Its users are counted.
    pub shared: bool,
}

/// Where, when and why a message died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The queue's id.
    pub origin: u32,
    /// When.
    pub at: WallMs,
    /// Why.
    pub reason: DeadReason,
}

/// What a new row says.
#[derive(Debug, Clone, Default)]
pub struct New {
    /// Components on its way.
    pub hops: u8,
    /// 0 to 9.
    pub priority: u8,
    /// When it expires.
    pub expires: Option<WallMs>,
    /// The hash of what it is kept in order by.
    pub key: Option<u64>,
    /// Set on one that is dead from the start.
    pub dead: Option<DeadReason>,
    /// Its body lies elsewhere: its checksum, and whether its users are counted.
    pub external: Option<(u32, bool)>,
}

/// What is done to a row once it is made.
#[derive(Debug, Clone)]
pub enum Step {
    /// What only the writer knows.
    Stamp {
        /// The first position.
        entry: u64,
        /// When it was accepted.
        accepted: WallMs,
        /// The id of the body that lies elsewhere.
        body: Option<u64>,
    },
    /// Where and when it died; only on one that is dead.
    StampDeath {
        /// The queue's id.
        origin: u32,
        /// When.
        at: WallMs,
    },
    /// The number of attempts.
    Attempts(u32),
    /// The number of attempts ever.
    History(u32),
    /// Whether it is tried alone.
    Alone(bool),
    /// Whether its handler chose its time.
    Chosen(bool),
    /// It dies.
    Die(Death),
    /// It starts anew.
    Revive,
}

/// What the row says, and its message, with the `body` that lies elsewhere; none where any part of it is refused.
pub fn read_row(bytes: &Bytes, body: Option<&Bytes>) -> Option<(Row, Message)> {
    let row = row::Row::parse(bytes).ok()?;
    let elsewhere = row.body().map(|row::BodyRef { id, bytes, checksum, shared }| Body { id, bytes, checksum, shared });
    // All of them are asked before any refuses: none may panic on what the others find damaged.
    let (death, topic, content) = (row.death(), row.topic(), row.check_content());
    let message = row::decode_message(bytes, body);
    content.ok()?;
    let death = death.ok()?.map(|row::Death { origin, at, reason }| Death { origin, at, reason });
    let read = Row {
        entry: row.entry(),
        accepted: row.accepted(),
        hops: row.hops(),
        priority: row.priority(),
        attempts: row.attempts(),
        history: row.history(),
        expires: row.expires(),
        key: row.key(),
        alone: row.is_alone(),
        chosen: row.is_chosen(),
        body: elsewhere,
        cost: row.cost(),
        death,
        topic: topic.ok()?,
    };
    Some((read, message.ok()?))
}

/// The row of a new message.
pub fn new_row(topic: &Topic, message: &Message, new: &New) -> Vec<u8> {
    let external = new.external.map(|(checksum, shared)| External {
        bytes: u32::try_from(message.data().len()).expect("fuzzers make no bodies of 4 GiB"),
        checksum,
        shared,
    });
    let New { hops, priority, expires, key, dead, .. } = new;
    let facts = Facts { hops: *hops, priority: *priority, expires: *expires, key: *key, dead: dead.as_ref(), external };
    RowBuffer::new(topic, message, &facts).as_bytes().to_vec()
}

/// The row after these steps; none where `row` is refused.
pub fn change_row(row: &[u8], steps: &[Step]) -> Option<Vec<u8>> {
    let mut row = row::Row::parse(row).ok()?.to_buffer();
    for step in steps {
        match step {
            Step::Stamp { entry, accepted, body } => row.stamp(*entry, *accepted, *body),
            Step::StampDeath { origin, at } => row.stamp_death(*origin, *at),
            Step::Attempts(attempts) => row.set_attempts(*attempts),
            Step::History(history) => row.set_history(*history),
            Step::Alone(alone) => row.set_alone(*alone),
            Step::Chosen(chosen) => row.set_chosen(*chosen),
            Step::Die(Death { origin, at, reason }) => {
                row = row.view().died(&row::Death { origin: *origin, at: *at, reason: reason.clone() });
            }
            Step::Revive => row = row.view().revived(),
        }
    }
    Some(row.as_bytes().to_vec())
}

/// The rank of a row of this priority, which may be any.
pub fn rank(priority: u8) -> u8 {
    tables::rank_of(priority)
}

/// Which of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A queue's counters.
    Counters,
    /// What is global.
    Global,
    /// A queue's name and settings.
    Queue,
    /// An attempt at a message.
    Attempt,
}

/// A record as it is in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Record(Content);

#[derive(Debug, Clone, PartialEq)]
enum Content {
    Counters(Counters),
    Global(Global),
    Queue(NameRecord),
    Attempt(Attempt),
}

impl Record {
    /// That of a queue that holds so many: ready, due, parked, retrying, expiring, held, bytes.
    pub fn counters([ready, due, parked, retrying, expiring, held, bytes]: [u64; 7]) -> Self {
        Self(Content::Counters(Counters { ready, due, parked, retrying, expiring, held, bytes }))
    }

    /// What is global.
    pub fn global(next_position: u64, epoch: u64, commit: u64, next_queue: u32) -> Self {
        Self(Content::Global(Global { next_position, epoch, commit, next_queue }))
    }

    /// The queue `id`, declared as this.
    pub fn queue(id: u32, paused: bool, dead_letter: Option<u32>, definition: &QueueDefinition) -> Self {
        let (settings, ranked) = (Settings::of(definition), definition.priority);
        Self(Content::Queue(NameRecord { id, declared: true, paused, dead_letter, settings, ranked, turning: false }))
    }

    /// An attempt.
    pub fn attempt(attempt: Attempt) -> Self {
        Self(Content::Attempt(attempt))
    }

    /// What the record of a queue says about retries and bounds.
    pub fn rules(&self) -> Option<(RetryPolicy, Bounds)> {
        let Content::Queue(NameRecord { settings, .. }) = &self.0 else { return None };
        Some((settings.retry(), settings.bounds()))
    }

    /// Its stored form.
    pub fn encode(&self) -> Vec<u8> {
        match &self.0 {
            Content::Counters(counters) => counters.encode().to_vec(),
            Content::Global(global) => global.encode().to_vec(),
            Content::Queue(name) => name.encode(),
            Content::Attempt(attempt) => history::encode(attempt),
        }
    }

    /// The record in `bytes`; none where they are refused.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Option<Self> {
        let content = match kind {
            Kind::Counters => Counters::decode(bytes).map(Content::Counters),
            Kind::Global => Global::decode(bytes).map(Content::Global),
            Kind::Queue => NameRecord::decode(bytes).map(Content::Queue),
            Kind::Attempt => history::decode(bytes).map(Content::Attempt),
        };
        content.ok().map(Self)
    }
}

/// A message as it stands on a line of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line(dump::Line);

impl Line {
    /// The message on the line; what is wrong with it where it is refused.
    pub fn read(text: &str) -> Result<Self, String> {
        dump::Line::of_line(text).map(Self)
    }

    /// The line, without its end.
    pub fn write(&self) -> Vec<u8> {
        self.0.to_line()
    }
}
