//! From a data file to lines, message by message: the file may be larger than the memory.

use std::io::Write;
use std::path::Path;

use bytes::Bytes;
use pelton_core::clock::WallMs;
use pelton_core::engine::OrderKey;
use pelton_core::message::Message;
use pelton_core::name::{QueueName, Topic};
use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase as _};

use super::ExportError;
use super::line::{Dead, Record};
use crate::failure::Failure;
use crate::folder::Held;
use crate::format::read_identity;
use crate::hash::Secret;
use crate::history;
use crate::open::OpenError;
use crate::panics;
use crate::readonly;
use crate::records::{Counters, NameRecord};
use crate::report::{OnWork, Work, queue_names};
use crate::row::Row;
use crate::row::decode_message;
use crate::seal::{Sealed, unseal};
use crate::store::{Place, Reader, find};
use crate::tables::{ATTEMPTS, COUNTERS, COUNTERS_QUEUE, HELD, IN_READY, ParkedKey, RETRYING};
use crate::verify::Problems;

/// What was written out.
#[derive(Debug, Default)]
pub struct Exported {
    /// The queues that were asked for, in the order of names, with how many messages of each were written.
    pub queues: Vec<(QueueName, u64)>,
    /// Messages that can't be read, and what of others could not be kept; a sentence each.
    pub problems: Vec<String>,
    /// How many more problems there are than are listed.
    pub problems_left_out: u64,
}

impl Exported {
    /// How many messages were written.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.queues.iter().map(|(_, count)| count).sum()
    }
}

/// Writes each message of the queues that are `wanted` as a line of JSON: of the folder `place`, whose broker is not running, or of
/// the file `place`, a backup say. Nothing is changed there.
///
/// Of each queue come first those that wait for a time, then those that wait behind others of their key and those others, key by key,
/// then those that are ready, so that importing them in this order keeps the order of keys.
///
/// # Errors
/// [`ExportError`]. A damaged message is left out and told; only what can't be read at all ends the work.
pub fn export(
    place: &Path,
    wanted: &dyn Fn(&QueueName) -> bool,
    out: &mut dyn Write,
    on_work: OnWork<'_>,
) -> Result<Exported, ExportError> {
    let held = Held::take(place)?;
    on_work(Work::Pages);
    let (database, _) = readonly::open(&held)?;
    let written = panics::quietly(|| {
        let txn = database.begin_read().map_err(Failure::from).map_err(|failure| open_error(&held, failure))?;
        let secret = read_identity(&txn, &held.path)?.secret;
        let mut exporting = Exporting::new(&txn, secret, out).map_err(|failure| open_error(&held, failure))?;
        exporting.queues(wanted, on_work).map_err(|stop| match stop {
            Stop::Input(failure) => open_error(&held, failure).into(),
            Stop::Output(error) => ExportError::Output(error),
        })?;
        exporting.out.flush().map_err(ExportError::Output)?;
        Ok(exporting.finished())
    });
    written.map_err(|panic| open_error(&held, Failure::Damaged(panics::told(&panic))))?
}

fn open_error(held: &Held, failure: Failure) -> OpenError {
    OpenError::from_failure(&held.path, failure)
}

/// What ends the work.
enum Stop {
    Input(Failure),
    Output(std::io::Error),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Input(error.into())
    }
}

struct Exporting<'a> {
    txn: &'a ReadTransaction,
    reader: Reader,
    attempts: ReadOnlyTable<(u64, u32), Sealed<&'static [u8]>>,
    secret: Secret,
    /// All, by id: names of origins.
    names: Vec<(QueueName, NameRecord)>,
    out: &'a mut dyn Write,
    exported: Exported,
    /// Messages of the queue in hand that were found, damaged or not.
    met: u64,
    problems: Problems,
}

impl<'a> Exporting<'a> {
    fn new(txn: &'a ReadTransaction, secret: Secret, out: &'a mut dyn Write) -> Result<Self, Failure> {
        Ok(Self {
            txn,
            reader: Reader::of(txn)?,
            attempts: txn.open_table(ATTEMPTS)?,
            secret,
            names: queue_names(txn)?,
            out,
            exported: Exported::default(),
            met: 0,
            problems: Problems::default(),
        })
    }

