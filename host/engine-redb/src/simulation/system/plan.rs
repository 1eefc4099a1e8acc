//! What the simulated broker is configured to do, by seed: a broker.toml in several variants, and what of it the ledger has to know.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pelton_core::broker::Deployment;
use pelton_core::config;
use pelton_core::name::ConsumerName;
use pelton_core::plan::ConsumerCode;

/// Which variants of the plan there are; a reload takes another.
pub(super) const VARIANTS: u32 = 4;
/// The variant in which everything has a consumer: the last one of a run.
pub(super) const WHOLE: u32 = 0;

/// What is on in a run, and how.
#[derive(Debug, Clone)]
pub(super) struct Features {
    pub(super) priority: bool,
    pub(super) dedup: bool,
    pub(super) schedule: Option<&'static str>,
    pub(super) breaker: bool,
    pub(super) pull: bool,
    pub(super) delay: bool,
    pub(super) expiry: bool,
    pub(super) keyed: bool,
    /// What a full queue does.
    pub(super) overflow: &'static str,
    /// What becomes of what expired in the queue with a short time to live.
    pub(super) expired: &'static str,
    /// What is handled comes to a second queue, which is small.
    pub(super) echo: bool,
    pub(super) undertaker: bool,
    pub(super) reloads: bool,
    pub(super) pauses: bool,
    pub(super) redrives: bool,
    pub(super) cancels: bool,
    pub(super) record: bool,
    pub(super) clock_steps: bool,
    pub(super) disk_faults: bool,
    pub(super) attempts_max: u32,
    pub(super) slots: usize,
    concurrency: [usize; 4],
}

impl Features {
    pub(super) fn random(random: &mut fastrand::Rng) -> Self {
        let mut on = || random.f64() < 0.5;
        Self {
            priority: on(),
            dedup: on(),
            breaker: on(),
            pull: on(),
            delay: on(),
            expiry: on(),
            keyed: on(),
            echo: on(),
            undertaker: on(),
            reloads: on(),
            pauses: on(),
            redrives: on(),
            cancels: on(),
            record: on(),
            clock_steps: on() && on(),
            disk_faults: on(),
            schedule: [None, Some("all"), Some("once"), Some("skip")][random.usize(..4)],
            overflow: ["refuse", "dead-letter", "drop-oldest"][random.usize(..3)],
            expired: ["dead-letter", "drop"][random.usize(..2)],
            attempts_max: random.u32(1..5),
            slots: random.usize(1..9),
            concurrency: [random.usize(1..4), random.usize(1..4), random.usize(1..4), random.usize(1..4)],
        }
    }

