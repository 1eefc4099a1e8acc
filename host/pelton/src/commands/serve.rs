//! `pelton serve`: runs what broker.toml describes until it is told to stop.

use std::path::Path;
use std::sync::Arc;

use pelton_core::broker::{DeployError, Deployment};
use pelton_core::plan::Plan;
use tracing::{error, info, warn};

use crate::build;
use crate::config::{self, ConfigArgs};
use crate::exit::Failure;
use crate::logging::{self, LogForm};
use crate::node::{Executors, Node, NodeArgs, Setup, load_failure};
use crate::signals::{Asked, Signals};

/// Run what broker.toml describes
///
/// SIGTERM and SIGINT stop it in order: no new requests, running deliveries end, exit 0. SIGHUP reads broker.toml and
/// the components again; if anything is wrong with them, what runs goes on. PELTON_LOG filters the log.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    node: NodeArgs,
    /// How log lines look
    #[arg(long, value_enum, default_value = "text")]
    log: LogForm,
}

pub(crate) fn execute(args: Args) -> anyhow::Result<()> {
    logging::start(args.log, "warn,pelton=info");
    let executors = Executors::start()?;
    let handles = executors.handles();
    executors.run(async move {
        let file = args.config.find()?;
        let deployment = deployment(&file)?;
        warn_of(&deployment.plan, args.log);
        let mut signals = Signals::catch()?;
        let config_file = file.clone();
        let setup = Setup { config_file, args: args.node, handles, observer: None, development: false };
        let started_with = deployment.plan.clone();
        let start = Node::start(deployment, &setup);
        let mut node = tokio::select! {
            started = start => started.map_err(|error| error.failure(&file))?,
            () = stop_asked(&mut signals) => return Ok(()),
        };
        let failure = loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Stop => break None,
                    Asked::Reload => reload(&file, &node, &started_with, args.log).await,
                },
                failure = node.failed() => break Some(failure),
            }
        };
        if failure.is_none() {
            info!("stopping");
        }
        tokio::spawn(signals.end_at_next_stop());
        node.stop().await;
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    })
}

async fn stop_asked(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

fn deployment(file: &Path) -> Result<Deployment, Failure> {
    let plan = config::load(file)?;
    let built = build::existing(file, &plan);
    if !built.problems.is_empty() {
        return Err(build::failure(file, &built.problems));
    }
    Ok(Deployment { plan: Arc::new(plan), components: built.components })
}

/// Takes over broker.toml and the components as they are now, or says why not.
async fn reload(file: &Path, node: &Node, started_with: &Plan, form: LogForm) {
    let not_reloaded = |failure: &str| {
        logging::problems(form, failure).for_each(|problem| error!("Not reloaded, what runs goes on: {problem}"));
    };
    let deployment = match deployment(file) {
        Ok(deployment) => deployment,
        Err(failure) => return not_reloaded(&failure.message),
    };
    warn_of(&deployment.plan, form);
    for setting in needs_restart(started_with, &deployment.plan) {
        warn!("{setting} has changed, which only a restart takes over.");
    }
    match node.broker.deploy(deployment).await {
        Ok(()) => info!("reloaded {}", file.display()),
        Err(DeployError::Load(errors)) => not_reloaded(&load_failure(file, &errors).message),
        Err(failure) => not_reloaded(&failure.to_string()),
    }
}

fn warn_of(plan: &Plan, form: LogForm) {
    let problems = plan.warnings.iter().flat_map(|warning| logging::problems(form, warning));
    problems.for_each(|problem| warn!("{problem}"));
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
