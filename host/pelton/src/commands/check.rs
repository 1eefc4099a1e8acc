//! `pelton check`: everything that `serve` does before it binds a port.

use std::path::Path;

use pelton_core::plan::Plan;
use pelton_core::runtime::ComponentSpec;
use pelton_engine_redb::GUARANTEES;
use serde::Serialize;

use crate::build;
use crate::config::{self, ConfigArgs};
use crate::exit::{Exit, Failure};
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
    /// How many of the queues hold something else than dead letters.
    #[serde(skip)]
    live: usize,
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
        live: 0,
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
        let consumers = output::count(findings.consumers.len() as u64, "consumer");
        let warnings = match findings.warnings.len() {
            0 => "no warnings".to_owned(),
            count => output::count(count as u64, "warning"),
        };
        output::line(&format!("{} is fine: {}, {consumers}, {warnings}", findings.file, queues(findings.live)))?;
    }
    Ok(())
}

/// Queues that hold dead letters are not counted: most of them nobody declared.
fn queues(live: usize) -> String {
    let count = output::count(live as u64, "queue");
    match live {
        0 => count,
        1 => format!("{count} and its dead letters"),
        _ => format!("{count} and their dead letters"),
    }
}

async fn check(file: &Path, findings: &mut Findings, quiet: bool) -> Result<(), Failure> {
    let plan = config::load(file)?;
    findings.queues = plan.queues.iter().map(|queue| queue.name.to_string()).collect();
    findings.live = plan.queues.iter().filter(|queue| queue.dead_letter.is_some()).count();
    findings.warnings.clone_from(&plan.warnings);
    if !quiet {
        config::show_warnings(&plan);
    }
    let unmet = plan.unmet(&GUARANTEES);
    if !unmet.is_empty() {
        return Err(Failure::several(Exit::Config, &unmet));
    }
    config::token(file, &plan)?;
    components(file, &plan, findings).await
}

/// Loads every component as a broker would, and names all that can't be.
async fn components(file: &Path, plan: &Plan, findings: &mut Findings) -> Result<(), Failure> {
    let built = build::existing(file, plan);
    let mut problems: Vec<String> = built.problems.iter().map(|problem| problem.shown(file)).collect();
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
            Err(error) => problems.push(node::shown(file, &error)),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::components(&problems)) }
}
