//! Tells people what was triaged. A real one would post to a chat; this one logs the line that it would post.

use pelton_guest::{Delivery, Json, Result, config, consumer, info, warn};
use serde::Deserialize;

/// What `triage` emits.
#[derive(Deserialize)]
struct Triaged {
    what: String,
    urgency: String,
    repository: String,
    number: u64,
    title: String,
    url: String,
}

consumer!(handle);

fn handle(triaged: Json<Triaged>, _: &Delivery) -> Result {
    let channel = config("channel").unwrap_or_else(|| "#general".to_owned());
    let line = line(&triaged);
    if triaged.urgency == "high" {
        warn!("{channel}: {line} (urgent)");
    } else {
        info!("{channel}: {line}");
    }
    Ok(())
}

fn line(triaged: &Triaged) -> String {
    let Triaged { what, repository, number, title, url, .. } = triaged;
    format!("{what} {repository}#{number}: {title} <{url}>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_what_where_and_which() {
        let triaged = Triaged {
            what: "bug".to_owned(),
            urgency: "high".to_owned(),
            repository: "octo/boat".to_owned(),
            number: 7,
            title: "It leaks".to_owned(),
            url: "https://example.test/7".to_owned(),
        };
        assert_eq!(line(&triaged), "bug octo/boat#7: It leaks <https://example.test/7>");
    }
}
