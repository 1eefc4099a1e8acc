//! Telling doubles: which identities were accepted within their window.
//!
//! Rows are grouped by window and generation, a generation being one window long: an identity is looked up in the present
//! generation and the one before, and a generation older than that is dead and deleted in bounded steps. Changing the window
//! of a topic starts anew. Memory holds the numbers of the generations only.

use std::collections::{BTreeMap, BTreeSet};

use pelton_core::clock::WallMs;
use pelton_core::engine::{Duplicate, Position, QueueId, Scheduled};
use redb::{ReadableDatabase as _, ReadableTable, WriteTransaction};

use super::live::Live;
use crate::command::{Now, Ticket};
use crate::failure::Failure;
use crate::prepare::PreparedIdentity;
use crate::seal::{seal, unseal};
use crate::tables::{DEDUP, DedupKey};

/// What is known of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) accepted: WallMs,
    pub(crate) first: u64,
    pub(crate) targets: u32,
    pub(crate) body: u64,
    pub(crate) scheduled: Option<Scheduled>,
}

impl Known {
    /// What a row says.
    pub(crate) fn of(
        (accepted, first, targets, body, scheduled): (u64, u64, u32, u64, &[u8]),
    ) -> Result<Self, Failure> {
        let scheduled = decode_scheduled(scheduled)
            .ok_or_else(|| Failure::Damaged(format!("where message {first} was put off can't be read")))?;
        Ok(Self { accepted: WallMs(accepted), first, targets, body, scheduled })
    }
}

/// Nothing, or the time and then each place: queue and position.
fn encode_scheduled(scheduled: Option<&Scheduled>) -> Vec<u8> {
    let Some(Scheduled { due, places }) = scheduled else { return Vec::new() };
    let mut bytes = due.0.to_le_bytes().to_vec();
    for (queue, position) in places {
        bytes.extend_from_slice(&queue.0.to_le_bytes());
        bytes.extend_from_slice(&position.0.to_le_bytes());
    }
    bytes
}

/// The opposite of [`encode_scheduled`]; none where it is damaged.
fn decode_scheduled(bytes: &[u8]) -> Option<Option<Scheduled>> {
    if bytes.is_empty() {
        return Some(None);
    }
    let (due, places) = bytes.split_first_chunk()?;
    let (places, rest) = places.as_chunks::<12>();
    let place = |place: &[u8; 12]| {
        let (queue, position) = place.split_first_chunk()?;
        Some((QueueId(u32::from_le_bytes(*queue)), Position(u64::from_le_bytes(position.try_into().ok()?))))
    };
    let places = places.iter().map(place).collect::<Option<_>>()?;
    rest.is_empty().then_some(Some(Scheduled { due: WallMs(u64::from_le_bytes(*due)), places }))
}

/// What an identity turned out to be.
#[derive(Debug, Clone)]
pub(crate) enum Resolution {
    /// Not known.
    New,
    /// A double of what was accepted before.
    Known(Known),
    /// A double of an earlier one in the same request: its index.
    Same(usize),
}

/// The generations that have rows, by window in seconds.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    by_window: BTreeMap<u32, BTreeSet<u32>>,
}

impl Generations {
    /// Finds the generations in the table by leaping over their rows.
    pub(crate) fn read(database: &redb::Database) -> Result<Self, Failure> {
        let table = database.begin_read()?.open_table(DEDUP)?;
        let mut generations = Self::default();
        let mut from: DedupKey = (0, 0, 0);
        while let Some(row) = table.range(from..)?.next() {
            let (window, generation, _) = row?.0.value();
            generations.by_window.entry(window).or_default().insert(generation);
            from = match generation.checked_add(1) {
                Some(next) => (window, next, 0),
                None => (window.saturating_add(1), 0, 0),
            };
        }
        Ok(generations)
    }

    /// The present generation of a window. A clock that steps back does not bring an earlier one.
    fn present(&self, window: u32, now: WallMs) -> u32 {
        let by_clock = u32::try_from(now.0 / (u64::from(window) * 1000)).unwrap_or(u32::MAX);
        let latest = self.by_window.get(&window).and_then(BTreeSet::last).copied().unwrap_or(0);
        by_clock.max(latest)
    }

    fn add(&mut self, window: u32, generation: u32) {
        self.by_window.entry(window).or_default().insert(generation);
    }

    /// A generation that nobody looks into any more.
    pub(crate) fn first_dead(&self, now: WallMs) -> Option<(u32, u32)> {
        self.by_window.iter().find_map(|(window, generations)| {
            let first = *generations.first()?;
            (first.saturating_add(1) < self.present(*window, now)).then_some((*window, first))
        })
    }

    pub(crate) fn remove(&mut self, window: u32, generation: u32) {
        if let Some(generations) = self.by_window.get_mut(&window) {
            generations.remove(&generation);
            if generations.is_empty() {
                self.by_window.remove(&window);
            }
        }
    }
}

