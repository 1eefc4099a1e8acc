//! When a consumer is paused that fails whatever it gets: a pure machine.
//!
//! A failure is a fault that is not the host's, or a `retry` without a time of its own. So many of them in a row, each of
//! another message, open the breaker, and the consumer gets nothing more. After a pause one message is tried; each such
//! probe that fails doubles the pause. Anything else that a delivery comes to closes it.
//!
//! Invariant: while it is open no failure counts against its message, so that an outage empties no queue into its dead letters.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::{Monotonic, WallMs};
use crate::engine::EntryId;
use crate::plan::BreakerPlan;
use crate::runtime::{FaultKind, Outcome};

/// Most messages that a probe chooses from: one that always fails at the front of a queue must not keep the breaker open.
const CHOICES_MAX: u32 = 16;

/// How a consumer's breaker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerStatus {
    /// Whether the consumer gets messages.
    pub state: BreakerState,
    /// Since when it has been open; none while closed.
    pub since: Option<WallMs>,
    /// When the next message is tried; none while closed, and while one is tried.
    pub next_probe: Option<WallMs>,
    /// What the last failure said; none when there was none since it was closed.
    pub last_reason: Option<String>,
}

/// Whether a consumer gets messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// It does.
    Closed,
    /// It does not, until the next probe.
    Open,
    /// One message is tried, or waited for.
    Probing,
}

impl BreakerState {
    /// The state as text, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Probing => "probing",
        }
    }
}

/// The moment of an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: WallMs,
    pub(super) monotonic: Monotonic,
}

/// What a delivery says about its consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It fails, for this reason.
    Failure,
    /// It works.
    Health,
    /// Nothing: the host failed.
    None,
}

/// What `outcome` says about the consumer.
pub(super) fn sign(outcome: &Outcome) -> Sign {
    match outcome {
        Outcome::Fault { kind: FaultKind::Host, .. } => Sign::None,
        Outcome::Fault { .. } | Outcome::Retry { after: None, .. } => Sign::Failure,
        Outcome::Retry { after: Some(_), .. } | Outcome::Done | Outcome::Reject { .. } => Sign::Health,
    }
}

/// A delivery that failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure<'a> {
    pub(super) entry: EntryId,
    /// It was let through to see whether the consumer works again.
    pub(super) probe: bool,
    pub(super) reason: &'a str,
}

/// What a failure means for its message and for the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It counts as an attempt.
    Counts,
    /// The same; and it was the one that opened the breaker.
    Opens,
    /// It is given back uncounted.
    GivenBack,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Breaker {
    plan: BreakerPlan,
    state: State,
    last_reason: Option<String>,
}

#[derive(Debug)]
enum State {
    /// The messages that failed since the last delivery that did not; fewer than the plan's failures.
    Closed {
        failed: BTreeSet<EntryId>,
    },
    Open(Open),
}

#[derive(Debug)]
struct Open {
    since: WallMs,
    pause: Duration,
    next: Now,
    probing: bool,
    failed_probes: u32,
}

impl Breaker {
    pub(super) fn new(plan: BreakerPlan) -> Self {
        Self { plan, state: State::Closed { failed: BTreeSet::new() }, last_reason: None }
    }

    pub(super) fn plan(&self) -> &BreakerPlan {
        &self.plan
    }

    /// Takes note of a failed delivery.
    pub(super) fn failed(&mut self, failure: Failure<'_>, now: Now) -> Effect {
        self.last_reason = Some(failure.reason.to_owned());
        match &mut self.state {
            State::Closed { failed } => {
                failed.insert(failure.entry);
                if failed.len() < self.plan.failures as usize {
                    return Effect::Counts;
                }
                let pause = self.plan.probe;
                let next = now.plus(pause);
                self.state = State::Open(Open { since: now.wall, pause, next, probing: false, failed_probes: 0 });
                Effect::Opens
            }
            State::Open(open) => {
                if failure.probe {
                    open.pause = open.pause.saturating_mul(2).min(self.plan.max);
                    open.next = now.plus(open.pause);
                    open.probing = false;
                    open.failed_probes = open.failed_probes.saturating_add(1);
                }
                Effect::GivenBack
            }
        }
    }

