//! One process of the simulated broker, from its start to its end in order, by a kill, or with the power; and the next one.
//!
//! Each has a tokio runtime of its own on one thread, whose end is the end of all that ran. Time there is tokio's test time: it moves only
//! when nothing else can be done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pelton_core::broker::{Broker, Parts};
use pelton_core::engine::{Engine as _, Health};
use pelton_core::in_flight::InFlight;
use pelton_core::metrics::Metrics;

use super::actors;
use super::engine::SimEngine;
use super::handlers;
use super::plan::WHOLE;
use super::world::World;
use crate::simulation::disk::Faults;

/// Starts in a row after which the disk must be good again.
const START_TRIES: u32 = 20;
/// In so much time everything must have been handled once nothing fails any more.
const DRAIN_SECONDS: u64 = 1800;
/// So long after nothing else fails any more, consumers are whole again.
const LAST_OUTAGES: Duration = Duration::from_secs(20);
/// Producers at once.
const PRODUCERS: usize = 2;

/// The record of running deliveries, which outlives a killed process but not the power.
type Memory = Arc<[AtomicU64]>;

/// What there is beside the disk from one process to the next.
pub(super) struct Machine {
    memory: Memory,
    boot: u64,
    /// There is a file: it is made under another name and renamed when it is whole, so that nothing fails before.
    made: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Orderly,
    Killed,
    PowerCut,
    /// Everything was handled.
    Drained,
    /// Something is wrong.
    Wrong,
}

impl Machine {
    pub(super) fn new(world: &World) -> Self {
        let words = InFlight::words(world.features.slots);
        Self { memory: (0..words).map(|_| AtomicU64::new(0)).collect(), boot: 1, made: false }
    }

    /// Runs one process; the last one goes on until everything was handled. Whether it came to that.
    pub(super) fn live(&mut self, world: &Arc<World>, last: bool) -> Result<bool, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| error.to_string())?;
        let engine = self.open(world)?;
        {
            let mut state = world.state();
            state.reopened = false;
            state.running.clear();
            state.ledger.redriving.clear();
            state.ledger.requests.iter_mut().for_each(|request| request.under_way = 0);
        }
        let memory = self.memory.clone();
        let end = runtime.block_on(async {
            world.clock.begin();
            let end = process(world, &engine, InFlight::new(memory, self.boot), last).await;
            let pause = [0, 10, 3000, 60_000][world.below(4) as usize];
            world.clock.end(Duration::from_millis(world.below(pause + 1)));
            end
        });
        world.trace(format!("{end:?}"));
        if end != End::Orderly && end != End::Drained {
            // What ends now leaves no more traces: not on the disk, and not in the record.
            world.disk.cut_power();
            let words = self.memory.iter().map(|word| AtomicU64::new(word.load(Ordering::Relaxed)));
            self.memory = words.collect();
        }
        drop(runtime);
        drop(engine);
        match end {
            End::PowerCut => {
                world.count("power cut");
                self.boot += 1;
                world.disk.restore_power();
            }
            End::Killed => {
                world.count("killed");
                world.disk.revive();
            }
            End::Orderly => world.count("stopped"),
            End::Drained | End::Wrong => {}
        }
        match world.state().wrong.take() {
            Some(wrong) => Err(wrong),
            None => Ok(end == End::Drained),
        }
    }

    /// Opens the store, on a disk that may fail or lose its power meanwhile.
    fn open(&mut self, world: &Arc<World>) -> Result<SimEngine, String> {
        for _ in 0..START_TRIES {
            if self.made && world.chance(0.25) {
                let crash_in = Some(world.below(25));
                world.disk.set_faults(Faults { crash_in, ..Faults::default() });
            }
            match SimEngine::open(world) {
                Ok(engine) => {
                    self.made = true;
                    return Ok(engine);
                }
                Err(_) if world.disk.is_off() => {
                    world.count("power cut at start");
                    self.boot += 1;
                    world.disk.restore_power();
                }
                // The disk was told to fail before: somebody starts the broker again.
                Err(error) if error.is_passing() => {
                    world.count("start failed");
                    world.disk.revive();
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Err("the store never opened".to_owned())
    }
}

/// What happens in a process, until it ends.
async fn process(world: &Arc<World>, engine: &SimEngine, record: InFlight, last: bool) -> End {
    let serving = tokio::spawn(engine.clone().serve());
    let failed = async {
        match serving.await {
            // It was closed in order.
            Ok(()) => std::future::pending().await,
            Err(panic) => panic,
        }
    };
    let running = run(world, engine, record, last);
    tokio::select! {
        biased;
        () = engine.crashed() => End::PowerCut,
        panic = failed => {
            world.wrong(format!("the writer panicked: {panic}"));
            End::Wrong
        }
        end = running => end,
    }
}

async fn run(world: &Arc<World>, engine: &SimEngine, record: InFlight, last: bool) -> End {
    if last {
        world.disk.set_faults(Faults::default());
        let mut state = world.state();
        state.calm = true;
        state.variant = WHOLE;
        // What fails still does not fail much longer: breakers that open must close again.
        let world = world.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LAST_OUTAGES).await;
            world.state().outages.clear();
        });
    }
    // A disk that fails before there is a plan ends the process.
    world.check(compare(world, engine));
    let Some(broker) = start(world, engine, record).await else { return End::Killed };
    if last {
        return drain(world, engine, &broker).await;
    }
    for _ in 0..PRODUCERS {
        tokio::spawn(actors::produce(world.clone(), broker.clone()));
    }
    if world.features.pull {
        tokio::spawn(actors::pull(world.clone(), broker.clone()));
    }
    tokio::spawn(actors::operate(world.clone(), broker.clone()));
    if world.features.disk_faults {
        tokio::spawn(actors::break_disk(world.clone()));
    }
    let lasts = Duration::from_millis(300 + world.below(4000));
    tokio::time::sleep(lasts).await;
    match world.below(3) {
        0 => {
            // What is published meanwhile finds the store closed, or is the last.
            broker.stop(Duration::from_secs(5)).await;
            if engine.is_closed() { End::Orderly } else { End::Wrong }
        }
        1 => End::Killed,
        _ => End::PowerCut,
    }
}

