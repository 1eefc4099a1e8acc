//! What a schedule has published: each of its ticks once.

use pelton_core::clock::WallMs;

use super::plan::Features;

/// Seconds between two ticks.
const EVERY: i64 = 10;

/// Checks the ids of ticks, in order. `span` is the time since there is a schedule.
pub(super) fn check(features: &Features, ticks: &[String], span: Option<(WallMs, WallMs)>) -> Result<(), String> {
    let mut seconds = Vec::new();
    for id in ticks {
        let at = id.strip_prefix("tick/").and_then(|text| text.parse::<jiff::Timestamp>().ok());
        seconds.push(at.ok_or_else(|| format!("'{id}' is no tick"))?.as_second());
    }
    for pair in seconds.windows(2) {
        if pair[0] == pair[1] {
            return Err(format!("a tick was published twice: {ticks:?}"));
        }
        if features.schedule == Some("all") && pair[1] - pair[0] != EVERY {
            return Err(format!("ticks are missing: {ticks:?}"));
        }
    }
    let Some((begun, latest)) = span else { return Ok(()) };
    let (first, last) = (seconds.first().copied(), seconds.last().copied());
    let second = |at: WallMs| i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    if first.is_some_and(|first| first < second(begun)) || last.is_some_and(|last| last > second(latest)) {
        return Err(format!("ticks from {begun:?} to {latest:?}: {ticks:?}"));
    }
    Ok(())
}

/// Whether the schedule has caught up with the clock, but for the last tick.
pub(super) fn are_up_to_date(features: &Features, ticks: &[String], now: WallMs) -> bool {
    let last = ticks.last().and_then(|id| id.strip_prefix("tick/")?.parse::<jiff::Timestamp>().ok());
    let behind = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX) - EVERY - 2;
    features.schedule.is_none() || last.is_some_and(|last| last.as_second() >= behind)
}
