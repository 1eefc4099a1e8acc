//! The record of running deliveries: which messages were being handled when a process ended without saying so.
//!
//! One slot per delivery, in memory that outlives the process (a mapped file): filled before the handler is called, cleared
//! when it returned. A start that finds slots filled knows which messages may have brought the process down. It is written by
//! plain stores, no system call among them, and never synced: the system keeps it when a process dies. When the machine
//! itself goes down it may be gone or garbage, and is not believed: whatever is in doubt is ignored.
//!
//! Invariants: a slot that was not written to its end, or whose words do not belong together, is never read as one that was; a slot has
//! one owner at a time, as the dispatch loop hands them out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::WallMs;
use crate::engine::{Attempt, EntryId, Leased, Lost, Place, Position, QueueId, StoreId};
use crate::name::{ConsumerName, NAME_BYTES_MAX};
use crate::runtime::Digest;

/// Tells a record from any other file, and its layout from other layouts. `pelton`, 0, 1.
const MAGIC: u64 = 0x7065_6c74_6f6e_0001;
/// Words in front of the first slot.
const HEAD_WORDS: usize = 16;
/// Words of a slot: four lines of a processor's cache, so that no two workers write the same one.
const SLOT_WORDS: usize = 32;
/// The record is being written. Anything else: it was closed in order.
const RUNNING: u64 = 1;

/// Words of the head.
mod head {
    pub(super) const MAGIC: usize = 0;
    pub(super) const BOOT: usize = 1;
    pub(super) const STORE: usize = 2;
    pub(super) const STATE: usize = 3;
}

/// Words of a slot. Those of a delivery stand before those of its run.
mod slot {
    /// Made of all the others; zero while nothing runs.
    pub(super) const CHECK: usize = 0;
    pub(super) const QUEUE_ATTEMPT: usize = 1;
    pub(super) const ENTRY: usize = 2;
    pub(super) const POSITION: usize = 3;
    pub(super) const DETAIL: usize = 4;
    pub(super) const KIND: usize = 5;
    pub(super) const AT_MS: usize = 6;
    pub(super) const DIGEST: usize = 7;
    pub(super) const NAME_BYTES: usize = 11;
    pub(super) const NAME: usize = 12;
}

const DELIVERY: std::ops::Range<usize> = slot::QUEUE_ATTEMPT..slot::DIGEST;
const RUN: std::ops::Range<usize> = slot::DIGEST..SLOT_WORDS;
const NAME_WORDS: usize = NAME_BYTES_MAX / 8;
const _: () = assert!(slot::NAME + NAME_WORDS <= SLOT_WORDS, "the longest name fits");

/// Memory that a record is kept in.
pub trait Region: Send + Sync + 'static {
    /// All of it; the same memory at every call, and nobody else writes to it.
    fn words(&self) -> &[AtomicU64];
}

impl Region for Arc<[AtomicU64]> {
    fn words(&self) -> &[AtomicU64] {
        self
    }
}

/// See the module's head.
pub struct InFlight {
    region: Box<dyn Region>,
    boot: u64,
}

impl InFlight {
    /// Words of a record with so many slots.
    #[must_use]
    pub const fn words(slots: usize) -> usize {
        HEAD_WORDS + slots * SLOT_WORDS
    }

    /// The record in `region`, as an earlier process left it. `boot` is a number that this start of the machine shares with no other: a
    /// record that was written before is not believed.
    #[must_use]
    pub fn new(region: impl Region, boot: u64) -> Self {
        Self { region: Box::new(region), boot }
    }

    /// The deliveries that an earlier process was at when it ended; none when it closed its record, when the machine was started since, and
    /// when it is another store's.
    #[must_use]
    pub fn lost(&self, store: StoreId) -> Vec<Lost> {
        let Some((head, slots)) = self.region.words().split_at_checked(HEAD_WORDS) else { return Vec::new() };
        let read = |at: usize| head[at].load(Ordering::Acquire);
        let expected = [MAGIC, self.boot, store.0, RUNNING];
        if [head::MAGIC, head::BOOT, head::STORE, head::STATE].map(read) != expected {
            return Vec::new();
        }
        slots.chunks_exact(SLOT_WORDS).filter_map(read_slot).collect()
    }

    /// Begins this process's record, for `store`; what an earlier one left is gone.
    pub fn begin(&self, store: StoreId) {
        let Some((head, slots)) = self.region.words().split_at_checked(HEAD_WORDS) else { return };
        head[head::STATE].store(0, Ordering::Release);
        slots.chunks_exact(SLOT_WORDS).for_each(|slot| slot[slot::CHECK].store(0, Ordering::Release));
        head[head::MAGIC].store(MAGIC, Ordering::Release);
        head[head::BOOT].store(self.boot, Ordering::Release);
        head[head::STORE].store(store.0, Ordering::Release);
        head[head::STATE].store(RUNNING, Ordering::Release);
    }

