//! `pelton build`: compiles the consumers that broker.toml gives as source.

use pelton_core::name::ConsumerName;
use pelton_core::plan::ConsumerCode;
use serde::Serialize;

use crate::build::{self, Toolchain};
use crate::config::{self, ConfigArgs};
use crate::output;

/// Build the consumers that broker.toml gives as `source`
///
/// The components go to target/pelton/ beside broker.toml, where `pelton serve` finds them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print what was built as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    consumer: &'a str,
    component: String,
    bytes: u64,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let file = args.config.find()?;
    let plan = config::load(&file)?;
    if !build::has_sources(&plan) {
        output::note("No consumer is given as `source`: there is nothing to build.");
        return Ok(());
    }
    let built = build::build(&file, &plan, &mut Toolchain::default()).await?;
    let is_source = |name: &ConsumerName| {
        plan.consumers.iter().any(|consumer| consumer.name == *name && matches!(consumer.code, ConsumerCode::Source(_)))
    };
    for (consumer, component) in built.components.iter().filter(|(name, _)| is_source(name)) {
        let bytes = std::fs::metadata(component).map_or(0, |metadata| metadata.len());
        if args.json {
            let component = component.display().to_string();
            output::json(&Line { consumer: consumer.as_str(), component, bytes })?;
        } else {
            output::line(&format!("{consumer}  {}  {} B", component.display(), output::grouped(bytes)))?;
        }
    }
    if built.problems.is_empty() { Ok(()) } else { Err(build::failure(&file, &built.problems).into()) }
}
