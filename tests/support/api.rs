//! The HTTP API as cases use it: raw requests with their answers, and the few calls that nearly every case makes.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::wait::{BOUND, eventually};

/// A broker's HTTP API.
#[derive(Clone)]
pub(crate) struct Api {
    client: reqwest::Client,
    url: String,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The media type of `text`.
    pub(crate) content_type: String,
    /// The body.
    pub(crate) text: String,
}

impl Reply {
    /// The JSON of an answer that is a success.
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{self}");
        self.json()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("the answer is not JSON: {error}\n{self}"))
    }
}

impl fmt::Display for Reply {
    /// As snapshots show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.status, self.content_type)?;
        match serde_json::from_str::<Value>(&self.text) {
            Ok(json) => write!(f, "{json:#}"),
            Err(_) => f.write_str(&self.text),
        }
    }
}

impl Api {
    /// The API at `url`, such as `http://127.0.0.1:7656`.
    pub(crate) fn new(url: String) -> Self {
        Self { client: reqwest::Client::new(), url }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A POST to `path` that can still be given headers and a body.
    pub(crate) fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }

    /// A GET of `path` that was not sent yet.
    pub(crate) fn get_request(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    /// The answer to a GET of `path`.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        send(self.get_request(path)).await
    }

    /// Publishes a plain body; returns the id that it was given.
    pub(crate) async fn publish(&self, topic: &str, body: impl Into<reqwest::Body>) -> String {
        let request = self.post(&format!("/v1/topics/{topic}")).header("content-type", "text/plain").body(body);
        let answer = send(request).await.ok();
        answer["messages"][0]["id"].as_str().expect("a published message has an id").to_owned()
    }

    /// A request that publishes `events`, which are CloudEvents in JSON, as one batch.
    pub(crate) fn batch(&self, topic: &str, events: &[Value]) -> reqwest::RequestBuilder {
        let body = serde_json::to_string(events).expect("JSON can be written");
        let request = self.post(&format!("/v1/topics/{topic}"));
        request.header("content-type", "application/cloudevents-batch+json").body(body)
    }

    /// Publishes `count` messages with this data, in one request.
    pub(crate) async fn publish_many(&self, topic: &str, count: usize, data: Value) {
        let events: Vec<Value> = (0..count).map(|number| event(&format!("m-{number}"), data.clone())).collect();
        send(self.batch(topic, &events)).await.ok();
    }

    /// What `GET /v1/queues/QUEUE` says.
    pub(crate) async fn queue(&self, queue: &str) -> Value {
        self.get(&format!("/v1/queues/{queue}")).await.ok()
    }

    /// Messages in `queue`, whatever their state; its dead letters are elsewhere.
    pub(crate) async fn depth(&self, queue: &str) -> u64 {
        let counts = self.queue(queue).await;
        ["ready", "leased", "scheduled"].iter().map(|state| counts[state].as_u64().expect("a count")).sum()
    }

    /// Waits until `queue` holds exactly `count` messages.
    pub(crate) async fn holds(&self, queue: &str, count: u64) {
        eventually(&format!("queue {queue} holds {count}"), BOUND, async || match self.depth(queue).await {
            found if found == count => Ok(()),
            _ => Err(self.queue(queue).await),
        })
        .await;
    }

    /// Waits until `queue` is empty, for as long as it gets emptier.
    pub(crate) async fn drains(&self, queue: &str) {
        let mut left = u64::MAX;
        while left > 0 {
            left = eventually(&format!("queue {queue} gets emptier"), BOUND, async || match self.depth(queue).await {
                found if found < left => Ok(found),
                _ => Err(self.queue(queue).await),
            })
            .await;
        }
    }

    /// Waits until `queue` has exactly `count` messages in `state`: `ready`, `leased`, `scheduled` or `dead`.
    pub(crate) async fn counts(&self, queue: &str, state: &str, count: u64) {
        eventually(&format!("queue {queue} has {count} {state}"), BOUND, async || {
            let counts = self.queue(queue).await;
            if counts[state].as_u64() == Some(count) { Ok(()) } else { Err(counts) }
        })
        .await;
    }

    /// Every message of `queue`, in order, page by page.
    pub(crate) async fn messages(&self, queue: &str) -> Vec<Value> {
        self.pages(&format!("/v1/queues/{queue}/messages")).await
    }

    /// Every dead letter of `queue`, in order, without the attempts.
    pub(crate) async fn dead(&self, queue: &str) -> Vec<Value> {
        self.pages(&format!("/v1/queues/{queue}/dead")).await
    }