    /// Takes note of a delivery that did not fail, or of somebody who knows better: it is closed. Whether it was open.
    pub(super) fn close(&mut self) -> bool {
        self.last_reason = None;
        let before = std::mem::replace(&mut self.state, State::Closed { failed: BTreeSet::new() });
        matches!(before, State::Open(_))
    }

    /// Begins a probe if it is time for one: from how many messages to choose. The next can begin when this one has an answer.
    pub(super) fn probe(&mut self, now: Now) -> Option<usize> {
        let State::Open(open) = &mut self.state else { return None };
        if open.probing || now.monotonic < open.next.monotonic {
            return None;
        }
        open.probing = true;
        Some(1 + (open.failed_probes % CHOICES_MAX) as usize)
    }

    /// Which of so many messages the probe is to try, from 0: every time the next.
    pub(super) fn choice(&self, messages: usize) -> usize {
        let State::Open(open) = &self.state else { return 0 };
        open.failed_probes as usize % messages.max(1)
    }

    /// The probe came to nothing that says anything; the next one comes after the same pause.
    pub(super) fn unanswered(&mut self, now: Now) {
        if let State::Open(open) = &mut self.state
            && open.probing
        {
            open.probing = false;
            open.next = now.plus(open.pause);
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether messages failed since the last that did not.
    pub(super) fn has_failures(&self) -> bool {
        self.last_reason.is_some()
    }

    pub(super) fn status(&self) -> BreakerStatus {
        let last_reason = self.last_reason.clone();
        match &self.state {
            State::Closed { .. } => {
                BreakerStatus { state: BreakerState::Closed, since: None, next_probe: None, last_reason }
            }
            State::Open(open) => {
                let since = Some(open.since);
                let (state, next_probe) = if open.probing {
                    (BreakerState::Probing, None)
                } else {
                    (BreakerState::Open, Some(open.next.wall))
                };
                BreakerStatus { state, since, next_probe, last_reason }
            }
        }
    }
}

impl Now {
    fn plus(self, pause: Duration) -> Self {
        Self { wall: self.wall.plus(pause), monotonic: self.monotonic.plus(pause) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { wall: WallMs(seconds * 1000), monotonic: Monotonic(seconds * 1_000_000_000) }
    }

    fn plan(failures: u32) -> BreakerPlan {
        BreakerPlan { failures, probe: Duration::from_secs(1), max: Duration::from_secs(5) }
    }

    /// What becomes of a breaker that opens after 3 failures, in short. Steps are separated by blanks: `f7` is a failure of message 7, `p7` a
    /// probe's, `ok` anything else, `t9` the clock at 9 s, `?` asks whether to probe, `x` is a probe without an answer.
    fn check(steps: &str, expected: &str) {
        let mut breaker = Breaker::new(plan(3));
        let mut now = at(0);
        let mut said = Vec::new();
        for step in steps.split(' ') {
            let number = || step[1..].parse::<u64>().expect("a number follows");
            match step.as_bytes()[0] {
                b'o' => said.push(if breaker.close() { "closes".to_owned() } else { "-".to_owned() }),
                b't' => now = at(number()),
                b'x' => breaker.unanswered(now),
                b'?' => said.push(breaker.probe(now).map_or_else(|| "no".to_owned(), |of| format!("probe of {of}"))),
                kind => {
                    let failure = Failure { entry: EntryId(number()), probe: kind == b'p', reason: "down" };
                    said.push(format!("{:?}", breaker.failed(failure, now)));
                }
            }
        }
        assert_eq!(said.join(", "), expected, "{steps}");
    }

    #[test]
    fn it_opens_after_failures_in_a_row_of_different_messages() {
        check("f1 f2 f3 f4", "Counts, Counts, Opens, GivenBack");
        check("f1 f2 ok f3 f4 f5", "Counts, Counts, -, Counts, Counts, Opens");
        check("f1 f1 f1 f1", "Counts, Counts, Counts, Counts");
        check("f1 f2 f1 f2 f3", "Counts, Counts, Counts, Counts, Opens");
    }

    #[test]
    fn anything_but_a_failure_closes_it() {
        check("f1 f2 f3 ok f4 f5 f6", "Counts, Counts, Opens, closes, Counts, Counts, Opens");
    }

    #[test]
    fn probes_come_after_pauses_that_double_up_to_the_longest() {
        check(
            "f1 f2 f3 ? t1 ? ? p1 t2 ? t3 ? p2 t6 ? t7 ? p3 t11 ? t12 ? p4 t16 ? t17 ?",
            "Counts, Counts, Opens, no, probe of 1, no, GivenBack, no, probe of 2, GivenBack, no, probe of 3, GivenBack, \
             no, probe of 4, GivenBack, no, probe of 5",
        );
    }

    #[test]
    fn failures_that_are_no_probes_do_not_put_the_next_one_off() {
        check("f1 f2 f3 f4 f5 t1 ?", "Counts, Counts, Opens, GivenBack, GivenBack, probe of 1");
        check("f1 f2 f3 t1 ? f4 ? p1 t2 ?", "Counts, Counts, Opens, probe of 1, GivenBack, no, GivenBack, no");
    }

    #[test]
    fn a_probe_without_an_answer_is_repeated_after_the_same_pause() {
        check("f1 f2 f3 t1 ? x ? t2 ?", "Counts, Counts, Opens, probe of 1, no, probe of 1");
        check("f1 f2 f3 x t1 ? ok x ?", "Counts, Counts, Opens, probe of 1, closes, no");
    }

    #[test]
    fn every_probe_tries_another_message() {
        let mut breaker = Breaker::new(plan(1));
        let failure = Failure { entry: EntryId(1), probe: true, reason: "down" };
        breaker.failed(failure, at(0));
        let mut chosen = Vec::new();
        for number in 1..=5 {
            let of = breaker.probe(at(number * 10)).expect("it is time");
            // There are three messages, however many it asks for.
            chosen.push(breaker.choice(of.min(3)));
            breaker.failed(failure, at(number * 10));
        }
        assert_eq!(chosen, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn its_status_is_for_people() {
        let mut breaker = Breaker::new(plan(1));
        assert_eq!(breaker.status().state, BreakerState::Closed);
        breaker.failed(Failure { entry: EntryId(1), probe: false, reason: "no route to host" }, at(7));
        let open = BreakerStatus {
            state: BreakerState::Open,
            since: Some(WallMs(7000)),
            next_probe: Some(WallMs(8000)),
            last_reason: Some("no route to host".to_owned()),
        };
        assert_eq!(breaker.status(), open);
        breaker.probe(at(8));
        assert_eq!(breaker.status(), BreakerStatus { state: BreakerState::Probing, next_probe: None, ..open });
        breaker.close();
        assert_eq!(breaker.status().last_reason, None);
    }

    #[test]
    fn what_outcomes_say() {
        let fault = |kind| Outcome::Fault { kind, reason: String::new() };
        let retry = |after| Outcome::Retry { reason: String::new(), after };
        assert_eq!(sign(&fault(FaultKind::Trap)), Sign::Failure);
        assert_eq!(sign(&fault(FaultKind::Malformed)), Sign::Failure);
        assert_eq!(sign(&fault(FaultKind::Host)), Sign::None);
        assert_eq!(sign(&retry(None)), Sign::Failure);
        assert_eq!(sign(&retry(Some(Duration::ZERO))), Sign::Health);
        assert_eq!(sign(&Outcome::Reject { reason: String::new() }), Sign::Health);
        assert_eq!(sign(&Outcome::Done), Sign::Health);
    }
}
