//! A runtime without sandboxes: its handlers are closures of a test.
//!
//! A component is chosen by its path (whole, file name, or file name without `.wasm`), else by the consumer's name.
//! Its digest follows from the path, so that another path is another version.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::engine::Fut;
use crate::name::{ConsumerName, Topic};
use crate::runtime::{
    ComponentSpec, Delivery, Digest, Emit, FaultKind, Handler, Invoked, Limits, LoadError, Outcome, Runtime,
};

/// Most invocations that are remembered; older ones are forgotten first.
const INVOCATIONS_MAX: usize = 100_000;
/// Deliveries at once unless a test says otherwise.
const SLOTS_DEFAULT: usize = 256;

type Handle = Arc<dyn Fn(Delivery) -> Fut<'static, Invoked> + Send + Sync>;

/// A runtime whose handlers are closures; clones are the same runtime.
#[derive(Clone, Default)]
pub struct FakeRuntime {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    handlers: BTreeMap<String, Handle>,
    slots: Option<usize>,
    invocations: VecDeque<Invocation>,
    running: BTreeMap<ConsumerName, Running>,
}

#[derive(Default)]
struct Running {
    now: usize,
    peak: usize,
}

/// One call of a handler, recorded when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The name that the handler was given by the test.
    pub handler: String,
    /// For which consumer.
    pub consumer: ConsumerName,
    /// What its message was published to.
    pub topic: Topic,
    /// The id of its message.
    pub message_id: String,
    /// 1 for the first.
    pub attempt: u32,
    /// The same for all attempts at one message.
    pub idempotency_key: Arc<str>,
}

impl FakeRuntime {
    /// A runtime without any handler, with 256 slots.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With this handler for the component or consumer `name`; replaces an earlier one at the next load.
    #[must_use]
    pub fn handler(self, name: &str, handle: impl Fn(&Delivery) -> Invoked + Send + Sync + 'static) -> Self {
        self.insert(name, Arc::new(move |delivery| Box::pin(std::future::ready(handle(&delivery)))))
    }

    /// The same with a handler that waits for something.
    #[must_use]
    pub fn handler_async<F>(self, name: &str, handle: impl Fn(Delivery) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Invoked> + Send + 'static,
    {
        self.insert(name, Arc::new(move |delivery| Box::pin(handle(delivery))))
    }

    /// With so many deliveries at once over all handlers.
    #[must_use]
    pub fn slots(self, slots: usize) -> Self {
        self.shared.lock().slots = Some(slots);
        self
    }

    /// Every call so far, in the order in which they began.
    #[must_use]
    pub fn invocations(&self) -> Vec<Invocation> {
        self.shared.lock().invocations.iter().cloned().collect()
    }

    /// How many calls for `consumer` run right now.
    #[must_use]
    pub fn running(&self, consumer: &str) -> usize {
        self.of(consumer, |running| running.now)
    }

    /// How many calls for `consumer` ran at the same time at most.
    #[must_use]
    pub fn peak(&self, consumer: &str) -> usize {
        self.of(consumer, |running| running.peak)
    }

    fn of(&self, consumer: &str, figure: impl Fn(&Running) -> usize) -> usize {
        let state = self.shared.lock();
        state.running.iter().find(|(name, _)| name.as_str() == consumer).map_or(0, |(_, running)| figure(running))
    }

    fn insert(self, name: &str, handle: Handle) -> Self {
        self.shared.lock().handlers.insert(name.to_owned(), handle);
        self
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, spec: &ComponentSpec) -> Option<(String, Handle)> {
        let text = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).map(str::to_owned);
        let path = &spec.path;
        let names = [
            text(Some(path.as_os_str())),
            text(path.file_name()),
            text(path.file_stem()),
            Some(spec.consumer.to_string()),
        ];
        names.into_iter().flatten().find_map(|name| self.handlers.get(&name).cloned().map(|handle| (name, handle)))
    }
}

impl Runtime for FakeRuntime {
    fn load(&self, spec: ComponentSpec) -> Fut<'_, Result<Arc<dyn Handler>, LoadError>> {
        let loaded = match self.shared.lock().find(&spec) {
            Some((name, handle)) => {
                let handler = FakeHandler { name, handle, digest: digest(&spec.path), shared: self.shared.clone() };
                Ok(Arc::new(handler) as Arc<dyn Handler>)
            }
            None => {
                let problem = "the fake runtime has no handler of this name; give it one with `handler`".to_owned();
                Err(LoadError { consumer: spec.consumer, path: spec.path, problem })
            }
        };
        Box::pin(std::future::ready(loaded))
    }

    fn slots(&self) -> usize {
        self.shared.lock().slots.unwrap_or(SLOTS_DEFAULT)
    }
}

fn digest(path: &Path) -> Digest {
    Digest(Sha256::digest(path.as_os_str().as_encoded_bytes()).into())
}

struct FakeHandler {
    name: String,
    handle: Handle,
    digest: Digest,
    shared: Arc<Shared>,
}

impl Handler for FakeHandler {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn invoke(&self, delivery: Delivery) -> Fut<'_, Invoked> {
        Box::pin(async move {
            let _running = self.begin(&delivery);
            (self.handle)(delivery).await
        })
    }
}

