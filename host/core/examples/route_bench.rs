//! What routing costs: `cargo run --release -p pelton-core --example route_bench -- EVENTS.jsonl`
//!
//! EVENTS.jsonl: one JSON object per line with `event` and `payload`, as GitHub sends them.

use std::error::Error;
use std::hint::black_box;

use pelton_core::config;
use pelton_core::message::{Attributes, Message};
use pelton_core::name::Topic;
use pelton_core::plan::Plan;

#[expect(clippy::print_stdout, reason = "a benchmark says what it measured")]
fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: route_bench EVENTS.jsonl")?;
    let events = read(&std::fs::read_to_string(path)?)?;
    let bytes: usize = events.iter().map(|(_, message)| message.data().len()).sum();
    println!("{} events, {} bytes on average", events.len(), bytes / events.len().max(1));
    let small = [
        (Topic::new("kind7.created")?, message(b"{\"n\": 1}")?),
        (Topic::new("kind9.gone.away")?, message(b"{\"n\": 1}")?),
    ];
    for (what, routes) in plans() {
        let plan = plan(&routes)?;
        println!("{what}");
        println!("  small: {:8.0} ns", measure(&plan, &small));
        println!("  events: {:7.0} ns", measure(&plan, &events));
    }
    Ok(())
}

/// Nanoseconds that this thread has run for, whoever else keeps the processor busy; Linux only.
fn cpu_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(f64::NAN)
}

/// Nanoseconds per message.
fn measure(plan: &Plan, messages: &[(Topic, Message)]) -> f64 {
    let run = |rounds: usize| {
        let start = cpu_ns();
        for _ in 0..rounds {
            for (topic, message) in messages {
                black_box(plan.router.route(topic, message));
            }
        }
        (cpu_ns() - start) / (rounds * messages.len()) as f64
    };
    // The clock has steps of some milliseconds: more rounds until they don't matter.
    let mut rounds = 1;
    loop {
        let ns = run(rounds);
        if ns * (rounds * messages.len()) as f64 > 2e8 {
            return ns;
        }
        rounds *= 2;
    }
}

fn plans() -> Vec<(&'static str, Vec<String>)> {
    let route = |from: &str, rest: &str| format!("[[routes]]\nfrom = '{from}'\n{rest}\nto = ['queue:q']\n");
    let mixed: Vec<_> =
        (0..20).map(|n| route(&format!("kind{n}.{}", ["*", "#", "created", "*.away"][n % 4]), "")).collect();
    vec![
        ("20 routes, no expression", [mixed.clone(), vec![route("github.#", "")]].concat()),
        ("1 filter on an attribute", vec![route("#", "when = 'type == \"t\"'")]),
        ("1 filter on one field", vec![route("#", "when = 'data.action == \"opened\"'")]),
        (
            "1 filter with a regular expression",
            vec![route("#", "when = 'data.?action.orValue(\"x\").matches(\"^(open|clos)ed$\")'")],
        ),
        ("1 filter on everything", vec![route("#", "when = 'size(data) > 0'")]),
        (
            "5 filters on fields",
            (0..5).map(|n| route("#", &format!("when = 'has(data.action) && data.action == \"a{n}\"'"))).collect(),
        ),
        (
            "1 transform",
            vec![route(
                "#",
                "transform = '{\"action\": data.?action.orValue(null), \"repo\": data.?repository.?full_name.orValue(null)}'",
            )],
        ),
    ]
}

fn plan(routes: &[String]) -> Result<Plan, Box<dyn Error>> {
    let text = format!("[queues.q]\n{}", routes.concat());
    Ok(config::check(&text, "bench.toml".as_ref())?)
}

fn read(lines: &str) -> Result<Vec<(Topic, Message)>, Box<dyn Error>> {
    let event = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line)?;
        let topic = Topic::new(&format!("github.{}", event["event"].as_str().unwrap_or("unknown")))?;
        Ok((topic, message(event["payload"].to_string().as_bytes())?))
    };
    lines.lines().map(event).collect()
}

fn message(body: &[u8]) -> Result<Message, Box<dyn Error>> {
    let attributes = Attributes {
        id: "1",
        source: "/bench",
        kind: "t",
        content_type: Some("application/json"),
        ..Attributes::default()
    };
    Ok(Message::new(&attributes, body)?)
}
