//! What is committed, row by row, held against what should be: every difference must be something that the store may do by
//! itself.
//!
//! Looking needs no call to the store, and the disk makes no faults meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pelton_core::engine::DeadCode;
use redb::ReadableTable as _;

use super::disk::Faults;
use super::model::{Doubt, Entry, Id, NEW, Place, identify};
use super::plan::{QUEUES, SCHEDULES, Settings};
use super::world::World;
use crate::cursor::After;
use crate::failure::Failure;
use crate::records::Global;
use crate::row::{Row, decode_message};
use crate::seal::unseal;
use crate::store::{Place as RowPlace, Reader, walk};
use crate::tables::{
    BODY_REFS, COUNTERS, COUNTERS_GLOBAL, HELD, IN_READY, RANK, RETRYING, SCHEDULES as SCHEDULES_TABLE,
};

/// What the store did to a message by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    LeaseEnded,
    Parked,
    /// A change of order put it back in line.
    Aligned,
    Promoted,
    Retimed,
    Expired,
    Dropped,
    Overflowed,
    /// One step of a change to many messages came to it.
    Changed,
}

/// Most deeds to one message between two looks.
const DEEDS_MAX: usize = 5;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) entries: BTreeMap<Id, Entry>,
    ticks: BTreeMap<usize, u64>,
    shared_bodies: BTreeSet<u64>,
    /// Messages in `ready` that are marked to come before those parked.
    pub(super) marked: usize,
    pub(super) next_position: u64,
    commit: u64,
}

/// What may explain one message: every row of deeds, each with its queue, that leads from what was expected to what is there.
type Explanations = Vec<Vec<(Deed, u32)>>;

/// What a message may be, and the deeds that made it so.
type State = (Option<Entry>, Vec<(Deed, u32)>);

impl World {
    /// Looks at what is committed and explains it. Doubts are resolved where there are any; `recovered`: leases have ended.
    pub(super) fn look(&mut self, recovered: bool) -> Result<(), String> {
        let faults = self.disk.faults();
        self.disk.set_faults(Faults::default());
        let may_skip = !self.changed && !recovered;
        let seen = match self.last_commit() {
            Ok(Some(commit)) if commit == self.commit_seen && may_skip => None,
            Ok(_) => Some(self.see().map_err(|failure| failure.to_string())),
            Err(failure) => Some(Err(failure.to_string())),
        };
        self.disk.set_faults(faults);
        let Some(seen) = seen else { return Ok(()) };
        let Some(seen) = seen?? else { return Err("the store is not open".to_owned()) };
        (self.commit_seen, self.changed) = (seen.commit, false);
        for doubt in std::mem::take(&mut self.model.doubts) {
            self.resolve(doubt, &seen, recovered)?;
        }
        self.explain_all(&seen, recovered)?;
        if self.model.ticks != seen.ticks {
            return Err(format!("schedules ticked at {:?}, and are stored as {:?}", self.model.ticks, seen.ticks));
        }
        if self.shared_bodies.difference(&seen.shared_bodies).next().is_some() {
            self.count("references to zero");
        }
        self.shared_bodies = seen.shared_bodies;
        self.next_position = seen.next_position;
        if recovered {
            self.count_blocked(seen.marked);
        }
        self.model.entries = seen.entries;
        Ok(())
    }

    /// What is stored of schedules.
    pub(super) fn stored_ticks(&mut self) -> Result<BTreeMap<usize, u64>, String> {
        let faults = self.disk.faults();
        self.disk.set_faults(Faults::default());
        let seen = self.see().map_err(|failure| failure.to_string());
        self.disk.set_faults(faults);
        Ok(seen??.map(|seen| seen.ticks).unwrap_or_default())
    }

    /// Named points about what a restart finds.
    fn count_blocked(&mut self, marked: usize) {
        if marked > 0 {
            self.count("marked head after a restart");
        }
        let retries = self.model.entries.iter().filter(|(_, entry)| {
            self.settings[entry.queue as usize].keyed
                && entry.attempts > 0
                && matches!(entry.place, Place::Due(due) if due != HELD)
        });
        let keys: BTreeSet<_> = retries.filter_map(|(id, entry)| Some((entry.queue, self.facts[id].key?))).collect();
        let blocks = self.model.entries.iter().any(|(id, entry)| {
            !matches!(entry.place, Place::Due(_))
                && self.facts[id].key.is_some_and(|key| keys.contains(&(entry.queue, key)))
        });
        if blocks {
            self.count("retry blocks key after restart");
        }
    }

