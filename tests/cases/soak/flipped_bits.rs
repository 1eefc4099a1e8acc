//! A data file in which bits were flipped: it is refused with a clear error, or what is served is whole. What is wrong is never served as if
//! it were right.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Api, Soak, TestBroker, send, tally, try_send};

const QUEUES: &str = r#"
[queues.small]
max-attempts = 5
backoff = { initial = "1h", max = "1h" }
[queues.both]
[queues.large]

[[routes]]
from = "small"
to = ["queue:small"]
[[routes]]
from = "shared"
to = ["queue:small", "queue:both"]
[[routes]]
from = "large"
to = ["queue:large"]
"#;

/// The body of the message with this id, told by its kind: a line that could be nobody else's, repeated.
fn body(id: &str) -> String {
    let lines = match id.split('-').next() {
        Some("small") => 10,
        Some("shared") => 300,
        _ => 3000,
    };
    format!("this is line and verse of {id}\n").repeat(lines)
}

fn message(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/tests", "type": "test", "subject": format!("about {id}"),
        "datacontenttype": "text/plain", "data": body(id),
    })
}

/// Everything that was published, by queue.
struct Sent {
    small: BTreeSet<String>,
    both: BTreeSet<String>,
    large: BTreeSet<String>,
    dead: BTreeSet<String>,
}

impl Sent {
    fn queues(&self) -> [(&'static str, &BTreeSet<String>); 4] {
        [("small", &self.small), ("both", &self.both), ("large", &self.large), ("small.dead", &self.dead)]
    }
}

/// Fills a broker with messages of all sizes, some tried before, some dead.
async fn fill(broker: &Api) -> Sent {
    let ids = |kind: &str, count| -> Vec<String> { (0..count).map(|number| format!("{kind}-{number}")).collect() };
    let (small, shared, large) = (ids("small", 200), ids("shared", 40), ids("large", 12));
    for (topic, ids) in [("small", &small), ("shared", &shared), ("large", &large)] {
        let events: Vec<Value> = ids.iter().map(|id| message(id)).collect();
        send(broker.batch(topic, &events)).await.ok();
    }
    let mut dead = BTreeSet::new();
    for (number, leased) in broker.lease("small", 60, "10m").await.into_iter().enumerate() {
        let is_rejected = number % 3 == 0;
        let outcome = if is_rejected { "reject" } else { "retry" };
        let settlement = json!({"token": leased["token"], "outcome": outcome, "reason": "so it is written"});
        send(broker.post("/v1/queues/small/settle").json(&json!({"settlements": [settlement]}))).await.ok();
        if is_rejected {
            dead.insert(leased["message"]["id"].as_str().expect("an id").to_owned());
        }
    }
    let small = small.into_iter().chain(shared.iter().cloned()).filter(|id| !dead.contains(id)).collect();
    Sent { small, both: shared.into_iter().collect(), large: large.into_iter().collect(), dead }
}

/// Flips a few bits of `bytes`, anywhere where there is something.
fn flip(bytes: &mut [u8], random: &mut fastrand::Rng) -> String {
    let mut flipped = Vec::new();
    for _ in 0..random.usize(1..5) {
        let at = loop {
            let at = random.usize(..bytes.len());
            let around = &bytes[at & !63..];
            if around[..around.len().min(64)].iter().any(|byte| *byte != 0) {
                break at;
            }
        };
        let bit = random.u8(..8);
        bytes[at] ^= 1 << bit;
        flipped.push(format!("bit {bit} of {at:#x}"));
    }
    flipped.join(", ")
}

/// What a broker did with a damaged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// It did not start, and said why.
    Refused,
    /// It answered that data is damaged, or stopped over it, and said why.
    Noticed,
    /// It served all that there was, whole.
    Whole,
}

/// Starts the broker on its file as it is now; whatever it serves has to be right.
async fn serve(broker: &mut TestBroker, sent: &Sent) -> Found {
    let before = broker.said().len();
    broker.spawn();
    if let Err(status) = broker.ready().await {
        let said = broker.said().split_off(before);
        assert_eq!(status.code(), Some(6), "{said}");
        let says_why = ["is damaged", "is not a data file of pelton", "has format", "checksum"]
            .iter()
            .any(|why| said.contains(why));
        assert!(says_why && said.contains("error: "), "it says why: {said}");
        return Found::Refused;
    }
    let mut found = Found::Whole;
    for (queue, ids) in sent.queues() {
        for ask in [peek, lease] {
            match ask(&broker.api(), queue).await {
                Some(served) => check_whole(queue, &served, ids),
                None => found = Found::Noticed,
            }
        }
    }
    if found == Found::Whole {
        broker.kill_9();
        return found;
    }
    // Damage to what was only looked at is answered; other damage ends the broker.
    let is_ready = try_send(broker.get_request("/readyz")).await.is_ok_and(|reply| reply.status == 200);
    if is_ready {
        broker.kill_9();
    } else {
        let status = broker.ended().await;
        let said = broker.said().split_off(before);
        assert!(status.code() == Some(6) && said.contains("ERROR"), "what it found is in its log: {said}");
    }
    found
}

