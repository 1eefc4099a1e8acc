//! When a schedule ticks, and which ticks are due: a cron expression on the clocks of a time zone.
//!
//! Where these clocks are changed, the rules are those of Vixie cron:
//! - An expression with fixed times of day (`30 2 * * *`, also lists and ranges of hours, minutes and seconds) ticks once for
//!   each: when it is skipped, at the end of the gap; when it comes twice, the first time.
//! - One with `*` or a step in hour, minute or second (`*/10 * * * *`) ticks whenever the clocks show what it selects: not in a
//!   gap, and in both of two equal hours.
//!
//! `croner` only searches calendars here, without a time zone: its own rules take lists for steps, and miss ticks backward
//! where clocks are set back by half an hour.
//!
//! Time zones are the system's, where it has them, so that they are as new as it is; else those compiled in.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use super::cron::{CronError, Expression};
use super::{Missed, moment};
use crate::clock::WallMs;

/// A tick that is found to be due later than this has been missed: nobody was there when it came, or the clock jumped.
pub const LATE_MAX: Duration = Duration::from_secs(10);
/// Most ticks that are made up for at once; the latest ones are.
pub const MISSED_MAX: usize = 1_000;

/// When a schedule ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    expression: Expression,
    zone: TimeZone,
}

/// The ticks that are due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// To be published, in order; none when all are passed over.
    pub publish: Vec<WallMs>,
    /// The latest tick that is due, published or not: where the schedule then stands.
    pub latest: WallMs,
    /// How many are passed over, of the latest [`MISSED_MAX`].
    pub passed_over: u64,
    /// There are more than that.
    pub beyond: bool,
}

impl Times {
    /// The moments that `cron` selects on the clocks of `zone`.
    ///
    /// Five fields (minute, hour, day of the month, month, day of the week), or six with seconds in front; or one of
    /// `@yearly`, `@monthly`, `@weekly`, `@daily` and `@hourly`.
    ///
    /// # Errors
    /// [`CronError`] with the place in `cron`, also when there is no such moment.
    pub fn new(cron: &str, zone: TimeZone) -> Result<Self, CronError> {
        Ok(Self { expression: Expression::new(cron)?, zone })
    }

    /// The cron expression as it was written.
    #[must_use]
    pub fn cron(&self) -> &str {
        self.expression.text()
    }

    /// The name of the time zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// The first tick after `after`; none when there is none before the year 5000.
    #[must_use]
    pub fn next(&self, after: WallMs) -> Option<WallMs> {
        let from = moment(after)?;
        let tick = if self.expression.is_fixed() { self.next_fixed(from) } else { self.next_shown(from) };
        wall(tick?)
    }

    /// Whether it ticks at `at`.
    #[must_use]
    pub fn has(&self, at: WallMs) -> bool {
        at.0.checked_sub(1).is_some_and(|before| self.next(WallMs(before)) == Some(at))
    }

    /// The ticks after `after`, the last one that was seen to, up to `now`; none when there are none.
    ///
    /// Those that are late by up to [`LATE_MAX`] were not missed. A step of the clock back makes nothing due again.
    #[must_use]
    pub fn due(&self, after: WallMs, now: WallMs, missed: Missed) -> Option<Due> {
        let mut ticks = Vec::new();
        let mut next = self.latest(after, now);
        while let Some(tick) = next
            && ticks.len() < MISSED_MAX
        {
            ticks.push(tick);
            next = tick.0.checked_sub(1).and_then(|before| self.latest(after, WallMs(before)));
        }
        let beyond = next.is_some();
        ticks.reverse();
        let latest = *ticks.last()?;
        let in_time = |tick: &WallMs| now.since(*tick) <= LATE_MAX;
        let found = ticks.len();
        match missed {
            Missed::All => {}
            Missed::Once if !beyond && ticks.iter().all(in_time) => {}
            Missed::Once => ticks = vec![latest],
            Missed::Skip => ticks.retain(in_time),
        }
        Some(Due { latest, passed_over: (found - ticks.len()) as u64, beyond, publish: ticks })
    }