/// A broker on this engine; none where the disk did not let it.
async fn start(world: &Arc<World>, engine: &SimEngine, record: InFlight) -> Option<Broker> {
    let variant = world.state().variant;
    let deployment = match world.features.deployment(variant) {
        Ok(deployment) => deployment,
        Err(error) => {
            world.wrong(error);
            return None;
        }
    };
    let parts = Parts {
        engine: Arc::new(engine.clone()),
        runtime: Arc::new(handlers::runtime(world)),
        clock: world.clock.clone(),
        metrics: Metrics::new(),
        guests: tokio::runtime::Handle::current(),
        observer: None,
        in_flight: world.features.record.then(|| Arc::new(record)),
        reload: None,
        backup: None,
    };
    match Broker::start(parts, deployment).await {
        Ok(broker) => {
            let now = world.clock.now().wall;
            world.state().begun.get_or_insert(now);
            Some(broker)
        }
        Err(error) => {
            world.count("start failed");
            world.trace(error.to_string());
            None
        }
    }
}

/// Holds the ledger against the store, where that is open.
fn compare(world: &World, engine: &SimEngine) -> Result<(), String> {
    let is_open = || *engine.health().borrow() != Health::Recovering && !world.disk.is_off();
    if !is_open() {
        return Ok(());
    }
    let looked = match engine.look() {
        Ok(looked) => looked,
        // The disk was told to fail.
        Err(_) if !is_open() => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut state = world.state();
    state.count("compared");
    let begun = state.begun;
    state.ledger.compare(&world.features, &looked)?;
    let span = begun.map(|begun| (begun, world.clock.latest()));
    super::ticks::check(&world.features, &looked.ticks, span)
}

/// Nothing fails any more: everything that is not held must be handled, within bounded time.
async fn drain(world: &Arc<World>, engine: &SimEngine, broker: &Broker) -> End {
    for queue in broker.queues() {
        let resumed = broker.pause_queue(queue.counts.name.as_str(), false).await;
        world.check(resumed.map_err(|error| error.to_string()));
    }
    for consumer in broker.consumers() {
        let resumed = broker.pause_consumer(consumer.name.as_str(), false).await;
        world.check(resumed.map_err(|error| error.to_string()));
    }
    // Pull consumers are there whether the run has had any or not.
    tokio::spawn(actors::pull(world.clone(), broker.clone()));
    for _ in 0..DRAIN_SECONDS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if world.state().wrong.is_some() {
            return End::Wrong;
        }
        let consumed = |name: &str| {
            let undertaken = world.features.undertaker && name == "work.dead";
            undertaken || !(name.ends_with(".dead") || name == "sink" || name == "ticks")
        };
        let busy = |queue: &pelton_core::engine::QueueCounts| queue.ready + queue.leased + queue.scheduled > 0;
        let counts = engine.counts();
        if counts
            .queues
            .iter()
            .any(|queue| busy(queue) && consumed(queue.name.as_str()) && queue.name.as_str() != "work.dead")
        {
            continue;
        }
        let looked = engine.look();
        match looked {
            Ok(looked) if looked.present.values().any(|item| consumed(&item.queue) && !item.held) => {}
            Ok(looked) if !super::ticks::are_up_to_date(&world.features, &looked.ticks, world.clock.now().wall) => {}
            Ok(_) => {
                world.check(compare(world, engine));
                return if world.state().wrong.is_some() { End::Wrong } else { End::Drained };
            }
            Err(error) => {
                world.wrong(error);
                return End::Wrong;
            }
        }
    }
    world.wrong(format!("messages are stuck: {:?}", engine.look().map(|looked| looked.present)));
    End::Wrong
}
