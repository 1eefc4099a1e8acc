//! Writes, syncs and reads that fail at any moment, at times over a restart: what was accepted is handled, takes effect exactly once, and the
//! broker comes back by itself.

use std::time::Duration;

use super::super::io_faults::readiness;
use crate::support::{Calls, CarriedOut, Errno, Fault, Faults, Load, Soak, Sums, THREE_WAYS, TestBroker, moment};

/// Faults between two audits.
const FAULTS: u64 = 12;

#[tokio::test]
async fn faults_of_any_kind_at_any_moment_under_load() {
    let (mut broker, faults) = TestBroker::start_faulty(THREE_WAYS).await;
    let soak = Soak::new("disk faults", Duration::from_secs(8));
    let mut random = soak.random();
    let mut load = Load::new(random.u64(..1_000_000));
    let (mut failed, mut kills, mut sums) = (0, 0, Sums::default());
    while soak.goes_on() {
        for _ in 0..FAULTS {
            load.begin(&broker.api());
            moment(&mut random, 200).await;
            faults.begin(any(&mut random));
            moment(&mut random, 300).await;
            if random.u8(..4) == 0 {
                kill_and_start(&mut broker, &faults).await;
                kills += 1;
            }
            failed += faults.failed();
            faults.end();
            assert!(broker.runs(), "it ended");
            readiness(&broker, 200).await;
            load.end().await;
            load.repeat_some(&broker.api(), &mut random).await;
            if !soak.goes_on() {
                break;
            }
        }
        sums += load.audit(&broker).await;
        soak.say(&format!("{failed} calls failed, {kills} kills meanwhile; {sums}"));
    }
    assert!(failed > 0, "no fault struck");
}

/// A fault of any kind: a single call, a few, or all for a while.
fn any(random: &mut fastrand::Rng) -> Fault {
    let of = [Calls::Write, Calls::Sync, Calls::Read, Calls::Grow, Calls::All];
    let carried_out = [CarriedOut::Nothing, CarriedOut::Half, CarriedOut::All];
    Fault {
        calls: of[random.usize(..of.len())],
        errno: if random.bool() { Errno::Io } else { Errno::NoSpace },
        carried_out: carried_out[random.usize(..carried_out.len())],
        pass: random.u64(..60),
        count: [Some(1), Some(3), None][random.usize(..3)],
    }
}

/// Kills it and starts it on a disk that may still fail. Then it refuses to start, and does with a disk that is well.
async fn kill_and_start(broker: &mut TestBroker, faults: &Faults) {
    broker.kill_9();
    broker.spawn();
    if let Err(status) = broker.ready().await {
        assert_eq!(status.code(), Some(6), "{}", broker.said());
        faults.end();
        broker.restart().await;
    }
}