    /// For fixed times of day: the first that comes after `after`.
    fn next_fixed(&self, after: Timestamp) -> Option<Timestamp> {
        let mut shown = self.zone.to_datetime(after);
        // More than once only while clocks show again what they have shown.
        loop {
            shown = self.expression.next(shown, false)?;
            let tick = self.first_time(shown)?;
            if tick > after {
                return Some(tick);
            }
        }
    }

    /// When the clocks show `shown` for the first time; when they never do, the end of the gap.
    fn first_time(&self, shown: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                offset.to_timestamp(shown).ok()
            }
            AmbiguousOffset::Gap { before, .. } => {
                let behind = before.to_timestamp(shown).ok()?.checked_add(SignedDuration::from_secs(1)).ok()?;
                self.zone.preceding(behind).next().map(|change| change.timestamp())
            }
        }
    }

    /// The first moment after `after` at which the clocks show what is selected: between two changes of theirs after another.
    fn next_shown(&self, after: Timestamp) -> Option<Timestamp> {
        let (mut from, mut inclusive) = (after, false);
        loop {
            let offset = self.zone.to_offset(from);
            let shown = self.expression.next(offset.to_datetime(from), inclusive)?;
            let tick = offset.to_timestamp(shown).ok()?;
            match self.zone.following(from).next() {
                Some(change) if change.timestamp() <= tick => (from, inclusive) = (change.timestamp(), true),
                _ => return Some(tick),
            }
        }
    }

    /// The last tick after `after` and not after `at`: the span in which it lies is doubled until it has a tick, and then halved
    /// until it has no other.
    fn latest(&self, after: WallMs, at: WallMs) -> Option<WallMs> {
        let in_time = |tick: Option<WallMs>| tick.filter(|tick| *tick <= at);
        let mut span_ms = 1_000;
        let mut tick = loop {
            let from = after.max(WallMs(at.0.saturating_sub(span_ms)));
            match in_time(self.next(from)) {
                Some(tick) => break tick,
                None if from == after => return None,
                None => span_ms *= 2,
            }
        };
        let mut end = at;
        while let Some(later) = in_time(self.next(tick)) {
            let middle = WallMs(later.0 + (end.0 - later.0) / 2);
            match in_time(self.next(middle)) {
                Some(last) => tick = last,
                None => (tick, end) = (later, middle),
            }
        }
        Some(tick)
    }
}

/// The time zone that is called `name`, such as `Europe/Berlin`; upper and lower case are the same.
///
/// # Errors
/// The name that was probably meant, if one is near enough.
pub fn time_zone(name: &str) -> Result<TimeZone, Option<String>> {
    let system = jiff::tz::db();
    let bundled = TimeZoneDatabase::bundled();
    system.get(name).or_else(|_| bundled.get(name)).map_err(|_| {
        let names: Vec<String> = bundled.available().map(|known| known.to_string()).collect();
        crate::config::nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
    })
}

