//! Checks every invariant of a data file. It reads all of it and holds one number per message: for tests and operators,
//! never for a running broker.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use pelton_core::name::{ConsumerName, QueueName, ScheduleName};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};

use crate::failure::Failure;
use crate::history;
use crate::records::{Counters, Global, NameRecord};
use crate::row::{BodyRef, Row, decode_message};
use crate::seal::{Sealed, unseal};
use crate::store::{Known, Place, Reader, find};
use crate::tables::{
    ATTEMPTS, BODIES, BODY_REFS, COUNTERS, COUNTERS_GLOBAL, COUNTERS_QUEUE, DEDUP, DUE, HELD, IN_READY, NAMES,
    NAMES_PAUSED_CONSUMER, NAMES_QUEUE, PARKED, RANK, READY, RETRYING, SCHEDULES, rank_of,
};

/// What a file holds, all of it checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// By queue id: entries in `ready`, and in `due`, each in the order of keys.
    pub queues: BTreeMap<u32, (Vec<u64>, Vec<u64>)>,
    /// By queue id: entries in `parked`, in the order of keys.
    pub parked: BTreeMap<u32, Vec<u64>>,
    /// Bodies outside of rows.
    pub bodies: u64,
    /// Attempts kept.
    pub attempts: u64,
}

/// Most problems that are told; a file that is damaged throughout has one for each message.
const PROBLEMS_MAX: usize = 1000;

/// What is wrong, up to [`PROBLEMS_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Problems {
    pub(crate) told: Vec<String>,
    /// How many more there are.
    pub(crate) left_out: u64,
}

impl Problems {
    pub(crate) fn push(&mut self, problem: String) {
        if self.told.len() < PROBLEMS_MAX { self.told.push(problem) } else { self.left_out += 1 }
    }
}

/// Everything that was found in a file.
#[derive(Default)]
pub(crate) struct Findings<'a> {
    pub(crate) wrong: Problems,
    pub(crate) summary: Summary,
    /// By queue id, from the rows themselves.
    pub(crate) counted: BTreeMap<u32, Counters>,
    /// What is being read.
    pub(crate) reading: &'static str,
    /// Called once for each row.
    on_row: Option<&'a mut dyn FnMut()>,
    positions: BTreeSet<u64>,
    /// The records of queues, by id.
    names: BTreeMap<u32, NameRecord>,
    /// Queues that keep order by key and have parked messages, and are not about to change that.
    parking: BTreeSet<u32>,
    /// Of these, the positions in `ready` by key.
    keyed_ready: BTreeMap<(u32, u64), BTreeSet<u64>>,
    /// And the last position in `parked` by key.
    last_parked: BTreeMap<(u32, u64), u64>,
    /// Entry to how many attempts were ever written.
    entries: BTreeMap<u64, u32>,
    /// Body to its reference and its users.
    bodies: BTreeMap<u64, (BodyRef, u32)>,
}

/// Checks that counters equal rows, that references equal what they refer to, that nothing is orphaned, that every
/// record can be read, and that nothing lies where it should not.
///
/// # Errors
/// One sentence for each thing that is wrong.
pub fn verify(database: &Database) -> Result<Summary, Vec<String>> {
    let mut findings = Findings::default();
    let read = database.begin_read().map_err(Failure::from).and_then(|txn| findings.read(&txn));
    if let Err(failure) = read {
        findings.wrong.push(format!("the file can't be read: {failure}"));
    }
    if findings.wrong.told.is_empty() { Ok(findings.summary) } else { Err(findings.wrong.told) }
}

impl<'a> Findings<'a> {
    pub(crate) fn with_progress(on_row: &'a mut dyn FnMut()) -> Self {
        Self { on_row: Some(on_row), ..Self::default() }
    }

    /// Reads and checks all that is there. What it returns ended it; what else is wrong is in [`wrong`](Self::wrong).
    pub(crate) fn read(&mut self, txn: &ReadTransaction) -> Result<(), Failure> {
        self.reading = "the names of queues";
        let reader = Reader::of(txn)?;
        self.read_names(txn)?;
        self.find_parking(&reader)?;
        self.reading = "the messages that are ready";
        for row in txn.open_table(READY)?.iter()? {
            let (key, value) = row?;
            let (queue, rank, position) = key.value();
            self.message(&reader, queue, Place::Ready { rank, position }, value.value());
        }
        self.reading = "the messages that wait for their time";
        for row in txn.open_table(DUE)?.iter()? {
            let (key, value) = row?;
            let (queue, due, position) = key.value();
            self.message(&reader, queue, Place::Due { due, position }, value.value());
        }
        self.reading = "the messages that wait for their key";
        for row in txn.open_table(PARKED)?.iter()? {
            let (key, value) = row?;
            let (queue, key, position) = key.value();
            self.message(&reader, queue, Place::Parked { key, position }, value.value());
        }
        self.check_retrying(&reader)?;
        self.check_order();
        self.reading = "the counters";
        self.check_counters(txn)?;
        self.reading = "what is known of doubles, and the schedules";
        self.check_others(txn)?;
        self.reading = "the bodies";
        self.check_bodies(txn)?;
        self.reading = "the histories";
        self.check_attempts(txn)
    }

