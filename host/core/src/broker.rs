//! The handle that doors, the CLI's server side and the dispatch loop share: publish, lease, settle, look, operate.
//!
//! It routes, names queues and turns outcomes into settlements; the engine stores, the dispatcher runs consumers.
//! Invariant: one `Active` plan at a time, swapped whole; what has begun under the old one ends under it.

mod operate;
mod publish;
mod pull;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use self::operate::{ConsumerState, ConsumerStatus, QueueStatus};
pub use self::publish::{Publish, PublishError, Published, Refusal, RefusalCode, route_entries};
pub use self::pull::{ExtendError, LeaseWant, PullError, PullOutcome};
use crate::clock::Clock;
use crate::dispatch::{ConsumerUnit, Dispatch, Observer};
use crate::engine::{Engine, EngineError, Health, QueueId};
use crate::metrics::Metrics;
use crate::name::{ConsumerName, QueueName};
use crate::plan::{ConsumerPlan, Plan};
use crate::runtime::{ComponentSpec, Handler, LoadError, Runtime};

/// The broker's handle; clones are the same broker.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<dyn Engine>,
    runtime: Arc<dyn Runtime>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    active: ArcSwap<Active>,
    dispatch: Dispatch,
    /// One deployment at a time: plans must swap in the order they were asked for.
    deploying: tokio::sync::Mutex<()>,
}

/// A plan as it runs: with the engine's ids for its queues.
struct Active {
    plan: Arc<Plan>,
    /// By [`crate::plan::QueueIndex`].
    queue_ids: Arc<[QueueId]>,
    by_name: BTreeMap<QueueName, QueueId>,
    consumers: Vec<Arc<ConsumerUnit>>,
}

/// What the broker is made of.
pub struct Parts {
    /// Where messages live.
    pub engine: Arc<dyn Engine>,
    /// What runs components.
    pub runtime: Arc<dyn Runtime>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What counts.
    pub metrics: Metrics,
    /// Where guests run: an executor of their own, so that a busy guest never holds up a door.
    pub guests: tokio::runtime::Handle,
    /// Who wants to see every delivery: `pelton dev`.
    pub observer: Option<Arc<dyn Observer>>,
}

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
    /// Components that can't be used, every one of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Load(Vec<LoadError>),
    /// The engine could not define the queues.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// No queue has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no queue '{name}'{}", nearest_hint(.nearest.as_ref()))]
pub struct UnknownQueue {
    /// The name asked for.
    pub name: String,
    /// The queue that was probably meant.
    pub nearest: Option<QueueName>,
}

fn nearest_hint(nearest: Option<&QueueName>) -> String {
    nearest.map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

impl Broker {
    /// Starts a broker with the first deployment; must be called on a tokio runtime, where its dispatch loop then runs.
    ///
    /// # Errors
    /// [`DeployError`]; nothing runs then.
    pub async fn start(parts: Parts, deployment: Deployment) -> Result<Self, DeployError> {
        let Parts { engine, runtime, clock, metrics, guests, observer } = parts;
        let units = load_all(&*runtime, &deployment).await?;
        let active = activate(&*engine, &metrics, &deployment, units).await?;
        let dispatch = Dispatch::start(engine.clone(), clock.clone(), guests, runtime.slots(), observer);
        dispatch.set_consumers(active.consumers.clone());
        let active = ArcSwap::from_pointee(active);
        let deploying = tokio::sync::Mutex::new(());
        Ok(Self { inner: Arc::new(Inner { engine, runtime, clock, metrics, active, dispatch, deploying }) })
    }

    /// Takes over a new plan: all of it or, on an error, nothing. Running deliveries end under the old one.
    ///
    /// # Errors
    /// [`DeployError`]; the plan before it goes on.
    pub async fn deploy(&self, deployment: Deployment) -> Result<(), DeployError> {
        let _one_at_a_time = self.inner.deploying.lock().await;
        let units = load_all(&*self.inner.runtime, &deployment).await?;
        let active = activate(&*self.inner.engine, &self.inner.metrics, &deployment, units).await?;
        self.inner.dispatch.set_consumers(active.consumers.clone());
        self.inner.active.store(Arc::new(active));
        Ok(())
    }

    /// The plan that runs now.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        self.inner.active.load().plan.clone()
    }

    /// What counts; doors encode it.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// The clock that the broker goes by.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// How storage is, to watch.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.engine.health()
    }

    /// Stops leasing, lets running deliveries end for up to `grace`, gives the rest back uncounted, and closes the store.
    /// Returns whether all deliveries ended in time. Doors should have stopped before.
    pub async fn stop(&self, grace: Duration) -> bool {
        let ended = self.inner.dispatch.stop(grace).await;
        self.inner.engine.close(CLOSE_WITHIN).await;
        ended
    }

    fn queue_id(&self, name: &str) -> Result<QueueId, UnknownQueue> {
        let active = self.inner.active.load();
        if let Ok(typed) = QueueName::new(name)
            && let Some(id) = active.by_name.get(&typed)
        {
            return Ok(*id);
        }
        let counts = self.inner.engine.counts();
        if let Some(undeclared) = counts.queues.iter().find(|queue| queue.name.as_str() == name) {
            return Ok(undeclared.id);
        }
        let names = active.by_name.keys().map(QueueName::as_str);
        let nearest = crate::config::nearest(name, names).and_then(|near| QueueName::new(near).ok());
        Err(UnknownQueue { name: name.to_owned(), nearest })
    }
}

/// How long the engine may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

type Loaded = Vec<Option<Arc<dyn Handler>>>;

/// A handler for each consumer of the plan that has a component, in the plan's order.
async fn load_all(runtime: &dyn Runtime, deployment: &Deployment) -> Result<Loaded, DeployError> {
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
) -> Result<Active, EngineError> {
    let plan = deployment.plan.clone();
    let defined = engine.define(plan.definitions()).await?;
    let queue_ids: Arc<[QueueId]> = plan
        .queues
        .iter()
        .map(|queue| {
            *defined.queues.get(&queue.name).expect("`define` answers with the id of every queue it was given")
        })
        .collect();
    let unit = |(consumer, handler): (&ConsumerPlan, Option<Arc<dyn Handler>>)| {
        let queue = plan.queue(consumer.queue);
        Arc::new(ConsumerUnit {
            name: consumer.name.clone(),
            queue: queue_ids[consumer.queue.0],
            queue_name: queue.name.clone(),
            source: format!("queue:{}", queue.name).into(),
            concurrency: consumer.concurrency,
            retry: queue.retry.clone(),
            hops_max: plan.broker.hops_max,
            handler,
            router: plan.router.clone(),
            queue_ids: queue_ids.clone(),
            metrics: metrics.consumer(&consumer.name, &queue.name),
            event_source: format!("/pelton/consumers/{}", consumer.name).into(),
        })
    };
    let consumers = plan.consumers.iter().zip(handlers).map(unit).collect();
    Ok(Active { plan: plan.clone(), queue_ids, by_name: defined.queues, consumers })
}
