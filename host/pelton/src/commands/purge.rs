//! `pelton purge`: delete all messages of a queue.

use reqwest::Method;

use crate::bulk::{Done, Pace};
use crate::client::{Client, RemoteArgs, segment};
use crate::commands::queues::Queue;
use crate::confirm;
use crate::exit::Failure;
use crate::output;

/// Delete all messages of a queue for good, but for those that are being handled
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The queue
    queue: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Do not ask: the queue's name again
    #[arg(long, value_name = "NAME", conflicts_with = "yes")]
    confirm: Option<String>,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let path = format!("/v1/queues/{}", segment(&args.queue));
    let queue: Queue = client.get(&path).await?;
    let messages = output::count(queue.messages(), "message");
    match &args.confirm {
        Some(name) if *name != args.queue => {
            return Err(Failure::usage(format!("--confirm says '{name}', and the queue is '{}'", args.queue)).into());
        }
        None if !args.yes => {
            let question = format!("Delete {messages} of queue {} for good?", args.queue);
            confirm::ask(&question, &format!("--yes or --confirm {} does", args.queue))?;
        }
        _ => {}
    }
    let bar = output::bar(queue.messages(), "Deleting", args.json);
    let (mut done, pace) = (Done::default(), Pace::new(None));
    let deleting = done.run(&bar, &pace, "purged", async |max, after| {
        let request = client.request(Method::DELETE, &format!("{path}/messages"));
        let parameters = [("confirm", Some(args.queue.clone())), ("max", Some(max.to_string())), ("after", after)];
        let parameters: Vec<_> = parameters.into_iter().filter(|(_, value)| value.is_some()).collect();
        client.json(request.query(&parameters)).await
    });
    deleting.await?;
    bar.finish_and_clear();
    if args.json {
        return Ok(output::json(&done)?);
    }
    let mut line = format!("purged {}", output::count(done.changed, "message"));
    if done.skipped > 0 {
        line.push_str(&format!("; passed over, as leased: {}", output::grouped(done.skipped)));
    }
    Ok(output::line(&line)?)
}