    fn last_commit(&mut self) -> Result<Option<u64>, Failure> {
        let Some(txn) = self.store().look() else { return Ok(None) };
        let key = (COUNTERS_GLOBAL, 0);
        let Some(global) = txn.open_table(COUNTERS)?.get(key)? else { return Ok(None) };
        Ok(Some(Global::decode(unseal(COUNTERS, &key, global.value())?)?.commit))
    }

    fn see(&mut self) -> Result<Result<Option<Seen>, String>, Failure> {
        let Some(txn) = self.store().look() else { return Ok(Ok(None)) };
        let reader = Reader::of(&txn)?;
        let mut seen = Seen::default();
        let key = (COUNTERS_GLOBAL, 0);
        if let Some(global) = txn.open_table(COUNTERS)?.get(key)? {
            let global = Global::decode(unseal(COUNTERS, &key, global.value())?)?;
            (seen.next_position, seen.commit) = (global.next_position, global.commit);
        }
        for row in txn.open_table(SCHEDULES_TABLE)?.iter()? {
            let (name, at) = row?;
            let number = SCHEDULES.iter().position(|known| *known == name.value()).unwrap_or(usize::MAX);
            seen.ticks.insert(number, unseal(SCHEDULES_TABLE, &name.value(), at.value())?);
        }
        for row in txn.open_table(BODY_REFS)?.iter()? {
            seen.shared_bodies.insert(row?.0.value());
        }
        for row in reader.retrying.iter()? {
            let (key, due) = row?;
            let due = unseal(RETRYING, &key.value(), due.value())?;
            self.tell(|| format!("retrying {:?} at {due}", key.value()));
            seen.marked += usize::from(due == IN_READY);
        }
        let mut wrong = None;
        for queue in 0..QUEUES.len() as u32 {
            walk(&reader, queue, After::START, |place, _, row| {
                let id = match self.id_of(&reader, row)? {
                    Ok(id) => id,
                    Err(error) => {
                        wrong = Some(error);
                        return Ok(false);
                    }
                };
                let entry = self.entry_of(queue, place, row)?;
                if seen.entries.insert(id, entry).is_some() {
                    wrong = Some(format!("message {id} is there twice"));
                }
                Ok(true)
            })?;
        }
        Ok(wrong.map_or(Ok(Some(seen)), Err))
    }

    /// Which message the row is; of one that is new, everything is compared with what was sent.
    fn id_of(&mut self, reader: &Reader, row: Row<'_>) -> Result<Result<Id, String>, Failure> {
        if let Some(id) = self.by_entry.get(&row.entry()).copied() {
            let Some(facts) = self.facts.get_mut(&id) else { return Ok(Err(format!("nobody knows message {id}"))) };
            facts.cost = row.cost();
            let is_same = facts.accepted == Some(row.accepted());
            return Ok(if is_same { Ok(id) } else { Err(format!("message {id} was accepted at another time")) });
        }
        let body = row.body().map(|body| reader.body(body)).transpose()?;
        let message = decode_message(&bytes::Bytes::copy_from_slice(row.as_bytes()), body.as_ref())?;
        let id = match identify(&message, &row.topic()?, &self.doubles) {
            Ok(id) => id,
            Err(error) => return Ok(Err(error)),
        };
        let secret = self.secret;
        let Some(facts) = self.facts.get_mut(&id) else { return Ok(Err(format!("nobody knows message {id}"))) };
        let key = facts.key.map(|key| secret.of_key(&super::world::order_key(key)));
        if (row.key(), row.priority()) != (key, facts.priority) {
            return Ok(Err(format!("message {id} has lost its key or priority")));
        }
        // One whose append failed was maybe given a position that another got then.
        (facts.entry, facts.cost, facts.accepted) = (Some(row.entry()), row.cost(), Some(row.accepted()));
        self.by_entry.insert(row.entry(), id);
        Ok(Ok(id))
    }

