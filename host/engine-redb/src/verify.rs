//! Checks every invariant of a data file. It reads all of it and holds one number per message: for tests and operators,
//! never for a running broker.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable as _};

use crate::failure::Failure;
use crate::history;
use crate::records::{Counters, Global, NameRecord};
use crate::row::{BodyRef, Row, decode_message};
use crate::store::Reader;
use crate::tables::{
    ATTEMPTS, BODIES, BODY_REFS, COUNTERS, COUNTERS_GLOBAL, COUNTERS_QUEUE, DUE, NAMES, NAMES_QUEUE, RANK, READY,
};

/// What a file holds, all of it checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// By queue id: entries in `ready`, and in `due`, each in the order of keys.
    pub queues: BTreeMap<u32, (Vec<u64>, Vec<u64>)>,
    /// Bodies outside of rows.
    pub bodies: u64,
    /// Attempts kept.
    pub attempts: u64,
}

#[derive(Default)]
struct Findings {
    wrong: Vec<String>,
    summary: Summary,
    counted: BTreeMap<u32, Counters>,
    positions: BTreeSet<u64>,
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
    if findings.wrong.is_empty() { Ok(findings.summary) } else { Err(findings.wrong) }
}

impl Findings {
    fn read(&mut self, txn: &ReadTransaction) -> Result<(), Failure> {
        let reader = Reader::of(txn)?;
        for row in txn.open_table(READY)?.iter()? {
            let (key, value) = row?;
            let (queue, rank, position) = key.value();
            if rank != RANK {
                self.wrong.push(format!("message {position} has rank {rank}"));
            }
            self.message(&reader, queue, position, value.value(), true);
        }
        for row in txn.open_table(DUE)?.iter()? {
            let (key, value) = row?;
            let (queue, _, position) = key.value();
            self.message(&reader, queue, position, value.value(), false);
        }
        self.check_counters(txn)?;
        self.check_bodies(txn)?;
        self.check_attempts(txn)
    }

    fn message(&mut self, reader: &Reader, queue: u32, position: u64, bytes: &[u8], ready: bool) {
        let place = format!("message {position} of queue {queue}");
        let row = match Row::parse(bytes) {
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
        let counted = self.counted.entry(queue).or_default();
        counted.bytes += row.cost();
        let (in_ready, in_due) = self.summary.queues.entry(queue).or_default();
        if ready {
            counted.ready += 1;
            in_ready.push(row.entry());
        } else {
            counted.due += 1;
            in_due.push(row.entry());
        }
    }

    fn check_counters(&mut self, txn: &ReadTransaction) -> Result<(), Failure> {
        let table = txn.open_table(COUNTERS)?;
        let global = table.get((COUNTERS_GLOBAL, 0))?;
        let global = global.map_or_else(|| Ok(Global::default()), |bytes| Global::decode(bytes.value()))?;
        if let Some(last) = self.positions.last().filter(|last| **last >= global.next_position) {
            self.wrong.push(format!("position {last} is taken, and the next is {}", global.next_position));
        }
        let mut known = BTreeSet::new();
        for row in txn.open_table(NAMES)?.range((NAMES_QUEUE, "")..(NAMES_QUEUE + 1, ""))? {
            known.insert(NameRecord::decode(row?.1.value())?.id);
        }
        if !known.iter().copied().eq(0..global.next_queue) {
            self.wrong.push(format!("the queues are {known:?}, and the next is {}", global.next_queue));
        }
        let mut stored = BTreeMap::new();
        for row in table.range((COUNTERS_QUEUE, 0)..=(COUNTERS_QUEUE, u32::MAX))? {
            let (key, value) = row?;
            stored.insert(key.value().1, Counters::decode(value.value())?);
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

    fn check_bodies(&mut self, txn: &ReadTransaction) -> Result<(), Failure> {
        let mut stored = BTreeSet::new();
        for row in txn.open_table(BODIES)?.iter()? {
            stored.insert(row?.0.value().0);
        }
        self.summary.bodies = stored.len() as u64;
        for orphan in stored.iter().filter(|id| !self.bodies.contains_key(id)) {
            self.wrong.push(format!("body {orphan} belongs to no message"));
        }
        let mut refs = BTreeMap::new();
        for row in txn.open_table(BODY_REFS)?.iter()? {
            let (key, value) = row?;
            refs.insert(key.value(), value.value());
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
            let (key, value) = row?;
            let (entry, number) = key.value();
            kept.entry(entry).or_default().push(number);
            self.summary.attempts += 1;
            if let Err(failure) = history::decode(value.value()) {
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
