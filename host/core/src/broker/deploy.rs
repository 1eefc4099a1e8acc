//! Starting with a plan and taking over another: components are loaded, queues are defined, and then all of it runs, or
//! nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Semaphore};
use tracing::warn;

use super::schedules::Schedules;
use super::{Active, Broker, Inner, Parts, Routing};
use crate::clock::WallMs;
use crate::dispatch::{ConsumerUnit, Dispatch};
use crate::engine::{Defined, Engine, EngineError, Order, QueueId};
use crate::in_flight::InFlight;
use crate::metrics::Metrics;
use crate::name::{ConsumerName, ScheduleName};
use crate::plan::{ConsumerPlan, Plan};
use crate::runtime::{ComponentSpec, Handler, LoadError, Runtime};

/// A plan and the component file of each of its consumers.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The plan.
    pub plan: Arc<Plan>,
    /// By consumer. One that is missing gets no deliveries until a later deployment has it: its messages wait.
    pub components: BTreeMap<ConsumerName, PathBuf>,
}

/// Why a plan was not taken over; the one before it goes on unchanged.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// What the plan needs and the engine does not promise, each as a text for people.
    #[error("{}", .0.join("\n"))]
    Unmet(Vec<String>),
    /// Components that can't be used, every one of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Load(Vec<LoadError>),
    /// The engine could not define the queues.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Broker {
    /// Starts a broker with the first deployment; must be called on a tokio runtime, where its dispatch loop then runs.
    ///
    /// # Errors
    /// [`DeployError`]; nothing runs then.
    pub async fn start(parts: Parts, deployment: Deployment) -> Result<Self, DeployError> {
        let Parts { engine, runtime, clock, metrics, guests, observer, in_flight, reload, backup } = parts;
        let loaded = check_and_load(&*engine, &*runtime, &deployment).await?;
        let paused = engine.counts().paused_consumers.iter().cloned().collect();
        let (active, ticks) = activate(&*engine, &metrics, &deployment, loaded, paused).await?;
        if let Some(record) = &in_flight {
            take_over(record, &*engine, &metrics).await?;
        }
        let slots = runtime.slots();
        let dispatch = Dispatch::start(engine.clone(), clock.clone(), guests, slots, observer, in_flight.clone());
        dispatch.set_consumers(active.consumers.clone());
        let schedules = Schedules::start(engine.clone(), clock.clone(), metrics.clone());
        schedules.set(active.plan.clone(), active.routing.clone(), ticks);
        let inner = Inner {
            engine,
            runtime,
            clock,
            metrics,
            active: ArcSwap::from_pointee(active),
            dispatch,
            schedules,
            in_flight,
            deploying: Mutex::new(()),
            reload,
            reloading: Mutex::new(()),
            backup,
            backing_up: Arc::new(Semaphore::new(1)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes over a new plan: all of it or, on an error, nothing. Running deliveries end under the old one.
    ///
    /// # Errors
    /// [`DeployError`]; the plan before it goes on.
    pub async fn deploy(&self, deployment: Deployment) -> Result<(), DeployError> {
        let Inner { engine, runtime, metrics, .. } = &*self.inner;
        let _one_at_a_time = self.inner.deploying.lock().await;
        let loaded = check_and_load(&**engine, &**runtime, &deployment).await?;
        let paused = self.inner.active.load().paused.clone();
        let (active, ticks) = activate(&**engine, metrics, &deployment, loaded, paused).await?;
        self.inner.schedules.set(active.plan.clone(), active.routing.clone(), ticks);
        self.run(active);
        Ok(())
    }

    /// From now on `active` is what runs. The caller holds `deploying`.
    pub(super) fn run(&self, active: Active) {
        self.inner.dispatch.set_consumers(active.consumers.clone());
        self.inner.active.store(Arc::new(active));
    }
}

/// Counts the deliveries that an earlier process was at when it ended, and begins this one's record. Nothing is leased yet.
async fn take_over(record: &InFlight, engine: &dyn Engine, metrics: &Metrics) -> Result<(), EngineError> {
    let lost = record.lost(engine.store_id());
    if !lost.is_empty() {
        let deliveries = lost.len();
        let counted = engine.lost(lost).await?;
        metrics.lost.inc_by(counted);
        warn!(
            deliveries,
            counted,
            "The last process ended without saying so while it delivered messages. Each of those that are still there had an attempt 'lost', and is handled alone."
        );
    }
    record.begin(engine.store_id());
    Ok(())
}

type Loaded = Vec<Option<Arc<dyn Handler>>>;
/// How far each schedule is.
type Ticks = BTreeMap<ScheduleName, WallMs>;

/// A handler for each consumer of the plan that has a component, in the plan's order.
async fn check_and_load(
    engine: &dyn Engine,
    runtime: &dyn Runtime,
    deployment: &Deployment,
) -> Result<Loaded, DeployError> {
    let unmet = deployment.plan.unmet(engine.guarantees());
    if !unmet.is_empty() {
        return Err(DeployError::Unmet(unmet));
    }
    let mut handlers = Vec::new();
    let mut errors = Vec::new();
    for consumer in &deployment.plan.consumers {
        match load(runtime, deployment, consumer).await {
            Ok(handler) => handlers.push(handler),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(handlers) } else { Err(DeployError::Load(errors)) }
}

async fn load(
    runtime: &dyn Runtime,
    deployment: &Deployment,
    consumer: &ConsumerPlan,
) -> Result<Option<Arc<dyn Handler>>, LoadError> {
    let Some(path) = deployment.components.get(&consumer.name) else {
        return Ok(None);
    };
    let spec = ComponentSpec {
        consumer: consumer.name.clone(),
        path: path.clone(),
        limits: consumer.limits.clone(),
        config: consumer.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
    };
    runtime.load(spec).await.map(Some)
}

async fn activate(
    engine: &dyn Engine,
    metrics: &Metrics,
    deployment: &Deployment,
    handlers: Loaded,
    paused: BTreeSet<ConsumerName>,
) -> Result<(Active, Ticks), EngineError> {
    let plan = deployment.plan.clone();
    let defined = engine.define(plan.definitions()).await?;
    let queue_ids: Vec<QueueId> = plan
        .queues
        .iter()
        .map(|queue| {
            *defined.queues.get(&queue.name).expect("`define` answers with the id of every queue it was given")
        })
        .collect();
    let routing = Arc::new(Routing::new(&plan, &queue_ids, engine.guarantees()));
    let with_bounds = plan.queues.iter().zip(&queue_ids).filter(|(queue, _)| queue.bounds.are_set());
    let bounded: Arc<[QueueId]> = with_bounds.map(|(_, id)| *id).collect();
    let unit = |(consumer, handler): (&ConsumerPlan, Option<Arc<dyn Handler>>)| {
        let queue = plan.queue(consumer.queue);
        Arc::new(ConsumerUnit {
            name: consumer.name.clone(),
            queue: queue_ids[consumer.queue.0],
            queue_name: queue.name.clone(),
            source: format!("queue:{}", queue.name).into(),
            concurrency: consumer.concurrency,
            retry: consumer.retry.clone(),
            ordered: queue.order == Order::Key,
            breaker: consumer.breaker.clone(),
            bounded: bounded.clone(),
            hops_max: plan.broker.hops_max,
            handler,
            paused: paused.contains(&consumer.name),
            routing: routing.clone(),
            metrics: metrics.consumer(&consumer.name, &queue.name),
            event_source: format!("/pelton/consumers/{}", consumer.name).into(),
        })
    };
    let consumers = plan.consumers.iter().zip(handlers).map(unit).collect();
    let Defined { queues: by_name, kept_retries, ticks, .. } = defined;
    Ok((Active { plan: plan.clone(), routing, queue_ids, by_name, kept_retries, consumers, paused }, ticks))
}
