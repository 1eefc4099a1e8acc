//! What becomes of publish requests: doubles, bounds, the times of schedules.

use std::collections::BTreeMap;

use pelton_core::clock::WallMs;
use pelton_core::engine::EngineError;
use pelton_core::engine::{Appended, Overflow, QueueId, RequestError};

use super::model::{Doubt, Entry, Id, IdentityKey, Known, Place};
use super::plan::QUEUES;
use super::world::{AskedAppend, AskedIdentity, World};
use crate::tables::HELD;

impl World {
    pub(super) fn check_append(
        &mut self,
        asked: AskedAppend,
        result: Result<Appended, RequestError>,
    ) -> Result<(), String> {
        match result {
            Ok(appended) => return self.check_appended(asked, &appended),
            Err(RequestError::Engine(EngineError::Unknown)) => {
                self.count("append unknown");
                self.doubt_append(asked);
                return Ok(());
            }
            Err(RequestError::QueueFull(queue)) => {
                self.count("queue full refused");
                self.check_full(&asked, queue)?;
            }
            Err(RequestError::DiskFull) => {
                self.count("disk full refused");
                let floor = self.free_bytes_min.max(2 * self.tuning.reserve_bytes);
                if self.disk.told_free() >= floor {
                    return Err(format!("the disk has {} bytes, and is said to be full", self.disk.told_free()));
                }
            }
            Err(RequestError::IdReused(at)) => {
                self.count("id reused");
                self.check_reused(&asked, at)?;
            }
            Err(RequestError::Ticked(at)) => {
                self.count("tick refused");
                self.check_ticked(&asked, at)?;
            }
            other => self.check_refusal(&other.map(|_| ()))?,
        }
        // Nothing was done.
        for (id, _) in &asked.entries {
            self.turn.alternatives.remove(id);
        }
        Ok(())
    }

    /// What an identity is known as, and whether that must be so.
    fn known(&self, key: &IdentityKey) -> Option<(&Known, bool)> {
        let known = self.model.identities.get(key)?;
        let within = self.now.wall.since(known.accepted).as_millis() < u128::from(key.0) * 1000;
        within.then_some((known, !known.forgettable))
    }

    fn check_appended(&mut self, asked: AskedAppend, appended: &Appended) -> Result<(), String> {
        let AskedAppend { entries, identities, tick, .. } = asked;
        if appended.positions.len() != entries.len() {
            return Err(format!("{} positions for {} entries", appended.positions.len(), entries.len()));
        }
        if let Some((schedule, at)) = tick {
            let last = self.model.ticks.get(&schedule).copied();
            if last.is_none_or(|last| at <= last) {
                return Err(format!("schedule {schedule} ticked at {at}, and did at {last:?}"));
            }
            self.model.ticks.insert(schedule, at);
            self.changed = true;
        }
        let mut doubles: BTreeMap<usize, u64> = BTreeMap::new();
        for (at, identity) in identities.iter().enumerate() {
            if let Some(first) = self.check_identity(at, identity, appended)? {
                doubles.extend((identity.start..identity.start + identity.ids.len()).map(|entry| (entry, first)));
            }
        }
        let mut last = 0;
        for (at, ((id, mut entry), position)) in entries.into_iter().zip(&appended.positions).enumerate() {
            if let Some(first) = doubles.get(&at) {
                self.turn.alternatives.remove(&id);
                if position.0 != *first {
                    return Err(format!("{appended:?} for a double of what lies at {first}"));
                }
                continue;
            }
            if position.0 <= last {
                return Err(format!("{appended:?} is not in order"));
            }
            last = position.0;
            self.admit(id, &entry);
            (entry.position, self.changed) = (position.0, true);
            for (other, _) in self.turn.alternatives.get_mut(&id).into_iter().flatten() {
                if let Some(other) = other {
                    other.position = position.0;
                }
            }
            self.model.entries.insert(id, entry);
        }
        Ok(())
    }

