//! Which routes a topic belongs to, fast: patterns only, no expressions.
//!
//! A topic that some pattern spells out is answered by one hash look-up. Any other is compared with the wildcard
//! patterns, `O(wildcard patterns * words)`, and the answer is remembered in one of [`MEMO_SLOTS`] slots, so that busy
//! topics cost one look-up too. Memory is bounded by the slots: a topic that falls into a taken slot replaces what is there.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use super::body::Want;
use super::pattern::Pattern;
use crate::name::Topic;

/// How many topics are remembered. About 300 bytes each at most, plus 4 per matching route and what those look at.
pub(crate) const MEMO_SLOTS: usize = 512;

/// The answer for a topic.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Matching {
    /// The indices of the routes that match, ascending.
    pub(crate) routes: Box<[u32]>,
    /// What their expressions look at in `data`, all of them together; none: nothing.
    pub(crate) want: Option<Want>,
}

/// The patterns of all routes, by index.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// For each topic that a pattern spells out, every route that matches it, by wildcard as well.
    exact: HashMap<Box<str>, Arc<Matching>>,
    wild: Vec<(Pattern, u32)>,
    /// Of each route.
    wants: Vec<Option<Want>>,
    nothing: Arc<Matching>,
    memo: Memo,
}

impl Table {
    /// The table of routes with these patterns, which look at `data` as far as `wants` say.
    pub(crate) fn new(patterns: &[&Pattern], wants: Vec<Option<Want>>) -> Self {
        let numbered = || patterns.iter().copied().zip(0_u32..);
        let wild = numbered().filter(|(p, _)| p.exact().is_none()).map(|(p, at)| (p.clone(), at)).collect();
        let mut table = Self { wild, wants, ..Self::default() };
        for topic in patterns.iter().filter_map(|pattern| pattern.exact()) {
            let routes = numbered().filter(|(p, _)| p.matches(topic)).map(|(_, at)| at).collect();
            let matching = table.together(routes);
            table.exact.insert(topic.into(), matching);
        }
        table
    }

    fn together(&self, routes: Box<[u32]>) -> Arc<Matching> {
        let wants = routes.iter().filter_map(|at| self.wants.get(*at as usize)?.clone());
        let want = wants.reduce(Want::and);
        Arc::new(Matching { routes, want })
    }

    /// The routes that match `topic`, in their order.
    pub(crate) fn matching(&self, topic: &Topic) -> Arc<Matching> {
        if let Some(known) = self.exact.get(topic.as_str()) {
            return Arc::clone(known);
        }
        if self.wild.is_empty() {
            return Arc::clone(&self.nothing);
        }
        self.memo.get_or_insert(topic, || {
            let matching = self.wild.iter().filter(|(pattern, _)| pattern.matches(topic.as_str()));
            self.together(matching.map(|(_, at)| *at).collect())
        })
    }
}

type Slot = Mutex<Option<(Topic, Arc<Matching>)>>;

/// A direct-mapped memory of answers.
struct Memo {
    slots: Box<[Slot]>,
    hasher: RandomState,
}

impl Memo {
    fn get_or_insert(&self, topic: &Topic, find: impl FnOnce() -> Arc<Matching>) -> Arc<Matching> {
        let at = self.hasher.hash_one(topic.as_str()) as usize % self.slots.len();
        // Whoever panicked while holding the lock left either the old or the new pair: both are right.
        let mut slot = self.slots[at].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, matching)) = slot.as_ref().filter(|(known, _)| known == topic) {
            return Arc::clone(matching);
        }
        let matching = find();
        *slot = Some((topic.clone(), Arc::clone(&matching)));
        matching
    }
}

impl Default for Memo {
    fn default() -> Self {
        Self { slots: (0..MEMO_SLOTS).map(|_| Mutex::new(None)).collect(), hasher: RandomState::new() }
    }
}

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memo").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(patterns: &[&str]) -> Table {
        let patterns: Vec<_> = patterns.iter().map(|text| Pattern::new(text).expect("a pattern")).collect();
        let wants = vec![None; patterns.len()];
        Table::new(&patterns.iter().collect::<Vec<_>>(), wants)
    }

    fn check(table: &Table, topic: &str, expected: &[u32]) {
        let topic = Topic::new(topic).expect("a topic");
        assert_eq!(*table.matching(&topic).routes, *expected, "{topic}");
        assert_eq!(*table.matching(&topic).routes, *expected, "{topic} from memory");
    }

    #[test]
    fn exact_and_wildcard_routes_answer_in_the_order_of_routes() {
        let table = table(&["a.#", "a.b", "*.c", "a.b", "x"]);
        check(&table, "a.b", &[0, 1, 3]);
        check(&table, "a.c", &[0, 2]);
        check(&table, "x", &[4]);
        check(&table, "y", &[]);
    }

    #[test]
    fn more_topics_than_slots_are_all_answered_right() {
        let table = table(&["a.*", "*.1", "#.7"]);
        for round in 0..2 {
            for n in 0..MEMO_SLOTS * 4 {
                let mut expected = vec![0];
                if n == 1 {
                    expected.push(1);
                }
                if n == 7 {
                    expected.push(2);
                }
                let topic = Topic::new(&format!("a.{n}")).expect("a topic");
                assert_eq!(*table.matching(&topic).routes, *expected, "{topic}, round {round}");
            }
        }
    }
}
