//! The engine keeps the contract of `pelton_core::engine`, on real files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pelton_core::engine::Fut;
use pelton_core::metrics::Metrics;
use pelton_core::testing::TestClock;
use pelton_core::testing::conformance::{self, Harness};
use pelton_engine_redb::{OpenOptions, RedbEngine, Tuning};
use tempfile::TempDir;

/// The clock stands still in most cases, so that nobody waits for it to pass.
fn usual() -> Tuning {
    Tuning { park_after: Duration::ZERO, ..Tuning::default() }
}

/// Thresholds so small that the cases cross them: windows fill up, keys stay on disk, answers are cut short.
fn small() -> Tuning {
    Tuning {
        window_entries: 3,
        refill_entries: 2,
        refill_below: 1,
        due_entries: 2,
        lease_entries: 5,
        bulk_scan_rows: 3,
        inline_bytes: 1000,
        ..usual()
    }
}

fn open(folder: Arc<TempDir>, clock: TestClock, tuning: Tuning) -> Harness {
    let options = OpenOptions {
        dir: PathBuf::from(folder.path()),
        clock: Arc::new(clock.clone()),
        metrics: Metrics::new().engine,
        tuning: tuning.clone(),
        seed: 1,
    };
    let engine = Arc::new(RedbEngine::open(options).expect("the folder is new or our own"));
    let poked = Arc::clone(&engine);
    let reopened = clock.clone();
    Harness {
        engine,
        clock,
        poke: Box::new(move || poked.look_at_the_clock()),
        many: (tuning.window_entries + tuning.window_entries / 4).max(conformance::MANY_MIN),
        reopen: Some(Box::new(move || Box::pin(async move { open(folder, reopened, tuning) }))),
    }
}

fn in_a_new_folder(tuning: &Tuning) -> Fut<'static, Harness> {
    let tuning = tuning.clone();
    Box::pin(async move {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        open(folder, TestClock::new(), tuning)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms() {
    let report = conformance::run(|| in_a_new_folder(&usual())).await;
    assert_eq!(report.skipped, [""; 0], "it claims everything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms_with_small_thresholds() {
    let tuning = small();
    let report = conformance::run(|| in_a_new_folder(&tuning)).await;
    assert_eq!(report.skipped, [""; 0], "it claims everything");
}
