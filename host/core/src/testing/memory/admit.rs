//! Storing a publish request: doubles are recognised, bounds are kept, a schedule ticks once.
//!
//! All of a request is judged before anything is changed, so that a refusal leaves no trace.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::store::{Store, bytes};
use crate::clock::WallMs;
use crate::engine::{
    Append, Appended, Bounds, DeadCode, DeadReason, Duplicate, Identity, NewEntry, Overflow, Position, QueueId,
    RequestError, Scheduled,
};
use crate::message::Message;
use crate::name::Topic;
use crate::testing::Moment;

/// What makes two messages the same: topic, source and id.
type Same = (Topic, String, String);

/// The messages whose doubles are recognised.
#[derive(Default)]
pub(super) struct Doubles(BTreeMap<Same, Original>);

/// A message as it was stored first.
struct Original {
    message: Message,
    until: WallMs,
    first: Position,
    targets: u32,
    scheduled: Option<Scheduled>,
}

fn same(identity: &Identity) -> Same {
    let Identity { topic, message, .. } = identity;
    (topic.clone(), message.source().to_owned(), message.id().to_owned())
}

/// What an append comes to.
#[derive(Default)]
struct Verdicts {
    /// Entries that have no room: they become dead letters.
    dead: BTreeSet<usize>,
    /// Messages that make room for others.
    dropped: Vec<(QueueId, Position)>,
}

/// What a queue holds while an append is judged.
struct Room {
    messages: u64,
    bytes: u64,
    /// What can be dropped, in this order, with its bytes.
    droppable: VecDeque<(Position, u64)>,
}

impl Store {
    pub(super) fn append(&mut self, append: Append, now: Moment) -> Result<Appended, RequestError> {
        let Append { mut entries, identities, tick } = append;
        for new in &entries {
            self.known(new.queue)?;
        }
        if self.disk_full() {
            return Err(RequestError::DiskFull);
        }
        if let Some(tick) = &tick {
            let last = self.ticks.get(&tick.schedule).copied().unwrap_or(tick.at);
            if tick.at <= last {
                return Err(RequestError::Ticked(last));
            }
        }
        self.doubles.0.retain(|_, original| now.wall < original.until);
        let doubles = self.doubles.of(&identities)?;
        let known: BTreeSet<usize> = doubles.iter().flat_map(|double| identities[*double].entries.clone()).collect();
        let stored: Vec<usize> = (0..entries.len()).filter(|entry| !known.contains(entry)).collect();
        let verdicts = self.judge(&entries, &stored, now)?;

        for (queue, position) in verdicts.dropped {
            self.take(queue, position);
            self.queue_mut(queue).dropped += 1;
        }
        for index in verdicts.dead {
            let detail = "its queue was full when it was published".to_owned();
            entries[index].dead = Some(DeadReason { code: DeadCode::QueueFull, detail });
        }
        let places: BTreeMap<usize, Position> = stored.into_iter().map(|index| (index, self.next_place())).collect();
        let positions = self.doubles.answer(&identities, &doubles, &entries, &places, now);
        for (index, new) in entries.into_iter().enumerate() {
            if let Some(position) = places.get(&index) {
                self.insert(*position, new, now);
            }
        }
        if let Some(tick) = tick {
            self.ticks.insert(tick.schedule, tick.at);
        }
        Ok(positions)
    }

    /// What becomes of the entries at these indices, one after another.
    fn judge(&self, entries: &[NewEntry], stored: &[usize], now: Moment) -> Result<Verdicts, RequestError> {
        let mut verdicts = Verdicts::default();
        let mut rooms: BTreeMap<QueueId, Room> = BTreeMap::new();
        for index in stored {
            let new = &entries[*index];
            let bounds = self.queue(new.queue).definition.bounds;
            let bytes = bytes(&new.message);
            let room = rooms.entry(new.queue).or_insert_with(|| self.room(new.queue, now));
            let is_dead = new.dead.is_some() || {
                if bounds.overflow == Overflow::DropOldest {
                    verdicts.dropped.extend(room.drop_for(&bounds, bytes).map(|position| (new.queue, position)));
                }
                !room.has_room(&bounds, bytes)
            };
            if is_dead && new.dead.is_none() {
                if bounds.overflow != Overflow::DeadLetter {
                    return Err(RequestError::QueueFull(new.queue));
                }
                verdicts.dead.insert(*index);
            }
            let target = self.dead_letters_of(new.queue).filter(|_| is_dead).unwrap_or(new.queue);
            let room = rooms.entry(target).or_insert_with(|| self.room(target, now));
            room.messages += 1;
            room.bytes += bytes;
        }
        Ok(verdicts)
    }

