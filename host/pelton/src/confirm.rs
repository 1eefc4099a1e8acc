//! Questions before something is deleted for good.

use std::io::IsTerminal as _;

use crate::exit::Failure;
use crate::output;

/// Asks `question` on a terminal. Where nobody can be asked, or the answer is no, the error says how to confirm it: `by`.
pub(crate) fn ask(question: &str, by: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("nothing was done: it has to be confirmed; {by}")).into());
    }
    output::note(&format!("{question} [y/N]"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::usage("nothing was done: the answer was no").into()),
    }
}