    /// Ends it: whatever runs from here on was not lost with the process.
    pub fn close(&self) {
        if let Some(state) = self.region.words().get(head::STATE) {
            state.store(0, Ordering::Release);
        }
    }

    /// Slot number `index` for a run of `consumer`; none where there are not so many.
    pub(crate) fn slot(&self, index: usize, consumer: &ConsumerName, digest: Digest) -> Option<Slot<'_>> {
        let words = self.region.words().get(HEAD_WORDS..)?.chunks_exact(SLOT_WORDS).nth(index)?;
        let words: &[AtomicU64; SLOT_WORDS] = words.try_into().ok()?;
        let mut run = [0_u64; RUN.end - RUN.start];
        let (digest_words, _) = digest.0.as_chunks::<8>();
        for (word, bytes) in run.iter_mut().zip(digest_words) {
            *word = u64::from_le_bytes(*bytes);
        }
        let name = consumer.as_str().as_bytes();
        run[slot::NAME_BYTES - RUN.start] = name.len() as u64;
        for (word, bytes) in run[slot::NAME - RUN.start..].iter_mut().zip(name.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(padded);
        }
        let mut sum = 0;
        for (at, word) in RUN.zip(run) {
            words[at].store(word, Ordering::Relaxed);
            sum = add(sum, at, word);
        }
        Some(Slot { words, sum })
    }
}

/// A slot while a run has it.
pub(crate) struct Slot<'a> {
    words: &'a [AtomicU64; SLOT_WORDS],
    /// Over the words of the run.
    sum: u64,
}

/// A delivery that is in the record, until this is dropped.
pub(crate) struct Recorded<'a> {
    check: &'a AtomicU64,
}

impl Slot<'_> {
    /// Records that `leased` is being handled since `at`.
    pub(crate) fn fill(&self, leased: &Leased, at: WallMs) -> Recorded<'_> {
        let Leased { token, place, .. } = leased;
        let delivery = [
            u64::from(token.queue.0) << 32 | u64::from(token.attempt),
            token.entry.0,
            place.position.0,
            place.detail,
            u64::from(place.kind),
            at.0,
        ];
        let mut sum = self.sum;
        for (at, word) in DELIVERY.zip(delivery) {
            self.words[at].store(word, Ordering::Relaxed);
            sum = add(sum, at, word);
        }
        let check = &self.words[slot::CHECK];
        check.store(finish(sum), Ordering::Release);
        Recorded { check }
    }
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        self.check.store(0, Ordering::Release);
    }
}

