//! Schedules. The input is a cron expression, a time zone, a moment in milliseconds since 1970, and a span in milliseconds,
//! each on a line; what is missing is as in the first seed.
//!
//! Asserts: an error's span lies in the expression. Ticks are whole seconds and lie behind the moment that is asked about;
//! whenever between one tick and the next is asked, the next is the answer; behind the last there is no other. What is due
//! after a span are the latest ticks in it; of these each way with missed ones publishes what it says. That it takes bounded
//! time is for libFuzzer's `-timeout` to tell.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pelton_core::clock::WallMs;
use pelton_core::schedule::{CRON_BYTES_MAX, LATE_MAX, MISSED_MAX, Missed, Times, time_zone};

const TICKS: usize = 12;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const NEW_YEAR_2026_MS: u64 = 1_767_225_600_000;
/// Searches end here, more or less.
const NEW_YEAR_5000_MS: u64 = 95_617_584_000_000;

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let cron = lines.next().unwrap_or_default();
    let zone = lines.next().unwrap_or("UTC");
    let mut number = |default| lines.next().and_then(|line| line.parse().ok()).unwrap_or(default);
    let (from, span) = (WallMs(number(NEW_YEAR_2026_MS)), number(DAY_MS));
    let Ok(zone) = time_zone(zone) else { return };
    let times = match Times::new(cron, zone) {
        Ok(times) => times,
        Err(error) => {
            assert!(cron.get(error.span.clone()).is_some(), "{error:?} is at no place of {cron:?}");
            assert!(!error.reason.is_empty() && !error.help.is_empty(), "{error:?}");
            return;
        }
    };
    assert!(times.cron() == cron && cron.len() <= CRON_BYTES_MAX);
    let now = WallMs(from.0.saturating_add(span));
    if now.0 < NEW_YEAR_5000_MS {
        check_ticks(&times, from);
        check_due(&times, from, now);
    } else {
        let _ = (times.next(from), times.next(now), times.due(from, now, Missed::All));
    }
});

fn check_ticks(times: &Times, from: WallMs) {
    let mut at = from;
    for _ in 0..TICKS {
        let Some(next) = times.next(at) else {
            let later = WallMs(at.0.saturating_add(DAY_MS));
            let beyond = |next: WallMs| next.0 >= NEW_YEAR_5000_MS;
            assert!(times.next(later).is_none_or(beyond), "none behind {at:?}, but behind {later:?}");
            return;
        };
        assert!(next > at, "{next:?} is not behind {at:?}");
        assert!(next.0 % 1000 == 0, "{next:?} is no whole second");
        for between in [at.0 + (next.0 - at.0) / 2, next.0 - 1] {
            assert_eq!(times.next(WallMs(between)), Some(next), "from {between}, between {at:?} and its next");
        }
        at = next;
    }
}

fn check_due(times: &Times, after: WallMs, now: WallMs) {
    let Some(all) = times.due(after, now, Missed::All) else {
        assert!(times.next(after).is_none_or(|next| next > now), "something is due");
        assert!(times.due(after, now, Missed::Once).is_none() && times.due(after, now, Missed::Skip).is_none());
        return;
    };
    let ticks = &all.publish;
    assert!(ticks.is_sorted_by(|one, other| one < other), "{ticks:?}");
    assert!(ticks.first().is_some_and(|first| *first > after) && ticks.last() == Some(&all.latest));
    assert!(all.latest <= now && times.next(all.latest).is_none_or(|next| next > now), "a later one is due");
    assert!(all.passed_over == 0 && ticks.len() <= MISSED_MAX && (!all.beyond || ticks.len() == MISSED_MAX));
    if !all.beyond {
        assert_eq!(times.next(after), ticks.first().copied());
    }
    for pair in ticks.windows(2).take(TICKS) {
        assert_eq!(times.next(pair[0]), Some(pair[1]));
    }
    let in_time = |tick: &&WallMs| now.since(**tick) <= LATE_MAX;
    let skip = times.due(after, now, Missed::Skip).expect("as much is due");
    assert_eq!(skip.publish, ticks.iter().filter(in_time).copied().collect::<Vec<_>>());
    let once = times.due(after, now, Missed::Once).expect("as much is due");
    let together = !all.beyond && ticks.iter().all(|tick| in_time(&tick));
    assert_eq!(once.publish, if together { ticks.clone() } else { vec![all.latest] });
    for due in [skip, once] {
        assert_eq!((due.latest, due.beyond), (all.latest, all.beyond));
        assert_eq!(due.publish.len() as u64 + due.passed_over, ticks.len() as u64);
    }
}
