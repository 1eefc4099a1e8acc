//! What flipped bits make of keys and values. Rows that searches miss are noticed when their queue is read to its end, by the counters;
//! those that are found where they do not belong, or say something else than they did, at once.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pelton_core::engine::{
    Append, Browse, Engine as _, Health, Identity, LeaseRequest, Leased, NewEntry, RequestError, Settlement, Verdict,
};
use pelton_core::testing::TestClock;
use pelton_engine_redb::{DATA_FILE, RedbEngine, Tuning, export, report};
use redb::{Database, ReadableTable as _, TableDefinition};

use crate::support::{BODY_BYTES, Opened, definitions, filled_file, message, open_with, queue, topic, usual_tuning};

const READY: TableDefinition<'_, (u32, u8, u64), &[u8]> = TableDefinition::new("ready");
const DUE: TableDefinition<'_, (u32, u64, u64), &[u8]> = TableDefinition::new("due");
const PARKED: TableDefinition<'_, (u32, u64, u64), &[u8]> = TableDefinition::new("parked");
const RETRYING: TableDefinition<'_, (u32, u64, u64), (u32, u64)> = TableDefinition::new("retrying");
const COUNTERS: TableDefinition<'_, (u8, u32), (u32, &[u8])> = TableDefinition::new("counters");