    fn finished(self) -> Exported {
        Exported { problems: self.problems.told, problems_left_out: self.problems.left_out, ..self.exported }
    }

    fn queues(&mut self, wanted: &dyn Fn(&QueueName) -> bool, on_work: OnWork<'_>) -> Result<(), Stop> {
        let counters = self.txn.open_table(COUNTERS).map_err(Failure::from)?;
        let mut queues = Vec::new();
        for (name, record) in self.names.iter().filter(|(name, _)| wanted(name)) {
            let key = (COUNTERS_QUEUE, record.id);
            let counted = match counters.get(key).map_err(Failure::from)? {
                Some(row) => Counters::decode(unseal(COUNTERS, &key, row.value())?)?.messages(),
                None => 0,
            };
            queues.push((name.clone(), record.id, counted));
        }
        let of = queues.iter().map(|(_, _, counted)| counted).sum();
        let mut done = 0;
        on_work(Work::Rows { done, of });
        for (name, id, counted) in queues {
            let before = done;
            self.met = 0;
            self.queue(&name, id, &mut || {
                done += 1;
                on_work(Work::Rows { done, of });
            })?;
            if self.met != counted {
                self.problems.push(format!("{} messages of queue '{name}' are found, {counted} are counted", self.met));
            }
            self.exported.queues.push((name, done - before));
        }
        Ok(())
    }

    fn queue(&mut self, name: &QueueName, id: u32, on_written: &mut dyn FnMut()) -> Result<(), Stop> {
        for row in self.reader.due.range((id, 0, 0)..=(id, HELD, u64::MAX)).map_err(Failure::from)? {
            let (key, value) = row.map_err(Failure::from)?;
            let (queue, due, position) = key.value();
            let place = Place::Due { due, position };
            if !self.is_marked(queue, place, value.value())? {
                self.message(name, queue, place, value.value(), on_written)?;
            }
        }
        self.by_key(name, id, on_written)?;
        for row in self.reader.ready.range((id, 0, 0)..=(id, u8::MAX, u64::MAX)).map_err(Failure::from)? {
            let (key, value) = row.map_err(Failure::from)?;
            let (queue, rank, position) = key.value();
            let place = Place::Ready { rank, position };
            if !self.is_marked(queue, place, value.value())? {
                self.message(name, queue, place, value.value(), on_written)?;
            }
        }
        Ok(())
    }

    /// Whether the row comes before others of its key. One that is damaged does not: it is told where it lies.
    fn is_marked(&self, queue: u32, place: Place, bytes: &[u8]) -> Result<bool, Failure> {
        match Row::at(queue, place, bytes).ok().and_then(Row::key) {
            Some(key) => Ok(self.reader.retrying.get((queue, key, place.position()))?.is_some()),
            None => Ok(false),
        }
    }

    /// Those that wait behind others of their key, and those others, wherever they lie: both tables are in the order of keys.
    fn by_key(&mut self, name: &QueueName, id: u32, on_written: &mut dyn FnMut()) -> Result<(), Stop> {
        let all = (id, 0, 0)..=(id, u64::MAX, u64::MAX);
        let mut marks = self.reader.retrying.range(all.clone()).map_err(Failure::from)?;
        let mut next_mark = || -> Result<Option<(ParkedKey, u64)>, Failure> {
            let Some(mark) = marks.next() else { return Ok(None) };
            let (key, due) = mark?;
            let due = unseal(RETRYING, &key.value(), due.value())?;
            Ok(Some((key.value(), due)))
        };
        let mut mark = next_mark()?;
        for row in self.reader.parked.range(all).map_err(Failure::from)? {
            let (parked, value) = row.map_err(Failure::from)?;
            let (queue, key, position) = parked.value();
            while let Some((at, due)) = mark.filter(|(at, _)| *at < (queue, key, position)) {
                self.marked(name, at, due, on_written)?;
                mark = next_mark()?;
            }
            self.message(name, queue, Place::Parked { key, position }, value.value(), on_written)?;
        }
        while let Some((at, due)) = mark {
            self.marked(name, at, due, on_written)?;
            mark = next_mark()?;
        }
        Ok(())
    }

