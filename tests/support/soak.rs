//! How long a case with faults goes on, and by which seed: a few seconds in every test run, any time when asked.

use std::time::{Duration, Instant};

/// The seconds that each such case goes on, in place of its own few.
const SECONDS_ENV: &str = "PELTON_TESTS_SECONDS";
/// The seed of all random choices; without it each run makes its own.
const SEED_ENV: &str = "PELTON_TESTS_SEED";

/// One run of a case. It prints what it did when it is over, its seed above all; a broker's threads and the disk keep their own
/// time, so that a seed repeats the choices of a run but not its every step.
pub(crate) struct Soak {
    name: &'static str,
    seed: u64,
    until: Instant,
}

impl Soak {
    /// A run of the case `name`, for `short` unless the environment says otherwise.
    pub(crate) fn new(name: &'static str, short: Duration) -> Self {
        let seconds = number(SECONDS_ENV).map(Duration::from_secs);
        let seed = number(SEED_ENV).unwrap_or_else(|| fastrand::u64(..1_000_000));
        let soak = Self { name, seed, until: Instant::now() + seconds.unwrap_or(short) };
        soak.say("begins");
        soak
    }

    /// Where its random choices come from.
    pub(crate) fn random(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed)
    }

    /// Whether it is to go on.
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Tells whoever runs it with `--nocapture`, or reads why it failed.
    #[expect(clippy::print_stderr, reason = "what a soak run has done is for people")]
    pub(crate) fn say(&self, what: &str) {
        eprintln!("{} (seed {}): {what}", self.name, self.seed);
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a whole number")))
}

/// Lets up to `most_ms` pass: not to wait for something, but to come at any moment.
pub(crate) async fn moment(random: &mut fastrand::Rng, most_ms: u64) {
    tokio::time::sleep(Duration::from_micros(random.u64(..most_ms * 1000))).await;
}
