//! Those outside: producers, pull consumers, an operator, and what breaks disks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pelton_core::broker::{
    Broker, LeaseWant, Publish, PublishError, PublishOptions, Published, PullOutcome, ScheduledHandle,
};
use pelton_core::engine::{EngineError, Filter, LeaseToken, Leased, Select, SettleError};
use pelton_core::message::{Attributes, Message};
use pelton_core::name::Topic;

use super::ledger::{Fate, Request};
use super::plan::{Features, VARIANTS};
use super::world::World;
use crate::simulation::disk::Faults;

async fn pause(world: &World, most_ms: u64) {
    let ms = world.below(most_ms);
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Publishes for ever.
pub(super) async fn produce(world: Arc<World>, broker: Broker) {
    loop {
        pause(&world, 200).await;
        let again = repeatable(&world);
        let number = match again {
            Some(number) if world.chance(0.3) => number,
            _ => new_request(&world),
        };
        publish(&world, &broker, number).await;
    }
}

/// A request that may be repeated: any whose topic recognises doubles, rather one that nobody knows about.
fn repeatable(world: &World) -> Option<usize> {
    let mut state = world.state();
    let open = |request: &Request| request.fate == Fate::Open;
    let repeatable = state.ledger.requests.iter().enumerate().filter(|(_, request)| request.topic.starts_with("d."));
    let (open, others): (Vec<_>, Vec<_>) = repeatable.partition(|(_, request)| open(request));
    let numbers = if open.is_empty() { others } else { open };
    let numbers: Vec<usize> = numbers.into_iter().map(|(number, _)| number).collect();
    state.random.choice(numbers)
}

fn new_request(world: &World) -> usize {
    let topics = world.features.topics();
    let mut state = world.state();
    let topic = topics[state.random.usize(..topics.len())];
    let count = [1, 1, 1, 2, 5][state.random.usize(..5)];
    let ids = (0..count).map(|at| format!("m{}", state.next_message + at)).collect();
    state.next_message += count;
    let key = topic.ends_with("keyed").then(|| format!("k{}", state.random.u32(..3)));
    let delayed = world.features.delay && state.random.f64() < 0.2;
    let request = Request {
        topic,
        ids,
        fate: Fate::Open,
        under_way: 0,
        targets: BTreeSet::new(),
        delayed,
        key,
        handles: BTreeMap::new(),
    };
    state.ledger.requests.push(request);
    state.ledger.requests.len() - 1
}

fn message(id: &str, key: Option<&str>, number: usize) -> Message {
    let priority = (number % 10).to_string();
    let mut extensions = vec![("priority", priority.as_str())];
    extensions.extend(key.map(|key| ("partitionkey", key)));
    let attributes = Attributes { id, source: "/system", kind: "t", extensions: &extensions, ..Attributes::default() };
    let body = vec![b'x'; [0, 10, 30, 150][number % 4]];
    Message::new(&attributes, &body).expect("the attributes are valid")
}

async fn publish(world: &World, broker: &Broker, number: usize) {
    let (batch, options) = {
        let (now, expiry) = (world.clock.now(), world.features.expiry);
        let mut state = world.state();
        let variant = state.variant;
        let (delay, ttl) = (state.random.u64(1..8000), state.random.u64(100..6000));
        let mut options = PublishOptions::default();
        if expiry && state.random.f64() < 0.2 {
            options.ttl = Some(Duration::from_millis(ttl));
        }
        let twice = state.random.f64() < 0.2;
        let request = &mut state.ledger.requests[number];
        request.under_way += 1;
        request.targets.insert(Features::targets(request.topic, variant));
        if request.delayed {
            options.due = Some(now.wall.plus(Duration::from_millis(delay)));
        }
        let topic = Topic::new(request.topic).expect("a topic");
        let publish =
            |id: &String| Publish { topic: topic.clone(), message: message(id, request.key.as_deref(), number) };
        let mut batch: Vec<Publish> = request.ids.iter().map(publish).collect();
        if request.topic.starts_with("d.") && twice {
            batch.push(batch[0].clone());
        }
        (batch, options)
    };
    let result = broker.publish(batch, options).await;
    world.trace(format!("{result:?}"));
    world.check(answered(world, number, result));
}

/// Takes note of the answer to a request.
fn answered(world: &World, number: usize, result: Result<Vec<Published>, PublishError>) -> Result<(), String> {
    let mut state = world.state();
    let known = state.ledger.requests[number].clone();
    let request = &mut state.ledger.requests[number];
    request.under_way -= 1;
    match result {
        Ok(published) => {
            let first = published.iter().take(request.ids.len());
            let doubles = first.clone().filter(|published| published.duplicate).count();
            if doubles != 0 && doubles != request.ids.len() {
                return Err(format!("{known:?} is known in part: {published:?}"));
            }
            if known.fate == Fate::Accepted && doubles == 0 {
                return Err(format!("{known:?} is stored again: {published:?}"));
            }
            for published in first {
                let Some(handle) = &published.scheduled else { continue };
                match request.handles.entry(published.id.clone()) {
                    Entry::Vacant(place) => {
                        place.insert(handle.clone());
                    }
                    Entry::Occupied(known) if known.get() == handle => {}
                    Entry::Occupied(known) => {
                        return Err(format!("a double has another handle: {known:?}, {handle:?}"));
                    }
                }
            }
            request.fate = Fate::Accepted;
            state.count(if doubles > 0 { "publish doubled" } else { "publish accepted" });
        }
        Err(PublishError::Refused(refusals)) => {
            let code = refusals[0].code.as_str();
            if code != "queue-full" {
                return Err(format!("{known:?} is refused: {refusals:?}"));
            }
            if known.fate == Fate::Accepted {
                return Err(format!("{known:?} is stored, and now refused: {refusals:?}"));
            }
            // Of several tries at once another one may yet be stored.
            if request.under_way == 0 {
                request.fate = Fate::Refused;
            }
            state.count("publish refused");
        }
        Err(PublishError::Engine(EngineError::Unknown)) => {
            if known.fate == Fate::Refused {
                request.fate = Fate::Open;
            }
            state.count("publish unknown");
        }
        // Nothing was done; what is open stays so, for an earlier try.
        Err(PublishError::Engine(EngineError::Unavailable)) => state.count("publish unavailable"),
        Err(PublishError::Engine(error)) => return Err(format!("{known:?}: {error}")),
    }
    Ok(())
}

/// Leases and settles for ever, and forgets some.
pub(super) async fn pull(world: Arc<World>, broker: Broker) {
    loop {
        pause(&world, 100).await;
        let want = LeaseWant {
            max: 1 + world.below(4) as usize,
            wait: Duration::from_millis(world.below(300)),
            ttl: Duration::from_millis(30 + world.below(1000)),
        };
        let Ok(leased) = broker.lease("pulled", want).await else { continue };
        if leased.is_empty() {
            continue;
        }
        world.count("pulled");
        pause(&world, [10, 400, 1500][world.below(3) as usize]).await;
        if world.chance(0.2) {
            let by = Duration::from_millis(200);
            broker.extend(leased.iter().map(|leased| (leased.token, by)).collect()).await;
            pause(&world, 300).await;
        }
        match world.below(10) {
            0 => broker.release(leased.iter().map(|leased| leased.token).collect()).await,
            1 if !world.state().calm => world.count("lease forgotten"),
            _ => settle(&world, &broker, leased).await,
        }
    }
}

async fn settle(world: &World, broker: &Broker, leased: Vec<Leased>) {
    let calm = world.state().calm;
    let batch: Vec<(LeaseToken, PullOutcome)> = leased
        .iter()
        .map(|leased| {
            let outcome = match world.below(if calm { 1 } else { 6 }) {
                4 => PullOutcome::Retry { reason: String::new(), after: None },
                5 => PullOutcome::Reject { reason: String::new() },
                _ => PullOutcome::Ack,
            };
            (leased.token, outcome)
        })
        .collect();
    let acks: Vec<bool> = batch.iter().map(|(_, outcome)| *outcome == PullOutcome::Ack).collect();
    let doubt: Vec<&Leased> = leased.iter().zip(&acks).filter(|(_, ack)| **ack).map(|(leased, _)| leased).collect();
    {
        let mut state = world.state();
        for leased in doubt {
            let message = leased.message.id().to_owned();
            state.ledger.doubtful(leased.token.entry, message);
        }
    }
    let results = broker.settle(batch).await;
    world.trace(format!("{results:?}"));
    let mut state = world.state();
    for ((leased, ack), result) in leased.iter().zip(acks).zip(results) {
        let entry = leased.token.entry;
        match result {
            Ok(()) if ack => {
                let message = leased.message.id().to_owned();
                if state.ledger.acknowledged.insert(entry, message).is_some() {
                    state.wrong(format!("{} was acknowledged twice", leased.message.id()));
                }
                state.count("acknowledged");
            }
            Ok(()) => {}
            Err(SettleError::LeaseLost | SettleError::AlreadySettled) => {
                state.count("lease lost");
                if ack {
                    state.ledger.not_acknowledged(entry);
                }
            }
            Err(SettleError::Engine(EngineError::Corrupt(what))) => state.wrong(what),
            Err(SettleError::Engine(_)) => state.count("settle unknown"),
        }
    }
}

/// Changes what runs, for ever.
pub(super) async fn operate(world: Arc<World>, broker: Broker) {
    loop {
        pause(&world, 1000).await;
        let Features { reloads, pauses, redrives, cancels, clock_steps, .. } = world.features;
        match world.below(8) {
            0 if reloads => reload(&world, &broker).await,
            1 | 2 if pauses => pause_something(&world, &broker).await,
            3 if redrives => redrive(&world, &broker).await,
            4 | 5 if cancels => cancel(&world, &broker).await,
            6 if clock_steps => {
                world.count("clock set");
                let by = Duration::from_millis(world.below(4000));
                world.clock.step_wall(world.chance(0.5), by);
            }
            7 => {
                let consumer = ["worker", "keyed", "small"][world.below(3) as usize].to_owned();
                let mut state = world.state();
                if !state.outages.remove(&consumer) {
                    state.outages.insert(consumer);
                }
            }
            _ => {}
        }
    }
}

async fn reload(world: &World, broker: &Broker) {
    let variant = u32::try_from(world.below(u64::from(VARIANTS))).unwrap_or_default();
    match world.features.deployment(variant) {
        Ok(deployment) => {
            if broker.deploy(deployment).await.is_ok() {
                let mut state = world.state();
                state.variant = variant;
                state.count("reloaded");
            }
        }
        Err(error) => world.wrong(error),
    }
}

async fn pause_something(world: &World, broker: &Broker) {
    let paused = world.chance(0.5);
    world.count("paused or resumed");
    // Either may not exist in the variant that runs.
    if world.chance(0.5) {
        let queue = ["work", "copy", "keyed", "pulled", "echo"][world.below(5) as usize];
        let _ = broker.pause_queue(queue, paused).await;
    } else {
        let consumer = ["worker", "copier", "keyed", "small"][world.below(4) as usize];
        let _ = broker.pause_consumer(consumer, paused).await;
    }
}

async fn redrive(world: &World, broker: &Broker) {
    let queue = ["work", "copy", "small", "brief", "extra"][world.below(5) as usize];
    let Ok(status) = broker.queue(queue) else { return };
    world.state().ledger.redriving(status.counts.id.0);
    let dead = format!("{queue}.dead");
    let max = 1 + world.below(20) as usize;
    let done = broker.redrive(&dead, None, Select::All, Filter::default(), None, max).await;
    if done.is_ok_and(|step| step.changed > 0) {
        world.count("redriven");
    }
    world.state().ledger.redriving.remove(&status.counts.id.0);
}

async fn cancel(world: &World, broker: &Broker) {
    let chosen = {
        let mut state = world.state();
        let handles = state.ledger.requests.iter().flat_map(|request| &request.handles);
        let open: Vec<(String, ScheduledHandle)> = handles
            .filter(|(id, _)| !state.ledger.is_cancelled(id))
            .map(|(id, handle)| (id.clone(), handle.clone()))
            .collect();
        let chosen = state.random.choice(open);
        if let Some((id, handle)) = &chosen {
            state.ledger.cancelling(id, handle.targets() as u64);
        }
        chosen
    };
    let Some((id, handle)) = chosen else { return };
    if let Ok(cancelled) = broker.cancel(&handle).await {
        let mut state = world.state();
        state.count(if cancelled.is_too_late() { "cancelled too late" } else { "cancelled" });
        state.ledger.cancelled(&id, cancelled.cancelled);
    }
}

/// Breaks the disk now and then, for ever; the power too.
pub(super) async fn break_disk(world: Arc<World>) {
    loop {
        pause(&world, 3000).await;
        let mut state = world.state();
        let random = &mut state.random;
        let faults = match random.usize(..6) {
            0 => Faults { sync_in: Some(random.u64(..5)), ..Faults::default() },
            1 => Faults { write_in: Some(random.u64(..60)), ..Faults::default() },
            2 => Faults { read_in: Some(random.u64(..30)), ..Faults::default() },
            3 => Faults { full_for: random.u64(1..30), ..Faults::default() },
            _ => Faults { crash_in: Some(random.u64(..200)), ..Faults::default() },
        };
        drop(state);
        world.disk.set_faults(faults);
    }
}
