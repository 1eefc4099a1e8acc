//! Files with flipped bits, as bad disks and memory make them: refused, repaired, or stopped at when the place is met. Never a message
//! that is not as it was published, never a panic that takes the process along, never a wait without an end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use pelton_core::engine::{Engine as _, LeaseRequest, QueueId, Settlement, Verdict};
use pelton_engine_redb::{DATA_FILE, report};

use crate::support::{Opened, definitions, filled_file, open};

/// Bits flipped in each kind of file.
const FLIPS: u64 = 150;
/// The header of a redb file, which has its two commit slots.
const HEADER_BYTES: usize = 320;
/// Much more than any file takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was served, by queue and id: topic, message and attempt.
type Served = BTreeMap<(QueueId, String), String>;

/// What became of a file.
#[derive(Debug)]
enum Fate {
    /// It could not be opened.
    Refused(String),
    /// The store stopped at the damage.
    Stopped(String),
    Served(Served),
}

async fn serve(dir: &Path) -> Fate {
    let engine = match open(dir) {
        Ok(engine) => engine,
        Err(error) => return Fate::Refused(error.to_string()),
    };
    let mut served = Served::new();
    let queues = match engine.define(definitions()).await {
        Ok(defined) => defined.queues,
        Err(error) => return Fate::Stopped(error.to_string()),
    };
    for queue in queues.into_values() {
        loop {
            let want = LeaseRequest { queue, max: 100, wait: Duration::ZERO, ttl: None };
            let leased = match engine.lease(want).await {
                Ok(leased) => leased,
                Err(error) => return Fate::Stopped(error.to_string()),
            };
            let mut settlements = Vec::new();
            for leased in &leased {
                let id = leased.message.id().to_owned();
                let text =
                    format!("{:?} {:?} {} {:?}", leased.topic, leased.message, leased.attempt(), leased.message.data());
                assert_eq!(served.insert((queue, id), text), None, "a message was served twice");
                let verdict = Verdict::Done { emits: Vec::new() };
                settlements.push(Settlement { lease: leased.token, attempt: None, verdict });
            }
            if settlements.is_empty() {
                break;
            }
            for result in engine.settle(settlements).await {
                if let Err(error) = result {
                    return Fate::Stopped(error.to_string());
                }
            }
        }
    }
    engine.close(PATIENCE).await;
    Fate::Served(served)
}

async fn fate(bytes: &[u8]) -> Fate {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join(DATA_FILE), bytes).expect("written");
    let dir = folder.path().to_owned();
    let served = tokio::spawn(async move { serve(&dir).await });
    tokio::time::timeout(PATIENCE, served).await.expect("it does not hang").expect("it does not panic")
}

/// How many files came to which end.
#[derive(Debug, Default)]
struct Tally {
    refused: usize,
    stopped: usize,
    whole: usize,
    /// Files that were as they had been before their last commit.
    rolled_back: usize,
    /// Places of flips that cost messages, and how many.
    lost: Vec<(usize, usize)>,
}

/// Flips bits of `bytes` one at a time, and holds what is then served against what is served of the whole file, and of `before`, the
/// file before its last commit.
async fn flip(bytes: &[u8], before: Option<&[u8]>, seed: u64) -> Tally {
    let Fate::Served(expected) = fate(bytes).await else { panic!("the file is whole") };
    assert!(expected.len() > 60, "there is something to lose");
    let before = match before {
        Some(before) => Some(fate(before).await),
        None => None,
    };
    let mut random = fastrand::Rng::with_seed(seed);
    let mut tally = Tally::default();
    for number in 0..FLIPS {
        let header = number % 10 == 0;
        let at = if header { random.usize(..HEADER_BYTES) } else { random.usize(4096..bytes.len()) };
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << random.u8(..8);
        match fate(&flipped).await {
            Fate::Refused(reason) => {
                assert!(!reason.is_empty());
                tally.refused += 1;
            }
            Fate::Stopped(reason) => {
                assert!(reason.contains("damaged"), "a bit at {at}: {reason}");
                tally.stopped += 1;
            }
            served if matches!((&served, &before), (Fate::Served(one), Some(Fate::Served(other))) if one == other) => {
                tally.rolled_back += 1;
            }
            Fate::Served(served) => {
                for (key, text) in &served {
                    assert_eq!(expected.get(key), Some(text), "{key:?} changed with a bit at {at}");
                }
                let missing = expected.len() - served.len();
                if missing == 0 { tally.whole += 1 } else { tally.lost.push((at, missing)) }
            }
        }
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_file_serves_nothing_that_changed() {
    let (_folder, bytes) = filled_file().await;
    let tally = flip(&bytes, None, 5).await;
    assert!(tally.refused > 0 && tally.stopped > 0 && tally.whole > 0, "the bits met too little: {tally:?}");
    assert!(tally.lost.is_empty(), "messages were passed over in silence: {tally:?}");
}

/// redb reads such a file whole when it is opened, and goes back to the commit before where the last one looks torn: what a bit
/// can cost is the last commit, since nothing tells it from one that a crash cut short.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_not_closed_serves_nothing_that_changed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::new(folder.path()).await;
    opened.fill().await;
    let file = folder.path().join(DATA_FILE);
    let before = fs::read(&file).expect("it is there");
    opened.plain("plain", &["the last"]).await;
    let bytes = fs::read(&file).expect("it is there");
    opened.close().await;
    let tally = flip(&bytes, Some(&before), 6).await;
    let all_met = tally.refused > 0 && tally.whole > 0 && tally.rolled_back > 0;
    assert!(all_met, "the bits met too little: {tally:?}");
    assert!(tally.lost.is_empty(), "messages were passed over in silence: {tally:?}");
}

/// What `pelton verify` is for: redb trusts a file that was closed in order, and finds out only when it is asked.
#[tokio::test]
async fn verify_finds_every_flipped_bit_that_matters() {
    let (folder, bytes) = filled_file().await;
    let file = folder.path().join("flipped");
    let Fate::Served(expected) = fate(&bytes).await else { panic!("the file is whole") };
    let mut random = fastrand::Rng::with_seed(7);
    let (mut found, mut harmless) = (BTreeSet::new(), 0);
    for _ in 0..FLIPS {
        let at = random.usize(4096..bytes.len());
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << random.u8(..8);
        fs::write(&file, &flipped).expect("written");
        let clean = report(&file, &mut |_| {}).is_ok_and(|report| report.is_clean());
        assert!(fs::read(&file).expect("it is there") == flipped, "the file changed");
        if !clean {
            found.insert(at);
            continue;
        }
        let Fate::Served(served) = fate(&flipped).await else { panic!("a bit at {at} matters, and was not found") };
        assert_eq!(served, expected, "a bit at {at} matters, and was not found");
        harmless += 1;
    }
    assert!(found.len() > 10 && harmless > 10, "the bits met too little: {} found, {harmless} harmless", found.len());
}
