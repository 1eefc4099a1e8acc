//! The account of every message: what was published and how that was answered, against what lies in the queues and what was handled.
//!
//! What handlers did is known by what they emitted to the sink, which nobody consumes: an entry whose emit lies there is gone from its
//! queue, and nobody else's is. Entries are told apart by the engine's ids, which stay the same wherever they go.

use std::collections::{BTreeMap, BTreeSet};

use pelton_core::broker::ScheduledHandle;
use pelton_core::clock::WallMs;
use pelton_core::engine::EntryId;

use super::look::{Item, Looked};
use super::plan::Features;

/// How a publish request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Not yet, or never: the process ended.
    Open,
    Accepted,
    Refused,
}

/// A publish request; repeated under the same number where its topic recognises doubles.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) topic: &'static str,
    pub(super) ids: Vec<String>,
    pub(super) fate: Fate,
    /// Tries that are under way in this process.
    pub(super) under_way: u32,
    /// Where it goes. Of one that is repeated after a reload: where it went is one of these.
    pub(super) targets: BTreeSet<&'static [&'static str]>,
    pub(super) delayed: bool,
    pub(super) key: Option<String>,
    /// Of its messages that wait for their time.
    pub(super) handles: BTreeMap<String, ScheduledHandle>,
}

/// What a cancellation may have taken away.
#[derive(Debug, Clone, Copy)]
struct CancelledEntries {
    least: u64,
    most: u64,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) requests: Vec<Request>,
    cancelled: BTreeMap<String, CancelledEntries>,
    /// What a pull consumer acknowledged for certain.
    pub(super) acknowledged: BTreeMap<EntryId, String>,
    /// What it tried to acknowledge, and how many of these tries may have been done.
    doubts: BTreeMap<EntryId, (String, u32)>,
    /// Messages that were found accounted for when all was compared last.
    pub(super) accounted: u64,
    /// By message and queue: not to be leased before, and not after. Kept for what is published, until dead letters of the queue are sent
    /// back to it: they have lost both.
    pub(super) times: BTreeMap<(String, u32), (Option<WallMs>, Option<WallMs>)>,
    /// Queues that dead letters are being sent back to.
    pub(super) redriving: BTreeSet<u32>,
}

impl Ledger {
    /// A cancellation was asked for; it may have any effect until it is answered.
    pub(super) fn cancelling(&mut self, id: &str, of: u64) {
        self.cancelled.entry(id.to_owned()).or_insert(CancelledEntries { least: 0, most: of });
    }

    /// Whether its cancellation was asked for.
    pub(super) fn is_cancelled(&self, id: &str) -> bool {
        self.cancelled.contains_key(id)
    }

    /// The cancellation of `id` took away so many of its entries. Nobody asks twice.
    pub(super) fn cancelled(&mut self, id: &str, count: u64) {
        self.cancelled.insert(id.to_owned(), CancelledEntries { least: count, most: count });
    }

    /// Dead letters are about to be sent back to `queue`.
    pub(super) fn redriving(&mut self, queue: u32) {
        self.redriving.insert(queue);
        self.times.iter_mut().filter(|((_, known), _)| *known == queue).for_each(|(_, times)| *times = (None, None));
    }

    /// A message is about to be published to `queue`. Of one that is repeated nobody knows which try is stored: the earliest due time and
    /// the latest expiry hold for each.
    pub(super) fn note_times(&mut self, id: &str, queue: u32, due: Option<WallMs>, expires: Option<WallMs>) {
        let new = if self.redriving.contains(&queue) { (None, None) } else { (due, expires) };
        let times = self.times.entry((id.to_owned(), queue)).or_insert(new);
        times.0 = times.0.zip(new.0).map(|(one, other)| one.min(other));
        times.1 = times.1.zip(new.1).map(|(one, other)| one.max(other));
    }

    /// A pull consumer is about to acknowledge an entry.
    pub(super) fn doubtful(&mut self, entry: EntryId, message: String) {
        self.doubts.entry(entry).or_insert((message, 0)).1 += 1;
    }

    /// It was refused, so that nothing was done.
    pub(super) fn not_acknowledged(&mut self, entry: EntryId) {
        if let Some((_, doubts)) = self.doubts.get_mut(&entry) {
            *doubts = doubts.saturating_sub(1);
        }
    }