    /// The value; what is wrong with it is told.
    fn note<T>(&mut self, read: Result<T, Failure>) -> Option<T> {
        read.map_err(|failure| self.wrong.push(failure.to_string())).ok()
    }

    fn row(&mut self) {
        if let Some(on_row) = &mut self.on_row {
            on_row();
        }
    }

    fn read_names(&mut self, txn: &ReadTransaction) -> Result<(), Failure> {
        for row in txn.open_table(NAMES)?.range((NAMES_QUEUE, "")..(NAMES_QUEUE + 1, ""))? {
            let (key, value) = row?;
            let name = key.value().1.to_owned();
            match unseal(NAMES, &key.value(), value.value()).and_then(NameRecord::decode) {
                Ok(record) => {
                    if QueueName::new(&name).is_err() {
                        self.wrong.push(format!("'{name}' is no name of a queue"));
                    }
                    if self.names.insert(record.id, record).is_some() {
                        self.wrong.push(format!("queue '{name}' shares its id"));
                    }
                }
                Err(failure) => self.wrong.push(format!("queue '{name}': {failure}")),
            }
        }
        for row in txn.open_table(NAMES)?.range((NAMES_PAUSED_CONSUMER, "")..(NAMES_PAUSED_CONSUMER + 1, ""))? {
            let (key, value) = row?;
            let name = key.value().1.to_owned();
            if ConsumerName::new(&name).is_err() {
                self.wrong.push(format!("'{name}' is no name of a consumer"));
            }
            self.note(unseal(NAMES, &key.value(), value.value()));
        }
        let lost: Vec<_> = self.names.values().filter_map(|record| record.dead_letter).collect();
        for id in lost.into_iter().filter(|id| !self.names.contains_key(id)) {
            self.wrong.push(format!("the dead-letter queue {id} does not exist"));
        }
        Ok(())
    }

    fn find_parking(&mut self, reader: &Reader) -> Result<(), Failure> {
        for (queue, record) in &self.names {
            if record.settings.order_by_key
                && !record.turning
                && reader.parked.range((*queue, 0, 0)..=(*queue, u64::MAX, u64::MAX))?.next().is_some()
            {
                self.parking.insert(*queue);
            }
        }
        Ok(())
    }

    fn message(&mut self, reader: &Reader, queue: u32, at: Place, bytes: &[u8]) {
        self.row();
        let position = at.position();
        let place = format!("message {position} of queue {queue}");
        let row = match Row::at(queue, at, bytes) {
            Ok(row) => row,
            Err(failure) => return self.wrong.push(format!("{place}: {failure}")),
        };
        let body = row.body().map(|body| reader.body(body)).transpose();
        let stored = Bytes::copy_from_slice(bytes);
        let decoded = body.and_then(|body| decode_message(&stored, body.as_ref())).map(|_| ());
        let readable = decoded.and_then(|()| row.topic().map(|_| ())).and_then(|()| row.death().map(|_| ()));
        if let Err(failure) = readable {
            self.wrong.push(format!("{place}: {failure}"));
        }
        if !self.positions.insert(position) {
            self.wrong.push(format!("{place} shares its position"));
        }
        if self.entries.insert(row.entry(), row.history()).is_some() {
            self.wrong.push(format!("{place}: entry {} exists twice", row.entry()));
        }
        if row.entry() > position {
            self.wrong.push(format!("{place}: entry {} lies behind its position", row.entry()));
        }
        if let Some(body) = row.body() {
            self.bodies.entry(body.id).or_insert((body, 0)).1 += 1;
        }
        self.check_place(queue, at, row, &place);
        let counted = self.counted.entry(queue).or_default();
        counted.bytes += row.cost();
        counted.expiring += u64::from(row.expires().is_some());
        let (in_ready, in_due) = self.summary.queues.entry(queue).or_default();
        match at {
            Place::Ready { .. } => {
                counted.ready += 1;
                in_ready.push(row.entry());
            }
            Place::Due { due, .. } => {
                counted.due += 1;
                counted.held += u64::from(due == HELD);
                in_due.push(row.entry());
            }
            Place::Parked { .. } => {
                counted.parked += 1;
                self.summary.parked.entry(queue).or_default().push(row.entry());
            }
        }
    }

