//! Putting a backup in place, and what is refused there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use pelton_core::clock::Clock as _;
use pelton_core::engine::{Bulk, BulkAction, Engine as _, EntryOptions, Filter, Select};
use pelton_core::operator::Backup as _;
use pelton_engine_redb::{DATA_FILE, OpenError, RestoreError, Work, restore};

use crate::support::{Opened, clean_report, close, files_in, filled_file, open};

/// The error of restoring `file` into `dir`, whose text must have these parts.
fn check(file: &Path, dir: &Path, parts: &[&str]) -> RestoreError {
    let error = restore(file, dir, 3, &mut |_| {}).expect_err("it is refused");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
    error
}

#[tokio::test]
async fn a_data_file_of_old_is_put_in_place() {
    let (folder, bytes) = filled_file().await;
    let dir = folder.path().join("some/new");
    let mut work = Vec::new();
    let report = restore(&folder.path().join(DATA_FILE), &dir, 3, &mut |done| work.push(done)).expect("it is whole");
    assert_eq!((report.file, report.bytes), (dir.join(DATA_FILE), bytes.len() as u64));
    let copied = Work::Copying { done: report.bytes, of: report.bytes };
    assert!(work.contains(&copied) && work.contains(&Work::Pages), "{work:?}");
    assert!(matches!(work.last(), Some(Work::Rows { done, of }) if done == of && *of > 60), "{:?}", work.last());
    let opened = Opened::new(&dir).await;
    assert_eq!(opened.stored("plain").await.len(), 62);
    opened.close().await;
}

#[tokio::test]
async fn data_is_never_replaced() {
    let (folder, _) = filled_file().await;
    let file = folder.path().join(DATA_FILE);
    let other = tempfile::tempdir().expect("a temporary folder");
    let engine = open(other.path()).expect("it is new");
    let id = engine.store_id();
    let error = check(&file, other.path(), &["in use by another process"]);
    assert!(matches!(error, RestoreError::Open(OpenError::InUse { .. })), "{error:?}");
    close(engine).await;
    let error = check(&file, other.path(), &["holds data already", "move '", "pelton.redb' away"]);
    assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error:?}");
    check(&file, folder.path(), &["holds data already"]);
    let engine = open(other.path()).expect("it is as it was");
    assert_eq!(engine.store_id(), id);
    close(engine).await;
}

#[tokio::test]
async fn what_is_no_backup_is_refused_and_nothing_stays() {
    let (folder, bytes) = filled_file().await;
    let file = folder.path().join("backup");
    let dir = folder.path().join("new");
    let nothing_stays =
        || assert!(!files_in(&dir).iter().any(|name| name.starts_with(DATA_FILE)), "{:?}", files_in(&dir));

    check(&file, &dir, &["there is no data file", "backup'"]);
    assert!(!dir.exists());
    fs::write(&file, "a shopping list").expect("written");
    check(&file, &dir, &["backup' is not a data file of pelton"]);
    nothing_stays();
    fs::write(&file, "").expect("written");
    check(&file, &dir, &["backup' is not a data file of pelton: it is empty"]);
    nothing_stays();
    fs::write(&file, &bytes[..bytes.len() / 2]).expect("written");
    let error = check(&file, &dir, &["the backup '", "backup' is damaged", "use another one"]);
    assert!(matches!(error, RestoreError::Damaged { .. }), "{error:?}");
    nothing_stays();
    redb::Database::create(folder.path().join("theirs")).expect("created");
    check(&folder.path().join("theirs"), &dir, &["theirs' is not a data file of pelton", "another program"]);
    nothing_stays();

    fs::write(&file, &bytes).expect("written");
    restore(&file, &dir, 3, &mut |_| {}).expect("the folder is as good as new");
}

#[tokio::test]
async fn a_file_in_use_is_no_backup() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = open(folder.path()).expect("it is new");
    check(&folder.path().join(DATA_FILE), &folder.path().join("new"), &["in use by another process"]);
    close(engine).await;
}

/// Idempotency keys and handles are made of positions. What the backup has keeps its own; what came after it is lost, and its positions
/// are given to nothing else: not in this store, nor in another one from the same backup.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_of_what_is_lost_are_not_given_out_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let original = Opened::new(folder.path()).await;
    original.fill().await;
    let store = original.engine.store_id();
    let entries =
        async |opened: &Opened| opened.stored("plain").await.iter().map(|stored| stored.entry).collect::<Vec<_>>();
    let kept = entries(&original).await;
    let copy = original.engine.backup().await.expect("there is room");
    let put_off = |opened: &Opened, id: &str| {
        let due = opened.clock.wall().plus(Duration::from_secs(600));
        (due, opened.entry("plain", id, 10, EntryOptions { due: Some(due), ..EntryOptions::default() }))
    };
    let publish = async |opened: &Opened| {
        let mut positions = Vec::new();
        for number in 0..50 {
            let entries = vec![put_off(opened, &format!("n{number}")).1];
            positions.extend(opened.engine.append(entries.into()).await.expect("the store is up").positions);
        }
        positions
    };
    let due = put_off(&original, "any").0;
    let mut all = BTreeSet::new();
    let lost = publish(&original).await;
    all.extend(lost.iter().copied());
    for seed in [1, 2] {
        let dir = folder.path().join(format!("restored-{seed}"));
        restore(copy.path(), &dir, seed, &mut |_| {}).expect("it is a backup, and the folder is new");
        clean_report(&dir);
        let restored = Opened::at(&dir, original.clock.clone()).await;
        assert_eq!((restored.engine.store_id(), entries(&restored).await), (store, kept.clone()), "the same messages");
        let new = publish(&restored).await;
        assert!(new.iter().all(|position| all.insert(*position)), "{new:?} were given out before");
        assert!(new.iter().all(|position| position.0 < 1 << 53), "{new:?}");
        // By the handles of what is lost nothing is cancelled, though all of these are due at the same time.
        let select = Select::Scheduled(lost.iter().map(|position| (due, *position)).collect());
        let (filter, action) = (Filter::default(), BulkAction::Discard);
        let cancel = Bulk { queue: restored.queues["plain"], select, filter, action, after: None, max: 100 };
        assert_eq!(restored.engine.bulk(cancel).await.expect("the store is up").changed, 0);
        restored.close().await;
        clean_report(&dir);
    }
    original.close().await;
}
