//! `pelton check`: everything that `serve` does before it binds a port.

use std::path::Path;

use pelton_core::plan::Plan;
use pelton_core::runtime::ComponentSpec;
use serde::Serialize;

use crate::build;
use crate::config::{self, ConfigArgs};
use crate::exit::Failure;
use crate::{node, output};

/// Check broker.toml, its secrets and its components without running anything
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    ok: bool,
    file: String,
    queues: Vec<String>,
    consumers: Vec<Consumer>,
    warnings: Vec<String>,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Consumer {
    name: String,
    component: String,
    digest: String,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let file = args.config.find()?;
    let mut findings = Findings {
        ok: true,
        file: file.display().to_string(),
        queues: Vec::new(),
        consumers: Vec::new(),
        warnings: Vec::new(),
        problem: None,
    };
    let checked = check(&file, &mut findings, args.json).await;
    if args.json {
        findings.ok = checked.is_ok();
        findings.problem = checked.as_ref().err().map(ToString::to_string);
        output::json(&findings)?;
    }
    checked?;
    if !args.json {
        let (queues, consumers) = (findings.queues.len(), findings.consumers.len());
        let warnings = match findings.warnings.len() {
            0 => "no warnings".to_owned(),
            1 => "1 warning".to_owned(),
            count => format!("{count} warnings"),
        };
        output::line(&format!("{} is fine: {queues} queues, {consumers} consumers, {warnings}", findings.file))?;
    }
    Ok(())
}

async fn check(file: &Path, findings: &mut Findings, quiet: bool) -> Result<(), Failure> {
    let plan = config::load(file)?;
    findings.queues = plan.queues.iter().map(|queue| queue.name.to_string()).collect();
    findings.warnings.clone_from(&plan.warnings);
    if !quiet {
        config::show_warnings(&plan);
    }
    if let Some(source) = &plan.http.token {
        config::secret("[http] token", source)?;
    }
    components(file, &plan, findings).await
}

/// Loads every component as a broker would, and names all that can't be.
async fn components(file: &Path, plan: &Plan, findings: &mut Findings) -> Result<(), Failure> {
    let built = build::existing(file, plan);
    let mut problems: Vec<String> = built.problems.iter().map(ToString::to_string).collect();
    // What is compiled here need not be compiled again at start; but a check makes no data folder.
    let cache_dir = plan.broker.data.is_dir().then(|| plan.broker.data.join("cache"));
    let runtime = node::runtime(plan, cache_dir, false)?;
    for consumer in &plan.consumers {
        let Some(path) = built.components.get(&consumer.name) else { continue };
        let spec = ComponentSpec {
            consumer: consumer.name.clone(),
            path: path.clone(),
            limits: consumer.limits.clone(),
            config: consumer.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        match runtime.load(spec).await {
            Ok(handler) => findings.consumers.push(Consumer {
                name: consumer.name.to_string(),
                component: path.display().to_string(),
                digest: handler.digest().to_string(),
            }),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::component(problems.join("\n"))) }
}