    /// Whether the message is one of those that lie there.
    fn check_place(&mut self, queue: u32, at: Place, row: Row<'_>, place: &str) {
        if row.origin().is_some() && row.expires().is_some() {
            self.wrong.push(format!("{place} is a dead letter, and expires"));
        }
        match at {
            Place::Ready { rank, position } => {
                let ranked = self.names.get(&queue).is_some_and(|record| record.ranked);
                if rank > rank_of(0) || rank != RANK && !(ranked && rank == rank_of(row.priority())) {
                    self.wrong.push(format!("{place} has rank {rank} and priority {}", row.priority()));
                }
                if let Some(key) = row.key().filter(|_| self.parking.contains(&queue)) {
                    self.keyed_ready.entry((queue, key)).or_default().insert(position);
                }
            }
            Place::Due { due, .. } => {
                if due == HELD && row.origin().is_none() {
                    self.wrong.push(format!("{place} is held, and is no dead letter"));
                }
            }
            Place::Parked { key, position } => {
                if row.key() != Some(key) {
                    self.wrong.push(format!("{place} waits for key {key}, and its own is {:?}", row.key()));
                }
                if self.parking.contains(&queue) {
                    self.last_parked.insert((queue, key), position);
                }
            }
        }
    }

    /// Each of these stands for a message of that key in `due`, which is not held, or in `ready`.
    fn check_retrying(&mut self, reader: &Reader) -> Result<(), Failure> {
        for row in reader.retrying.iter()? {
            let (key, due) = row?;
            let (queue, hash, position) = key.value();
            let Some(due) = self.note(unseal(RETRYING, &key.value(), due.value())) else { continue };
            self.counted.entry(queue).or_default().retrying += 1;
            let found = if due == IN_READY {
                self.keyed_ready.get_mut(&(queue, hash)).map(|ready| ready.remove(&position));
                told(find(reader, queue, position))?
                    .filter(|(place, _)| matches!(place, Place::Ready { .. }))
                    .and_then(|(_, row)| row.view().key())
            } else {
                let row = reader.due.get((queue, due, position))?.filter(|_| due != HELD);
                row.and_then(|row| Row::at(queue, Place::Due { due, position }, row.value()).ok()?.key())
            };
            if found != Some(hash) {
                self.wrong.push(format!(
                    "message {position} of queue {queue} holds up key {hash} as of {due}, and is {found:?} there"
                ));
            }
        }
        Ok(())
    }

    /// Whoever looks for the next message of a key looks at those parked first, and at those in `ready` only if they are marked.
    fn check_order(&mut self) {
        for ((queue, key), last) in &self.last_parked {
            let first = self.keyed_ready.get(&(*queue, *key)).and_then(BTreeSet::first).filter(|first| *first < last);
            if let Some(first) = first {
                self.wrong.push(format!(
                    "message {first} of queue {queue} comes before message {last} of key {key}, which is parked, and is not marked"
                ));
            }
        }
    }

    fn check_counters(&mut self, txn: &ReadTransaction) -> Result<(), Failure> {
        let table = txn.open_table(COUNTERS)?;
        let global = read_global(&table)?;
        if let Some(last) = self.positions.last().filter(|last| **last >= global.next_position) {
            self.wrong.push(format!("position {last} is taken, and the next is {}", global.next_position));
        }
        let known: BTreeSet<u32> = self.names.keys().copied().collect();
        if !known.iter().copied().eq(0..global.next_queue) {
            self.wrong.push(format!("the queues are {known:?}, and the next is {}", global.next_queue));
        }
        let mut stored = BTreeMap::new();
        for row in table.range((COUNTERS_QUEUE, 0)..=(COUNTERS_QUEUE, u32::MAX))? {
            let (key, value) = row?;
            let counters = unseal(COUNTERS, &key.value(), value.value()).and_then(Counters::decode);
            let id = key.value().1;
            match counters {
                Ok(counters) => drop(stored.insert(id, counters)),
                Err(failure) => self.wrong.push(format!("the counters of queue {id}: {failure}")),
            }
        }
        for queue in known.iter().chain(self.counted.keys()).chain(stored.keys()).copied().collect::<BTreeSet<_>>() {
            let (counters, rows) = (stored.get(&queue).copied(), self.counted.get(&queue).copied());
            if counters.unwrap_or_default() != rows.unwrap_or_default() {
                self.wrong.push(format!("queue {queue} has {rows:?}, its counters say {counters:?}"));
            }
            if !known.contains(&queue) {
                self.wrong.push(format!("queue {queue} has no name"));
            }
        }
        Ok(())
    }

