//! A broker put together: engine, runtime, door and the executors that they run on; how it starts, stops and fails.
//!
//! Order of start: bind the port (nobody is answered yet), open the data folder, load the components, begin to deliver,
//! open the door. Whatever fails undoes what was before it, and nothing has been delivered. Order of stop: the door, the
//! running deliveries, the store.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pelton_core::broker::{Broker, DeployError, Deployment, Parts};
use pelton_core::clock::{Clock, SystemClock};
use pelton_core::dispatch::Observer;
use pelton_core::door::Door as _;
use pelton_core::engine::{Engine, Health};
use pelton_core::in_flight::InFlight;
use pelton_core::metrics::Metrics;
use pelton_core::operator::Reload;
use pelton_core::plan::Plan;
use pelton_core::runtime::{LoadError, Runtime};
use pelton_door_http::{HttpDoor, HttpOptions};
use pelton_engine_redb::{OpenOptions, RedbEngine, Tuning};
use pelton_runtime_wasm::{Compiler, RuntimeOptions, WasmRuntime};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config;
use crate::exit::{Exit, Failure};
use crate::files::write_whole;
use crate::in_flight;
use crate::values::time;

/// How long the door may take beyond its own bound until it is left behind.
const DOOR_WITHIN: Duration = Duration::from_secs(15);
/// How long executors may take to wind up before the process ends.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(1);
/// Threads for everything but guests and HTTP: dispatch, timers, signals.
const MAIN_WORKERS: usize = 2;
/// Flags that both `dev` and `serve` have.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NodeArgs {
    /// Listen here instead of [http] listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Keep data here instead of [broker] data
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: Option<PathBuf>,
    /// Write the broker's URL to this file once it is ready
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// How long running deliveries may take when the broker is told to stop
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) grace: Duration,
}

impl NodeArgs {
    /// The data folder.
    pub(crate) fn data_dir(&self, plan: &Plan) -> PathBuf {
        self.data.clone().unwrap_or_else(|| plan.broker.data.clone())
    }
}

/// The executors. Guests and HTTP have their own, so that neither can starve the other or the dispatch loop.
pub(crate) struct Executors {
    main: tokio::runtime::Runtime,
    http: tokio::runtime::Runtime,
    guests: tokio::runtime::Runtime,
}

/// Threads that run guests: one per core.
pub(crate) fn guest_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Executors {
    pub(crate) fn start() -> std::io::Result<Self> {
        let executor = |name: &str, workers| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(workers).thread_name(name).enable_all().build()
        };
        let main = executor("main", MAIN_WORKERS)?;
        let http = executor("http", guest_workers())?;
        let guests = executor("guests", guest_workers())?;
        Ok(Self { main, http, guests })
    }

    /// Where a node's parts run.
    pub(crate) fn handles(&self) -> Handles {
        Handles { http: self.http.handle().clone(), guests: self.guests.handle().clone() }
    }

    /// Runs `work` to its end, then winds everything up.
    pub(crate) fn run<T>(self, work: impl Future<Output = T>) -> T {
        let result = self.main.block_on(work);
        self.http.shutdown_timeout(SHUTDOWN_WITHIN);
        self.guests.shutdown_timeout(SHUTDOWN_WITHIN);
        self.main.shutdown_timeout(SHUTDOWN_WITHIN);
        result
    }
}

/// Where doors and guests run.
#[derive(Debug, Clone)]
pub(crate) struct Handles {
    http: tokio::runtime::Handle,
    guests: tokio::runtime::Handle,
}

/// How a node differs from another with the same plan.
pub(crate) struct Setup {
    /// broker.toml, for errors that have their place in it.
    pub(crate) config_file: PathBuf,
    pub(crate) args: NodeArgs,
    pub(crate) handles: Handles,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) reload: Arc<dyn Reload>,
    /// Backtraces with files and lines.
    pub(crate) development: bool,
}

/// A running broker.
pub(crate) struct Node {
    pub(crate) broker: Broker,
    pub(crate) url: String,
    stop: watch::Sender<bool>,
    door: JoinHandle<std::io::Result<()>>,
    ready_file: Option<PathBuf>,
    grace: Duration,
}

/// Why a node did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Components that can't be used; the rest may do.
    Load(Vec<LoadError>),
    Other(Failure),
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl StartError {
    /// As an error of the command, with the places in `config_file`.
    pub(crate) fn failure(self, config_file: &Path) -> Failure {
        match self {
            Self::Load(errors) => load_failure(config_file, &errors),
            Self::Other(failure) => failure,
        }
    }
}

/// A component that can't be used, with its place in `config_file`.
pub(crate) fn shown(config_file: &Path, error: &LoadError) -> String {
    let table = ["consumers", error.consumer.as_str()];
    config::placed(config_file, &table, &["component", "source"], &error.to_string())
}

/// Components that can't be used, as one error.
pub(crate) fn load_failure(config_file: &Path, errors: &[LoadError]) -> Failure {
    Failure::components(&errors.iter().map(|error| shown(config_file, error)).collect::<Vec<_>>())
}

