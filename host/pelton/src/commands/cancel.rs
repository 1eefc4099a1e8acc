//! `pelton cancel`: take back messages that wait for their time.

use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::client::{CallError, Client, RemoteArgs, segment};
use crate::exit::{Exit, Failure};
use crate::output;

/// Take back messages that wait for their time, by the handles that `pelton publish` printed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What `pelton publish --delay` or `--at` printed behind the id
    #[arg(required = true)]
    handles: Vec<String>,
    /// Print what became of each as a line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What became of one message.
#[derive(Debug, Deserialize)]
struct Answer {
    cancelled: u64,
    of: u64,
}

#[derive(Debug, Default, Serialize)]
struct Line<'a> {
    handle: &'a str,
    /// In how many queues it is gone.
    cancelled: u64,
    /// Out of how many.
    of: Option<u64>,
    code: Option<&'a str>,
    detail: Option<&'a str>,
}

pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.remote)?;
    let (mut whole, mut partly) = (0, 0);
    for handle in &args.handles {
        let request = client.request(Method::DELETE, &format!("/v1/scheduled/{}", segment(handle)));
        match client.json::<Answer>(request).await {
            Ok(Answer { cancelled, of }) => {
                if cancelled == of {
                    whole += 1;
                } else {
                    partly += 1;
                }
                let line = Line { handle, cancelled, of: Some(of), ..Line::default() };
                show(&line, args.json, &told(cancelled, of))?;
            }
            Err(CallError::Refused(refused)) if !refused.is_temporary() && is_about_handle(refused.status) => {
                let (code, detail) = (Some(refused.code.as_str()), Some(refused.detail.as_str()));
                let line = Line { handle, code, detail, ..Line::default() };
                show(
                    &line,
                    args.json,
                    &format!("{} ({})", output::tame(&refused.detail), output::tame(&refused.code)),
                )?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    verdict(whole, partly, args.handles.len())
}

/// Other handles may fare better: not so for a wrong token or a broken broker.
fn is_about_handle(status: u16) -> bool {
    matches!(status, 400 | 404 | 409)
}

fn told(cancelled: u64, of: u64) -> String {
    if cancelled == of {
        return "cancelled".to_owned();
    }
    format!("cancelled in {cancelled} of {of} queues; it had left the others")
}

fn show(line: &Line<'_>, json: bool, told: &str) -> std::io::Result<()> {
    if json { output::json(line) } else { output::line(&format!("{}  {told}", output::tame(line.handle))) }
}

fn verdict(whole: usize, partly: usize, all: usize) -> anyhow::Result<()> {
    match (whole, partly) {
        (whole, _) if whole == all => Ok(()),
        (0, 0) => Err(Failure::new(Exit::Refused, "nothing was cancelled").into()),
        _ => Err(Failure::new(Exit::Partial, "not everything was cancelled, as listed above").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_how_much_was_cancelled() {
        let check = |whole, partly, all, expected| {
            let exit = verdict(whole, partly, all).map_or_else(|error| crate::exit::code_of(&error), |()| Exit::Done);
            assert_eq!(exit, expected, "{whole} + {partly} of {all}");
        };
        check(2, 0, 2, Exit::Done);
        check(1, 0, 2, Exit::Partial);
        check(0, 1, 1, Exit::Partial);
        check(0, 0, 2, Exit::Refused);
        assert_eq!(told(1, 2), "cancelled in 1 of 2 queues; it had left the others");
    }
}
