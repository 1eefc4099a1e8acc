//! What producers know about the messages that they sent, and whether the broker's stock agrees with it.
//!
//! Every request and every message has a name of its own, `PRODUCER-REQUEST` and `PRODUCER-REQUEST-ITEM`, so that what is in
//! the broker tells where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::api::{Api, text_event, try_send};

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The broker said that all of it is on disk.
    Accepted,
    /// The broker said that nothing of it was done.
    Refused,
    /// Nobody knows: no answer came, or the answer `unknown`.
    Unknown,
}

/// What producers know, by request: how many messages it had, and what became of it.
#[derive(Default)]
pub(crate) struct Ledger {
    requests: Mutex<BTreeMap<String, (u64, Fate)>>,
    accepted: AtomicU64,
}

/// What a ledger adds up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Messages accepted: all of them are there.
    pub(crate) accepted: u64,
    /// Messages refused: none of them is there.
    pub(crate) refused: u64,
    /// Messages of unknown requests that are there.
    pub(crate) unknown_there: u64,
    /// Messages of unknown requests that are not.
    pub(crate) unknown_gone: u64,
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, more: Self) {
        self.accepted += more.accepted;
        self.refused += more.refused;
        self.unknown_there += more.unknown_there;
        self.unknown_gone += more.unknown_gone;
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, refused, unknown_there, unknown_gone } = self;
        write!(f, "{accepted} messages accepted and accounted for, {refused} refused and nowhere, ")?;
        write!(f, "{unknown_there} of unknown fate that are there and {unknown_gone} that are not")
    }
}

impl Ledger {
    /// An empty one, to share.
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Messages accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The requests of unknown fate, and how many messages each has.
    pub(crate) fn unknown(&self) -> Vec<(String, u64)> {
        let requests = self.requests.lock().expect("nobody panics holding it");
        let unknown = requests.iter().filter(|(_, (_, fate))| *fate == Fate::Unknown);
        unknown.map(|(request, (count, _))| (request.clone(), *count)).collect()
    }

    /// Enters what became of a request of `count` messages.
    pub(crate) fn enter(&self, request: String, count: u64, fate: Fate) {
        if fate == Fate::Accepted {
            self.accepted.fetch_add(count, Ordering::Relaxed);
        }
        self.requests.lock().expect("nobody panics holding it").insert(request, (count, fate));
    }

    /// Asserts that `stored`, which says how often each message is there, agrees with it: every accepted message is there once, a refused
    /// one is not, an unknown request is there once as a whole or not at all, and there is nothing else.
    pub(crate) fn agrees_with(&self, stored: &BTreeMap<String, u64>) -> Sums {
        let mut sums = Sums::default();
        for (request, (count, fate)) in &*self.requests.lock().expect("nobody panics holding it") {
            let is_there = |item: &u64| stored.contains_key(&format!("{request}-{item}"));
            let found = (0..*count).filter(is_there).count() as u64;
            match fate {
                Fate::Accepted => {
                    assert_eq!(found, *count, "of request {request}, which was accepted, some is lost");
                    sums.accepted += count;
                }
                Fate::Refused => {
                    assert_eq!(found, 0, "of request {request}, which was refused, some is there");
                    sums.refused += count;
                }
                Fate::Unknown => {
                    assert!(found == 0 || found == *count, "request {request} is there in part: {found} of {count}");
                    sums.unknown_there += found;
                    sums.unknown_gone += count - found;
                }
            }
        }
        let twice: Vec<_> = stored.iter().filter(|(_, count)| **count != 1).collect();
        assert!(twice.is_empty(), "not there exactly once: {twice:?}");
        let known = sums.accepted + sums.unknown_there;
        assert_eq!(stored.len() as u64, known, "nothing is there that nobody sent");
        sums
    }
}

/// Whoever publishes batches to one topic, one after another, and enters each into a ledger.
#[derive(Clone)]
pub(crate) struct Producer {
    /// Where.
    pub(crate) api: Api,
    /// To what.
    pub(crate) topic: &'static str,
    /// What its requests' names begin with; unique.
    pub(crate) name: String,
    /// What it knows.
    pub(crate) ledger: Arc<Ledger>,
    /// The body of the message with this id.
    pub(crate) text: fn(&str) -> &'static str,
    /// Set when it is to end.
    pub(crate) ends: Arc<AtomicBool>,
    /// It waits while the ledger has this many messages accepted.
    pub(crate) most: u64,
}

/// The messages of a request.
pub(crate) fn events(request: &str, count: u64, text: fn(&str) -> &'static str) -> Vec<Value> {
    let message = |item| {
        let id = format!("{request}-{item}");
        text_event(&id, text(&id))
    };
    (0..count).map(message).collect()
}

/// Most messages in one request.
const BATCH_MAX: u64 = 25;
/// The pause after a request that was not accepted, and while a producer has sent enough.
const PAUSE: Duration = Duration::from_millis(5);

impl Producer {
    /// Publishes until it is to end, or the broker is gone.
    pub(crate) async fn run(self) {
        for number in 0_u64.. {
            while self.ledger.accepted() >= self.most && !self.ends.load(Ordering::Relaxed) {
                tokio::time::sleep(PAUSE).await;
            }
            if self.ends.load(Ordering::Relaxed) {
                return;
            }
            let count = 1 + number * 7 % BATCH_MAX;
            let request = format!("{}-{number}", self.name);
            let answer = try_send(self.api.batch(self.topic, &events(&request, count, self.text))).await;
            let is_gone = answer.is_err();
            let fate = match &answer {
                Ok(reply) if reply.status == 200 => Fate::Accepted,
                Ok(reply) => match reply.json()["code"].as_str() {
                    Some("unknown") => Fate::Unknown,
                    Some("unavailable" | "disk-full" | "queue-full" | "busy") => Fate::Refused,
                    _ => panic!("{reply}"),
                },
                Err(_) => Fate::Unknown,
            };
            self.ledger.enter(request, count, fate);
            if is_gone {
                return;
            }
            if fate != Fate::Accepted {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