impl FakeHandler {
    fn begin(&self, delivery: &Delivery) -> RunningGuard {
        let mut state = self.shared.lock();
        if state.invocations.len() == INVOCATIONS_MAX {
            state.invocations.pop_front();
        }
        state.invocations.push_back(Invocation {
            handler: self.name.clone(),
            consumer: delivery.consumer.clone(),
            topic: delivery.topic.clone(),
            message_id: delivery.message.id().to_owned(),
            attempt: delivery.attempt,
            idempotency_key: delivery.idempotency_key.clone(),
        });
        let running = state.running.entry(delivery.consumer.clone()).or_default();
        running.now += 1;
        running.peak = running.peak.max(running.now);
        RunningGuard { shared: self.shared.clone(), consumer: delivery.consumer.clone() }
    }
}

/// Counts a call as ended when its future is dropped, finished or not.
struct RunningGuard {
    shared: Arc<Shared>,
    consumer: ConsumerName,
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        if let Some(running) = self.shared.lock().running.get_mut(&self.consumer) {
            running.now -= 1;
        }
    }
}

/// A call that ended with `outcome`, after 10 us, silently.
#[must_use]
pub fn ended(outcome: Outcome) -> Invoked {
    Invoked { outcome, emits: Vec::new(), log: String::new(), duration: Duration::from_micros(10) }
}

/// A call that handled its message.
#[must_use]
pub fn done() -> Invoked {
    ended(Outcome::Done)
}

/// A call that handled its message and emitted these.
#[must_use]
pub fn emitting(emits: Vec<Emit>) -> Invoked {
    Invoked { emits, ..done() }
}

/// A call that asks to be repeated, after the queue's backoff.
#[must_use]
pub fn retry(reason: &str) -> Invoked {
    ended(Outcome::Retry { reason: reason.to_owned(), after: None })
}

/// A call that rejected its message.
#[must_use]
pub fn reject(reason: &str) -> Invoked {
    ended(Outcome::Reject { reason: reason.to_owned() })
}

/// A call that ended badly.
#[must_use]
pub fn fault(kind: FaultKind, reason: &str) -> Invoked {
    ended(Outcome::Fault { kind, reason: reason.to_owned() })
}

/// An emit to `topic` with the attributes that every emit has.
///
/// # Panics
/// When `topic` is not a topic.
#[must_use]
pub fn emit(id: &str, topic: &str, data: &[u8]) -> Emit {
    Emit {
        id: id.to_owned(),
        topic: Topic::new(topic).expect("a test emits to a valid topic"),
        due: None,
        kind: None,
        subject: None,
        content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        data: Bytes::copy_from_slice(data),
    }
}

/// Limits that no test runs into.
#[must_use]
pub fn unlimited() -> Limits {
    Limits {
        memory_bytes: 1 << 30,
        timeout: Duration::from_secs(60),
        emits_max: 1000,
        emit_bytes_max: 1 << 30,
        log_bytes_max: 1 << 20,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Attributes, Message};
    use crate::runtime::EmitGate;

    struct Open;

    impl EmitGate for Open {
        fn routes(&self, _topic: &Topic) -> bool {
            true
        }
    }

    fn spec(consumer: &str, path: &str) -> ComponentSpec {
        let consumer = ConsumerName::new(consumer).expect("a name");
        ComponentSpec { consumer, path: path.into(), limits: unlimited(), config: Vec::new() }
    }

    fn delivery() -> Delivery {
        let attributes = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
        Delivery {
            consumer: ConsumerName::new("triage").expect("a name"),
            source: "queue:q".into(),
            topic: Topic::new("t").expect("a topic"),
            message: Message::new(&attributes, b"").expect("a message"),
            attempt: 2,
            idempotency_key: "k".into(),
            gate: Arc::new(Open),
        }
    }

    #[tokio::test]
    async fn a_component_is_found_by_path_or_consumer() {
        let runtime = FakeRuntime::new().handler("triage", |_| done());
        for (consumer, path) in [("x", "triage"), ("x", "out/triage.wasm"), ("triage", "out/other.wasm")] {
            assert!(runtime.load(spec(consumer, path)).await.is_ok(), "{consumer}, {path}");
        }
        let error = runtime.load(spec("x", "y.wasm")).await.err().expect("it is unknown").to_string();
        assert_eq!(
            error,
            "consumer 'x': y.wasm: the fake runtime has no handler of this name; give it one with `handler`"
        );
    }

    #[tokio::test]
    async fn calls_are_recorded_and_another_path_is_another_version() {
        let runtime =
            FakeRuntime::new().handler("triage", |_| retry("later")).handler_async("v2", |delivery| async move {
                tokio::task::yield_now().await;
                emitting(vec![emit("e", "t.next", delivery.message.data())])
            });
        let first = runtime.load(spec("triage", "triage.wasm")).await.expect("it is known");
        let second = runtime.load(spec("triage", "v2.wasm")).await.expect("it is known");
        assert_ne!(first.digest(), second.digest());
        assert_eq!(first.invoke(delivery()).await.outcome.word(), "retry");
        assert_eq!(second.invoke(delivery()).await.emits.len(), 1);
        let calls = runtime.invocations();
        let calls: Vec<_> =
            calls.iter().map(|call| (call.handler.as_str(), call.message_id.as_str(), call.attempt)).collect();
        assert_eq!(calls, [("triage", "1", 2), ("v2", "1", 2)]);
        assert_eq!((runtime.running("triage"), runtime.peak("triage")), (0, 1));
    }
}
