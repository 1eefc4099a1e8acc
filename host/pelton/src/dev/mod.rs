//! The dev runner: builds, starts, watches, rebuilds and swaps.
//!
//! Invariant: what runs is only ever replaced by something that was checked, built and loaded. A mistake is shown, and the
//! version before it goes on. [`Dev::run`] may be dropped at any point: a build is killed, a deployment is left whole or
//! not begun, and [`Dev::stop`] takes the broker down in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pelton_core::broker::{DeployError, Deployment};
use pelton_core::name::ConsumerName;
use pelton_core::plan::{ConsumerCode, Plan};
use pelton_core::runtime::LoadError;

use crate::build::{self, Built, Problem, Toolchain};
use crate::config;
use crate::exit::Failure;
use crate::files::ignore_in_git;
use crate::node::{Node, Setup, StartError, load_failure};
use crate::output::{self, note};
use crate::reload::needs_restart;
use crate::sample;
use crate::watch::{Changes, Coverage, Watch};

/// How often `--once` looks whether all is done.
const IDLE_POLL: Duration = Duration::from_millis(20);
const GOES_ON: &str = "The version before it goes on.";

/// What the flags say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) sample: bool,
    pub(crate) once: bool,
}

/// The dev runner.
pub(crate) struct Dev {
    setup: Setup,
    options: Options,
    toolchain: Toolchain,
    node: Option<Node>,
}

/// What runs: the plan, the components it runs with and where they come from.
struct Running {
    /// As it was at the start: some settings are only read then.
    first: Arc<Plan>,
    plan: Arc<Plan>,
    components: BTreeMap<ConsumerName, PathBuf>,
    folders: BTreeSet<PathBuf>,
    /// What broker.toml said last; it runs unless something was wrong with it.
    wanted: Arc<Plan>,
    /// Something was not taken over, so that the next change has to look at everything again.
    is_behind: bool,
}

impl Running {
    /// Whether `consumer` of `plan` had no component before either: that keeps nothing else from being taken over.
    fn waits(&self, plan: &Plan, consumer: &ConsumerName) -> bool {
        let code =
            |plan: &Plan| plan.consumers.iter().find(|other| other.name == *consumer).map(|other| other.code.clone());
        !self.components.contains_key(consumer) && code(plan) == code(&self.plan)
    }
}

impl Dev {
    pub(crate) fn new(setup: Setup, options: Options) -> Self {
        Self { setup, options, toolchain: Toolchain::default(), node: None }
    }

    /// Runs until something ends it: an error at start or of the broker itself, or `--once`.
    pub(crate) async fn run(&mut self) -> Result<(), Failure> {
        let plan = Arc::new(config::load(&self.setup.config_file)?);
        config::show_warnings(&plan);
        let built = self.build(&plan).await?;
        let mut running = Running {
            first: plan.clone(),
            plan: plan.clone(),
            components: built.components,
            folders: built.folders,
            wanted: plan.clone(),
            is_behind: false,
        };
        let missing = self.show_problems(&built.problems);
        let failed_to_load = self.start(&mut running).await?;
        self.greet(&running);
        if self.options.sample {
            self.feed_sample(&plan).await;
        }
        if self.options.once {
            if missing || failed_to_load {
                return Err(Failure::component("not everything could be built and loaded, as said above"));
            }
            return self.until_idle(&plan).await;
        }
        let mut watch = self.watch(&running);
        loop {
            let node = self.node.as_mut().expect("it was started above and is only taken by `stop`");
            let changes = tokio::select! {
                changes = next_change(watch.as_ref()) => changes,
                failure = node.failed() => return Err(failure),
            };
            // Before and after: what is written meanwhile must be seen, in folders that are new or have become known.
            self.cover(&mut watch, &running);
            running.is_behind = !self.take_over(changes, &mut running, &mut watch).await;
            self.cover(&mut watch, &running);
        }
    }

    /// Takes the broker down, if it runs.
    pub(crate) async fn stop(&mut self) {
        if let Some(node) = self.node.take() {
            note("Stopping: running deliveries end, the rest stays for the next start.");
            node.stop().await;
        }
    }

