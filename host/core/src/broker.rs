//! The handle that doors, the CLI's server side and the dispatch loop share: publish, lease, settle, look, operate.
//!
//! It routes, names queues and turns outcomes into settlements; the engine stores, the dispatcher runs consumers.
//! Invariant: one `Active` plan at a time, swapped whole; what has begun under the old one ends under it.

mod admit;
mod deploy;
mod operate;
mod options;
mod pause;
mod publish;
mod pull;
mod refusal;
mod routing;
mod scheduled;
mod schedules;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Semaphore, watch};

pub use self::deploy::{DeployError, Deployment};
pub use self::operate::{ConsumerState, ConsumerStatus, QueueStatus};
pub use self::options::{
    DELIVERY_TIME, EXPIRY_TIME, InvalidAttribute, PRIORITY, PublishOptions, QueueTarget, check_times,
};
pub use self::pause::{PauseError, UnknownConsumer};
pub use self::publish::{Publish, PublishError, Published, Refusal, RefusalCode};
pub use self::pull::{ExtendError, LeaseWant, PullError, PullOutcome};
pub use self::routing::{Incoming, Routing};
pub use self::scheduled::{Cancelled, InvalidHandle, ScheduledHandle};
pub use self::schedules::ScheduleStatus;
use self::schedules::Schedules;
use crate::clock::Clock;
use crate::dispatch::{ConsumerUnit, Dispatch, Observer};
use crate::engine::{Engine, Health, QueueId};
use crate::in_flight::InFlight;
use crate::metrics::Metrics;
use crate::name::{ConsumerName, QueueName};
use crate::operator::{Backup, BackupError, BackupFile, Reload, ReloadError, Reloaded};
use crate::plan::{Plan, QueuePlan};
use crate::retry::RetryPolicy;
use crate::runtime::Runtime;

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
    schedules: Schedules,
    in_flight: Option<Arc<InFlight>>,
    /// One deployment, or pause, at a time: plans must swap in the order they were asked for.
    deploying: Mutex<()>,
    reload: Option<Arc<dyn Reload>>,
    /// One reload at a time, from reading the configuration on: or an older one could be deployed last.
    reloading: Mutex<()>,
    backup: Option<Arc<dyn Backup>>,
    /// One backup at a time, until it is read: each takes as much disk as the store.
    backing_up: Arc<Semaphore>,
}

/// A plan as it runs: with the engine's ids for its queues.
#[derive(Clone)]
struct Active {
    plan: Arc<Plan>,
    routing: Arc<Routing>,
    /// By [`crate::plan::QueueIndex`].
    queue_ids: Vec<QueueId>,
    by_name: BTreeMap<QueueName, QueueId>,
    /// Of queues that are no longer declared.
    kept_retries: BTreeMap<QueueId, RetryPolicy>,
    consumers: Vec<Arc<ConsumerUnit>>,
    /// Consumers that are paused, in this plan or not.
    paused: BTreeSet<ConsumerName>,
}

impl Active {
    /// The queue with this id, where the plan declares it.
    fn queue(&self, id: QueueId) -> Option<&QueuePlan> {
        let at = self.queue_ids.iter().position(|known| *known == id)?;
        self.plan.queues.get(at)
    }
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
    /// The record of running deliveries, as an earlier process left it; none: a message that brings the process down is not known
    /// afterwards.
    pub in_flight: Option<Arc<InFlight>>,
    /// Who reads the configuration again; none: [`Broker::reload`] is not possible.
    pub reload: Option<Arc<dyn Reload>>,
    /// Who copies the store; none: [`Broker::backup`] is not possible.
    pub backup: Option<Arc<dyn Backup>>,
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

fn nearest_hint(nearest: Option<&impl std::fmt::Display>) -> String {
    nearest.map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

impl Broker {
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

    /// Reads the configuration again and deploys it; one reload at a time, in the order in which they were asked for.
    ///
    /// # Errors
    /// [`ReloadError`]; the plan before it goes on.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let reload = self.inner.reload.as_ref().ok_or(ReloadError::Unsupported)?;
        let _one_at_a_time = self.inner.reloading.lock().await;
        reload.reload(self).await.map_err(ReloadError::Problems)
    }

    /// A consistent copy of the store, in a file that is there for as long as the answer is held; see [`Backup::backup`].
    ///
    /// # Errors
    /// [`BackupError`]; `Busy` until the copy before it is dropped.
    pub async fn backup(&self) -> Result<BackupFile, BackupError> {
        let backup = self.inner.backup.as_ref().ok_or(BackupError::Unsupported)?;
        let permit = self.inner.backing_up.clone().try_acquire_owned().map_err(|_| BackupError::Busy)?;
        let mut file = backup.backup().await?;
        file.hold(permit);
        Ok(file)
    }

    /// Stops schedules and leasing, lets running deliveries end for up to `grace`, gives the rest back uncounted, and closes the store.
    /// Returns whether all deliveries ended in time. Doors should have stopped before.
    pub async fn stop(&self, grace: Duration) -> bool {
        // What schedules do not finish now they make up for at the next start.
        let schedules = tokio::time::timeout(grace, self.inner.schedules.stop());
        let (ended, _) = tokio::join!(self.inner.dispatch.stop(grace), schedules);
        self.inner.engine.close(CLOSE_WITHIN).await;
        if let Some(in_flight) = &self.inner.in_flight {
            in_flight.close();
        }
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
