//! Publishing many messages in requests of the CloudEvents batch form, and telling exactly what became of each.
//!
//! A request is taken whole or not at all. When one is refused, the messages at fault are taken out, or searched by
//! halves, and the others are sent again: nothing of a refused request was stored, so nothing is stored twice.

use std::time::Duration;

use pelton_core::name::Topic;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::client::{CallError, Client, Refused, segment};
use crate::exit::Failure;

/// A request grows no larger than this, well under the broker's default limit of 16 MiB.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How often a request is repeated that the broker could not take just now.
const TRIES_MAX: u32 = 8;
const PAUSE: Duration = Duration::from_secs(1);
/// A request is not repeated where the broker asks for a longer pause than this.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Refused messages that are kept for the report; all are counted.
pub(crate) const REFUSED_LISTED_MAX: usize = 1000;

/// A message on its way.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Where it stands in its file, from 1.
    pub(crate) line: u64,
    /// The event in the CloudEvents JSON format.
    pub(crate) event: Box<RawValue>,
}

/// A message that was not accepted.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RefusedItem {
    pub(crate) line: u64,
    pub(crate) code: String,
    pub(crate) detail: String,
}

/// What became of everything so far.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Tally {
    /// Messages accepted, durable.
    pub(crate) accepted: u64,
    /// Of those, messages that every matching route filtered out.
    pub(crate) filtered: u64,
    /// Of those, messages that had been accepted before, with the same ids.
    pub(crate) duplicates: u64,
    /// Of those, messages that wait for their time, but for what had been accepted before.
    pub(crate) scheduled: u64,
    /// Messages refused in all.
    pub(crate) refused: u64,
    /// Requests sent.
    pub(crate) requests: u64,
    /// The first refused messages, in order.
    pub(crate) refusals: Vec<RefusedItem>,
}

impl Tally {
    /// Counts a message as refused.
    pub(crate) fn refuse(&mut self, item: RefusedItem) {
        self.refused += 1;
        if self.refusals.len() < REFUSED_LISTED_MAX {
            self.refusals.push(item);
        }
    }
}

/// The attributes that the batch form needs, beside the body.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) struct Event<'a> {
    specversion: &'static str,
    pub(crate) id: &'a str,
    pub(crate) source: &'a str,
    #[serde(rename = "type")]
    pub(crate) kind: &'a str,
    pub(crate) time: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<&'a str>,
    datacontenttype: &'a str,
    #[serde(flatten)]
    pub(crate) extensions: &'a std::collections::BTreeMap<String, String>,
    data: &'a RawValue,
}

impl<'a> Event<'a> {
    /// An event with a JSON body.
    pub(crate) fn new(
        id: &'a str,
        source: &'a str,
        kind: &'a str,
        time: &'a str,
        extensions: &'a std::collections::BTreeMap<String, String>,
        data: &'a RawValue,
    ) -> Self {
        Self {
            specversion: "1.0",
            id,
            source,
            kind,
            time,
            subject: None,
            datacontenttype: "application/json",
            extensions,
            data,
        }
    }
}

/// The time now, as CloudEvents writes it.
pub(crate) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

#[derive(Debug, Deserialize)]
struct Answer {
    messages: Vec<AnswerItem>,
}

#[derive(Debug, Deserialize)]
struct AnswerItem {
    id: String,
    targets: usize,
    scheduled: Option<String>,
    #[serde(default)]
    duplicate: bool,
}

/// Why the rest was not sent.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) failure: Failure,
    /// First and last line of the request of which it is unknown whether it was accepted.
    pub(crate) unknown: Option<(u64, u64)>,
}

/// Publishes consecutive messages of the same topic together, in their order.
pub(crate) struct Publisher<'a> {
    client: &'a Client,
    batch: usize,
    topic: Option<Topic>,
    waiting: Vec<Item>,
    waiting_bytes: usize,
    /// Parameters of every request.
    query: Vec<(&'static str, String)>,
    pub(crate) tally: Tally,
    /// Id and handle of messages that wait for their time, until somebody takes them.
    pub(crate) scheduled: Vec<(String, String)>,
}

