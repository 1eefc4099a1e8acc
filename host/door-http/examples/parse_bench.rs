//! What publishing costs the door: parsing alone, the API without a socket, and the CPU time of the door's thread with one.
//!
//! `cargo run --release -p pelton-door-http --example parse_bench`. The engine is the one in memory, so its own cost is
//! measured too and shown beside the others.

#![expect(clippy::print_stdout, reason = "it prints figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark ends where something is missing")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use pelton_core::broker::{Broker, Deployment, Parts, Publish, PublishOptions};
use pelton_core::clock::SystemClock;
use pelton_core::door::Door;
use pelton_core::engine::{Filter, Select};
use pelton_core::metrics::Metrics;
use pelton_core::name::Topic;
use pelton_core::testing::{FakeRuntime, MemoryEngine};
use pelton_door_http::event::parse_batch;
use pelton_door_http::{Api, HttpDoor, HttpOptions};
use tokio::sync::watch;

const BATCH: usize = 100;
const ROUNDS: usize = 2000;
const CONNECTIONS: usize = 16;
const CONFIG: &str = "[queues.bench]\n[[routes]]\nfrom = \"bench.#\"\nto = [\"queue:bench\"]\n";

/// A batch of events whose data has 256 bytes.
fn batch() -> String {
    let data = format!("{{\"text\":\"{}\"}}", "x".repeat(245));
    assert_eq!(data.len(), 256);
    let event = |n| {
        format!(
            r#"{{"specversion":"1.0","id":"01890a5d-ac96-774b-bcce-{n:012}","source":"/bench","type":"bench.event","time":"2026-01-31T12:00:00.123Z","datacontenttype":"application/json","data":{data}}}"#
        )
    };
    format!("[{}]", (0..BATCH).map(event).collect::<Vec<_>>().join(","))
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let batch = batch();
    println!("a batch of {BATCH} events of 256 B is {} bytes", batch.len());
    parse(&batch);
    runtime.block_on(without_socket(&batch));
    drop(runtime);
    with_socket("batches, over a socket", &request("application/cloudevents-batch+json", &batch), BATCH, ROUNDS);
    with_socket("single publishes, over a socket", &request("application/json", &"x".repeat(256)), 1, ROUNDS * 20);
}

fn report(what: &str, elapsed: Duration, events: usize) {
    println!("{what:40} {:8.3} us/event", elapsed.as_secs_f64() * 1e6 / events as f64);
}

fn parse(batch: &str) {
    let mut bytes = 0;
    let started = Instant::now();
    for _ in 0..ROUNDS {
        parse_batch(batch, &mut |message| bytes += message.as_bytes().len()).unwrap();
    }
    assert!(bytes > 0);
    report("parse a batch", started.elapsed(), ROUNDS * BATCH);
}

async fn broker() -> Broker {
    let clock = Arc::new(SystemClock::new());
    let parts = Parts {
        engine: Arc::new(MemoryEngine::new(clock.clone())),
        runtime: Arc::new(FakeRuntime::new()),
        clock,
        metrics: Metrics::new(),
        guests: tokio::runtime::Handle::current(),
        observer: None,
        reload: None,
        backup: None,
        in_flight: None,
    };
    let plan = pelton_core::config::check(CONFIG, Path::new("broker.toml")).unwrap();
    Broker::start(parts, Deployment { plan: Arc::new(plan), components: Default::default() }).await.unwrap()
}

async fn purge(broker: &Broker) {
    let mut after = None;
    loop {
        after = broker.discard("bench", Select::All, Filter::default(), after, 1000).await.unwrap().next;
        if after.is_none() {
            return;
        }
    }
}

fn options() -> HttpOptions {
    HttpOptions { listen: "127.0.0.1:0".parse().unwrap(), token: None, request_bytes_max: 16 << 20 }
}

async fn without_socket(batch: &str) {
    let broker = broker().await;
    let topic = Topic::new("bench.event").unwrap();
    let mut elapsed = Duration::ZERO;
    for _ in 0..ROUNDS / 10 {
        let mut messages = Vec::new();
        let take = &mut |message| messages.push(Publish { topic: topic.clone(), message });
        parse_batch(batch, take).unwrap();
        let started = Instant::now();
        broker.publish(messages, PublishOptions::default()).await.unwrap();
        elapsed += started.elapsed();
    }
    report("broker and engine in memory alone", elapsed, ROUNDS / 10 * BATCH);
    purge(&broker).await;
    let api = Api::new(broker.clone(), &options(), watch::channel(false).1);
    let started = Instant::now();
    for _ in 0..ROUNDS / 10 {
        respond(&api, "application/cloudevents-batch+json", batch.to_owned()).await;
    }
    report("the API with both, batches", started.elapsed(), ROUNDS / 10 * BATCH);
    purge(&broker).await;
    let started = Instant::now();
    for _ in 0..ROUNDS {
        respond(&api, "application/json", "x".repeat(256)).await;
    }
    report("the API with both, single publishes", started.elapsed(), ROUNDS);
}

async fn respond(api: &Api, content_type: &str, body: String) {
    let request = Request::post("/v1/topics/bench.event").header("content-type", content_type);
    let response = api.respond(request.body(Body::from(body)).unwrap()).await;
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
}

fn request(content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST /v1/topics/bench.event HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
    );
    format!("{head}{body}").into_bytes()
}

/// Sends `request` over several connections and reports the CPU time that the door's thread took, engine included.
fn with_socket(what: &str, request: &[u8], events: usize, rounds: usize) {
    let (ready, address) = std::sync::mpsc::channel();
    let (stop, stopped) = watch::channel(false);
    let door = std::thread::Builder::new().name("door".into()).spawn(move || serve(&ready, stopped)).unwrap();
    let address: SocketAddr = address.recv().unwrap();
    let before = door_cpu();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| send(address, request, rounds / CONNECTIONS));
        }
    });
    let events = rounds / CONNECTIONS * CONNECTIONS * events;
    let rate = events as f64 / started.elapsed().as_secs_f64();
    report(&format!("{what}, CPU of the door"), door_cpu() - before, events);
    println!("{:40} {rate:8.0} events/s with the client beside it", "");
    stop.send_replace(true);
    door.join().unwrap();
}

fn serve(ready: &std::sync::mpsc::Sender<SocketAddr>, stop: watch::Receiver<bool>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let door = HttpDoor::bind(options()).unwrap();
        ready.send(door.local_addr()).unwrap();
        Box::new(door).run(broker().await, stop).await.unwrap();
    });
}

fn send(address: SocketAddr, request: &[u8], rounds: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..rounds {
        stream.write_all(request).unwrap();
        let mut have = 0;
        loop {
            let count = stream.read(&mut buffer[have..]).unwrap();
            assert_ne!(count, 0, "the door hung up");
            have += count;
            // The only answer expected ends so.
            if buffer[..have].ends_with(b"}]}") {
                break;
            }
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"));
    }
}

/// The CPU time of the thread named `door`, as Linux counts it in nanoseconds.
fn door_cpu() -> Duration {
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let folder = task.unwrap().path();
        if std::fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.trim() == "door") {
            let text = std::fs::read_to_string(folder.join("schedstat")).unwrap();
            return Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap());
        }
    }
    Duration::ZERO
}