/// The window in whole seconds, rounded up, at least one: part of the key, and how long a generation is.
fn seconds(identity: &PreparedIdentity) -> u32 {
    u32::try_from(identity.window.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

impl<T: Ticket> Live<T> {
    /// What each identity is; or the index of one whose body differs from the one that is known.
    pub(super) fn resolve(
        &mut self,
        identities: &[PreparedIdentity],
        now: Now,
    ) -> Result<Result<Vec<Resolution>, usize>, Failure> {
        let mut resolved = Vec::with_capacity(identities.len());
        let mut of_request: BTreeMap<(u32, u128), usize> = BTreeMap::new();
        for (index, identity) in identities.iter().enumerate() {
            let key = (seconds(identity), identity.hash);
            if let Some(earlier) = of_request.get(&key).copied() {
                if identities[earlier].body != identity.body {
                    return Ok(Err(index));
                }
                resolved.push(Resolution::Same(earlier));
                continue;
            }
            let known = self.look_up(key.0, key.1, now)?;
            match known.filter(|known| now.wall.since(known.accepted) < identity.window) {
                Some(known) if known.body != identity.body => return Ok(Err(index)),
                Some(known) => resolved.push(Resolution::Known(known)),
                None => {
                    of_request.insert(key, index);
                    resolved.push(Resolution::New);
                }
            }
        }
        Ok(Ok(resolved))
    }

    fn look_up(&mut self, window: u32, hash: u128, now: Now) -> Result<Option<Known>, Failure> {
        if let Some(staged) = self.stage.identities.get(&(window, hash)) {
            return Ok(Some(staged.clone()));
        }
        let present = self.generations.present(window, now.wall);
        let reader = self.reader()?;
        for generation in [Some(present), present.checked_sub(1)].into_iter().flatten() {
            if let Some(row) = reader.dedup.get((window, generation, hash))? {
                return Known::of(unseal(DEDUP, &(window, generation, hash), row.value())?).map(Some);
            }
        }
        Ok(None)
    }

    /// Stages the rows of new identities; returns the doubles.
    pub(super) fn remember_identities(
        &mut self,
        identities: &[PreparedIdentity],
        resolved: &[Resolution],
        positions: &[Option<Position>],
        now: Now,
    ) -> Vec<Duplicate> {
        let mut duplicates = Vec::new();
        for (index, (identity, resolution)) in identities.iter().zip(resolved).enumerate() {
            let (window, targets) = (seconds(identity), u32::try_from(identity.entries.len()).unwrap_or(u32::MAX));
            let known = match resolution {
                Resolution::Known(known) => Some(known.clone()),
                Resolution::Same(earlier) => self.stage.identities.get(&(window, identities[*earlier].hash)).cloned(),
                Resolution::New => None,
            };
            if let Some(known) = known {
                let first = Position(known.first);
                let Known { targets, scheduled, .. } = known;
                duplicates.push(Duplicate { identity: index, first, targets, scheduled });
                continue;
            }
            let first = positions.get(identity.entries.start).copied().flatten().map_or(0, |position| position.0);
            let place = |(at, (due, queue)): (usize, &(Option<WallMs>, u32))| {
                Some((*due, QueueId(*queue), positions.get(identity.entries.start + at).copied().flatten()?))
            };
            let scheduled = Scheduled::of(identity.waiting.iter().enumerate().filter_map(place));
            let known = Known { accepted: now.wall, first, targets, body: identity.body, scheduled };
            let generation = self.generations.present(window, now.wall);
            self.generations.add(window, generation);
            self.stage.dedup.push(((window, generation, identity.hash), known.clone()));
            self.stage.identities.insert((window, identity.hash), known);
        }
        duplicates
    }
}

/// Writes new identities, and deletes up to `rows_max` of a dead generation. Which one is empty now, if it is.
pub(super) fn write_dedup(
    txn: &WriteTransaction,
    mut rows: Vec<(DedupKey, Known)>,
    dead: Option<(u32, u32)>,
    rows_max: usize,
) -> Result<Option<(u32, u32)>, Failure> {
    if rows.is_empty() && dead.is_none() {
        return Ok(None);
    }
    let mut table = txn.open_table(DEDUP)?;
    rows.sort_unstable_by_key(|(key, _)| *key);
    for (key, Known { accepted, first, targets, body, scheduled }) in rows {
        let scheduled = encode_scheduled(scheduled.as_ref());
        let value = (accepted.0, first, targets, body, scheduled.as_slice());
        table.insert(key, seal(DEDUP, &key, value))?;
    }
    let Some((window, generation)) = dead else { return Ok(None) };
    let range = (window, generation, 0)..=(window, generation, u128::MAX);
    let mut keys = Vec::new();
    for row in table.range(range)?.take(rows_max.max(1)) {
        keys.push(row?.0.value());
    }
    for key in &keys {
        table.remove(key)?;
    }
    Ok((keys.len() < rows_max.max(1)).then_some((window, generation)))
}