    /// What belongs to no message.
    fn check_others(&mut self, txn: &ReadTransaction) -> Result<(), Failure> {
        let next_position = read_global(&txn.open_table(COUNTERS)?)?.next_position;
        for row in txn.open_table(DEDUP)?.iter()? {
            let (key, value) = row?;
            let known = unseal(DEDUP, &key.value(), value.value()).and_then(Known::of);
            let Some(Known { first, targets, .. }) = self.note(known) else { continue };
            if first.saturating_add(targets.into()) > next_position {
                self.wrong.push(format!("an identity stands for message {first}, and the next is {next_position}"));
            }
        }
        for row in txn.open_table(SCHEDULES)?.iter()? {
            let (key, value) = row?;
            let name = key.value().to_owned();
            self.note(unseal(SCHEDULES, &key.value(), value.value()));
            if ScheduleName::new(&name).is_err() {
                self.wrong.push(format!("'{name}' is no name of a schedule"));
            }
        }
        Ok(())
    }

    fn check_bodies(&mut self, txn: &ReadTransaction) -> Result<(), Failure> {
        let mut stored = BTreeSet::new();
        for row in txn.open_table(BODIES)?.iter()? {
            self.row();
            stored.insert(row?.0.value().0);
        }
        self.summary.bodies = stored.len() as u64;
        for orphan in stored.iter().filter(|id| !self.bodies.contains_key(id)) {
            self.wrong.push(format!("body {orphan} belongs to no message"));
        }
        let mut refs = BTreeMap::new();
        for row in txn.open_table(BODY_REFS)?.iter()? {
            let (key, value) = row?;
            let (id, users) = (key.value(), self.note(unseal(BODY_REFS, &key.value(), value.value())));
            refs.extend(users.map(|users| (id, users)));
        }
        for (id, (body, users)) in &self.bodies {
            let expected = body.shared.then_some(*users);
            let counted = refs.remove(id);
            if counted != expected || !body.shared && *users != 1 {
                self.wrong.push(format!("body {id} has {users} users, and {counted:?} are counted"));
            }
        }
        for orphan in refs.keys() {
            self.wrong.push(format!("users of body {orphan} are counted, and there are none"));
        }
        Ok(())
    }

    fn check_attempts(&mut self, txn: &ReadTransaction) -> Result<(), Failure> {
        let mut kept: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for row in txn.open_table(ATTEMPTS)?.iter()? {
            self.row();
            let (key, value) = row?;
            let (entry, number) = key.value();
            kept.entry(entry).or_default().push(number);
            self.summary.attempts += 1;
            let attempt = unseal(ATTEMPTS, &key.value(), value.value()).and_then(history::decode);
            if let Err(failure) = attempt {
                self.wrong.push(format!("attempt {number} of message {entry}: {failure}"));
            }
        }
        for (entry, numbers) in &kept {
            // The oldest may have been dropped; what is kept has no holes and ends with the last.
            let written = self.entries.get(entry).copied();
            let without_holes = numbers
                .first()
                .is_some_and(|first| written.is_some_and(|written| numbers.iter().copied().eq(*first..written)));
            if !without_holes {
                self.wrong.push(format!("message {entry} has attempts {numbers:?}, and {written:?} were written"));
            }
        }
        for (entry, history) in &self.entries {
            if *history > 0 && !kept.contains_key(entry) {
                self.wrong.push(format!("the {history} attempts of message {entry} are gone"));
            }
        }
        Ok(())
    }
}

/// What is damaged counts as missing here: it has been told where it lies.
fn told<T>(found: Result<Option<T>, Failure>) -> Result<Option<T>, Failure> {
    match found {
        Err(Failure::Damaged(_)) => Ok(None),
        found => found,
    }
}

fn read_global(table: &impl ReadableTable<(u8, u32), Sealed<&'static [u8]>>) -> Result<Global, Failure> {
    let key = (COUNTERS_GLOBAL, 0);
    match table.get(key)? {
        Some(value) => Global::decode(unseal(COUNTERS, &key, value.value())?),
        None => Ok(Global::default()),
    }
}
