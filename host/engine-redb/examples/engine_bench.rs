//! What the engine can do on this machine: `cargo run --release -p pelton-engine-redb --example engine_bench`.
//!
//! Messages of 256 B, every append and settlement synced. Prints messages appended and settled a second at several batch
//! sizes, and what a backlog costs: time to start, memory, delivery rate. With arguments:
//! `rates` (only the rates), `rate PRODUCERS BATCH CONSUMERS`, `backlog MESSAGES` (only the backlog).

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pelton_core::clock::SystemClock;
use pelton_core::engine::{
    Append, Definitions, Engine, LeaseRequest, Leased, NewEntry, QueueDefinition, QueueId, Settlement, Verdict,
};
use pelton_core::message::{Attributes, Message};
use pelton_core::metrics::{EngineMetrics, Metrics};
use pelton_core::name::{QueueName, Topic};
use pelton_engine_redb::{OpenOptions, RedbEngine, Tuning};

const SECONDS: f64 = 2.0;
const BODY_BYTES: usize = 256;
const RUN: usize = 64;

fn open(dir: &Path) -> (Arc<RedbEngine>, EngineMetrics) {
    let metrics = Metrics::new().engine;
    let options = OpenOptions {
        dir: dir.to_owned(),
        clock: Arc::new(SystemClock::new()),
        metrics: metrics.clone(),
        tuning: Tuning::default(),
        seed: 1,
    };
    (Arc::new(RedbEngine::open(options).expect("the folder is ours")), metrics)
}

async fn define(engine: &RedbEngine) -> QueueId {
    let name = QueueName::new("bench").expect("a name");
    let queue = QueueDefinition::new(name.clone());
    let defined = engine.define(Definitions { queues: vec![queue], ..Definitions::default() }).await.expect("defined");
    defined.queues[&name]
}

fn entries(queue: QueueId, count: usize) -> Append {
    let body = [7; BODY_BYTES];
    let topic = Topic::new("bench.message").expect("a topic");
    let entry = |number: usize| {
        let id = number.to_string();
        let attributes = Attributes { id: &id, source: "/bench", kind: "bench.message", ..Attributes::default() };
        let message = Message::new(&attributes, &body).expect("valid");
        NewEntry::new(queue, topic.clone(), message)
    };
    (0..count).map(entry).collect::<Vec<_>>().into()
}

/// Producers that each have one append of `batch` messages under way, until `stop`.
fn produce(
    engine: &Arc<RedbEngine>,
    queue: QueueId,
    producers: usize,
    batch: usize,
    stop: &Arc<AtomicBool>,
) -> Running {
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..producers {
        let (engine, stop, done) = (Arc::clone(engine), Arc::clone(stop), Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                engine.append(entries(queue, batch)).await.expect("appended");
                done.fetch_add(batch as u64, Ordering::Relaxed);
            }
        }));
    }
    Running { count: done, tasks }
}

fn done(leased: Vec<Leased>) -> Vec<Settlement> {
    let settle = |leased: Leased| Settlement {
        lease: leased.token,
        attempt: None,
        verdict: Verdict::Done { emits: Vec::new() },
    };
    leased.into_iter().map(settle).collect()
}

/// Consumers that lease a run and settle it as one command, until `stop`.
fn consume(engine: &Arc<RedbEngine>, queue: QueueId, consumers: usize, stop: &Arc<AtomicBool>) -> Running {
    let settled = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..consumers {
        let (engine, stop, settled) = (Arc::clone(engine), Arc::clone(stop), Arc::clone(&settled));
        tasks.push(tokio::spawn(async move {
            let want = LeaseRequest { queue, max: RUN, wait: Duration::from_millis(50), ttl: None };
            while !stop.load(Ordering::Relaxed) {
                let leased = engine.lease(want.clone()).await.expect("leased");
                let results = engine.settle(done(leased)).await;
                assert!(results.iter().all(Result::is_ok), "settled");
                settled.fetch_add(results.len() as u64, Ordering::Relaxed);
            }
        }));
    }
    Running { count: settled, tasks }
}

/// Tasks at work and what they have done.
struct Running {
    count: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Running {
    async fn end(self) {
        for task in self.tasks {
            task.await.expect("no task panicked");
        }
    }
}

/// The rates of `counters` over some seconds after a warm-up, and commits a second meanwhile.
async fn rate<const N: usize>(counters: [&AtomicU64; N], metrics: &EngineMetrics) -> ([f64; N], f64) {
    tokio::time::sleep(Duration::from_millis(500)).await;
    let read = || counters.map(|counter| counter.load(Ordering::Relaxed));
    let (before, commits, started) = (read(), metrics.commits.get(), Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(SECONDS)).await;
    let seconds = started.elapsed().as_secs_f64();
    let after = read();
    let rates = std::array::from_fn(|at| (after[at] - before[at]) as f64 / seconds);
    (rates, (metrics.commits.get() - commits) as f64 / seconds)
}

/// What this process has in memory, and had at most.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    format!("memory {} MiB, at most {} MiB", mib("VmRSS"), mib("VmHWM"))
}

