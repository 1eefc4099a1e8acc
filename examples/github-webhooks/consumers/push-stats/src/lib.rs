//! Counts what a push brings. It insists on the fields it needs: a push without them is rejected, and becomes a dead letter
//! at once, because trying again would not make it readable.

use pelton_guest::{Delivery, Json, Result, consumer, info};
use serde::Deserialize;

#[derive(Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    reference: String,
    commits: Vec<Commit>,
    deleted: bool,
    pusher: Pusher,
}

#[derive(Deserialize)]
struct Commit {
    added: Vec<String>,
    removed: Vec<String>,
    modified: Vec<String>,
}

#[derive(Deserialize)]
struct Pusher {
    name: String,
}

consumer!(handle);

fn handle(push: Json<Push>, _: &Delivery) -> Result {
    info!("{}", summary(&push));
    Ok(())
}

fn summary(push: &Push) -> String {
    let (kind, name) = match push.reference.split_once("refs/heads/") {
        Some((_, branch)) => ("branch", branch),
        None => ("tag", push.reference.trim_start_matches("refs/tags/")),
    };
    let who = &push.pusher.name;
    if push.deleted {
        return format!("{who} deleted {kind} {name}");
    }
    if push.commits.is_empty() {
        return format!("{who} pushed {kind} {name}");
    }
    let files: usize = push.commits.iter().map(|c| c.added.len() + c.removed.len() + c.modified.len()).sum();
    format!(
        "{who} pushed {} with {} to {kind} {name}",
        count(push.commits.len(), "commit"),
        count(files, "changed file")
    )
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use pelton_guest::testing;

    use super::*;

    #[test]
    fn pushes_are_summed_up() {
        let check = |body: &str, expected: &str| {
            assert_eq!(summary(&pelton_guest::serde_json::from_str(body).expect("JSON")), expected);
        };
        check(
            r#"{"ref": "refs/heads/main", "deleted": false, "pusher": {"name": "mona"},
                "commits": [{"added": ["a"], "removed": [], "modified": ["b", "c"]}]}"#,
            "mona pushed 1 commit with 3 changed files to branch main",
        );
        check(
            r#"{"ref": "refs/tags/v1", "deleted": true, "pusher": {"name": "mona"}, "commits": []}"#,
            "mona deleted tag v1",
        );
    }

    #[test]
    fn what_can_not_be_read_is_rejected() {
        let delivery = testing::delivery("github.push", r#"{"ref": "refs/heads/main", "pusher": {"name": "mona"}}"#);
        let error = testing::handle(handle, &delivery).expect_err("no commits");
        assert!(error.is_reject());
        assert!(error.reason().contains("missing field `commits`"), "{error}");
    }
}