impl<'a> Publisher<'a> {
    pub(crate) fn new(client: &'a Client, batch: usize, query: Vec<(&'static str, String)>) -> Self {
        let (waiting, scheduled) = (Vec::new(), Vec::new());
        Self { client, batch, topic: None, waiting, waiting_bytes: 0, query, tally: Tally::default(), scheduled }
    }

    /// Adds a message; sends what waits when it does not belong to the same request.
    pub(crate) async fn push(&mut self, topic: &Topic, item: Item) -> Result<(), Stopped> {
        let bytes = item.event.get().len() + 1;
        let is_full = self.waiting.len() >= self.batch || self.waiting_bytes + bytes > REQUEST_BYTES_MAX;
        if is_full || self.topic.as_ref() != Some(topic) {
            self.flush().await?;
            self.topic = Some(topic.clone());
        }
        self.waiting_bytes += bytes;
        self.waiting.push(item);
        Ok(())
    }

    /// Sends what waits.
    pub(crate) async fn flush(&mut self) -> Result<(), Stopped> {
        let Some(topic) = self.topic.take() else { return Ok(()) };
        self.waiting_bytes = 0;
        // The first part to send lies on top.
        let mut parts = vec![std::mem::take(&mut self.waiting)];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self.send(&topic, &part).await? {
                Ok(answer) => self.count(part.len(), answer),
                Err(refused) => {
                    let (again, guilty) = blame(part, &refused);
                    guilty.into_iter().for_each(|item| self.tally.refuse(item));
                    parts.extend(again.into_iter().rev());
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, messages: usize, answer: Answer) {
        let count = |is: fn(&AnswerItem) -> bool| answer.messages.iter().filter(|item| is(item)).count() as u64;
        self.tally.accepted += messages as u64;
        self.tally.filtered += count(|item| item.targets == 0);
        self.tally.duplicates += count(|item| item.duplicate);
        self.tally.scheduled += count(|item| item.scheduled.is_some() && !item.duplicate);
        let handles = answer.messages.into_iter().filter_map(|item| Some((item.id, item.scheduled?)));
        self.scheduled.extend(handles);
    }

    /// Sends one request; repeats it while the broker says that it did nothing and may do it later.
    async fn send(&mut self, topic: &Topic, part: &[Item]) -> Result<Result<Answer, Refused>, Stopped> {
        let events: Vec<&str> = part.iter().map(|item| item.event.get()).collect();
        let body = format!("[{}]", events.join(","));
        let lines = part.first().zip(part.last()).map(|(first, last)| (first.line, last.line));
        let mut tries = 0;
        loop {
            tries += 1;
            let request = self
                .client
                .request(Method::POST, &format!("/v1/topics/{}", segment(topic.as_str())))
                .query(&self.query)
                .header(CONTENT_TYPE, "application/cloudevents-batch+json")
                .body(body.clone());
            self.tally.requests += 1;
            match self.client.json(request).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(CallError::Refused(refused)) if may_repeat(&refused) && tries < TRIES_MAX => {
                    tokio::time::sleep(refused.retry_after.unwrap_or(PAUSE)).await;
                }
                Err(CallError::Refused(refused)) if is_about_messages(&refused) => return Ok(Err(refused)),
                Err(CallError::Refused(refused)) => {
                    let unknown = lines.filter(|_| refused.code == "unknown");
                    return Err(Stopped { failure: refused.into(), unknown });
                }
                Err(CallError::Transport(failure)) => {
                    let unknown = lines.filter(|_| failure.exit == crate::exit::Exit::Unavailable);
                    return Err(Stopped { failure, unknown });
                }
            }
        }
    }
}