impl Node {
    /// Starts a broker; see the module's head for the order.
    pub(crate) async fn start(deployment: Deployment, setup: &Setup) -> Result<Self, StartError> {
        raise_file_limit();
        let plan = deployment.plan.clone();
        let door = bind(&plan, setup)?;
        let data = setup.args.data_dir(&plan);
        let metrics = Metrics::new();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let engine = open(data.clone(), clock.clone(), &metrics).await?;
        let runtime = runtime(&plan, Some(data.join("cache")), setup.development)?;
        let parts = Parts {
            engine: engine.clone() as Arc<dyn Engine>,
            clock,
            metrics,
            guests: setup.handles.guests.clone(),
            observer: setup.observer.clone(),
            in_flight: record(&data, runtime.slots()),
            runtime,
            reload: Some(setup.reload.clone()),
            backup: Some(engine.clone()),
        };
        let broker = match Broker::start(parts, deployment).await {
            Ok(broker) => broker,
            Err(error) => {
                engine.close(setup.args.grace).await;
                return Err(match error {
                    DeployError::Load(errors) => StartError::Load(errors),
                    DeployError::Unmet(problems) => Failure::several(Exit::Config, &problems).into(),
                    DeployError::Engine(error) => {
                        Failure::new(Exit::Data, format!("the data folder {}: {error}", data.display())).into()
                    }
                });
            }
        };
        let (stop, stopped) = watch::channel(false);
        let url = door.describe();
        let door = setup.handles.http.spawn(Box::new(door).run(broker.clone(), stopped));
        let mut node = Self { broker, url, stop, door, ready_file: None, grace: setup.args.grace };
        if let Some(file) = &setup.args.ready_file {
            if let Err(error) = write_whole(file, format!("{}\n", node.url).as_bytes()) {
                node.stop().await;
                return Err(Failure::new(Exit::Failed, format!("--ready-file {}: {error}", file.display())).into());
            }
            node.ready_file = Some(file.clone());
        }
        info!(data = %data.display(), consumers = plan.consumers.len(), "listening on {}", node.url);
        Ok(node)
    }

    /// Returns only when the broker can't go on: its store failed for good, or its door ended by itself.
    pub(crate) async fn failed(&mut self) -> Failure {
        let mut health = self.broker.health();
        let store = async {
            loop {
                if let Health::Failed(reason) = &*health.borrow_and_update() {
                    return Failure::new(Exit::Data, format!("storage has stopped for good: {reason}"));
                }
                if health.changed().await.is_err() {
                    return Failure::new(Exit::Data, "storage has stopped");
                }
            }
        };
        tokio::select! {
            failure = store => failure,
            ended = &mut self.door => {
                let why = match ended {
                    Ok(Ok(())) => "it ended by itself".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                Failure::new(Exit::Failed, format!("the HTTP door at {} can't go on: {why}", self.url))
            }
        }
    }

    /// Takes it down in order. What was not delivered stays in the store, uncounted.
    pub(crate) async fn stop(self) {
        if let Some(file) = &self.ready_file {
            let _ = std::fs::remove_file(file);
        }
        let _ = self.stop.send(true);
        if !self.door.is_finished() && tokio::time::timeout(DOOR_WITHIN, self.door).await.is_err() {
            warn!("Some requests did not end in time; their connections are cut.");
        }
        if !self.broker.stop(self.grace).await {
            warn!(grace = ?self.grace, "Some deliveries did not end in time; they will be delivered again.");
        }
        info!("stopped");
    }
}

fn bind(plan: &Plan, setup: &Setup) -> Result<HttpDoor, Failure> {
    let token = config::token(&setup.config_file, plan)?;
    let listen = setup.args.listen.unwrap_or(plan.http.listen);
    let options = HttpOptions { listen, token, request_bytes_max: plan.http.request_bytes_max };
    HttpDoor::bind(options).map_err(|error| Failure::new(Exit::Address, error.to_string()))
}

/// Opens the store; off the executor, since a large file that was not closed takes a while.
async fn open(dir: PathBuf, clock: Arc<dyn Clock>, metrics: &Metrics) -> Result<Arc<RedbEngine>, Failure> {
    let metrics = metrics.engine.clone();
    let options = OpenOptions { dir, clock, metrics, tuning: Tuning::default(), seed: fastrand::u64(..) };
    match tokio::task::spawn_blocking(move || RedbEngine::open(options)).await {
        Ok(Ok(engine)) => Ok(Arc::new(engine)),
        Ok(Err(error)) => Err(Failure::new(Exit::Data, error.to_string())),
        Err(error) => Err(Failure::new(Exit::Data, format!("the store could not be opened: {error}"))),
    }
}

/// The record of running deliveries in the data folder; the broker can do without.
fn record(data: &Path, slots: usize) -> Option<Arc<InFlight>> {
    let record = in_flight::open(data, slots).inspect_err(|error| {
        warn!(%error, data = %data.display(), "The record of running deliveries can't be kept: a message that brings the broker down will not be known afterwards.");
    });
    record.ok().map(Arc::new)
}

/// The sandbox of `plan`, with its cache of compiled code in `cache_dir`.
pub(crate) fn runtime(plan: &Plan, cache_dir: Option<PathBuf>, development: bool) -> Result<Arc<dyn Runtime>, Failure> {
    let options = RuntimeOptions {
        slots: plan.sandbox.slots,
        cache_dir,
        workers: guest_workers(),
        backtrace_lines: development,
        compiler: Compiler::this_program(),
    };
    match WasmRuntime::new(options) {
        Ok(runtime) => Ok(Arc::new(runtime)),
        Err(error) => Err(Failure::config(format!("[sandbox]: {error}"))),
    }
}

/// Connections and loaded components hold files open; the usual soft limit of 1,024 is no reason to fail.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(%error, "The limit of open files stays as it is.");
        }
    }
}
