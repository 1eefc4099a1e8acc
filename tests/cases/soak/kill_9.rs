//! `kill -9` at random moments, in a loop, under load: whatever the moment, what was accepted is handled, takes effect exactly once,
//! and what was settled is not seen again.
//!
//! The page cache survives a killed process, so this shows that the broker's own memory holds nothing back; that the disk
//! has it is the subject of the engine's simulation.

use std::time::Duration;

use crate::support::{Load, Soak, Sums, THREE_WAYS, TestBroker, moment};

/// Kills between two audits.
const KILLS: u64 = 12;

#[tokio::test]
async fn kill_9_in_a_loop_under_load() {
    let mut broker = TestBroker::start(THREE_WAYS).await;
    let soak = Soak::new("kill -9 in a loop", Duration::from_secs(8));
    let mut random = soak.random();
    let mut load = Load::new(random.u64(..1_000_000));
    let (mut kills, mut sums) = (0, Sums::default());
    while soak.goes_on() {
        for _ in 0..KILLS {
            load.begin(&broker.api());
            moment(&mut random, 500).await;
            broker.kill_9();
            load.end().await;
            kills += 1;
            // At times also while it starts.
            while random.u8(..4) == 0 {
                broker.spawn();
                moment(&mut random, 100).await;
                broker.kill_9();
                kills += 1;
            }
            broker.restart().await;
            load.repeat_some(&broker.api(), &mut random).await;
            if !soak.goes_on() {
                break;
            }
        }
        sums += load.audit(&broker).await;
        soak.say(&format!("{kills} kills; {sums}"));
    }
}
