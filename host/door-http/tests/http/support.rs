//! A broker in memory under the API, and requests to it.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use pelton_core::broker::{Broker, Deployment, Parts};
use pelton_core::config;
use pelton_core::metrics::Metrics;
use pelton_core::operator::{Backup, Reload};
use pelton_core::testing::{FakeRuntime, MemoryEngine, TestClock};
use pelton_door_http::{Api, HttpOptions};
use serde_json::Value;
use tokio::sync::watch;

use crate::faulty::FaultyEngine;

/// Two queues, one dead-letter queue each, and routes by pattern and by filter.
pub(crate) const CONFIG: &str = r#"
[broker]
max-message = "64KiB"

[queues.orders]
max-attempts = 2
backoff = { initial = "1s", factor = 2.0, max = "5m", jitter = 0.0 }

[queues.audit]

[[routes]]
from = "orders.*"
to = ["queue:orders"]

[[routes]]
from = "audit.#"
when = 'subject == "yes"'
to = ["queue:audit", "queue:orders"]

[consumers.auditor]
queue = "audit"
component = "auditor.wasm"
"#;

/// Room for the largest message, and not much more.
pub(crate) const REQUEST_BYTES_MAX: u64 = 256 * 1024;

pub(crate) struct Server {
    pub(crate) api: Api,
    pub(crate) broker: Broker,
    pub(crate) clock: TestClock,
    pub(crate) engine: Arc<FaultyEngine>,
    pub(crate) stop: watch::Sender<bool>,
}

/// A server without a token.
pub(crate) async fn server() -> Server {
    server_with(&options(None)).await
}

/// A server without a token that runs `config`.
pub(crate) async fn server_of(config: &str) -> Server {
    start(&options(None), config, Hands::default()).await
}

/// Who lends the broker a hand.
#[derive(Default)]
pub(crate) struct Hands {
    pub(crate) reload: Option<Arc<dyn Reload>>,
    pub(crate) backup: Option<Arc<dyn Backup>>,
    pub(crate) runtime: FakeRuntime,
}

/// A server whose broker can be asked for what `hands` can do.
pub(crate) async fn server_by(hands: Hands) -> Server {
    start(&options(None), CONFIG, hands).await
}

pub(crate) fn options(token: Option<&str>) -> HttpOptions {
    let listen = "127.0.0.1:0".parse().unwrap();
    HttpOptions { listen, token: token.map(str::to_owned), request_bytes_max: REQUEST_BYTES_MAX }
}

pub(crate) async fn server_with(options: &HttpOptions) -> Server {
    start(options, CONFIG, Hands::default()).await
}

async fn start(options: &HttpOptions, config: &str, hands: Hands) -> Server {
    let clock = TestClock::new();
    let engine = Arc::new(FaultyEngine::new(MemoryEngine::on_test_clock(&clock)));
    let parts = Parts {
        engine: engine.clone(),
        runtime: Arc::new(hands.runtime),
        clock: Arc::new(clock.clone()),
        metrics: Metrics::new(),
        guests: tokio::runtime::Handle::current(),
        observer: None,
        in_flight: None,
        reload: hands.reload,
        backup: hands.backup,
    };
    let broker = Broker::start(parts, deployment(config)).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    Server { api: Api::new(broker.clone(), options, stopped), broker, clock, engine, stop }
}

/// What `config` says. No consumer has a component: messages stay where they are until a test leases them.
pub(crate) fn deployment(config: &str) -> Deployment {
    let plan = config::check(config, Path::new("broker.toml")).unwrap_or_else(|error| panic!("{error}"));
    Deployment { plan: Arc::new(plan), components: Default::default() }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The JSON of an answer that has to be a 200.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        assert_eq!(self.headers["content-type"], "application/json");
        self.json()
    }

    /// The code of an answer that has to be a problem.
    pub(crate) fn code(&self) -> String {
        self.problem()["code"].as_str().unwrap().to_owned()
    }

    fn problem(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.body);
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["type"], format!("urn:pelton:problem:{}", problem["code"].as_str().unwrap()));
        problem
    }

    /// A problem for a snapshot: status, then the headers beyond the content type, then the members.
    pub(crate) fn shown(&self) -> String {
        let problem = self.problem();
        let mut text = format!("{}\n", self.status.as_u16());
        for (name, value) in &self.headers {
            if name != "content-type" && name != "content-length" {
                text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
            }
        }
        for name in ["title", "detail", "code"] {
            text.push_str(&format!("{name}: {}\n", problem[name].as_str().unwrap()));
        }
        for (name, value) in problem.as_object().unwrap() {
            if !["type", "title", "status", "detail", "code"].contains(&name.as_str()) {
                text.push_str(&format!("{name}: {value}\n"));
            }
        }
        text
    }
}

impl Server {
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.api.respond(request.body(body.into()).unwrap()).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Body::empty()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], body).await
    }

    /// Publishes an event with this id and these further members.
    pub(crate) async fn publish(&self, topic: &str, id: &str, members: &str) {
        let content_type = [("content-type", "application/cloudevents+json")];
        let answer = self.send(Method::POST, &format!("/v1/topics/{topic}"), &content_type, event(id, members)).await;
        answer.ok();
    }

    /// The tokens of up to `max` leases on `orders`.
    pub(crate) async fn lease(&self, max: usize) -> Vec<String> {
        let answer = self.post("/v1/queues/orders/lease", format!("{{\"max\":{max}}}")).await.ok();
        answer["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|leased| leased["token"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// A JSON event.
pub(crate) fn event(id: &str, members: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"{id}","source":"/test","type":"t"{members}}}"#)
}