/// Asserts that these messages are what was sent, all of it.
fn check_whole(queue: &str, served: &[Value], sent: &BTreeSet<String>) {
    for stored in served {
        let id = stored["message"]["id"].as_str().expect("an id");
        assert!(sent.contains(id), "{queue} serves what nobody sent there: {stored}");
        let mut expected = message(id);
        assert_eq!(stored["message"].as_object().map(serde_json::Map::len), expected.as_object().map(|map| map.len()));
        for (name, value) in expected.as_object_mut().expect("an object") {
            assert!(stored["message"][name.as_str()] == value.take(), "{name} of {id} in {queue} is not what was sent");
        }
    }
    let found = tally(served.iter().map(|stored| stored["message"]["id"].as_str().expect("an id")));
    assert!(found.values().all(|count| *count == 1), "{queue} serves something twice: {found:?}");
    assert!(found.keys().eq(sent.iter()), "{queue} serves {} of {} and says that this is all", found.len(), sent.len());
}

type Ask<'a> = std::pin::Pin<Box<dyn Future<Output = Option<Vec<Value>>> + 'a>>;

/// All messages of a queue without leasing them; none when the broker says that it can't.
fn peek<'a>(broker: &'a Api, queue: &'a str) -> Ask<'a> {
    Box::pin(async move {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = answer(broker.get_request(&format!("/v1/queues/{queue}/messages?max=100{after}"))).await?;
            all.extend(page["messages"].as_array().expect("a page has messages").iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Some(all),
            }
        }
    })
}

/// All available messages of a queue, with those that wait for their time taken from a peek; none when the broker says that it can't.
fn lease<'a>(broker: &'a Api, queue: &'a str) -> Ask<'a> {
    Box::pin(async move {
        let mut all = Vec::new();
        loop {
            let request = broker.post(&format!("/v1/queues/{queue}/lease"));
            let leased = answer(request.json(&json!({"max": 100, "ttl": "10m"}))).await?;
            match leased["messages"].as_array().expect("a lease has messages") {
                none if none.is_empty() => break,
                some => all.extend(some.iter().cloned()),
            }
        }
        let rest = peek(broker, queue).await?.into_iter().filter(|stored| stored["leased"] == false);
        all.extend(rest);
        Some(all)
    })
}

/// The answer to a request; none when it says that data is damaged, or does not come.
async fn answer(request: reqwest::RequestBuilder) -> Option<Value> {
    match try_send(request).await {
        Ok(reply) if reply.status == 200 => Some(reply.json()),
        Ok(reply) => {
            let code = reply.json()["code"].clone();
            assert!(code == "corrupt" || code == "unknown" || code == "unavailable", "{reply}");
            None
        }
        Err(_) => None,
    }
}

#[tokio::test]
async fn what_is_served_from_a_damaged_file_is_whole() {
    let mut broker = TestBroker::start(QUEUES).await;
    let sent = fill(&broker).await;
    let file: PathBuf = broker.folder().join("data/pelton.redb");
    broker.kill_9();
    let crashed = std::fs::read(&file).expect("the store is there");
    broker.restart().await;
    broker.sigterm();
    assert_eq!(broker.ended().await.code(), Some(0));
    let closed = std::fs::read(&file).expect("the store is there");
    for whole in [&crashed, &closed] {
        std::fs::write(&file, whole).expect("the folder is writable");
        assert_eq!(serve(&mut broker, &sent).await, Found::Whole, "nothing is flipped yet");
    }

    let soak = Soak::new("flipped bits", Duration::from_secs(8));
    let mut random = soak.random();
    let mut found = Vec::new();
    while soak.goes_on() || found.is_empty() {
        let mut bytes = if random.bool() { crashed.clone() } else { closed.clone() };
        let flipped = flip(&mut bytes, &mut random);
        soak.say(&flipped);
        std::fs::write(&file, bytes).expect("the folder is writable");
        found.push(serve(&mut broker, &sent).await);
    }
    let count = |what| found.iter().filter(|found| **found == what).count();
    let (refused, noticed, whole) = (count(Found::Refused), count(Found::Noticed), count(Found::Whole));
    soak.say(&format!("{} files: {refused} refused, {noticed} found out while served, {whole} whole", found.len()));
    // Put back what it was: the broker has kept nothing of the damage.
    std::fs::write(&file, &closed).expect("the folder is writable");
    assert_eq!(serve(&mut broker, &sent).await, Found::Whole);
}