    fn entry_of(&self, queue: u32, place: RowPlace, row: Row<'_>) -> Result<Entry, Failure> {
        Ok(Entry {
            queue,
            place: match place {
                RowPlace::Ready { rank, .. } => Place::Ready(rank),
                RowPlace::Parked { .. } => Place::Parked,
                RowPlace::Due { due, .. } => Place::Due(due),
            },
            position: place.position(),
            attempts: row.attempts(),
            history: row.history().min(self.tuning.attempts_kept),
            dead: row.death()?.map(|death| (death.origin, death.reason.code)),
            expires: row.expires().map(|expires| expires.0),
            alone: row.is_alone(),
            chosen: row.is_chosen(),
        })
    }

    /// A change that may have happened must have happened wholly or not at all, whatever came after it.
    fn resolve(&mut self, doubt: Doubt, seen: &Seen, recovered: bool) -> Result<(), String> {
        let Doubt { change, tick, identities } = doubt;
        let ticked = tick.map(|(schedule, at)| seen.ticks.get(&schedule) == Some(&at));
        let leads =
            |from: Option<&Entry>, id: &Id| !self.explain(*id, from, seen.entries.get(id), recovered).is_empty();
        let has_happened = ticked != Some(false) && change.iter().all(|(id, to)| leads(to.as_ref(), id));
        let has_not = ticked != Some(true) && change.iter().all(|(id, _)| leads(self.model.entries.get(id), id));
        if !has_happened && !has_not {
            let there: Vec<_> = change.iter().map(|(id, _)| (id, seen.entries.get(id))).collect();
            return Err(format!(
                "a change happened in part: {change:?} ({tick:?}: {ticked:?}), and there is {there:?}"
            ));
        }
        if has_happened {
            for (key, first, mut known) in identities {
                if let Some(entry) = self.facts[&first].entry {
                    // Where nothing is left to tell, nobody knows.
                    (known.first, known.forgettable) = (entry, has_not);
                    self.model.identities.insert(key, known);
                }
            }
            self.model.apply(change);
            self.model.ticks.extend(tick);
        }
        Ok(())
    }

    fn explain_all(&mut self, seen: &Seen, recovered: bool) -> Result<(), String> {
        let ids: BTreeSet<Id> = self.model.entries.keys().chain(seen.entries.keys()).copied().collect();
        let mut by_queue = vec![Ends::default(); QUEUES.len()];
        let mut explained = Vec::new();
        for id in ids {
            let (expected, actual) = (self.model.entries.get(&id), seen.entries.get(&id));
            let explanations = self.explain(id, expected, actual, recovered);
            let Some(deeds) = explanations.first().cloned() else {
                return Err(format!("message {id} should be {expected:?}, and is {actual:?}"));
            };
            by_queue.iter_mut().zip(0..).for_each(|(ends, queue)| ends.add(&explanations, queue));
            self.turn.changed.add(&explanations, |(deed, _)| *deed == Deed::Changed);
            if !deeds.is_empty() {
                self.tell(|| format!("message {id}: {deeds:?} to {actual:?}"));
                explained.push(format!("message {id}, {expected:?}: {explanations:?} to {actual:?}"));
            }
            self.note(id, &deeds);
        }
        if !recovered {
            self.check_ends(&by_queue).map_err(|wrong| format!("{wrong}: {}", explained.join("; ")))?;
        }
        Ok(())
    }

    /// The figures of what expired and was dropped agree with what is gone.
    fn check_ends(&mut self, by_queue: &[Ends]) -> Result<(), String> {
        for (queue, ends) in (0..).zip(by_queue) {
            let Some(counts) = self.board.get(&queue) else { continue };
            let (expired, dropped) = self.ended[queue as usize];
            let (expired, dropped) = (counts.expired - expired, counts.dropped - dropped);
            if !ends.expired.holds(expired) || !ends.dropped.holds(dropped) || !ends.both.holds(expired + dropped) {
                return Err(format!(
                    "queue {queue} counts {expired} expired and {dropped} dropped, and there are {ends:?}"
                ));
            }
            self.ended[queue as usize] = (counts.expired, counts.dropped);
            if dropped > 0 {
                self.count("dropped oldest");
            }
        }
        Ok(())
    }

