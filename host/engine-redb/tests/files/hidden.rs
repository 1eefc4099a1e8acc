//! Flipped bits in keys. Rows that searches miss are noticed when their queue is read to its end, by the counters; those that are found
//! where they do not belong, at once.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pelton_core::engine::{Engine as _, LeaseRequest, Settlement, Verdict};
use pelton_core::testing::TestClock;
use pelton_engine_redb::{DATA_FILE, Tuning};
use redb::{Database, ReadableTable as _, TableDefinition};

use crate::support::{Opened, filled_file, open_with};

const READY: TableDefinition<'_, (u32, u8, u64), &[u8]> = TableDefinition::new("ready");
const DUE: TableDefinition<'_, (u32, u64, u64), &[u8]> = TableDefinition::new("due");
const PARKED: TableDefinition<'_, (u32, u64, u64), &[u8]> = TableDefinition::new("parked");
const RETRYING: TableDefinition<'_, (u32, u64, u64), u64> = TableDefinition::new("retrying");
const COUNTERS: TableDefinition<'_, (u8, u32), &[u8]> = TableDefinition::new("counters");

/// Leases everything there is in all queues, an hour later for what waits; what stopped it, if something did.
async fn drain(dir: &Path, tuning: Tuning) -> Option<String> {
    let clock = TestClock::new();
    let engine = match open_with(dir, clock.clone(), tuning) {
        Ok(engine) => engine,
        Err(error) => return Some(error.to_string()),
    };
    let queues = match engine.define(crate::support::definitions()).await {
        Ok(defined) => defined.queues,
        Err(error) => return Some(error.to_string()),
    };
    for _ in 0..2 {
        for queue in queues.values().copied() {
            loop {
                let want = LeaseRequest { queue, max: 10, wait: Duration::ZERO, ttl: None };
                let leased = match engine.lease(want).await {
                    Ok(leased) => leased,
                    Err(error) => return Some(error.to_string()),
                };
                if leased.is_empty() {
                    break;
                }
                let done = |leased: &pelton_core::engine::Leased| Settlement {
                    lease: leased.token,
                    attempt: None,
                    verdict: Verdict::Done { emits: Vec::new() },
                };
                for result in engine.settle(leased.iter().map(done).collect()).await {
                    if let Err(error) = result {
                        return Some(error.to_string());
                    }
                }
            }
        }
        clock.advance(Duration::from_secs(3601));
        engine.look_at_the_clock();
    }
    // Reading ahead goes on behind the answers: whoever asks next is told what it found.
    let health = engine.health().borrow().clone();
    engine.close(Duration::from_secs(60)).await;
    match health {
        pelton_core::engine::Health::Failed(reason) => Some(reason),
        _ => None,
    }
}

/// Takes something out of a full file behind the store's back, and holds what it says against the parts.
async fn check(hide: impl FnOnce(&redb::WriteTransaction), parts: &[&str]) {
    let (folder, _) = filled_file().await;
    check_in(folder.path(), Tuning::default(), hide, parts).await;
}

async fn check_in(dir: &Path, tuning: Tuning, hide: impl FnOnce(&redb::WriteTransaction), parts: &[&str]) {
    let file = dir.join(DATA_FILE);
    let whole = fs::read(&file).expect("it is there");
    assert_eq!(drain(dir, tuning.clone()).await, None, "the file is whole");
    fs::write(&file, whole).expect("written");
    let database = Database::open(&file).expect("it is a database");
    let txn = database.begin_write().expect("begun");
    hide(&txn);
    txn.commit().expect("committed");
    drop(database);
    let said = drain(dir, tuning).await.expect("something is hidden");
    for part in parts.iter().chain(&["damaged"]) {
        assert!(said.contains(part), "{said:?} does not say {part:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_ready_is_missed() {
    for last in [false, true] {
        let hide = |txn: &redb::WriteTransaction| {
            let mut ready = txn.open_table(READY).expect("a table");
            let hidden = if last { ready.pop_last() } else { ready.pop_first() };
            assert!(hidden.expect("read").is_some());
        };
        check(hide, &["of queue '", "that are ready", "are found"]).await;
    }
}

/// Every message of a queue: it looks as if there had never been any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_looks_empty_is_not_opened() {
    let hide = |txn: &redb::WriteTransaction| {
        txn.open_table(READY).expect("a table").retain(|_, _| false).expect("removed");
    };
    check(hide, &["of queue '", "that are ready 0 are found", DATA_FILE, "restore it from a backup"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_waits_is_missed() {
    let hide = |txn: &redb::WriteTransaction| {
        let mut due = txn.open_table(DUE).expect("a table");
        let waits = due.iter().expect("read").map(|row| row.expect("read").0.value()).find(|key| key.1 != u64::MAX);
        due.remove(waits.expect("one waits")).expect("removed");
    };
    check(hide, &["that wait for their time", "are found"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_up_a_key_is_missed() {
    let hide = |txn: &redb::WriteTransaction| {
        let mut retrying = txn.open_table(RETRYING).expect("a table");
        assert!(retrying.pop_first().expect("read").is_some());
    };
    check(hide, &["of the 1 messages of queue 'keyed' that hold up their key 0 are found"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_under_another_key_is_not_delivered() {
    let parts = ["lies where none should be"];
    for change in [(0, 0, 1 << 20), (0, 1, 0), (4, 0, 0)] {
        let moved = |txn: &redb::WriteTransaction| {
            let mut ready = txn.open_table(READY).expect("a table");
            let (key, row) =
                ready.pop_last().expect("read").map(|(key, row)| (key.value(), row.value().to_vec())).expect("one");
            // The queue, the rank or the position.
            ready.insert((key.0 ^ change.0, key.1 ^ change.1, key.2 ^ change.2), row.as_slice()).expect("inserted");
        };
        check(moved, if change.1 == 1 { &["are found"] } else { &parts }).await;
    }
    let early = |txn: &redb::WriteTransaction| {
        let mut due = txn.open_table(DUE).expect("a table");
        let (key, row) =
            due.pop_first().expect("read").map(|(key, row)| (key.value(), row.value().to_vec())).expect("one");
        due.insert((key.0, key.1 ^ 1, key.2), row.as_slice()).expect("inserted");
    };
    check(early, &parts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_that_are_gone_are_no_empty_queue() {
    let hide = |txn: &redb::WriteTransaction| {
        txn.open_table(COUNTERS).expect("a table").remove((1, 0)).expect("removed").expect("they are there");
    };
    check(hide, &["the counters of queue 'keyed' are missing"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_key_is_missed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tuning = Tuning { window_entries: 4, reserve_bytes: 1 << 20, ..Tuning::default() };
    let opened = Opened::with(folder.path(), TestClock::new(), tuning.clone()).await;
    opened.keyed(&["a/1", "a/2", "a/3", "a/4", "a/5", "b/1"]).await;
    for _ in 0..3 {
        opened.lease("keyed", 10).await;
    }
    opened.close().await;
    let hide = |txn: &redb::WriteTransaction| {
        let mut parked = txn.open_table(PARKED).expect("a table");
        assert!(parked.pop_first().expect("read").is_some());
        parked.retain(|_, _| false).expect("removed");
    };
    check_in(folder.path(), tuning, hide, &["of queue 'keyed' that wait for their key 0 are found"]).await;
}