/// A sum in which every word counts, and its place.
fn add(sum: u64, at: usize, word: u64) -> u64 {
    let weight = (2 * at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    sum.wrapping_add((word ^ (word >> 29)).wrapping_mul(weight))
}

/// The check of a sum; never zero.
fn finish(sum: u64) -> u64 {
    (sum ^ (sum >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) | 1
}

/// The delivery that a slot holds; none where it is clear, or not whole.
fn read_slot(slot: &[AtomicU64]) -> Option<Lost> {
    let word = |at: usize| slot[at].load(Ordering::Acquire);
    let check = word(slot::CHECK);
    let sum = DELIVERY.chain(RUN).fold(0, |sum, at| add(sum, at, word(at)));
    if check == 0 || check != finish(sum) {
        return None;
    }
    let bytes =
        |from: usize, count: usize| -> Vec<u8> { (from..from + count).flat_map(|at| word(at).to_le_bytes()).collect() };
    let digest = Digest(bytes(slot::DIGEST, 4).try_into().ok()?);
    let name_bytes = usize::try_from(word(slot::NAME_BYTES)).ok()?;
    let name = bytes(slot::NAME, NAME_WORDS);
    let consumer = ConsumerName::new(std::str::from_utf8(name.get(..name_bytes)?).ok()?).ok()?;
    let queue_attempt = word(slot::QUEUE_ATTEMPT);
    let reason = format!(
        "the broker's process ended while consumer '{consumer}' was handling it: it was killed, or this message brought it down"
    );
    Some(Lost {
        queue: QueueId(u32::try_from(queue_attempt >> 32).ok()?),
        entry: EntryId(word(slot::ENTRY)),
        place: Place {
            position: Position(word(slot::POSITION)),
            detail: word(slot::DETAIL),
            kind: u8::try_from(word(slot::KIND)).ok()?,
        },
        attempt: Attempt {
            number: u32::try_from(queue_attempt & u64::from(u32::MAX)).ok()?,
            at_ms: word(slot::AT_MS),
            outcome: "lost".to_owned(),
            reason,
            duration_us: 0,
            digest: Some(digest.to_string()),
            log_tail: String::new(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::LeaseToken;
    use crate::message::{Attributes, Message};
    use crate::name::Topic;

    const STORE: StoreId = StoreId(7);
    const BOOT: u64 = 3;
    const DIGEST: Digest = Digest([0xab; 32]);

    fn memory(slots: usize) -> Arc<[AtomicU64]> {
        (0..InFlight::words(slots)).map(|_| AtomicU64::new(0)).collect()
    }

    fn leased(entry: u64) -> Leased {
        let attributes = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
        let token = LeaseToken {
            queue: QueueId(u32::MAX),
            entry: EntryId(entry),
            epoch: 1,
            attempt: 4,
            accepted: WallMs(10),
            nonce: 99,
        };
        Leased {
            token,
            topic: Topic::new("t").expect("a topic"),
            message: Message::new(&attributes, b"").expect("a message"),
            hops: 0,
            accepted: WallMs(10),
            place: Place { position: Position(entry + 1), detail: 17, kind: 2 },
            key: None,
            alone: false,
        }
    }

    fn consumer(name: &str) -> ConsumerName {
        ConsumerName::new(name).expect("a name")
    }

    /// A record of a process that died while it handled these entries, each in a slot of its own.
    fn died(entries: &[u64]) -> Arc<[AtomicU64]> {
        let memory = memory(entries.len().max(1));
        let record = InFlight::new(memory.clone(), BOOT);
        record.begin(STORE);
        for (index, entry) in entries.iter().enumerate() {
            let slot = record.slot(index, &consumer("worker"), DIGEST).expect("it is there");
            std::mem::forget(slot.fill(&leased(*entry), WallMs(1000)));
        }
        memory
    }

    fn lost(memory: &Arc<[AtomicU64]>) -> Vec<u64> {
        InFlight::new(memory.clone(), BOOT).lost(STORE).iter().map(|lost| lost.entry.0).collect()
    }

    #[test]
    fn what_ran_when_a_process_died_is_found() {
        let longest = consumer(&"n".repeat(NAME_BYTES_MAX));
        let memory = memory(3);
        let record = InFlight::new(memory.clone(), BOOT);
        record.begin(STORE);
        let slot = record.slot(1, &longest, DIGEST).expect("it is there");
        drop(slot.fill(&leased(5), WallMs(900)));
        std::mem::forget(slot.fill(&leased(6), WallMs(1000)));
        let found = InFlight::new(memory, BOOT).lost(STORE).remove(0);
        let reason = format!(
            "the broker's process ended while consumer '{longest}' was handling it: it was killed, or this message brought it down"
        );
        let attempt = Attempt {
            number: 4,
            at_ms: 1000,
            outcome: "lost".to_owned(),
            reason,
            duration_us: 0,
            digest: Some("ab".repeat(32)),
            log_tail: String::new(),
        };
        let place = Place { position: Position(7), detail: 17, kind: 2 };
        assert_eq!(found, Lost { queue: QueueId(u32::MAX), entry: EntryId(6), place, attempt });
    }

    #[test]
    fn what_ended_or_was_closed_is_not_lost() {
        let memory = memory(2);
        let record = InFlight::new(memory.clone(), BOOT);
        record.begin(STORE);
        let slot = record.slot(0, &consumer("worker"), DIGEST).expect("it is there");
        drop(slot.fill(&leased(5), WallMs(1)));
        assert_eq!(lost(&memory), [0; 0]);
        let _running = slot.fill(&leased(6), WallMs(1));
        assert_eq!(lost(&memory), [6]);
        record.close();
        assert_eq!(lost(&memory), [0; 0], "an orderly end leaves none");
        record.begin(STORE);
        assert_eq!(lost(&memory), [0; 0], "a new record is empty");
    }

    #[test]
    fn a_record_of_another_machine_start_or_store_is_not_believed() {
        let memory = died(&[5, 6]);
        assert_eq!(lost(&memory), [5, 6]);
        assert_eq!(InFlight::new(memory.clone(), BOOT + 1).lost(STORE), []);
        assert_eq!(InFlight::new(memory.clone(), BOOT).lost(StoreId(8)), []);
        memory[head::MAGIC].store(MAGIC + 1, Ordering::Relaxed);
        assert_eq!(lost(&memory), [0; 0]);
    }

    #[test]
    fn a_slot_with_any_word_changed_is_not_believed() {
        for at in 0..SLOT_WORDS {
            for bit in 0..64 {
                let memory = died(&[5, 6]);
                memory[HEAD_WORDS + at].fetch_xor(1 << bit, Ordering::Relaxed);
                assert_eq!(lost(&memory), [6], "word {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_record_that_is_too_short_has_no_slots() {
        for words in [0, 1, HEAD_WORDS, HEAD_WORDS + SLOT_WORDS - 1] {
            let memory: Arc<[AtomicU64]> = (0..words).map(|_| AtomicU64::new(0)).collect();
            let record = InFlight::new(memory.clone(), BOOT);
            record.begin(STORE);
            assert!(record.slot(0, &consumer("worker"), DIGEST).is_none(), "{words} words");
            assert_eq!(lost(&memory), [0; 0]);
            record.close();
        }
        assert!(InFlight::new(memory(2), BOOT).slot(2, &consumer("worker"), DIGEST).is_none());
    }
}
