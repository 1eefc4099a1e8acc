//! What the simulated consumers do with a delivery: by the seed, anything that a component can.
//!
//! One that is done emits a receipt for the sink. Others emit as well, and nobody must ever see that.

use std::sync::Arc;
use std::time::Duration;

use pelton_core::engine::EntryId;
use pelton_core::runtime::{Delivery, FaultKind, Invoked, Outcome};
use pelton_core::testing::{FakeRuntime, emit, ended};

use super::look::receipt;
use super::world::{State, World};

/// A runtime in which every consumer of the plans has a component.
pub(super) fn runtime(world: &Arc<World>) -> FakeRuntime {
    let consumers = ["worker", "helper", "copier", "keyed", "small", "brief", "extra", "echo", "undertaker"];
    let runtime = FakeRuntime::new().slots(world.features.slots);
    consumers.into_iter().fold(runtime, |runtime, name| {
        let world = world.clone();
        runtime.handler_async(name, move |delivery| handle(world.clone(), delivery))
    })
}

/// A key that is being handled, until this is dropped.
struct Running {
    world: Arc<World>,
    key: Option<(String, String)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.world.state().running.remove(key);
        }
    }
}

async fn handle(world: Arc<World>, delivery: Delivery) -> Invoked {
    let entry = delivery.idempotency_key.split_once('-').and_then(|(_, entry)| u64::from_str_radix(entry, 16).ok());
    let entry = EntryId(entry.expect("an idempotency key ends with the entry"));
    world.trace((delivery.consumer.as_str(), delivery.message.id(), delivery.attempt));
    let _running = begin(&world, &delivery, entry);
    let (outcome, takes, panics, call) = {
        let mut state = world.state();
        state.next_call += 1;
        let call = state.next_call;
        state.count("delivered");
        let outcome = choose(&mut state, delivery.consumer.as_str());
        let takes = match state.random.usize(..20) {
            0..14 => 0,
            14..19 => state.random.u64(1..30),
            _ => state.random.u64(100..2500),
        };
        let panics = !state.calm && state.random.f64() < 0.005;
        (outcome, takes, panics, call)
    };
    if takes > 0 {
        tokio::time::sleep(Duration::from_millis(takes)).await;
    }
    if panics {
        world.count("host panicked");
        // Without the hook, which would print it.
        std::panic::resume_unwind(Box::new("the host panics"));
    }
    let text = match &outcome {
        Outcome::Done => receipt(entry, delivery.message.id(), delivery.consumer.as_str()),
        _ => "nobody sees this".to_owned(),
    };
    let mut emits = vec![emit(&format!("e{call}"), &format!("done.{}", delivery.consumer), text.as_bytes())];
    let delay = world.below(20);
    // The sink tells the order in which keyed messages were handled.
    if delay == 0 && delivery.consumer.as_str() == "worker" {
        emits[0].due = Some(world.clock.now().wall.plus(Duration::from_millis(700)));
    }
    let duration = Duration::from_micros(10 + world.below(1500));
    Invoked { emits, duration, ..ended(outcome) }
}

/// Checks what must be so when a delivery begins.
fn begin(world: &Arc<World>, delivery: &Delivery, entry: EntryId) -> Running {
    let mut state = world.state();
    // A dead-letter queue has the attempts that hold where nothing is said.
    let attempts_max = if delivery.consumer.as_str() == "undertaker" { 5 } else { world.features.attempts_max };
    if delivery.attempt == 0 || delivery.attempt > attempts_max {
        state.wrong(format!("attempt {} of {} of {}", delivery.attempt, attempts_max, delivery.message.id()));
    }
    let key = delivery.message.extension("partitionkey").filter(|_| delivery.consumer.as_str() == "keyed");
    let key = key.map(|key| (delivery.source.to_string(), key.to_owned()));
    if let Some(key) = &key
        && let Some(other) = state.running.insert(key.clone(), entry)
        && !state.reopened
    {
        state.wrong(format!("{key:?} is handled twice at once: entries {} and {}", other.0, entry.0));
    }
    drop(state);
    Running { world: world.clone(), key }
}

fn choose(state: &mut State, consumer: &str) -> Outcome {
    let reason = || "the seed wants it".to_owned();
    let fault = |kind| Outcome::Fault { kind, reason: reason() };
    if state.outages.contains(consumer) {
        state.count("outage");
        return fault(FaultKind::Trap);
    }
    if state.calm {
        return Outcome::Done;
    }
    match state.random.usize(..100) {
        0..60 => Outcome::Done,
        60..72 => Outcome::Retry { reason: reason(), after: None },
        72..79 => {
            let after = Duration::from_millis(state.random.u64(..3000));
            Outcome::Retry { reason: reason(), after: Some(after) }
        }
        79..84 => Outcome::Reject { reason: reason() },
        84..92 => fault(FaultKind::Trap),
        92..96 => fault(FaultKind::Timeout),
        96..98 => fault(FaultKind::Malformed),
        _ => fault(FaultKind::Host),
    }
}
