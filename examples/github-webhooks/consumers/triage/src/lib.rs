//! Looks at new issues and pull requests and says what they are and how much they hurry: one `triage.*` message for each.
//!
//! The rules are plain functions at the bottom, so that they can be tested without a broker.

use pelton_guest::{Delivery, Error, Event, Json, Result, consumer, info};
use serde::{Deserialize, Serialize};

/// The part of GitHub's payload that triage looks at; the rest of its 20 KB is skipped unread.
#[derive(Deserialize)]
struct Webhook {
    issue: Option<Item>,
    pull_request: Option<Item>,
    repository: Repository,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
}

/// An issue or a pull request.
#[derive(Deserialize)]
struct Item {
    number: u64,
    title: String,
    body: Option<String>,
    html_url: String,
    #[serde(default)]
    labels: Vec<Label>,
    #[serde(default)]
    draft: Option<bool>,
    #[serde(default)]
    additions: u64,
    #[serde(default)]
    deletions: u64,
}

#[derive(Deserialize)]
struct Label {
    name: String,
}

/// What is emitted; `notify` reads it.
#[derive(Serialize)]
struct Triaged<'a> {
    what: &'static str,
    urgency: &'static str,
    repository: &'a str,
    number: u64,
    title: &'a str,
    url: &'a str,
}

consumer!(handle);

fn handle(webhook: Json<Webhook>, delivery: &Delivery) -> Result {
    let (what, item) = match (&webhook.issue, &webhook.pull_request) {
        (Some(issue), _) => (kind_of_issue(issue), issue),
        (None, Some(pull)) if pull.draft == Some(true) => {
            info!("#{} is a draft: nothing to review yet", pull.number);
            return Ok(());
        }
        (None, Some(pull)) => (size_of_pull_request(pull), pull),
        (None, None) => return Err(Error::reject(format!("{} has no issue and no pull request", delivery.topic))),
    };
    let urgency = urgency(item);
    info!("#{} is a {what} of {urgency} urgency", item.number);
    let triaged = Triaged {
        what,
        urgency,
        repository: &webhook.repository.full_name,
        number: item.number,
        title: &item.title,
        url: &item.html_url,
    };
    let subject = format!("{}#{}", triaged.repository, triaged.number);
    let topic = if webhook.issue.is_some() { "triage.issue" } else { "triage.pull_request" };
    Event::json(&triaged)?.subject(subject).emit(topic)?;
    Ok(())
}

/// What an issue is about: its labels know best, then its title.
fn kind_of_issue(issue: &Item) -> &'static str {
    let title = issue.title.to_lowercase();
    let labelled = |name: &str| issue.labels.iter().any(|label| label.name.eq_ignore_ascii_case(name));
    if labelled("bug") {
        "bug"
    } else if labelled("enhancement") || labelled("feature") {
        "feature"
    } else if labelled("question") || title.ends_with('?') || title.starts_with("how ") {
        "question"
    } else if ["crash", "error", "broken", "fail"].iter().any(|word| title.contains(word)) {
        "bug"
    } else {
        "feature"
    }
}

/// How much there is to review, in changed lines.
fn size_of_pull_request(pull: &Item) -> &'static str {
    match pull.additions.saturating_add(pull.deletions) {
        0..=50 => "small change",
        51..=500 => "change",
        _ => "large change",
    }
}

fn urgency(item: &Item) -> &'static str {
    let text = format!("{} {}", item.title, item.body.as_deref().unwrap_or_default()).to_lowercase();
    let urgent = ["security", "data loss", "crash"].iter().any(|word| text.contains(word));
    if urgent { "high" } else { "normal" }
}

#[cfg(test)]
mod tests {
    use pelton_guest::testing;

    use super::*;

    /// Handles a webhook whose issue or pull request has `fields`, and returns what was emitted as `topic what urgency`.
    fn triage(key: &str, fields: &str) -> Vec<String> {
        let body = format!(
            r#"{{"{key}": {{"number": 7, "html_url": "https://example.test/7", {fields}}},
                "repository": {{"full_name": "octo/boat"}}}}"#
        );
        testing::handle(handle, &testing::delivery("github.event", body)).expect("handled");
        let describe = |(topic, event): (String, Event)| {
            #[derive(Deserialize)]
            struct Seen {
                what: String,
                urgency: String,
            }
            let seen: Seen = pelton_guest::serde_json::from_slice(&event.data).expect("JSON");
            assert_eq!(event.subject.as_deref(), Some("octo/boat#7"));
            format!("{topic}: {}, {}", seen.what, seen.urgency)
        };
        testing::emitted().into_iter().map(describe).collect()
    }

    #[test]
    fn issues() {
        let check = |fields, expected| assert_eq!(triage("issue", fields), [expected], "{fields}");
        check(r#""title": "Add a sail", "body": null, "labels": [{"name": "Bug"}]"#, "triage.issue: bug, normal");
        check(r#""title": "It crashes on waves", "body": null"#, "triage.issue: bug, high");
        check(r#""title": "How deep is the lake?", "body": "I wonder""#, "triage.issue: question, normal");
        check(r#""title": "Add a sail", "body": "or it is a security risk""#, "triage.issue: feature, high");
    }

    #[test]
    fn pull_requests() {
        let check = |fields, expected: &[&str]| assert_eq!(triage("pull_request", fields), expected, "{fields}");
        check(r#""title": "x", "additions": 50"#, &["triage.pull_request: small change, normal"]);
        check(r#""title": "x", "additions": 50, "deletions": 1"#, &["triage.pull_request: change, normal"]);
        check(r#""title": "x", "additions": 501, "draft": false"#, &["triage.pull_request: large change, normal"]);
        check(r#""title": "x", "additions": 501, "draft": true"#, &[]);
    }

    #[test]
    fn what_is_neither_is_rejected() {
        let delivery = testing::delivery("github.star", r#"{"repository": {"full_name": "octo/boat"}}"#);
        let error = testing::handle(handle, &delivery).expect_err("neither");
        assert!(error.is_reject());
        assert_eq!(error.reason(), "github.star has no issue and no pull request");
    }
}