    fn room(&self, id: QueueId, now: Moment) -> Room {
        let queue = self.queue(id);
        let free = queue.entries.iter().filter(|(_, entry)| !self.leases.contains_key(&entry.entry));
        let mut droppable: Vec<_> = free
            .map(|(position, entry)| {
                let due = entry.wait.due().filter(|_| !entry.is_due(now));
                // The lowest rank is the highest priority: that goes last.
                ((due, u8::MAX - queue.rank(entry), *position), entry.bytes())
            })
            .collect();
        droppable.sort_unstable();
        Room {
            messages: queue.entries.len() as u64,
            bytes: queue.entries.values().map(super::store::Entry::bytes).sum(),
            droppable: droppable.into_iter().map(|((.., position), bytes)| (position, bytes)).collect(),
        }
    }
}

impl Room {
    fn has_room(&self, bounds: &Bounds, bytes: u64) -> bool {
        bounds.hold(self.messages + 1, self.bytes + bytes)
    }

    /// Drops messages until there is room, or nothing is left to drop: those dropped.
    fn drop_for(&mut self, bounds: &Bounds, bytes: u64) -> impl Iterator<Item = Position> {
        let mut dropped = Vec::new();
        while !self.has_room(bounds, bytes)
            && let Some((position, bytes)) = self.droppable.pop_front()
        {
            self.messages -= 1;
            self.bytes -= bytes;
            dropped.push(position);
        }
        dropped.into_iter()
    }
}

impl Doubles {
    /// Those of the identities that are known, or stand before in the same append, with the same body.
    fn of(&self, identities: &[Identity]) -> Result<BTreeSet<usize>, RequestError> {
        let mut doubles = BTreeSet::new();
        let mut before: BTreeMap<Same, &Message> = BTreeMap::new();
        for (index, identity) in identities.iter().enumerate() {
            let same = same(identity);
            let known = self.0.get(&same).map(|original| &original.message).or(before.get(&same).copied());
            match known {
                None => drop(before.insert(same, &identity.message)),
                Some(known) if known.data() == identity.message.data() => drop(doubles.insert(index)),
                Some(_) => return Err(RequestError::IdReused(index)),
            }
        }
        Ok(doubles)
    }

    /// Remembers what is new, and answers where all entries went.
    fn answer(
        &mut self,
        identities: &[Identity],
        doubles: &BTreeSet<usize>,
        entries: &[NewEntry],
        places: &BTreeMap<usize, Position>,
        now: Moment,
    ) -> Appended {
        let mut firsts: BTreeMap<usize, Position> = BTreeMap::new();
        let mut duplicates = Vec::new();
        for (index, identity) in identities.iter().enumerate() {
            let range = identity.entries.clone();
            if doubles.contains(&index) {
                let original = &self.0[&same(identity)];
                firsts.extend(range.map(|entry| (entry, original.first)));
                let Original { first, targets, scheduled, .. } = original;
                let (first, targets, scheduled) = (*first, *targets, scheduled.clone());
                duplicates.push(Duplicate { identity: index, first, targets, scheduled });
            } else if let Some(first) = places.get(&range.start) {
                let targets = u32::try_from(range.len()).unwrap_or(u32::MAX);
                let until = now.wall.plus(identity.window);
                let place = |at: usize| Some((entries[at].options.due, entries[at].queue, *places.get(&at)?));
                let scheduled = Scheduled::of(range.filter_map(place));
                let original = Original { message: identity.message.clone(), until, first: *first, targets, scheduled };
                self.0.insert(same(identity), original);
            }
        }
        let place = |entry: usize| firsts.get(&entry).or(places.get(&entry)).copied();
        let positions = (0..entries.len()).map(|entry| place(entry).expect("an entry is stored or a double")).collect();
        Appended { positions, duplicates }
    }
}
