//! Copies of a store in use.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pelton_core::engine::{Engine as _, EngineError, EntryOptions, SettleError, Settlement, Verdict};
use pelton_core::operator::Backup as _;
use pelton_core::testing::conformance::eventually;
use pelton_engine_redb::{DATA_FILE, LOCK_FILE, RESERVE_FILE, restore};

use crate::support::{Opened, clean_report, files_in};

/// What stands in a data folder that nobody copies.
const USUAL: [&str; 3] = [LOCK_FILE, DATA_FILE, RESERVE_FILE];

fn restored(file: &Path, dir: &Path) {
    restore(file, dir, 3, &mut |_| {}).expect("it is a backup, and the folder is new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_the_same_store_with_all_that_is_known() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let original = Opened::new(folder.path()).await;
    original.fill().await;
    let everything = original.everything().await;
    let counts = original.engine.counts();
    let leased = original.lease("second", 1).await;
    let copy = original.engine.backup().await.expect("there is room");
    assert_eq!(copy.bytes(), fs::metadata(copy.path()).expect("it is there").len());
    assert!(clean_report(copy.path()).closed_in_order);

    let other = folder.path().join("other");
    restored(copy.path(), &other);
    let again = Opened::at(&other, original.clock.clone()).await;
    assert_eq!(again.engine.store_id(), original.engine.store_id());
    assert_eq!(again.everything().await, everything);
    let figures = again.engine.counts();
    for (one, other) in counts.queues.iter().zip(&figures.queues) {
        assert_eq!(
            (&one.name, one.ready, one.scheduled, one.bytes),
            (&other.name, other.ready, other.scheduled, other.bytes)
        );
    }
    assert!(again.publish_with_window("once").await, "doubles are recognised as before");
    // Leases end where a store is opened, so that the epoch has to have grown.
    let lease = leased[0].token;
    let settlement = Settlement { lease, attempt: None, verdict: Verdict::Done { emits: Vec::new() } };
    assert_eq!(again.engine.settle(vec![settlement]).await, [Err(SettleError::LeaseLost)]);
    again.close().await;
    original.close().await;
    clean_report(&other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_of_one_moment_while_everything_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Arc::new(Opened::new(folder.path()).await);
    opened.fill().await;
    let before = (opened.stored("ranked").await.len(), opened.stored("second").await.len());
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn({
        let (opened, stop) = (Arc::clone(&opened), Arc::clone(&stop));
        async move {
            let mut published = 0;
            while !stop.load(Ordering::Relaxed) {
                let id = format!("n{published}");
                let options = EntryOptions::default;
                // Both or none: what a copy must not tear apart.
                opened
                    .append(vec![
                        opened.entry("ranked", &id, 90, options()),
                        opened.entry("second", &id, 90, options()),
                    ])
                    .await;
                published += 1;
            }
            published
        }
    });
    for number in 0..3 {
        let copy = opened.engine.backup().await.expect("there is room");
        let report = clean_report(copy.path());
        let of = |name: &str| report.queues.iter().find(|queue| queue.name == name).expect("it is there").messages;
        assert_eq!(of("ranked") - before.0 as u64, of("second") - before.1 as u64, "copy {number}");
    }
    stop.store(true, Ordering::Relaxed);
    let published = publishing.await.expect("it does not panic");
    assert!(published > 3, "publishing went on: {published}");
    assert_eq!(opened.stored("ranked").await.len(), before.0 + published, "nothing is lost to the copies");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_gone_with_who_holds_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::new(folder.path()).await;
    opened.fill().await;
    let copy = opened.engine.backup().await.expect("there is room");
    assert_eq!(files_in(folder.path()).len(), USUAL.len() + 1);
    drop(copy);
    assert_eq!(files_in(folder.path()), USUAL);
    // Whoever asked goes away at some moment of the work.
    for patience_us in [0, 100, 1000, 5000] {
        let patience = Duration::from_micros(patience_us);
        drop(tokio::time::timeout(patience, opened.engine.backup()).await);
        eventually("the copy that nobody waits for is gone", async || files_in(folder.path()) == USUAL).await;
    }
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_of_a_copy_is_removed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("pelton.copy.7"), "half a copy").expect("written");
    let opened = Opened::new(folder.path()).await;
    assert_eq!(files_in(folder.path()), USUAL);
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_store_is_not_copied() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::new(folder.path()).await;
    opened.engine.close(Duration::from_secs(60)).await;
    assert_eq!(opened.engine.backup().await.map(|_| ()), Err(EngineError::Unavailable.into()));
}
