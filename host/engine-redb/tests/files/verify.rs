//! Reading a file whole: what is reported, and that nothing is changed by it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pelton_engine_redb::{DATA_FILE, FORMAT_VERSION, OpenError, export, report};
use redb::{Database, TableDefinition};

use crate::support::{LARGE_BYTES, Opened, clean_report, filled_file};

const PAGE_BYTES: usize = 4096;
const COUNTERS: TableDefinition<'_, (u8, u32), (u32, &[u8])> = TableDefinition::new("counters");
const BODIES: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("bodies");
const BODY_REFS: TableDefinition<'_, u64, (u32, u32)> = TableDefinition::new("body_refs");

#[tokio::test]
async fn a_report_says_what_is_there() {
    let (folder, bytes) = filled_file().await;
    let by_folder = clean_report(folder.path());
    let by_file = clean_report(&folder.path().join(DATA_FILE));
    assert_eq!(by_folder, by_file);
    assert_eq!(
        (by_folder.bytes, by_folder.format, by_folder.closed_in_order),
        (bytes.len() as u64, FORMAT_VERSION, true)
    );
    let figures: Vec<_> = by_folder
        .queues
        .iter()
        .map(|queue| (queue.name.as_str(), queue.declared, queue.messages, queue.scheduled))
        .collect();
    let expected = [
        ("keyed", true, 6, 1),
        ("plain", true, 62, 2),
        ("plain.dead", true, 2, 1),
        ("ranked", true, 3, 0),
        ("second", true, 2, 0),
    ];
    assert_eq!(figures, expected);
    assert_eq!((by_folder.bodies, by_folder.identities), (2, 1));
    assert_eq!(by_folder.attempts, 5);
    assert!(by_folder.queues[4].bytes > 2 * LARGE_BYTES as u64, "a shared body counts in full");
    assert!(fs::read(folder.path().join(DATA_FILE)).expect("it is there") == bytes, "the file changed");
}

#[tokio::test]
async fn a_store_in_use_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::new(folder.path()).await;
    for place in [folder.path(), &folder.path().join(DATA_FILE)] {
        let error = report(place, &mut |_| {}).expect_err("it is in use");
        assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    }
    opened.close().await;
}

/// What a crash leaves is checked as what opening it would make of it, and stays as it is.
#[tokio::test]
async fn a_file_that_was_not_closed_is_not_changed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::new(folder.path()).await;
    opened.fill().await;
    let bytes = fs::read(folder.path().join(DATA_FILE)).expect("it is there");
    opened.close().await;
    let file = folder.path().join("crashed");
    fs::write(&file, &bytes).expect("written");
    let crashed = clean_report(&file);
    assert!(!crashed.closed_in_order);
    assert_eq!(crashed.queues, clean_report(folder.path()).queues);
    assert!(fs::read(&file).expect("it is there") == bytes, "the file changed");
}

#[test]
fn what_is_no_data_file_is_named() {
    let check = |place: &Path, part: &str| {
        let text = report(place, &mut |_| {}).expect_err("it is no data file").to_string();
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(folder.path(), "there is no data file");
    check(&folder.path().join("nothing"), "there is no data file");
    fs::write(folder.path().join("list"), "bread, butter").expect("written");
    check(&folder.path().join("list"), "is not a data file of pelton");
}

/// Changes a closed file as nobody should, and looks for a part of a problem.
async fn check(change: impl FnOnce(&redb::WriteTransaction), part: &str) {
    let (folder, _) = filled_file().await;
    let file = folder.path().join(DATA_FILE);
    let database = Database::open(&file).expect("it is a database");
    let txn = database.begin_write().expect("begun");
    change(&txn);
    txn.commit().expect("committed");
    drop(database);
    let report = report(&file, &mut |_| {}).expect("redb can read it");
    assert!(report.problems.iter().any(|problem| problem.contains(part)), "no {part:?} in {:#?}", report.problems);
    assert!(!report.is_clean());
}

#[tokio::test]
async fn what_does_not_add_up_is_reported() {
    let counters = |txn: &redb::WriteTransaction| {
        txn.open_table(COUNTERS).expect("a table").remove((1, 0)).expect("removed");
    };
    check(counters, "its counters say None").await;
    let bodies = |txn: &redb::WriteTransaction| {
        txn.open_table(BODIES).expect("a table").insert((999_999, 0), &[1][..]).expect("inserted");
    };
    check(bodies, "body 999999 belongs to no message").await;
    let refs = |txn: &redb::WriteTransaction| {
        let mut table = txn.open_table(BODY_REFS).expect("a table");
        assert!(table.pop_first().expect("read").is_some(), "one body is shared");
    };
    check(refs, "has 2 users, and None are counted").await;
}

/// redb asserts what only a damaged file breaks. People are told what can't be read and what to do, not where in its source it stopped.
#[tokio::test]
async fn a_file_that_redb_panics_over_is_reported_readably() {
    let (folder, bytes) = filled_file().await;
    let file = folder.path().join("damaged");
    // Of pages that hold messages the kind, and where in them what begins.
    let holds_messages = |page: &&[u8]| page.windows(14).any(|window| window == b"orders.created");
    let pages = bytes.chunks(PAGE_BYTES).enumerate().filter(|(_, page)| holds_messages(page)).map(|(page, _)| page);
    let mut told = BTreeMap::<&str, usize>::new();
    for (page, (at, count)) in pages.flat_map(|page| [(page, (0, 1)), (page, (2, 2)), (page, (4, 40))]) {
        let mut damaged = bytes.clone();
        damaged[page * PAGE_BYTES..][at..at + count].fill(0xfe);
        fs::write(&file, &damaged).expect("written");
        let problems =
            report(&file, &mut |_| {}).map_or_else(|error| vec![error.to_string()], |report| report.problems);
        let exported = export(&file, &|_| true, &mut Vec::new(), &mut |_| {});
        let exported = exported.map_or_else(|error| vec![error.to_string()], |exported| exported.problems);
        for problem in problems.iter().chain(&exported) {
            assert!(!problem.contains(".rs") && !problem.contains("panicked"), "{problem}");
        }
        for what in [
            "is damaged: redb can't read what is in it; restore it from a backup",
            "pages are damaged",
            "the rest of it can't be read: the messages that are ready: redb can't read what is in it; restore a backup, or",
        ] {
            *told.entry(what).or_default() += usize::from(problems.iter().any(|problem| problem.contains(what)));
        }
    }
    assert!(told.values().all(|count| *count > 2), "the damage met too little: {told:?}");
}