/// User and system time of the writer's thread, in seconds.
fn writer_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let writer = stats.filter(|stat| stat.contains("(pelton-writer)")).last().unwrap_or_default();
    let fields: Vec<&str> = writer.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

async fn throughput(dir: &Path, producers: usize, batch: usize, consumers: usize) {
    let (engine, metrics) = open(&dir.join(format!("t{producers}-{batch}-{consumers}")));
    let queue = define(&engine).await;
    let stop = Arc::new(AtomicBool::new(false));
    let producing = produce(&engine, queue, producers, batch, &stop);
    let consuming = consume(&engine, queue, consumers, &stop);
    let (busy, started) = (writer_seconds(), Instant::now());
    let ([appended, settled], commits) = rate([&producing.count, &consuming.count], &metrics).await;
    let busy = writer_seconds() - busy;
    let per_message = busy / started.elapsed().as_secs_f64() / (appended + settled) * 1e6;
    println!(
        "{producers:4} x {batch:4} to {consumers:2}: {appended:9.0} appended/s, {settled:9.0} settled/s, {commits:6.0} commits/s, \
         writer {per_message:.2} us for each of both"
    );
    stop.store(true, Ordering::Relaxed);
    producing.end().await;
    consuming.end().await;
    engine.close(Duration::from_secs(10)).await;
}

async fn drain_rate(engine: &Arc<RedbEngine>, metrics: &EngineMetrics, queue: QueueId) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let consuming = consume(engine, queue, 16, &stop);
    let ([per_second], _) = rate([&consuming.count], metrics).await;
    stop.store(true, Ordering::Relaxed);
    consuming.end().await;
    per_second
}

async fn fill(engine: &RedbEngine, messages: usize) -> QueueId {
    let queue = define(engine).await;
    for _ in 0..messages / 1000 {
        engine.append(entries(queue, 1000)).await.expect("appended");
    }
    queue
}

/// Fills a queue and ends without closing it, as `kill -9` would.
async fn fill_and_die(dir: &Path, messages: usize) {
    let (engine, _) = open(dir);
    let started = Instant::now();
    fill(&engine, messages).await;
    let file_mib = std::fs::metadata(dir.join("pelton.redb")).map_or(0, |file| file.len() >> 20);
    println!("backlog of {messages}: filled in {:.1?}, file {file_mib} MiB, {}", started.elapsed(), memory());
    let pid = std::process::id().to_string();
    let _ = std::process::Command::new("kill").args(["-9", &pid]).status();
}

/// Opens a backlog and delivers from it.
async fn start(dir: &Path, after: &str) {
    let started = Instant::now();
    let (engine, metrics) = open(dir);
    println!("  start after {after}: {:.1?}, {}", started.elapsed(), memory());
    let queue = define(&engine).await;
    let per_second = drain_rate(&engine, &metrics, queue).await;
    println!("  delivery from the backlog: {per_second:.0}/s, {}", memory());
    engine.close(Duration::from_secs(30)).await;
}

/// Runs this program again, so that memory is that of one thing alone.
fn again(arguments: &[&str]) {
    let exe = std::env::current_exe().expect("a program");
    let status = std::process::Command::new(exe).args(arguments).status();
    assert!(status.is_ok(), "the child ran");
}

fn backlog(dir: &Path, messages: &str) {
    let dir = dir.join("backlog");
    let dir = dir.to_string_lossy();
    again(&["fill-and-die", &dir, messages]);
    again(&["start", &dir, "a kill"]);
    again(&["start", &dir, "an orderly end"]);
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<usize>().expect("a number");
    match arguments.as_slice() {
        ["fill-and-die", dir, messages] => return fill_and_die(Path::new(dir), number(messages)).await,
        ["start", dir, after] => return start(Path::new(dir), after).await,
        _ => {}
    }
    let dir = tempfile::tempdir_in(".").expect("a folder");
    match arguments.as_slice() {
        ["rate", producers, batch, consumers] => {
            throughput(dir.path(), number(producers), number(batch), number(consumers)).await;
        }
        ["backlog", messages] => backlog(dir.path(), messages),
        ["rates"] => rates(dir.path()).await,
        _ => {
            rates(dir.path()).await;
            backlog(dir.path(), "1000000");
        }
    }
}

async fn rates(dir: &Path) {
    for (producers, batch) in [(1, 100), (10, 100), (64, 1), (500, 1), (10, 1000)] {
        throughput(dir, producers, batch, 0).await;
    }
    for (producers, batch) in [(64, 1), (500, 1), (10, 100), (10, 1000)] {
        throughput(dir, producers, batch, 16).await;
    }
}
