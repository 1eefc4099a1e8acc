//! `pelton settle`: say what became of leased messages.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{CallError, Client, Refused, RemoteArgs, segment};
use crate::commands::lease::OutcomeArgs;
use crate::exit::{Exit, Failure};
use crate::output;

/// Most settlements of one call.
const SETTLEMENTS_MAX: usize = 1000;

/// Settle leases by their tokens: --ack, --retry or --reject
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The queue that they were leased from
    queue: String,
    /// What `pelton lease` printed as "token"
    #[arg(required = true)]
    tokens: Vec<String>,
    #[command(flatten)]
    outcome: OutcomeArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What became of one leased message.
#[derive(Debug, Serialize)]
pub(crate) struct Settlement {
    pub(crate) token: String,
    pub(crate) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    results: Vec<SettleResult>,
}

#[derive(Debug, Deserialize)]
struct SettleResult {
    token: String,
    code: Option<String>,
    detail: Option<String>,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let settlements = args.outcome.settlements(args.tokens);
    let settlements =
        settlements.ok_or_else(|| Failure::usage("say what became of them: --ack, --retry or --reject"))?;
    settle(&client, &args.queue, &settlements).await
}

/// Settles all; names those that could not be.
pub(crate) async fn settle(client: &Client, queue: &str, settlements: &[Settlement]) -> anyhow::Result<()> {
    let mut failed = 0;
    for part in settlements.chunks(SETTLEMENTS_MAX) {
        let path = format!("/v1/queues/{}/settle", segment(queue));
        let results = match client.post::<Answer>(&path, &json!({ "settlements": part })).await {
            Ok(answer) => answer.results,
            // None came through; which and why is told for each where there are several.
            Err(CallError::Refused(refused)) => match listed(&refused) {
                Some(results) => results,
                None => return Err(Failure::from(refused).into()),
            },
            Err(error) => return Err(error.into()),
        };
        for SettleResult { token, code, detail } in results {
            if let Some(code) = code {
                failed += 1;
                let detail = detail.unwrap_or_default();
                output::note(&format!("{}: {} ({})", output::tame(&token), output::tame(&detail), output::tame(&code)));
            }
        }
    }
    match settlements.len() {
        _ if failed == 0 => Ok(()),
        all if failed == all => {
            let message = format!("none of {all} leases could be settled, as listed above");
            Err(Failure::new(Exit::Refused, message).into())
        }
        all => {
            let message = format!("{failed} of {all} leases could not be settled, as listed above; the others were");
            Err(Failure::new(Exit::Partial, message).into())
        }
    }
}

/// What became of each lease, where the broker refused all of several.
fn listed(refused: &Refused) -> Option<Vec<SettleResult>> {
    Vec::deserialize(refused.members.get("results")?).ok()
}