    async fn build(&mut self, plan: &Plan) -> Result<Built, Failure> {
        if build::has_sources(plan) {
            note("Building consumers.");
        }
        build::build(&self.setup.config_file, plan, &mut self.toolchain).await
    }

    fn show_problems(&self, problems: &[Problem]) -> bool {
        problems.iter().for_each(|problem| output::error(&problem.shown(&self.setup.config_file)));
        !problems.is_empty()
    }

    /// Starts the broker; consumers whose component can't be loaded are left out and wait. Whether there were any.
    async fn start(&mut self, running: &mut Running) -> Result<bool, Failure> {
        let mut some_failed = false;
        let data = self.setup.args.data_dir(&running.plan);
        let data_is_new = !data.exists();
        loop {
            let deployment = Deployment { plan: running.plan.clone(), components: running.components.clone() };
            match Node::start(deployment, &self.setup).await {
                Ok(node) => {
                    if data_is_new {
                        ignore_in_git(&data);
                    }
                    self.node = Some(node);
                    return Ok(some_failed);
                }
                Err(StartError::Load(errors)) if !some_failed => {
                    some_failed = true;
                    output::error(&load_failure(&self.setup.config_file, &errors).message);
                    errors.iter().for_each(|error| drop(running.components.remove(&error.consumer)));
                }
                Err(error) => return Err(error.failure(&self.setup.config_file)),
            }
        }
    }

    fn greet(&self, running: &Running) {
        let Some(node) = &self.node else { return };
        let data = self.setup.args.data_dir(&running.plan);
        let idle = idle_consumers(running);
        let run = running.plan.consumers.len() - idle.len();
        let run = output::count(run as u64, "consumer");
        note(&format!("Broker at {}, data in {}, {run}. Ctrl-C stops it.", node.url, data.display()));
        say_idle(&idle);
    }

    async fn feed_sample(&self, plan: &Plan) {
        let (Some(sample), Some(node)) = (&plan.dev.sample, &self.node) else { return };
        match sample::feed(&node.broker, sample).await {
            Ok(fed) => {
                let refused = if fed.refused > 0 { format!(", {} refused", fed.refused) } else { String::new() };
                let accepted = output::count(fed.accepted as u64, "message");
                note(&format!("Published the sample {}: {accepted}{refused}.", sample.file.display()));
            }
            Err(problem) => output::error(&problem),
        }
    }

    /// Waits until no consumed queue holds anything that will still be tried.
    async fn until_idle(&mut self, plan: &Plan) -> Result<(), Failure> {
        let node = self.node.as_mut().expect("it was started before");
        let broker = node.broker.clone();
        let consumed: Vec<&str> =
            plan.consumers.iter().map(|consumer| plan.queue(consumer.queue).name.as_str()).collect();
        let all_idle = async {
            // Counts may lag behind for a moment: what is idle twice is idle.
            let mut idle_before = false;
            loop {
                let counts = broker.counts();
                let busy = |queue: &&pelton_core::engine::QueueCounts| queue.ready + queue.leased + queue.scheduled > 0;
                let is_idle = !counts
                    .queues
                    .iter()
                    .filter(|queue| consumed.contains(&queue.name.as_str()))
                    .any(|queue| busy(&queue));
                if is_idle && idle_before {
                    return;
                }
                idle_before = is_idle;
                tokio::time::sleep(IDLE_POLL).await;
            }
        };
        tokio::select! {
            () = all_idle => Ok(()),
            failure = node.failed() => Err(failure),
        }
    }

    fn watch(&self, running: &Running) -> Option<Watch> {
        match Watch::new(coverage(&self.setup, running)) {
            Ok(watch) => Some(watch),
            Err(error) => {
                output::error(&format!("changes can't be watched ({error}); restart `pelton dev` to take them over"));
                None
            }
        }
    }

    fn cover(&self, watch: &mut Option<Watch>, running: &Running) {
        if let Some(watch) = watch {
            watch.cover(coverage(&self.setup, running));
        }
    }