    fn admit(&mut self, id: Id, entry: &Entry) {
        let bounds = self.settings[entry.queue as usize].bounds;
        if entry.dead.is_none() && bounds.are_set() {
            self.turn.admitted.entry(entry.queue).or_default().insert(id);
            if bounds.overflow == Overflow::DropOldest {
                self.turn.dropping.insert(entry.queue);
            }
        }
    }

    /// Whether the identity was told from a double as it should be; of a double, the first position.
    fn check_identity(
        &mut self,
        at: usize,
        identity: &AskedIdentity,
        appended: &Appended,
    ) -> Result<Option<u64>, String> {
        let duplicate = appended.duplicates.iter().find(|duplicate| duplicate.identity == at);
        let known = self.known(&identity.key).map(|(known, must)| (known.clone(), must));
        match (duplicate, known) {
            (Some(duplicate), Some((known, _))) => {
                if known.body != identity.body || (duplicate.first.0, duplicate.targets) != (known.first, known.targets)
                {
                    return Err(format!("{duplicate:?} of {known:?} for {identity:?}"));
                }
                self.count("duplicate");
                if identity.is_second {
                    self.count("duplicate within one batch");
                }
                Ok(Some(known.first))
            }
            (Some(duplicate), None) => Err(format!("{duplicate:?}, and nobody knows {identity:?}")),
            (None, Some((known, true))) => Err(format!("{identity:?} is known as {known:?}, and was stored again")),
            (None, _) => {
                let known = Known {
                    accepted: self.now.wall,
                    first: appended.positions[identity.start].0,
                    targets: u32::try_from(identity.ids.len()).unwrap_or(u32::MAX),
                    body: identity.body.clone(),
                    forgettable: false,
                };
                self.model.identities.insert(identity.key, known);
                Ok(None)
            }
        }
    }

    /// Nobody knows whether it happened: all of it or nothing, but for messages that may have been doubles of such.
    pub(super) fn doubt_append(&mut self, asked: AskedAppend) {
        let AskedAppend { entries, identities, tick, .. } = asked;
        let mut whole = Doubt { tick, ..Doubt::default() };
        let mut parts = Vec::new();
        for (at, (id, entry)) in entries.into_iter().enumerate() {
            self.admit(id, &entry);
            let of = |identity: &&AskedIdentity| (identity.start..identity.start + identity.ids.len()).contains(&at);
            match identities.iter().find(of) {
                Some(identity) if identity.is_second || self.known(&identity.key).is_some() => {
                    parts.push((identity.key, (id, Some(entry))));
                }
                _ => whole.change.push((id, Some(entry))),
            }
        }
        for identity in identities {
            let known = Known {
                accepted: self.now.wall,
                first: 0,
                targets: u32::try_from(identity.ids.len()).unwrap_or(u32::MAX),
                body: identity.body.clone(),
                forgettable: false,
            };
            let known = (identity.key, identity.ids[0], known);
            if identity.is_second || self.known(&identity.key).is_some() {
                let part = parts.iter().filter(|(_, (id, _))| identity.ids.contains(id)).map(|(_, part)| part.clone());
                self.model.doubts.push(Doubt { change: part.collect(), tick: None, identities: vec![known] });
            } else {
                whole.identities.push(known);
            }
        }
        self.model.doubts.push(whole);
    }