    fn note(&mut self, id: Id, deeds: &[(Deed, u32)]) {
        for (deed, _) in deeds {
            match deed {
                Deed::LeaseEnded => {
                    if let Some(held) = self.leases.remove(&id) {
                        self.spent.push(held.token);
                    }
                    self.count("lease expired");
                }
                Deed::Parked => self.count("parked"),
                Deed::Aligned => self.count("aligned by a change of order"),
                Deed::Promoted => self.count("promote"),
                Deed::Retimed => self.count("retime"),
                Deed::Expired if self.turn.committing => self.count("expired on lease"),
                Deed::Expired => self.count("expired by sweep"),
                Deed::Overflowed => self.count("overflow to dead letters"),
                Deed::Changed | Deed::Dropped => {}
            }
        }
    }

    /// All shortest ways from what is expected to what is there; longer ones too where something was asked for the message,
    /// which may have come before what would explain it alone.
    fn explain(&self, id: Id, expected: Option<&Entry>, actual: Option<&Entry>, recovered: bool) -> Explanations {
        let held = self.leases.get(&id);
        let may_end = held.is_some_and(|held| held.ends.is_some_and(|ends| ends <= self.now.monotonic));
        let is_asked = self.turn.alternatives.contains_key(&id);
        let mut found = Vec::new();
        let mut states: Vec<State> = vec![(expected.cloned(), Vec::new())];
        for _ in 0..=DEEDS_MAX {
            let ways = states.iter().filter(|(state, _)| self.is_same(state.as_ref(), actual));
            found.extend(ways.map(|(_, deeds)| deeds.clone()));
            let mut next = Vec::new();
            for (state, deeds) in states {
                let Some(state) = state else { continue };
                let mut go = |to: Option<Entry>, deed: Deed| {
                    let deeds = deeds.iter().copied().chain([(deed, state.queue)]).collect::<Vec<_>>();
                    next.push((to, deeds));
                };
                let ended = deeds.iter().any(|(deed, _)| *deed == Deed::LeaseEnded);
                if may_end && !ended {
                    self.lease_ended(id, &state).into_iter().for_each(|ended| go(Some(ended), Deed::LeaseEnded));
                }
                if held.is_none() || ended || recovered || self.turn.released.contains(&id) {
                    self.may_become(id, &state, deeds.is_empty(), &mut go);
                }
            }
            states = next;
            if states.is_empty() || (!found.is_empty() && !is_asked) {
                break;
            }
        }
        found
    }

    fn is_same(&self, expected: Option<&Entry>, actual: Option<&Entry>) -> bool {
        match (expected, actual) {
            (None, None) => true,
            (Some(expected), Some(actual)) if expected.position == NEW => {
                actual.position >= self.next_position
                    && Entry { position: actual.position, ..expected.clone() } == *actual
            }
            (expected, actual) => expected == actual,
        }
    }

    /// The settings in force, and those before where nobody knows which are.
    fn rules(&self, queue: u32) -> impl Iterator<Item = &Settings> {
        let before = self.settings_before.as_ref().map(|before| &before[queue as usize]);
        [Some(&self.settings[queue as usize]), before].into_iter().flatten()
    }