fn wall(at: Timestamp) -> Option<WallMs> {
    u64::try_from(at.as_millisecond()).ok().map(WallMs)
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::*;

    fn times(cron: &str, zone: &str) -> Times {
        let zone = time_zone(zone).unwrap_or_else(|near| panic!("{zone}: {near:?}"));
        Times::new(cron, zone).unwrap_or_else(|error| panic!("{cron}: {error}"))
    }

    fn at(text: &str) -> WallMs {
        wall(text.parse().expect("a time")).expect("after 1970")
    }

    fn show(at: WallMs) -> String {
        moment(at).expect("before 9999").to_string()
    }

    /// The first ticks after `after`, in UTC.
    #[track_caller]
    fn check(cron: &str, zone: &str, after: &str, expected: &[&str]) {
        let times = times(cron, zone);
        let ticks: Vec<_> =
            std::iter::successors(times.next(at(after)), |tick| times.next(*tick)).take(expected.len()).collect();
        assert_eq!(ticks.iter().map(|tick| show(*tick)).collect::<Vec<_>>(), expected, "{cron} in {zone}");
        assert!(ticks.iter().all(|tick| times.has(*tick) && !times.has(WallMs(tick.0 + 1))), "{cron} in {zone}");
        let last = ticks.last().copied().expect("there are some");
        let due = times.due(at(after), last, Missed::All).expect("there are some");
        assert_eq!(due, Due { publish: ticks, latest: last, passed_over: 0, beyond: false }, "{cron} in {zone}");
    }

    #[test]
    fn expressions_of_five_and_six_fields() {
        check("0 3 * * *", "UTC", "2026-01-01T03:00:00Z", &["2026-01-02T03:00:00Z", "2026-01-03T03:00:00Z"]);
        check("0 3 * * *", "UTC", "2026-01-01T02:59:59.999Z", &["2026-01-01T03:00:00Z"]);
        check("0 3 * * *", "UTC", "2026-01-01T03:00:00.001Z", &["2026-01-02T03:00:00Z"]);
        check("*/20 * * * * *", "UTC", "2026-01-01T00:00:00Z", &["2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z"]);
        check("15 0 0 1 1 *", "UTC", "2026-01-01T00:00:00Z", &["2026-01-01T00:00:15Z", "2027-01-01T00:00:15Z"]);
        check("0 9 * * mon-fri", "UTC", "2026-01-02T09:00:00Z", &["2026-01-05T09:00:00Z", "2026-01-06T09:00:00Z"]);
        check("0 0 L feb ?", "UTC", "2026-01-01T00:00:00Z", &["2026-02-28T00:00:00Z", "2027-02-28T00:00:00Z"]);
        check("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
        check("0 0 * * 5#2", "UTC", "2026-01-01T00:00:00Z", &["2026-01-09T00:00:00Z", "2026-02-13T00:00:00Z"]);
        check("0 0 13 * 5", "UTC", "2026-01-01T00:00:00Z", &["2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z"]);
        check("@hourly", "UTC", "2026-01-01T00:30:00Z", &["2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z"]);
        check("@weekly", "UTC", "2026-01-01T00:00:00Z", &["2026-01-04T00:00:00Z", "2026-01-11T00:00:00Z"]);
        check("@yearly", "UTC", "2026-01-01T00:00:00Z", &["2027-01-01T00:00:00Z"]);
    }

    #[test]
    fn a_fixed_time_that_is_skipped_comes_behind_the_gap() {
        // In Berlin, 2:00 to 3:00 is skipped on 2026-03-29; in New York on 2026-03-08.
        let days = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        check("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", &days);
        let days = ["2026-03-07T07:30:00Z", "2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"];
        check("30 2 * * *", "America/New_York", "2026-03-06T12:00:00Z", &days);
        check(
            "0 2,14 * * *",
            "Europe/Berlin",
            "2026-03-29T00:30:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-29T12:00:00Z"],
        );
        // Several times of one gap, and what comes at its end anyway, are one tick.
        let days = ["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:00:00Z", "2026-03-30T00:30:00Z"];
        check("0,30 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", &days);
    }

    #[test]
    fn a_fixed_time_that_comes_twice_ticks_the_first_time() {
        // In Berlin, 2:00 to 3:00 comes twice on 2026-10-25; in New York 1:00 to 2:00 on 2026-11-01.
        let days = ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
        check("30 2 * * *", "Europe/Berlin", "2026-10-23T12:00:00Z", &days);
        let days = ["2026-10-31T05:30:00Z", "2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"];
        check("30 1 * * *", "America/New_York", "2026-10-30T12:00:00Z", &days);
        let hours = ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z"];
        check("0,30 2-3 * * *", "Europe/Berlin", "2026-10-24T23:00:00Z", &hours);
    }

    #[test]
    fn a_step_follows_the_clocks() {
        let gap = ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"];
        check("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", &gap);
        let fold = ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"];
        check("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", &fold);
        check("*/30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", &fold);
        check("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-30T00:00:00Z"]);
        let fold = ["2026-11-01T05:15:00Z", "2026-11-01T06:15:00Z", "2026-11-01T07:15:00Z"];
        check("15 * * * *", "America/New_York", "2026-11-01T04:15:00Z", &fold);
        check("15 * * * *", "America/New_York", "2026-03-08T06:15:00Z", &["2026-03-08T07:15:00Z"]);
        // Half an hour of change.
        check("0 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00:00Z", &["2026-04-04T15:30:00Z"]);
    }

    /// The ticks of an expression of five fields by the rules of this module's head, minute by minute.
    fn by_the_rules(times: &Times, from: WallMs, to: WallMs, is_fixed: bool) -> Vec<WallMs> {
        const MINUTE_MS: u64 = 60_000;
        let local = |at: WallMs| moment(at).expect("a time").to_zoned(times.zone.clone()).datetime();
        let mut ticks = Vec::new();
        let minutes = (from.0 / MINUTE_MS + 1..=to.0 / MINUTE_MS).map(|minute| WallMs(minute * MINUTE_MS));
        for minute in minutes {
            let shown = local(minute);
            let before = local(WallMs(minute.0 - MINUTE_MS));
            let skipped = std::iter::successors(Some(before), |last| last.checked_add(1.minute()).ok())
                .skip(1)
                .take_while(|skipped| *skipped < shown);
            let came_before = moment(minute).expect("a time") != times.zone.to_timestamp(shown).expect("a time");
            let comes = times.expression.selects(shown) && !(is_fixed && came_before);
            if comes || is_fixed && skipped.into_iter().any(|skipped| times.expression.selects(skipped)) {
                ticks.push(minute);
            }
        }
        ticks
    }

    #[test]
    fn changes_of_the_clock_follow_the_rules_in_every_zone() {
        let zones = [
            "Europe/Berlin",
            "Europe/Dublin",
            "America/New_York",
            "Australia/Lord_Howe",
            "Antarctica/Troll",
            "Asia/Kathmandu",
        ];
        let crons = [
            ("*/7 * * * *", false),
            ("5 */2 * * *", false),
            ("*/20 1-3 * * 0,1", false),
            ("30 2 * * *", true),
            ("0,30 1-3 * * *", true),
            ("10 2,14 L,7,8 * *", true),
        ];
        for zone in zones {
            for (cron, is_fixed) in crons {
                let times = times(cron, zone);
                for day in ["03-07", "03-28", "04-04", "10-03", "10-24", "10-31"] {
                    let from = at(&format!("2026-{day}T00:00:00Z"));
                    let to = from.plus(Duration::from_secs(3 * 24 * 60 * 60));
                    let ticks: Vec<_> = std::iter::successors(times.next(from), |tick| times.next(*tick))
                        .take_while(|tick| *tick <= to)
                        .collect();
                    let expected = by_the_rules(&times, from, to, is_fixed);
                    let without = |all: &[WallMs], others: &[WallMs]| -> Vec<String> {
                        all.iter().filter(|tick| !others.contains(tick)).map(|tick| show(*tick)).collect()
                    };
                    let (more, less) = (without(&ticks, &expected), without(&expected, &ticks));
                    assert_eq!((more, less), (Vec::new(), Vec::new()), "{cron} in {zone}: too many, and missing");
                    let due = times.due(from, to, Missed::All).map(|due| due.publish);
                    assert_eq!(due.unwrap_or_default(), ticks, "{cron} in {zone}");
                }
            }
        }
    }

    /// What is due at `now` of a schedule that stands at `after`: `published, ... | latest | passed over`.
    #[track_caller]
    fn check_due(cron: &str, after: &str, now: &str, missed: Missed, expected: &str) {
        let due = times(cron, "UTC").due(at(after), at(now), missed);
        let short = due.map(|due| {
            let publish: Vec<_> = due.publish.into_iter().map(show).collect();
            format!("{} | {} | {}", publish.join(", "), show(due.latest), due.passed_over)
        });
        assert_eq!(short.as_deref().unwrap_or("none"), expected, "{cron} from {after} to {now}, {missed:?}");
    }

    #[test]
    fn missed_ticks_are_made_up_for_as_told() {
        let check = |now: &str, once: &str, skip: &str, all: &str| {
            for (missed, expected) in [(Missed::Once, once), (Missed::Skip, skip), (Missed::All, all)] {
                check_due("0 * * * *", "2026-01-01T00:00:00Z", now, missed, expected);
            }
        };
        check("2026-01-01T00:59:59.999Z", "none", "none", "none");
        let in_time = "2026-01-01T01:00:00Z | 2026-01-01T01:00:00Z | 0";
        check("2026-01-01T01:00:00Z", in_time, in_time, in_time);
        check("2026-01-01T01:00:10Z", in_time, in_time, in_time);
        check("2026-01-01T01:00:10.001Z", in_time, " | 2026-01-01T01:00:00Z | 1", in_time);
        check(
            "2026-01-01T03:30:00Z",
            "2026-01-01T03:00:00Z | 2026-01-01T03:00:00Z | 2",
            " | 2026-01-01T03:00:00Z | 3",
            "2026-01-01T01:00:00Z, 2026-01-01T02:00:00Z, 2026-01-01T03:00:00Z | 2026-01-01T03:00:00Z | 0",
        );
        check(
            "2026-01-01T02:00:05Z",
            "2026-01-01T02:00:00Z | 2026-01-01T02:00:00Z | 1",
            "2026-01-01T02:00:00Z | 2026-01-01T02:00:00Z | 1",
            "2026-01-01T01:00:00Z, 2026-01-01T02:00:00Z | 2026-01-01T02:00:00Z | 0",
        );
    }

    #[test]
    fn ticks_that_come_together_in_time_are_all_published() {
        let both = "2026-01-01T00:00:01Z, 2026-01-01T00:00:02Z | 2026-01-01T00:00:02Z | 0";
        for missed in [Missed::Once, Missed::Skip, Missed::All] {
            check_due("* * * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:00:02.5Z", missed, both);
        }
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_due_again() {
        check_due("* * * * *", "2026-01-01T05:00:00Z", "2026-01-01T04:00:00Z", Missed::All, "none");
        check_due("* * * * *", "2026-01-01T05:00:00Z", "2026-01-01T05:00:00Z", Missed::All, "none");
    }

    #[test]
    fn years_of_missed_seconds_are_bounded() {
        let due = times("* * * * * *", "Europe/Berlin").due(
            at("2020-01-01T00:00:00Z"),
            at("2026-06-01T00:00:00Z"),
            Missed::All,
        );
        let due = due.expect("some are due");
        assert_eq!((due.publish.len(), due.beyond, due.passed_over), (MISSED_MAX, true, 0));
        assert_eq!(show(due.publish[0]), "2026-05-31T23:43:21Z");
        let once = times("* * * * 1 *", "UTC").due(WallMs(0), at("2026-06-01T00:00:00Z"), Missed::Once);
        assert_eq!(once.map(|due| (due.publish, due.beyond)), Some((vec![at("2026-01-31T23:59:59Z")], true)));
    }

    #[test]
    fn zones_are_found_or_the_nearest_is_named() {
        for known in ["UTC", "Europe/Berlin", "america/new_york", "Etc/GMT+5"] {
            assert!(time_zone(known).is_ok(), "{known}");
        }
        let nearest = |name| time_zone(name).expect_err("it is none");
        assert_eq!(nearest("Europe/Berln"), Some("Europe/Berlin".to_owned()));
        for unknown in ["", "Mars/Olympus_Mons", "../../etc/passwd", "\u{e9}"] {
            assert_eq!(nearest(unknown), None, "{unknown}");
        }
        let shown = |zone| times("@daily", zone).zone().to_owned();
        assert_eq!([shown("UTC"), shown("europe/berlin")], ["UTC", "Europe/Berlin"]);
        let bare = TimeZoneDatabase::bundled().get("Europe/Berlin").expect("it is compiled in");
        let times = Times::new("0 3 * * *", bare).expect("it is right");
        assert_eq!(times.next(at("2026-07-01T00:00:00Z")).map(show), Some("2026-07-01T01:00:00Z".to_owned()));
    }
}