    /// Where a message to `topic` goes, as variant number `variant` routes it.
    pub(super) fn targets(topic: &str, variant: u32) -> &'static [&'static str] {
        match topic {
            "t.work" => &["work"],
            "t.both" | "d.both" if variant == 1 => &["work", "copy"],
            "t.both" | "d.both" => &["work", "copy", "extra"],
            "t.keyed" | "d.keyed" => &["keyed"],
            "t.small" | "d.small" => &["small", "copy"],
            "t.brief" => &["brief"],
            "t.pulled" => &["pulled"],
            _ => &[],
        }
    }

    /// The topics that are published to.
    pub(super) fn topics(&self) -> Vec<&'static str> {
        let mut topics = vec!["t.work", "t.both", "t.small"];
        let some = [
            (self.keyed, "t.keyed"),
            (self.keyed, "t.keyed"),
            (self.expiry, "t.brief"),
            (self.pull, "t.pulled"),
            (self.dedup, "d.both"),
            (self.dedup, "d.small"),
            (self.dedup && self.keyed, "d.keyed"),
        ];
        topics.extend(some.into_iter().filter(|(on, _)| *on).map(|(_, topic)| topic));
        topics
    }

    /// Whether messages may leave `queue` without a trace: made room for others, or expired.
    pub(super) fn is_leaky(&self, queue: &str) -> bool {
        match queue {
            "small" => self.overflow == "drop-oldest",
            "brief" => self.expired == "drop",
            _ => false,
        }
    }

    /// The consumers of a variant and the queues that they consume.
    pub(super) fn consumers(&self, variant: u32) -> Vec<(&'static str, &'static str)> {
        let mut consumers = vec![("worker", "work"), ("small", "small"), ("brief", "brief"), ("keyed", "keyed")];
        if variant != 1 {
            consumers.extend([("copier", "copy"), ("extra", "extra")]);
        }
        if variant == 2 {
            consumers.push(("helper", "work"));
        }
        if self.echo {
            consumers.push(("echo", "echo"));
        }
        if self.undertaker {
            consumers.push(("undertaker", "work.dead"));
        }
        consumers
    }

    fn text(&self, variant: u32) -> String {
        let mut text = String::from("[broker]\nmin-free-disk = \"0\"\n");
        let attempts = self.attempts_max;
        let backoff = "backoff = { initial = \"100ms\", factor = 2.0, max = \"3s\", jitter = 0.5 }";
        let common = format!("max-attempts = {attempts}\n{backoff}\n");
        let mut queue = |name: &str, more: String| {
            let _ = write!(text, "[queues.\"{name}\"]\n{common}{more}\n");
        };
        queue("work", format!("priority = {}", self.priority));
        let order = if self.reloads && variant >= 2 { "key" } else { "arrival" };
        queue("copy", format!("order = \"{order}\""));
        queue("keyed", "order = \"key\"".to_owned());
        queue("small", format!("max-messages = {}\noverflow = \"{}\"", 4 + variant, self.overflow));
        queue("brief", format!("ttl = \"2s\"\nexpired = \"{}\"", self.expired));
        for name in ["pulled", "sink", "ticks"] {
            queue(name, String::new());
        }
        queue("echo", "max-messages = 3".to_owned());
        if variant != 1 {
            queue("extra", String::new());
        }
        self.routes(variant, &mut text);
        if self.dedup {
            text.push_str("[topics.\"d.#\"]\ndedup = \"30m\"\n");
        }
        for (number, (name, queue)) in self.consumers(variant).into_iter().enumerate() {
            let concurrency = self.concurrency[(number + variant as usize) % 4].min(self.slots);
            let breaker = match self.breaker {
                true => "{ failures = 4, probe = \"200ms\", max = \"2s\" }",
                false => "false",
            };
            let _ = write!(
                text,
                "[consumers.{name}]\nqueue = \"{queue}\"\ncomponent = \"{name}.wasm\"\nconcurrency = {concurrency}\nbreaker = {breaker}\n"
            );
        }
        if let Some(missed) = self.schedule {
            let _ = write!(
                text,
                "[[schedules]]\nname = \"tick\"\ncron = \"*/10 * * * * *\"\ntopic = \"s.tick\"\nmissed = \"{missed}\"\n"
            );
        }
        text
    }

    fn routes(&self, variant: u32, text: &mut String) {
        let mut route = |from: &str, to: &[&str]| {
            let to: Vec<String> = to.iter().map(|name| format!("\"queue:{name}\"")).collect();
            let _ = write!(text, "[[routes]]\nfrom = \"{from}\"\nto = [{}]\n", to.join(", "));
        };
        for topic in ["t.work", "t.both", "d.both", "t.keyed", "d.keyed", "t.small", "d.small", "t.brief", "t.pulled"] {
            route(topic, Self::targets(topic, variant));
        }
        route("done.#", &["sink"]);
        if self.echo {
            route("done.worker", &["echo"]);
        }
        route("s.tick", &["ticks"]);
    }

    /// The variant as a broker takes it.
    pub(super) fn deployment(&self, variant: u32) -> Result<Deployment, String> {
        let plan = config::check(&self.text(variant), Path::new("broker.toml")).map_err(|error| error.to_string())?;
        let components = plan.consumers.iter().map(|consumer| match &consumer.code {
            ConsumerCode::Component(path) | ConsumerCode::Source(path) => (consumer.name.clone(), path.clone()),
        });
        let components: BTreeMap<ConsumerName, PathBuf> = components.collect();
        Ok(Deployment { plan: Arc::new(plan), components })
    }
}

#[test]
fn every_variant_is_a_plan() {
    for seed in 0..20 {
        let features = Features::random(&mut fastrand::Rng::with_seed(seed));
        for variant in 0..VARIANTS {
            let deployment = features.deployment(variant).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(deployment.components.len(), features.consumers(variant).len());
        }
    }
}