    /// What the store may do to a message that nobody holds.
    fn may_become(&self, id: Id, entry: &Entry, is_first: bool, go: &mut impl FnMut(Option<Entry>, Deed)) {
        let facts = &self.facts[&id];
        if is_first {
            for other in self.turn.alternatives.get(&id).into_iter().flatten() {
                go(other.0.clone(), other.1);
            }
        }
        let turned = self.turned[entry.queue as usize];
        for rules in self.rules(entry.queue) {
            let keyed = facts.key.is_some() && (rules.keyed || turned);
            match entry.place {
                Place::Ready(RANK) if keyed => go(Some(Entry { place: Place::Parked, ..entry.clone() }), Deed::Parked),
                Place::Parked | Place::Ready(_) if turned && entry.place != Place::Ready(RANK) => {
                    go(Some(Entry { place: Place::Ready(RANK), ..entry.clone() }), Deed::Aligned);
                }
                Place::Due(due) if due != HELD => {
                    if keyed && entry.attempts == 0 && self.has_come(id, due) {
                        let place = Place::Ready(rules.rank(facts.priority));
                        go(Some(Entry { place, position: NEW, ..entry.clone() }), Deed::Promoted);
                    }
                    let latest = self.now.wall.0 + rules.backoff_max_ms;
                    if entry.attempts > 0 && !entry.chosen && due > latest {
                        go(Some(Entry { place: Place::Due(latest), ..entry.clone() }), Deed::Retimed);
                    }
                }
                _ => {}
            }
            let in_line = if let Place::Due(due) = entry.place { due != HELD && self.has_come(id, due) } else { true };
            if in_line && entry.expires.is_some_and(|expires| expires <= self.now.wall.0) {
                match rules.dead_letter.filter(|_| !rules.drops_expired) {
                    Some(_) => {
                        let dead = self.died(id, entry, DeadCode::Expired, rules);
                        dead.into_iter().for_each(|dead| go(Some(dead), Deed::Expired));
                    }
                    None => go(None, Deed::Expired),
                }
            }
            if self.turn.dropping.contains(&entry.queue) && entry.place != Place::Due(HELD) {
                go(None, Deed::Dropped);
            }
        }
    }

    /// The message after a lease of it ran out: available again, or dead.
    fn lease_ended(&self, id: Id, entry: &Entry) -> Vec<Entry> {
        let history = (entry.history + 1).min(self.tuning.attempts_kept);
        let counted = Entry { attempts: entry.attempts + 1, history, ..entry.clone() };
        let age = self.age_of(id);
        let ended = |rules: &Settings| match rules.exhausted(counted.attempts, age) {
            Some(code) => self.died(id, &counted, code, rules),
            None => vec![counted.clone()],
        };
        self.rules(entry.queue).flat_map(ended).collect()
    }

    /// How long ago the message was accepted.
    pub(super) fn age_of(&self, id: Id) -> Duration {
        self.facts[&id].accepted.map_or(Duration::ZERO, |accepted| self.now.wall.since(accepted))
    }

    /// Where a message may be after it died: in another queue, where its attempts start anew, or held.
    pub(super) fn died(&self, id: Id, entry: &Entry, code: DeadCode, rules: &Settings) -> Vec<Entry> {
        let dead = Some((entry.dead.map_or(entry.queue, |(origin, _)| origin), code));
        let dead = Entry { dead, expires: None, alone: false, chosen: false, ..entry.clone() };
        let Some(queue) = rules.dead_letter else { return vec![Entry { place: Place::Due(HELD), ..dead }] };
        let priority = self.facts[&id].priority;
        let buried = |rules: &Settings| Entry {
            queue,
            place: Place::Ready(rules.rank(priority)),
            position: NEW,
            attempts: 0,
            ..dead.clone()
        };
        self.rules(queue).map(buried).collect()
    }

    /// Whether the time came since the message has waited for it; it stays so when the clock is set back.
    pub(super) fn has_come(&self, id: Id, due: u64) -> bool {
        due <= self.now.wall.0 || self.ripe.contains(&id)
    }
}

/// How many messages it was: at least, and at most.
#[derive(Debug, Clone, Default)]
pub(super) struct Span(u64, u64);

impl Span {
    fn add(&mut self, explanations: &Explanations, is_so: impl Fn(&(Deed, u32)) -> bool) {
        self.0 += u64::from(explanations.iter().all(|deeds| deeds.iter().any(&is_so)));
        self.1 += u64::from(explanations.iter().any(|deeds| deeds.iter().any(&is_so)));
    }

    pub(super) fn holds(&self, number: u64) -> bool {
        (self.0..=self.1).contains(&number)
    }
}

/// How many messages of a queue came to an end by themselves.
#[derive(Debug, Clone, Default)]
struct Ends {
    expired: Span,
    dropped: Span,
    both: Span,
}

impl Ends {
    fn add(&mut self, explanations: &Explanations, queue: u32) {
        self.expired.add(explanations, |deed| *deed == (Deed::Expired, queue));
        self.dropped.add(explanations, |deed| *deed == (Deed::Dropped, queue));
        self.both.add(explanations, |deed| [(Deed::Expired, queue), (Deed::Dropped, queue)].contains(deed));
    }
}
