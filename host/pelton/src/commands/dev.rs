//! `pelton dev`: flags of the dev runner, and its life between the signals.

use std::sync::Arc;

use pelton_core::dispatch::Observer;

use crate::config::ConfigArgs;
use crate::dev::{Dev, Options};
use crate::exit::Failure;
use crate::logging::{self, LogForm};
use crate::narrate::{Form, Narrator};
use crate::node::{Executors, NodeArgs, Setup};
use crate::output::Paint;
use crate::reload::ByItself;
use crate::signals::{Asked, Signals};

/// Build and run what broker.toml describes, show every delivery, and take over changes
///
/// Consumers given as `source` are built with cargo; the wasm target is added when it is missing. The [dev] sample is
/// published at each start. When broker.toml, a component or a source changes, it is built and swapped in without
/// losing or repeating a settled message; if that fails, the error is shown and the version before it goes on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    node: NodeArgs,
    /// Do not publish the [dev] sample
    #[arg(long)]
    no_sample: bool,
    /// Stop once every queue that is consumed is empty, instead of watching
    #[arg(long)]
    once: bool,
    /// Print deliveries as JSON, one per line
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(args: Args) -> anyhow::Result<()> {
    logging::start(LogForm::Text, "warn");
    let executors = Executors::start()?;
    let handles = executors.handles();
    executors.run(async move {
        let config_file = args.config.find()?;
        let mut signals = Signals::catch()?;
        let form = if args.json { Form::Json } else { Form::Text(Paint::stdout()) };
        let narrator = Arc::new(Narrator::start(form)?);
        let observer = Some(narrator.clone() as Arc<dyn Observer>);
        let reload = Arc::new(ByItself);
        let setup = Setup { config_file, args: args.node, handles, observer, reload, development: true };
        let options = Options { sample: !args.no_sample, once: args.once };
        let mut dev = Dev::new(setup, options);
        let ended: Result<(), Failure> = tokio::select! {
            ended = dev.run() => ended,
            () = stop_asked(&mut signals) => Ok(()),
        };
        tokio::spawn(signals.end_at_next_stop());
        dev.stop().await;
        narrator.flush();
        Ok(ended?)
    })
}

async fn stop_asked(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}