const NAMES: TableDefinition<'_, (u8, &str), (u32, &[u8])> = TableDefinition::new("names");
const ATTEMPTS: TableDefinition<'_, (u64, u32), (u32, &[u8])> = TableDefinition::new("attempts");
const BODY_REFS: TableDefinition<'_, u64, (u32, u32)> = TableDefinition::new("body_refs");
const SCHEDULES: TableDefinition<'_, &str, (u32, u64)> = TableDefinition::new("schedules");
type Known = (u64, u64, u32, u64, &'static [u8]);
const DEDUP: TableDefinition<'_, (u32, u32, u128), (u32, Known)> = TableDefinition::new("dedup");

/// Looks at everything, publishes a double, and leases all there is, an hour later what waits; what stopped it, if something did.
async fn drain(dir: &Path, tuning: Tuning) -> Option<String> {
    let clock = TestClock::new();
    let engine = match open_with(dir, clock.clone(), tuning) {
        Ok(engine) => engine,
        Err(error) => return Some(error.to_string()),
    };
    let stopped = use_all(&engine, &clock).await.err();
    // Reading ahead goes on behind the answers: whoever asks next is told what it found.
    let health = engine.health().borrow().clone();
    engine.close(Duration::from_secs(60)).await;
    let Health::Failed(reason) = health else { return stopped };
    Some(reason)
}

async fn use_all(engine: &RedbEngine, clock: &TestClock) -> Result<(), String> {
    let said = |error: RequestError| error.to_string();
    let defined = engine.define(definitions()).await.map_err(|error| error.to_string())?;
    for queue in defined.queues.values().copied() {
        engine.browse(Browse { queue, after: None, max: 1000 }).await.map_err(said)?;
    }
    let once = message("once", BODY_BYTES);
    let entry = NewEntry::new(defined.queues[&queue("plain")], topic(), once.clone());
    let identity = Identity { entries: 0..1, topic: topic(), message: once, window: Duration::from_secs(3600) };
    engine.append(Append { entries: vec![entry], identities: vec![identity], tick: None }).await.map_err(said)?;
    for _ in 0..2 {
        for queue in defined.queues.values().copied() {
            loop {
                let want = LeaseRequest { queue, max: 10, wait: Duration::ZERO, ttl: None };
                let leased = engine.lease(want).await.map_err(said)?;
                if leased.is_empty() {
                    break;
                }
                let verdict = Verdict::Done { emits: Vec::new() };
                let done =
                    |leased: &Leased| Settlement { lease: leased.token, attempt: None, verdict: verdict.clone() };
                for result in engine.settle(leased.iter().map(done).collect()).await {
                    result.map_err(|error| error.to_string())?;
                }
            }
        }
        clock.advance(Duration::from_secs(3601));
        engine.look_at_the_clock();
    }
    Ok(())
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
    tamper(&file, hide);
    let said = drain(dir, tuning).await.expect("something is hidden");
    for part in parts.iter().chain(&["damaged"]) {
        assert!(said.contains(part), "{said:?} does not say {part:?}");
    }
}

fn tamper(file: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(file).expect("it is a database");
    let txn = database.begin_write().expect("begun");
    change(&txn);
    txn.commit().expect("committed");
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

#[tokio::test]
async fn an_export_says_what_it_misses() {
    let (folder, _) = filled_file().await;
    tamper(&folder.path().join(DATA_FILE), |txn| {
        txn.open_table(READY).expect("a table").pop_last().expect("read").expect("there is one");
    });
    let exported = export(folder.path(), &|_| true, &mut Vec::new(), &mut |_| {}).expect("it can be read");
    let one_less = exported
        .queues
        .iter()
        .map(|(queue, found)| format!("{found} messages of queue '{queue}' are found, {} are counted", found + 1));
    let [said] = &exported.problems[..] else { panic!("{:?}", exported.problems) };
    assert!(one_less.into_iter().any(|expected| expected == *said), "{said}");
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
    let tuning = Tuning { window_entries: 4, ..usual_tuning() };
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

/// Changes something that is sealed, and looks whether it is noticed where it is used, and when the file is verified.
async fn check_changed(change: impl Fn(&redb::WriteTransaction)) {
    let parts = ["the checksum of ", " is wrong"];
    check(&change, &parts).await;
    let (folder, _) = filled_file().await;
    let file = folder.path().join(DATA_FILE);
    tamper(&file, &change);
    let problems = report(&file, &mut |_| {}).expect("redb can read it").problems;
    assert!(problems.iter().any(|problem| parts.iter().all(|part| problem.contains(part))), "{problems:#?}");
}

fn flip(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_changed_are_not_believed() {
    check_changed(|txn| {
        let mut table = txn.open_table(RETRYING).expect("a table");
        let (key, (sum, due)) =
            table.pop_first().expect("read").map(|(key, row)| (key.value(), row.value())).expect("one");
        table.insert(key, (sum, due ^ 1)).expect("inserted");
    })
    .await;
    check_changed(|txn| {
        let mut table = txn.open_table(BODY_REFS).expect("a table");
        let (key, (sum, users)) =
            table.pop_first().expect("read").map(|(key, row)| (key.value(), row.value())).expect("one");
        table.insert(key, (sum, users ^ 1)).expect("inserted");
    })
    .await;
    check_changed(|txn| {
        let mut table = txn.open_table(SCHEDULES).expect("a table");
        let (sum, at) = table.pop_first().expect("read").map(|(_, row)| row.value()).expect("one");
        table.insert("nightly", (sum, at ^ 1)).expect("inserted");
    })
    .await;
    check_changed(|txn| {
        let mut table = txn.open_table(DEDUP).expect("a table");
        let (key, sum, (accepted, first, targets, body)) = {
            let (key, row) = table.pop_first().expect("read").expect("one");
            let (sum, known) = row.value();
            (key.value(), sum, (known.0, known.1, known.2, known.3))
        };
        table.insert(key, (sum, (accepted, first ^ 1, targets, body, [].as_slice()))).expect("inserted");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_changed_are_not_believed() {
    check_changed(|txn| {
        let mut table = txn.open_table(ATTEMPTS).expect("a table");
        let (key, sum, attempt) = {
            let (key, row) = table.pop_first().expect("read").expect("one");
            (key.value(), row.value().0, flip(row.value().1))
        };
        table.insert(key, (sum, attempt.as_slice())).expect("inserted");
    })
    .await;
    for kind in [0, 1] {
        check_changed(|txn| {
            let mut table = txn.open_table(COUNTERS).expect("a table");
            let (sum, record) = {
                let row = table.remove((kind, 0)).expect("read").expect("one");
                (row.value().0, flip(row.value().1))
            };
            table.insert((kind, 0), (sum, record.as_slice())).expect("inserted");
        })
        .await;
    }
    check_changed(|txn| {
        let mut table = txn.open_table(NAMES).expect("a table");
        let (sum, record) = {
            let row = table.remove((1, "plain")).expect("read").expect("one");
            (row.value().0, flip(row.value().1))
        };
        table.insert((1, "plain"), (sum, record.as_slice())).expect("inserted");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_under_another_key_is_not_believed() {
    check_changed(|txn| {
        let mut table = txn.open_table(NAMES).expect("a table");
        let (sum, record) = {
            let row = table.remove((1, "plain")).expect("read").expect("one");
            (row.value().0, row.value().1.to_vec())
        };
        table.insert((1, "plaia"), (sum, record.as_slice())).expect("inserted");
    })
    .await;
    check_changed(|txn| {
        let mut table = txn.open_table(SCHEDULES).expect("a table");
        let sealed = table.pop_first().expect("read").map(|(_, row)| row.value()).expect("one");
        table.insert("nighuly", sealed).expect("inserted");
    })
    .await;
}

/// A history is as long as its message says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_is_gone_is_missed() {
    let hide = |txn: &redb::WriteTransaction| {
        let mut table = txn.open_table(ATTEMPTS).expect("a table");
        table.pop_last().expect("read").expect("one");
    };
    check(hide, &["attempts at message"]).await;
}
