//! The keys of waiting messages that come next, by time; what lies behind its edge is on disk only.

use std::collections::BTreeMap;

use pelton_core::clock::WallMs;

use super::window::DueAt;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct DueWindow {
    /// Their time lies ahead, or they wait for room among those whose time has come.
    future: BTreeMap<DueAt, WallMs>,
    /// Keys behind this are on disk only; none: all are loaded.
    pub(crate) edge: Option<DueAt>,
}

impl DueWindow {
    /// A window over what is on disk only.
    pub(crate) fn unread() -> Self {
        Self { future: BTreeMap::new(), edge: Some((0, 0)) }
    }

    /// Takes up a key that was committed, if it belongs to what is loaded.
    pub(crate) fn insert(&mut self, key: DueAt, accepted: WallMs, entries_max: usize) {
        if self.edge.is_some_and(|edge| key > edge) {
            return;
        }
        self.future.insert(key, accepted);
        while self.future.len() > entries_max.max(1) {
            self.future.pop_last();
            self.edge = self.future.last_key_value().map(|(last, _)| *last);
        }
    }

    /// Takes up a key that was read from disk behind the edge.
    pub(crate) fn load(&mut self, key: DueAt, accepted: WallMs) {
        self.future.insert(key, accepted);
    }

    /// When there is something to do again: the next one is due, or keys are to be loaded.
    pub(crate) fn next(&self) -> Option<WallMs> {
        match self.future.first_key_value() {
            Some(((due, _), _)) => Some(WallMs(*due)),
            None => self.edge.map(|_| WallMs(0)),
        }
    }

    /// Whether keys are to be loaded from disk.
    pub(crate) fn is_starved(&self) -> bool {
        self.future.is_empty() && self.edge.is_some()
    }

    /// Takes the first key whose time has come.
    pub(crate) fn pop_ripe(&mut self, now: WallMs) -> Option<(DueAt, WallMs)> {
        let first = self.future.first_entry().filter(|first| first.key().0 <= now.0)?;
        Some(first.remove_entry())
    }

    /// Takes the first key, whatever its time.
    pub(crate) fn pop_first(&mut self) -> Option<(DueAt, WallMs)> {
        self.future.pop_first()
    }

    /// How many are loaded.
    pub(crate) fn len(&self) -> usize {
        self.future.len()
    }

    pub(crate) fn forget(&mut self, key: DueAt) {
        self.future.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_keys_beyond_the_edge_stay_on_disk() {
        let mut due = DueWindow::default();
        for key in [(30, 3), (10, 1), (20, 2)] {
            due.insert(key, WallMs(0), 2);
        }
        assert_eq!((due.future.len(), due.edge), (2, Some((20, 2))));
        due.insert((25, 4), WallMs(0), 2);
        assert_eq!(due.future.len(), 2, "it lies behind the edge");
        due.insert((5, 5), WallMs(0), 2);
        assert_eq!((due.next(), due.edge), (Some(WallMs(5)), Some((10, 1))));
    }

    #[test]
    fn keys_ripen_in_order_and_an_empty_window_is_loaded() {
        let mut due = DueWindow::unread();
        assert!(due.is_starved());
        assert_eq!(due.next(), Some(WallMs(0)));
        due.load((10, 1), WallMs(0));
        due.load((20, 2), WallMs(0));
        assert_eq!(due.pop_ripe(WallMs(9)), None);
        assert_eq!(due.pop_ripe(WallMs(10)).map(|(key, _)| key), Some((10, 1)));
        assert_eq!((due.pop_ripe(WallMs(10)), due.is_starved()), (None, false));
    }
}
