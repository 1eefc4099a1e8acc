//! A wall clock that jumps by up to two days at any moment, in both directions: nothing is lost, nothing comes twice, and no retry waits
//! for longer than its backoff.

use std::time::Duration;

use crate::support::{Load, Soak, Sums, THREE_WAYS, TestBroker, moment};

/// Jumps between two audits.
const JUMPS: u64 = 12;

#[tokio::test]
async fn jumps_at_any_moment_under_load() {
    let (mut broker, faults) = TestBroker::start_faulty(THREE_WAYS).await;
    let soak = Soak::new("clock jumps", Duration::from_secs(6));
    let mut random = soak.random();
    let mut load = Load::new(random.u64(..1_000_000));
    let (mut jumps, mut kills, mut sums) = (0, 0, Sums::default());
    while soak.goes_on() {
        for _ in 0..JUMPS {
            load.begin(&broker.api());
            moment(&mut random, 200).await;
            let by = Duration::from_millis(random.u64(..48 * 3_600_000));
            if random.bool() {
                faults.clock_ahead(by)
            } else {
                faults.clock_behind(by)
            }
            jumps += 1;
            moment(&mut random, 200).await;
            if random.u8(..4) == 0 {
                broker.kill_9();
                kills += 1;
                load.end().await;
                broker.restart().await;
            }
            load.end().await;
            if !soak.goes_on() {
                break;
            }
        }
        sums += load.audit(&broker).await;
        soak.say(&format!("{jumps} jumps, {kills} kills; {sums}"));
    }
}
