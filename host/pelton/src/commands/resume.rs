//! `pelton resume`: what `pelton pause` stopped goes on.

use super::pause::What;
use crate::client::{Client, RemoteArgs};

/// Resume a queue or a consumer that was paused
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    remote: RemoteArgs,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    args.what.call(&Client::new(&args.remote)?, "resume", "resumed").await
}