    /// Compares with what there is. At a time when nothing is under way; open requests are resolved by what is found.
    pub(super) fn compare(&mut self, features: &Features, looked: &Looked) -> Result<(), String> {
        let entries = entries_by_message(&self.acknowledged, &self.doubts, looked)?;
        self.accounted = 0;
        let mut known: BTreeSet<String> = BTreeSet::new();
        for request in &mut self.requests {
            let counts: Vec<u64> =
                request.ids.iter().map(|id| entries.get(id.as_str()).map_or(0, |found| found.len() as u64)).collect();
            known.extend(request.ids.iter().cloned());
            resolve(request, &counts, features, &self.cancelled)?;
            self.accounted += counts.iter().filter(|count| **count > 0).count() as u64;
        }
        for (id, found) in &entries {
            if known.contains(*id) {
                continue;
            }
            let emitted = looked.sink.values().any(|done| done.emit == *id && done.consumer == "worker");
            let expected = u64::from(features.echo && emitted);
            if found.len() as u64 != expected {
                return Err(format!("message {id} has {} entries, and nobody published it: {found:?}", found.len()));
            }
        }
        if features.echo {
            let silent = looked
                .sink
                .values()
                .find(|done| done.consumer == "worker" && !entries.contains_key(done.emit.as_str()));
            if let Some(done) = silent {
                return Err(format!("the emits of one delivery are there in part: {done:?} has no echo"));
            }
        }
        check_key_order(self, looked)
    }
}

/// The entries of each message, wherever they are; each in one place.
fn entries_by_message<'a>(
    acknowledged: &'a BTreeMap<EntryId, String>,
    doubts: &'a BTreeMap<EntryId, (String, u32)>,
    looked: &'a Looked,
) -> Result<BTreeMap<&'a str, BTreeSet<EntryId>>, String> {
    let mut entries: BTreeMap<&str, BTreeSet<EntryId>> = BTreeMap::new();
    for (entry, item) in &looked.present {
        if let Some(done) = looked.sink.get(entry) {
            return Err(format!("{item:?} is handled, and still there: {done:?}"));
        }
        if acknowledged.contains_key(entry) {
            return Err(format!("{item:?} was acknowledged, and is still there"));
        }
        entries.entry(&item.message).or_default().insert(*entry);
    }
    for (entry, done) in &looked.sink {
        entries.entry(&done.message).or_default().insert(*entry);
    }
    for (entry, message) in acknowledged {
        entries.entry(message).or_default().insert(*entry);
    }
    // One in doubt that is gone can only have been acknowledged.
    for (entry, (message, _)) in doubts.iter().filter(|(_, (_, doubts))| *doubts > 0) {
        entries.entry(message).or_default().insert(*entry);
    }
    Ok(entries)
}

/// Holds what is there of a request against its answer.
fn resolve(
    request: &mut Request,
    counts: &[u64],
    features: &Features,
    cancelled: &BTreeMap<String, CancelledEntries>,
) -> Result<(), String> {
    let fits = |id: &String, count: u64, targets: &[&str]| {
        let leaky = targets.iter().filter(|queue| features.is_leaky(queue)).count() as u64;
        let CancelledEntries { least, most } =
            cancelled.get(id).copied().unwrap_or(CancelledEntries { least: 0, most: 0 });
        let full = targets.len() as u64;
        (full.saturating_sub(leaky + most)..=full.saturating_sub(least)).contains(&count)
    };
    let whole = request
        .targets
        .iter()
        .any(|targets| request.ids.iter().zip(counts).all(|(id, count)| fits(id, *count, targets)));
    let nothing = counts.iter().all(|count| *count == 0);
    match request.fate {
        Fate::Accepted if whole => Ok(()),
        Fate::Refused | Fate::Open if nothing => Ok(()),
        Fate::Open if whole => {
            request.fate = Fate::Accepted;
            Ok(())
        }
        _ => Err(format!("{request:?} has these numbers of entries: {counts:?}")),
    }
}

/// What was handled of each key was handled in order of acceptance, which is that of the entries' ids. Messages that were delayed have
/// their place by when they were due, and are left out.
fn check_key_order(ledger: &Ledger, looked: &Looked) -> Result<(), String> {
    let keys: BTreeMap<&str, &str> = ledger
        .requests
        .iter()
        .filter(|request| !request.delayed)
        .filter_map(|request| Some((request, request.key.as_deref()?)))
        .flat_map(|(request, key)| request.ids.iter().map(move |id| (id.as_str(), key)))
        .collect();
    let mut done: Vec<_> = looked.sink.iter().filter(|(_, done)| done.consumer == "keyed").collect();
    done.sort_by_key(|(_, done)| done.position);
    let mut last: BTreeMap<&str, (EntryId, &str)> = BTreeMap::new();
    for (entry, done) in done {
        let Some(key) = keys.get(done.message.as_str()) else { continue };
        if let Some((before, message)) = last.insert(key, (*entry, &done.message))
            && before > *entry
        {
            return Err(format!("of key {key}, {message} was handled before {}, which came first", done.message));
        }
    }
    // What still waits came after all that was handled of its key, but for what died.
    let waits = |item: &&Item| item.queue == "keyed" && !item.held;
    for (entry, item) in looked.present.iter().filter(|(_, item)| waits(item)) {
        if let Some((before, message)) = keys.get(item.message.as_str()).and_then(|key| last.get(key))
            && before > entry
        {
            return Err(format!(
                "{message} was handled, and {} of the same key, which came first, waits",
                item.message
            ));
        }
    }
    Ok(())
}
