//! Reading broker.toml and the components again, for whoever asks: SIGHUP, or the HTTP door for `pelton reload`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pelton_core::broker::{Broker, ConsumerState, DeployError, Deployment};
use pelton_core::engine::Fut;
use pelton_core::operator::{Reload, Reloaded};
use pelton_core::plan::Plan;
use pelton_core::runtime::Digest;
use tracing::{error, info, warn};

use crate::changes::changes;
use crate::exit::Failure;
use crate::logging::{self, LogForm};
use crate::node::load_failure;
use crate::{build, config, output};

/// The broker.toml that a broker was started from.
pub(crate) struct ConfigFile {
    file: PathBuf,
    form: LogForm,
    /// As it was at the start: some settings are only read then.
    started_with: Arc<Plan>,
    /// As it runs.
    text: Mutex<String>,
}

/// Reads `file` and finds the components that it names; its text comes along.
///
/// # Errors
/// Whatever is wrong with either.
pub(crate) fn read(file: &std::path::Path) -> Result<(Deployment, String), Failure> {
    let text = config::read(file)?;
    let plan = config::check(file, &text)?;
    let built = build::existing(file, &plan);
    if !built.problems.is_empty() {
        return Err(build::failure(file, &built.problems));
    }
    Ok((Deployment { plan: Arc::new(plan), components: built.components }, text))
}

impl ConfigFile {
    /// The `file` with this `text`, which the broker is about to be started with.
    pub(crate) fn new(file: PathBuf, form: LogForm, started_with: Arc<Plan>, text: String) -> Self {
        Self { file, form, started_with, text: Mutex::new(text) }
    }

    async fn take_over(&self, broker: &Broker) -> Result<Reloaded, Vec<String>> {
        let wrong = |message: &str| output::problems(message).map(str::to_owned).collect::<Vec<_>>();
        let (deployment, text) = read(&self.file).map_err(|failure| wrong(&failure.message))?;
        let plan = deployment.plan.clone();
        let digests_before = digests(broker);
        broker.deploy(deployment).await.map_err(|error| match error {
            DeployError::Load(errors) => wrong(&load_failure(&self.file, &errors).message),
            DeployError::Unmet(problems) => problems,
            DeployError::Engine(error) => vec![error.to_string()],
        })?;
        let mut running = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = changes(&running, &text);
        *running = text;
        lines.extend(new_components(&digests_before, &digests(broker)));
        let at_next_start = needs_restart(&self.started_with, &plan).into_iter().map(str::to_owned).collect();
        let warnings = plan.warnings.iter().flat_map(|warning| wrong(warning)).collect();
        Ok(Reloaded { changes: lines, at_next_start, warnings })
    }

    /// Who asked may be far away: the log has it all.
    fn log(&self, outcome: &Result<Reloaded, Vec<String>>) {
        let lines = |problem| logging::problems(self.form, problem);
        match outcome {
            Ok(reloaded) => {
                reloaded.warnings.iter().flat_map(|warning| lines(warning)).for_each(|warning| warn!("{warning}"));
                for setting in &reloaded.at_next_start {
                    warn!("{setting} has changed, which only a restart takes over.");
                }
                reloaded.changes.iter().for_each(|change| info!("{change}"));
                info!(changes = reloaded.changes.len(), "reloaded {}", self.file.display());
            }
            Err(problems) => {
                for problem in problems.iter().flat_map(|problem| lines(problem)) {
                    error!("Not reloaded, what runs goes on: {problem}");
                }
            }
        }
    }
}

impl Reload for ConfigFile {
    fn reload<'a>(&'a self, broker: &'a Broker) -> Fut<'a, Result<Reloaded, Vec<String>>> {
        Box::pin(async move {
            let outcome = self.take_over(broker).await;
            self.log(&outcome);
            outcome
        })
    }
}

/// `pelton dev` takes over what changes by itself, and builds it before.
pub(crate) struct ByItself;

impl Reload for ByItself {
    fn reload<'a>(&'a self, _broker: &'a Broker) -> Fut<'a, Result<Reloaded, Vec<String>>> {
        let problem = "`pelton dev` takes over what changes by itself; it says what it finds on its terminal";
        Box::pin(std::future::ready(Err(vec![problem.to_owned()])))
    }
}

fn digests(broker: &Broker) -> BTreeMap<String, Digest> {
    let digest = |state| match state {
        ConsumerState::Ready(digest) => Some(digest),
        _ => None,
    };
    let consumers = broker.consumers().into_iter();
    consumers.filter_map(|consumer| Some((consumer.name.to_string(), digest(consumer.state)?))).collect()
}

/// A line for each consumer that was there before and runs another component now.
fn new_components(before: &BTreeMap<String, Digest>, after: &BTreeMap<String, Digest>) -> Vec<String> {
    let is_new = |name: &&String| before.get(*name).is_some_and(|digest| after.get(*name) != Some(digest));
    after.keys().filter(is_new).map(|name| format!("[consumers.{name}] runs another component")).collect()
}

/// The settings that differ and are only read at start.
pub(crate) fn needs_restart(before: &Plan, now: &Plan) -> Vec<&'static str> {
    let changed = [
        ("[broker] data", before.broker.data != now.broker.data),
        ("[http]", before.http != now.http),
        ("[sandbox]", before.sandbox != now.sandbox),
    ];
    changed.into_iter().filter_map(|(setting, changed)| changed.then_some(setting)).collect()
}
