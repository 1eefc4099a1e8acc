//! `pelton reload`: the running broker takes over its changed broker.toml.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{CallError, Client, Refused, RemoteArgs};
use crate::exit::{Exit, Failure};
use crate::output;

/// Have the running broker read its broker.toml and its components again
///
/// All of it is taken over or, if anything is wrong, nothing. SIGHUP asks for the same. What can't change while it runs is
/// named.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print what changed as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Deserialize, Serialize)]
struct Reloaded {
    changes: Vec<String>,
    at_next_start: Vec<String>,
    warnings: Vec<String>,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let reloaded: Reloaded = match client.post("/v1/reload", &json!({})).await {
        Ok(reloaded) => reloaded,
        Err(CallError::Refused(refused)) => return Err(failure(refused).into()),
        Err(error) => return Err(error.into()),
    };
    if args.json {
        return Ok(output::json(&reloaded)?);
    }
    reloaded.warnings.iter().for_each(|warning| output::warning(warning));
    for change in &reloaded.at_next_start {
        output::note(&format!("{change} takes effect at the next start only."));
    }
    if reloaded.changes.is_empty() {
        output::note("Nothing has changed.");
    }
    Ok(reloaded.changes.iter().try_for_each(|change| output::line(change))?)
}

/// A configuration that is wrong ends the command as it ends `pelton check`, with all that is wrong with it.
fn failure(refused: Refused) -> Failure {
    let problems = refused.members.get("problems").and_then(|problems| Vec::<String>::deserialize(problems).ok());
    match problems {
        Some(problems) if !problems.is_empty() => {
            let each: Vec<String> = problems.iter().map(|problem| format!("error: {problem}")).collect();
            Failure::new(
                Exit::Config,
                format!("{}\n\nerror: nothing was reloaded, what runs goes on", each.join("\n\n")),
            )
        }
        _ => refused.into(),
    }
}
