//! How long one delivery takes, end to end through `Handler::invoke`: CPU bound, one at a time.
//!
//! `cargo run --release -p pelton-runtime-wasm --example invoke_bench [DELIVERIES] [COMPONENT]`

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pelton_core::runtime::{Handler, Outcome, Runtime};
use pelton_runtime_wasm::{RuntimeOptions, WasmRuntime};

use crate::support::{delivery, guest, limits, spec};

#[expect(clippy::print_stdout, reason = "its figures are its output")]
#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let count = arguments.next().map_or(50_000, |count| count.parse::<u32>().expect("a number of deliveries"));
    let component = arguments.next().map_or_else(|| guest("examples/plain"), PathBuf::from);
    let runtime = WasmRuntime::new(RuntimeOptions::default()).expect("a runtime");
    let started = Instant::now();
    let handler = runtime.load(spec(component, limits())).await.expect("it loads");
    println!("load: {:?}", started.elapsed());
    let small = vec![b'a'; 100];
    let tester = runtime.load(spec(guest("runtime_guest"), limits())).await.expect("it loads");
    time(&handler, &small, count).await;
    println!("100 B: {:?} per delivery", time(&handler, &small, count).await);
    println!("10 kB: {:?} per delivery", time(&handler, &[b'a'; 10_000], count).await);
    println!("larger guest: {:?} per delivery", time(&tester, b"", count).await);
    println!("larger guest, three lines of output: {:?} per delivery", time(&tester, b"mixed", count).await);
    println!("larger guest, an emit: {:?} per delivery", time(&tester, b"emit-quietly", count).await);
    for tasks in [2, 16] {
        println!("100 B, {tasks} tasks: {:.0} deliveries/s", rate(&handler, &small, count, tasks).await);
    }
    let endless: Vec<_> = (0..200)
        .map(|_| {
            let tester = Arc::clone(&tester);
            tokio::spawn(async move { tester.invoke(delivery(b"spin")).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(600)).await;
    println!("100 B, 16 tasks, beside 200 endless loops: {:.0} deliveries/s", rate(&handler, &small, count, 16).await);
    let spinning = endless.iter().filter(|task| !task.is_finished()).count();
    println!("({spinning} of the loops still spin)");
    endless.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Deliveries per second by `tasks` tasks that share `count` deliveries.
async fn rate(handler: &Arc<dyn Handler>, data: &[u8], count: u32, tasks: u32) -> f64 {
    let started = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let (handler, data) = (Arc::clone(handler), data.to_vec());
            tokio::spawn(async move { time(&handler, &data, count / tasks).await })
        })
        .collect();
    for task in running {
        task.await.expect("no panic");
    }
    f64::from(count) / started.elapsed().as_secs_f64()
}

async fn time(handler: &Arc<dyn Handler>, data: &[u8], count: u32) -> Duration {
    let delivery = delivery(data);
    let started = Instant::now();
    for _ in 0..count {
        let invoked = handler.invoke(delivery.clone()).await;
        assert_eq!(invoked.outcome, Outcome::Done);
    }
    started.elapsed() / count.max(1)
}