    /// Takes over what has changed, or says why not. Whether what runs is up to date then.
    async fn take_over(&mut self, changes: Changes, running: &mut Running, watch: &mut Option<Watch>) -> bool {
        let config = changes.config || running.is_behind;
        if config {
            match config::load(&self.setup.config_file) {
                Ok(plan) => running.wanted = Arc::new(plan),
                Err(failure) => return goes_on(&failure.message),
            }
            self.cover(watch, running);
        }
        let plan = running.wanted.clone();
        if changes.config {
            config::show_warnings(&plan);
            for setting in needs_restart(&running.first, &plan) {
                note(&format!("{setting} has changed, which only a restart of `pelton dev` takes over."));
            }
        }
        let mut components = components_of(&plan, running);
        let mut has_news = config || changes.components;
        let mut has_problems = false;
        if (config || changes.sources) && build::has_sources(&plan) {
            let built = match self.build(&plan).await {
                Ok(built) => built,
                Err(failure) => return goes_on(&failure.message),
            };
            running.folders.extend(built.folders);
            has_problems = self.show_problems(&built.problems);
            if !built.problems.iter().all(|problem| running.waits(&plan, &problem.consumer)) {
                note(GOES_ON);
                return false;
            }
            has_news |= built.changed;
            components.extend(built.components);
        }
        // A consumer that had no component may get one that was built before.
        has_news |= components.keys().ne(running.components.keys());
        if !has_news {
            if has_problems {
                say_idle(&idle_consumers(running));
            } else {
                note("Built; no component has changed.");
            }
            return true;
        }
        self.deploy(plan, components, running).await
    }

    async fn deploy(
        &self,
        plan: Arc<Plan>,
        mut components: BTreeMap<ConsumerName, PathBuf>,
        running: &mut Running,
    ) -> bool {
        let Some(node) = &self.node else { return false };
        loop {
            let deployment = Deployment { plan: plan.clone(), components: components.clone() };
            match node.broker.deploy(deployment).await {
                Ok(()) => break,
                Err(DeployError::Load(errors)) => {
                    let failure = load_failure(&self.setup.config_file, &errors);
                    let left_out = |error: &LoadError| components.contains_key(&error.consumer);
                    if !errors.iter().all(|error| left_out(error) && running.waits(&plan, &error.consumer)) {
                        return goes_on(&failure.message);
                    }
                    output::error(&failure.message);
                    errors.iter().for_each(|error| drop(components.remove(&error.consumer)));
                }
                Err(error) => return goes_on(&error.to_string()),
            }
        }
        running.plan = plan;
        running.components = components;
        note("Swapped in: new deliveries use it.");
        say_idle(&idle_consumers(running));
        true
    }
}

/// The next change; never where nothing can be watched.
async fn next_change(watch: Option<&Watch>) -> Changes {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// The components of `plan` as far as they are known without building: files as named, sources as they run now.
fn components_of(plan: &Plan, running: &Running) -> BTreeMap<ConsumerName, PathBuf> {
    let component = |consumer: &pelton_core::plan::ConsumerPlan| {
        let path = match &consumer.code {
            ConsumerCode::Component(path) => path.clone(),
            ConsumerCode::Source(_) => running.components.get(&consumer.name)?.clone(),
        };
        Some((consumer.name.clone(), path))
    };
    plan.consumers.iter().filter_map(component).collect()
}

fn idle_consumers(running: &Running) -> Vec<ConsumerName> {
    let names = running.plan.consumers.iter().map(|consumer| &consumer.name);
    names.filter(|name| !running.components.contains_key(*name)).cloned().collect()
}

fn say_idle(idle: &[ConsumerName]) {
    for name in idle {
        note(&format!("Consumer '{name}' has no component yet; its messages wait."));
    }
}

/// Shows why nothing was taken over.
fn goes_on(problem: &str) -> bool {
    output::error(problem);
    note(GOES_ON);
    false
}

fn coverage(setup: &Setup, running: &Running) -> Coverage {
    let mut components = BTreeSet::new();
    let mut sources = running.folders.clone();
    for consumer in &running.wanted.consumers {
        match &consumer.code {
            ConsumerCode::Component(path) => components.insert(path.clone()),
            ConsumerCode::Source(folder) => sources.insert(folder.clone()),
        };
    }
    let config = setup.config_file.clone();
    let ignored = [setup.args.data_dir(&running.plan)].into();
    Coverage { config, components, sources, ignored, ..Coverage::default() }
}
