//! `pelton serve`: runs what broker.toml describes until it is told to stop.

use std::sync::Arc;

use pelton_core::plan::Plan;
use tracing::{info, warn};

use crate::config::ConfigArgs;
use crate::logging::{self, LogForm};
use crate::node::{Executors, Node, NodeArgs, Setup};
use crate::reload::{self, ConfigFile};
use crate::signals::{Asked, Signals};

/// Run what broker.toml describes
///
/// SIGTERM and SIGINT stop it in order: no new requests, running deliveries end, exit 0. SIGHUP, like
/// `pelton reload`, reads broker.toml and the components again; if anything is wrong with them, what runs goes on. PELTON_LOG filters the log.
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
        let (deployment, text) = reload::read(&file)?;
        warn_of(&deployment.plan, args.log);
        let mut signals = Signals::catch()?;
        let config_file = file.clone();
        let reload = ConfigFile::new(file.clone(), args.log, deployment.plan.clone(), text);
        let setup = Setup {
            config_file,
            args: args.node,
            handles,
            observer: None,
            reload: Arc::new(reload),
            development: false,
        };
        let start = Node::start(deployment, &setup);
        let mut node = tokio::select! {
            started = start => started.map_err(|error| error.failure(&file))?,
            () = stop_asked(&mut signals) => return Ok(()),
        };
        let failure = loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Stop => break None,
                    // The log says what came of it.
                    Asked::Reload => drop(node.broker.reload().await),
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

fn warn_of(plan: &Plan, form: LogForm) {
    let problems = plan.warnings.iter().flat_map(|warning| logging::problems(form, warning));
    problems.for_each(|problem| warn!("{problem}"));
}