    /// The only dead letter of `queue`, once it is there, with its attempts.
    pub(crate) async fn only_dead(&self, queue: &str) -> Value {
        let dead = eventually(&format!("{queue} has a dead letter"), BOUND, async || {
            let mut dead = self.dead(queue).await;
            if dead.len() == 1 { Ok(dead.remove(0)) } else { Err(format!("{} dead letters", dead.len())) }
        })
        .await;
        self.get(&format!("/v1/queues/{queue}/dead/{}", dead["position"])).await.ok()
    }

    async fn pages(&self, path: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let mut page = self.get(&format!("{path}?max=1000{after}")).await.ok();
            found.append(page["messages"].as_array_mut().expect("a page has messages"));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return found,
            }
        }
    }

    /// Leases up to `max` messages of `queue` for `ttl`, waiting a little for the first.
    pub(crate) async fn lease(&self, queue: &str, max: usize, ttl: &str) -> Vec<Value> {
        let body = json!({"max": max, "wait": "10s", "ttl": ttl});
        let mut answer = send(self.post(&format!("/v1/queues/{queue}/lease")).json(&body)).await.ok();
        std::mem::take(answer["messages"].as_array_mut().expect("a lease has messages"))
    }

    /// What settling the lease `token` with `outcome` is answered.
    pub(crate) async fn settle(&self, queue: &str, token: &Value, outcome: &str) -> Reply {
        let body = json!({"settlements": [{"token": token, "outcome": outcome}]});
        send(self.post(&format!("/v1/queues/{queue}/settle")).json(&body)).await
    }

    /// A DELETE of `path` that was not sent yet.
    pub(crate) fn delete(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.delete(format!("{}{path}", self.url))
    }

    /// Publishes these events in one request, which has to be accepted. A topic may have parameters behind it.
    pub(crate) async fn accept(&self, topic: &str, events: &[Value]) -> Vec<Value> {
        let mut answer = send(self.batch(topic, events)).await.ok();
        std::mem::take(answer["messages"].as_array_mut().expect("an answer for each message"))
    }

    /// Deletes everything in `queue` that is not leased.
    pub(crate) async fn purge(&self, queue: &str) {
        let mut after = String::new();
        loop {
            let path = format!("/v1/queues/{queue}/messages?confirm={queue}{after}");
            let answer = send(self.delete(&path)).await.ok();
            match answer["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return,
            }
        }
    }

    /// The sample of a metric: the line of `/metrics` that starts with `series`; 0 if there is none.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let reply = self.get("/metrics").await;
        assert_eq!(reply.status, 200, "{reply}");
        let sample = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        reply.text.lines().find_map(sample).unwrap_or(0.0)
    }
}

/// A CloudEvent with this id and this JSON as its data.
pub(crate) fn event(id: &str, data: Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/tests", "type": "test", "data": data})
}

/// A CloudEvent with this id and this text as its data.
pub(crate) fn text_event(id: &str, text: &str) -> Value {
    let mut event = event(id, json!(text));
    event["datacontenttype"] = json!("text/plain");
    event
}

/// `event` with these attributes besides.
pub(crate) fn with(mut event: Value, attributes: &Value) -> Value {
    let attributes = attributes.as_object().expect("attributes are an object");
    event.as_object_mut().expect("an event is an object").extend(attributes.clone());
    event
}

/// The ids of stored or leased messages.
pub(crate) fn ids(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|stored| stored["message"]["id"].as_str().expect("every message has an id")).collect()
}

/// The subjects of stored messages: the guest `echo` puts the id of what it echoes there.
pub(crate) fn subjects(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|stored| stored["message"]["subject"].as_str().expect("an echo has a subject")).collect()
}

/// How often each text of `texts` occurs.
pub(crate) fn tally<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, u64> {
    texts.into_iter().fold(BTreeMap::new(), |mut counts, text| {
        *counts.entry(text.to_owned()).or_default() += 1;
        counts
    })
}

/// Sends a request whose answer is expected to come.
pub(crate) async fn send(request: reqwest::RequestBuilder) -> Reply {
    try_send(request).await.expect("the broker answers")
}

/// Sends a request whose answer may not come: the broker may be killed meanwhile.
pub(crate) async fn try_send(request: reqwest::RequestBuilder) -> reqwest::Result<Reply> {
    let response = request.send().await?;
    let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    Ok(Reply { status: response.status().as_u16(), content_type, text: response.text().await? })
}