/// Nothing was done, and the same request may succeed before long: a full disk or a paused queue waits for somebody.
fn may_repeat(refused: &Refused) -> bool {
    let is_soon = refused.retry_after.is_none_or(|after| after <= PAUSE_MAX);
    refused.is_temporary() && refused.code != "unknown" && is_soon
}

/// Whether other messages might fare better: not so for a wrong token or a broken broker.
fn is_about_messages(refused: &Refused) -> bool {
    matches!(refused.status, 400 | 404 | 409 | 413 | 422)
}

/// Splits a refused request into what is worth sending again and what is to blame.
fn blame(part: Vec<Item>, refused: &Refused) -> (Vec<Vec<Item>>, Vec<RefusedItem>) {
    let whole =
        |item: &Item| RefusedItem { line: item.line, code: refused.code.clone(), detail: refused.detail.clone() };
    if part.len() == 1 {
        return (Vec::new(), part.iter().map(whole).collect());
    }
    if let Some(listed) = listed(refused) {
        let mut again = Vec::new();
        let mut guilty = Vec::new();
        for (index, item) in part.into_iter().enumerate() {
            match listed.iter().find(|(at, ..)| *at == index) {
                Some((_, code, detail)) => {
                    guilty.push(RefusedItem { line: item.line, code: code.clone(), detail: detail.clone() });
                }
                None => again.push(item),
            }
        }
        if !guilty.is_empty() {
            return (vec![again], guilty);
        }
        return (halves(again), Vec::new());
    }
    (halves(part), Vec::new())
}

fn halves(mut part: Vec<Item>) -> Vec<Vec<Item>> {
    let second = part.split_off(part.len() / 2);
    vec![part, second]
}

/// The messages at fault, if the broker named all of them: place in the request, code, detail.
fn listed(refused: &Refused) -> Option<Vec<(usize, String, String)>> {
    let items = refused.members.get("items")?.as_array()?;
    let count = refused.members.get("count")?.as_u64()?;
    let one = |item: &serde_json::Value| {
        let text = |name: &str| item.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
        Some((usize::try_from(item.get("index")?.as_u64()?).ok()?, text("code")?, text("detail")?))
    };
    let all: Vec<_> = items.iter().filter_map(one).collect();
    (all.len() as u64 == count).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(lines: std::ops::RangeInclusive<u64>) -> Vec<Item> {
        let event = || RawValue::from_string("{}".to_owned()).expect("JSON");
        lines.map(|line| Item { line, event: event() }).collect()
    }

    fn refused(members: serde_json::Value) -> Refused {
        let members = members.as_object().expect("an object").clone();
        Refused { status: 400, code: "invalid-event".into(), detail: "bad".into(), members, retry_after: None }
    }

    /// Lines to send again, by request, and lines refused.
    fn check(lines: std::ops::RangeInclusive<u64>, members: serde_json::Value, again: &[&[u64]], guilty: &[u64]) {
        let (parts, refused) = blame(part(lines), &refused(members));
        let parts: Vec<Vec<u64>> = parts.iter().map(|part| part.iter().map(|item| item.line).collect()).collect();
        assert_eq!(parts, again);
        assert_eq!(refused.iter().map(|item| item.line).collect::<Vec<_>>(), guilty);
    }

    #[test]
    fn the_guilty_are_taken_out() {
        let item = |index| serde_json::json!({"index": index, "code": "too-large", "detail": "no"});
        check(11..=14, serde_json::json!({"count": 2, "items": [item(0), item(2)]}), &[&[12, 14]], &[11, 13]);
    }

    #[test]
    fn or_searched_by_halves() {
        check(1..=5, serde_json::json!({}), &[&[1, 2], &[3, 4, 5]], &[]);
        check(1..=4, serde_json::json!({"count": 3, "items": []}), &[&[1, 2], &[3, 4]], &[]);
        check(7..=7, serde_json::json!({}), &[], &[7]);
    }
}
