//! The dev runner: builds, starts, watches, rebuilds and swaps.
//!
//! Invariant: what runs is only ever replaced by something that was checked, built and loaded. A mistake is shown, and the
//! version before it goes on. [`Dev::run`] may be dropped at any point: a build is killed, a deployment is left whole or
//! not begun, and [`Dev::stop`] takes the broker down in order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pelton_core::broker::{DeployError, Deployment};
use pelton_core::name::ConsumerName;
use pelton_core::plan::{ConsumerCode, Plan};

use crate::build::{self, Built, Problem, Toolchain};
use crate::commands::serve::needs_restart;
use crate::config;
use crate::exit::Failure;
use crate::node::{Node, Setup, StartError, load_failure};
use crate::output::{self, note};
use crate::sample;
use crate::watch::{Changes, Coverage, Watch};

/// How often `--once` looks whether all is done.
const IDLE_POLL: Duration = Duration::from_millis(20);

/// What the flags say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) sample: bool,
    pub(crate) once: bool,
}

/// The dev runner.
pub(crate) struct Dev {
    file: PathBuf,
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
    folders: std::collections::BTreeSet<PathBuf>,
}

impl Dev {
    pub(crate) fn new(file: PathBuf, setup: Setup, options: Options) -> Self {
        Self { file, setup, options, toolchain: Toolchain::default(), node: None }
    }

    /// Runs until something ends it: an error at start or of the broker itself, or `--once`.
    pub(crate) async fn run(&mut self) -> Result<(), Failure> {
        let plan = Arc::new(config::load(&self.file)?);
        config::show_warnings(&plan);
        let built = self.build(&plan).await?;
        let mut running =
            Running { first: plan.clone(), plan: plan.clone(), components: built.components, folders: built.folders };
        let missing = show_problems(&built.problems);
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
            self.take_over(changes, &mut running).await;
            if let Some(watch) = &mut watch {
                watch.cover(coverage(&self.file, &self.setup, &running));
            }
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
        build::build(&self.file, plan, &mut self.toolchain).await
    }

    /// Starts the broker; consumers whose component can't be loaded are left out and wait. Whether there were any.
    async fn start(&mut self, running: &mut Running) -> Result<bool, Failure> {
        let mut some_failed = false;
        loop {
            let deployment = Deployment { plan: running.plan.clone(), components: running.components.clone() };
            match Node::start(deployment, &self.setup).await {
                Ok(node) => {
                    self.node = Some(node);
                    return Ok(some_failed);
                }
                Err(StartError::Load(errors)) if !some_failed => {
                    some_failed = true;
                    output::error(&load_failure(&errors).message);
                    errors.iter().for_each(|error| drop(running.components.remove(&error.consumer)));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn greet(&self, running: &Running) {
        let Some(node) = &self.node else { return };
        let data = self.setup.args.data_dir(&running.plan);
        let idle = idle_consumers(running);
        let run = running.plan.consumers.len() - idle.len();
        note(&format!("Broker at {}, data in {}, {run} consumers. Ctrl-C stops it.", node.url, data.display()));
        say_idle(&idle);
    }

    async fn feed_sample(&self, plan: &Plan) {
        let (Some(sample), Some(node)) = (&plan.dev.sample, &self.node) else { return };
        match sample::feed(&node.broker, sample).await {
            Ok(fed) => {
                let refused = if fed.refused > 0 { format!(", {} refused", fed.refused) } else { String::new() };
                note(&format!("Published the sample {}: {} messages{refused}.", sample.file.display(), fed.accepted));
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
        match Watch::new(coverage(&self.file, &self.setup, running)) {
            Ok(watch) => Some(watch),
            Err(error) => {
                output::error(&format!("changes can't be watched ({error}); restart `pelton dev` to take them over"));
                None
            }
        }
    }

    /// Takes over what has changed, or says why not.
    async fn take_over(&mut self, changes: Changes, running: &mut Running) {
        let plan = if changes.config {
            match config::load(&self.file) {
                Ok(plan) => Arc::new(plan),
                Err(failure) => return goes_on(&failure.message),
            }
        } else {
            running.plan.clone()
        };
        if changes.config {
            config::show_warnings(&plan);
            for setting in needs_restart(&running.first, &plan) {
                note(&format!("{setting} has changed, which only a restart of `pelton dev` takes over."));
            }
        }
        let mut components = components_of(&plan, running);
        let mut has_news = changes.config || changes.components;
        if (changes.config || changes.sources) && build::has_sources(&plan) {
            let built = match self.build(&plan).await {
                Ok(built) => built,
                Err(failure) => return goes_on(&failure.message),
            };
            running.folders.extend(built.folders);
            show_problems(&built.problems);
            has_news |= built.changed;
            components.extend(built.components);
            if !built.problems.is_empty() && !has_news {
                return note("The version before it goes on.");
            }
        }
        // A consumer that had no component may get one that was built before.
        has_news |= components.keys().ne(running.components.keys());
        if !has_news {
            return note("Built; no component has changed.");
        }
        self.deploy(plan, components, running).await;
    }

    async fn deploy(&self, plan: Arc<Plan>, components: BTreeMap<ConsumerName, PathBuf>, running: &mut Running) {
        let Some(node) = &self.node else { return };
        let deployment = Deployment { plan: plan.clone(), components: components.clone() };
        match node.broker.deploy(deployment).await {
            Ok(()) => {
                running.plan = plan;
                running.components = components;
                note("Swapped in: new deliveries use it.");
                say_idle(&idle_consumers(running));
            }
            Err(DeployError::Load(errors)) => goes_on(&load_failure(&errors).message),
            Err(error) => goes_on(&error.to_string()),
        }
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

fn show_problems(problems: &[Problem]) -> bool {
    problems.iter().for_each(|problem| output::error(&problem.to_string()));
    !problems.is_empty()
}

fn goes_on(problem: &str) {
    output::error(problem);
    note("The version before it goes on.");
}

fn coverage(file: &std::path::Path, setup: &Setup, running: &Running) -> Coverage {
    let component = |consumer: &pelton_core::plan::ConsumerPlan| match &consumer.code {
        ConsumerCode::Component(path) => Some(path.clone()),
        ConsumerCode::Source(_) => None,
    };
    Coverage {
        config: file.to_owned(),
        components: running.plan.consumers.iter().filter_map(component).collect(),
        sources: running.folders.clone(),
        ignored: [setup.args.data_dir(&running.plan)].into(),
    }
}