    fn check_full(&self, asked: &AskedAppend, queue: QueueId) -> Result<(), String> {
        let bounds = self.settings[queue.0 as usize].bounds;
        // What the same batch found expired, in the way of its key, or with a time that was wrong is on its way already and can't be dropped.
        let in_the_way = |id: &Id| self.settings[queue.0 as usize].keyed && self.facts[id].key.is_some();
        let expired = |entry: &Entry| entry.expires.is_some_and(|expires| expires <= self.now.wall.0);
        let latest = self.now.wall.0 + self.settings[queue.0 as usize].backoff_max_ms;
        let is_retimed = |entry: &Entry| {
            entry.attempts > 0 && !entry.chosen && matches!(entry.place, Place::Due(due) if due > latest)
        };
        let is_immovable = |(id, entry): &(Id, &Entry)| {
            bounds.overflow == Overflow::Refuse
                || self.leases.contains_key(id)
                || entry.place == Place::Due(HELD)
                || expired(entry)
                || is_retimed(entry)
                || in_the_way(id)
        };
        let there: Vec<u64> =
            self.model.of_queue(queue.0).filter(is_immovable).map(|(id, _)| self.facts[&id].cost).collect();
        let load = |loads: &BTreeMap<u32, (u64, u64)>| loads.get(&queue.0).copied().unwrap_or_default();
        let (own, before) = (load(&asked.brings), load(&asked.before));
        let messages = there.len() as u64 + own.0 + before.0;
        let bytes = there.iter().sum::<u64>() + own.1 + before.1;
        if bounds.overflow == Overflow::DeadLetter || own.0 == 0 || bounds.hold(messages, bytes) {
            let there: Vec<_> = self.model.of_queue(queue.0).collect();
            let most = format!("{messages} messages, {bytes} bytes");
            return Err(format!(
                "{queue:?} is full with at most {most} that can't make room ({bounds:?}) of {there:?}"
            ));
        }
        Ok(())
    }

    fn check_reused(&self, asked: &AskedAppend, at: usize) -> Result<(), String> {
        let Some(identity) = asked.identities.get(at) else { return Err(format!("there is no identity {at}")) };
        let differs = |key: &IdentityKey, body: &[u8]| *key == identity.key && *body != identity.body;
        let in_request = asked.identities[..at].iter().any(|other| differs(&other.key, &other.body));
        let in_batch = self.turn.identities.iter().any(|(key, body)| differs(key, body));
        let before = self.known(&identity.key).is_some_and(|(known, _)| known.body != identity.body);
        if in_request || in_batch || before { Ok(()) } else { Err(format!("nobody reused {identity:?}")) }
    }

    fn check_ticked(&self, asked: &AskedAppend, told: WallMs) -> Result<(), String> {
        let Some((schedule, at)) = asked.tick else { return Err("there was no tick".to_owned()) };
        let last = self.model.ticks.get(&schedule).copied().unwrap_or(at);
        // The first of a batch may be refused for another reason; then the next counts.
        let asked = self.turn.ticks.get(&schedule).map_or(&[][..], Vec::as_slice);
        if at <= told.0 && (told.0 == last || asked.contains(&told.0)) {
            Ok(())
        } else {
            Err(format!("{at} was refused because of {told:?}, and the last is {last}, or of {asked:?} in this batch"))
        }
    }

    /// Appends never fill a queue beyond its bounds; what came by other ways may.
    pub(super) fn check_bounds(&mut self) -> Result<(), String> {
        for queue in 0..QUEUES.len() as u32 {
            let Some(admitted) = self.turn.admitted.get(&queue) else { continue };
            let bounds = self.settings[queue as usize].bounds;
            let (mut messages, mut bytes, mut any) = (0, 0, false);
            let mut total = 0;
            for (id, entry) in self.model.of_queue(queue) {
                // What did not fit and has nowhere else to go is held here.
                let admitted = admitted.contains(&id) && entry.dead.is_none();
                let cost = self.facts[&id].cost;
                total += 1;
                any |= admitted;
                match self.turn.before.get(&id).filter(|(before, _)| *before == queue) {
                    Some((_, cost_before)) => (messages, bytes) = (messages + 1, bytes + cost.min(*cost_before)),
                    None if admitted => (messages, bytes) = (messages + 1, bytes + cost),
                    None => {}
                }
            }
            if any && !bounds.hold(messages, bytes) {
                return Err(format!(
                    "queue {queue} has {total} messages, {messages} of them, {bytes} bytes, by appends: {bounds:?}"
                ));
            }
        }
        Ok(())
    }
}
