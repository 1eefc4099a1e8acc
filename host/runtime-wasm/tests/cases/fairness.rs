//! Guests that never end, and whether others notice.

use std::sync::Arc;
use std::time::Duration;

use pelton_core::runtime::{FaultKind, Handler, Limits, Outcome, Runtime};
use pelton_runtime_wasm::{RuntimeOptions, WasmRuntime};

use crate::support::{delivery, guest, limits, spec};

async fn runtime(slots: usize) -> WasmRuntime {
    WasmRuntime::new(RuntimeOptions { slots, workers: 2, ..RuntimeOptions::default() }).expect("a runtime")
}

async fn load(runtime: &WasmRuntime, timeout: Duration) -> Arc<dyn Handler> {
    runtime.load(spec(guest("runtime_guest"), Limits { timeout, ..limits() })).await.expect("it loads")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_endless_loops_leave_room_for_others_and_all_time_out() {
    let runtime = runtime(128).await;
    let (endless, quick) =
        (load(&runtime, Duration::from_secs(2)).await, load(&runtime, Duration::from_secs(20)).await);
    let loops: Vec<_> = (0..100)
        .map(|_| {
            let endless = Arc::clone(&endless);
            tokio::spawn(async move { endless.invoke(delivery(b"spin")).await })
        })
        .collect();
    let mut done = 0_u32;
    while !loops.iter().any(tokio::task::JoinHandle::is_finished) {
        let quick = Arc::clone(&quick);
        let invoked = tokio::spawn(async move { quick.invoke(delivery(b"")).await }).await.expect("no panic");
        assert_eq!(invoked.outcome, Outcome::Done);
        done += 1;
    }
    assert!(done > 100, "{done} quick deliveries beside a hundred loops of two seconds");
    for spinning in loops {
        let invoked = spinning.await.expect("no panic");
        assert!(matches!(invoked.outcome, Outcome::Fault { kind: FaultKind::Timeout, .. }), "{:?}", invoked.outcome);
    }
}

#[tokio::test]
async fn one_worker_is_shared_too() {
    let runtime = WasmRuntime::new(RuntimeOptions { workers: 1, slots: 4, ..RuntimeOptions::default() }).expect("one");
    let endless = load(&runtime, Duration::from_secs(1)).await;
    let quick = load(&runtime, Duration::from_secs(20)).await;
    let spinning = tokio::spawn(async move { endless.invoke(delivery(b"spin")).await });
    // In a task of its own: a current-thread executor rarely looks at the future it blocks on while others are ready.
    let others = tokio::spawn(async move {
        let mut done = 0_u32;
        while !spinning.is_finished() {
            assert_eq!(quick.invoke(delivery(b"")).await.outcome, Outcome::Done);
            tokio::task::yield_now().await;
            done += 1;
        }
        done
    });
    let done = others.await.expect("no panic");
    // Without sharing there would be one at most; a busy machine makes it fewer than a quiet one.
    assert!(done > 20, "{done} deliveries beside a loop of one second");
}