    /// A message that comes before others of its key.
    fn marked(
        &mut self,
        name: &QueueName,
        (queue, _, position): ParkedKey,
        due: u64,
        on_written: &mut dyn FnMut(),
    ) -> Result<(), Stop> {
        let found = if due == IN_READY {
            find(&self.reader, queue, position)
        } else {
            let place = Place::Due { due, position };
            let row = self.reader.due.get((queue, due, position)).map_err(Failure::from)?;
            row.map(|row| Ok((place, Row::at(queue, place, row.value())?.to_buffer()))).transpose()
        };
        match found {
            Ok(Some((place, row))) => self.message(name, queue, place, row.as_bytes(), on_written),
            Ok(None) | Err(Failure::Damaged(_)) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    fn message(
        &mut self,
        queue: &QueueName,
        id: u32,
        place: Place,
        bytes: &[u8],
        on_written: &mut dyn FnMut(),
    ) -> Result<(), Stop> {
        let position = place.position();
        self.met += 1;
        let row = Row::at(id, place, bytes);
        let (record, row) = match row.and_then(|row| Ok((self.record(queue, place, row)?, row))) {
            Ok(read) => read,
            Err(Failure::Damaged(reason)) => {
                self.problems.push(format!("message {position} of queue '{queue}' is left out: {reason}"));
                return Ok(());
            }
            Err(failure) => return Err(failure.into()),
        };
        if record.key.is_none() && row.key().is_some() {
            self.problems.push(format!(
                "the key of message {position} of queue '{queue}' is neither its topic nor in any of its attributes, so its order is not kept"
            ));
        }
        let mut line = record.to_line();
        line.push(b'\n');
        self.out.write_all(&line).map_err(Stop::Output)?;
        on_written();
        Ok(())
    }

    fn record(&self, queue: &QueueName, place: Place, row: Row<'_>) -> Result<Record, Failure> {
        let due = if let Place::Due { due, .. } = place { Some(due) } else { None };
        let body = row.body().map(|body| self.reader.body(body)).transpose()?;
        let message = decode_message(&Bytes::copy_from_slice(row.as_bytes()), body.as_ref())?;
        let (topic, held) = (row.topic()?, due == Some(HELD));
        let dead = row.death()?.map(|death| -> Result<Dead, Failure> {
            let unknown = || Failure::Damaged(format!("it comes from queue {}, which does not exist", death.origin));
            let origin = self.names.iter().find(|(_, record)| record.id == death.origin).ok_or_else(unknown)?;
            Ok(Dead { origin: origin.0.clone(), at: death.at, reason: death.reason })
        });
        let key = row.key().and_then(|hash| self.key_of(&topic, &message, hash));
        Ok(Record {
            queue: queue.clone(),
            topic,
            accepted: Some(row.accepted()),
            due: due.filter(|_| !held).map(WallMs),
            chosen: row.is_chosen(),
            held,
            expires: row.expires(),
            priority: row.priority(),
            key,
            hops: row.hops(),
            attempts: row.attempts(),
            alone: row.is_alone(),
            dead: dead.transpose()?,
            history: history::read(&self.attempts, row.entry(), row.history())?,
            message,
        })
    }

    /// The text that has this hash: only that is stored, and it stands in some attribute, or is the topic.
    fn key_of(&self, topic: &Topic, message: &Message, hash: u64) -> Option<String> {
        let own = ["subject", "id", "source", "type", "time", "datacontenttype", "dataschema"];
        let own = own.into_iter().filter_map(|name| message.attribute(name));
        let all = message.extensions().map(|(_, value)| value).chain(own).chain([topic.as_str()]);
        all.map(|value| OrderKey(value.into()))
            .find(|key| self.secret.of_key(key) == hash)
            .map(|key| key.0.into_string())
    }
}
