//! Times as the broker takes them: milliseconds since 1970, and text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The latest that four digits of a year can say, in seconds since 1970.
const SECONDS_MAX: u64 = 253_402_300_799;

/// `at` in milliseconds since 1970; a started one counts. Before 1970: 0.
pub(crate) fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The time in `wait` from now; the latest possible if that is beyond all bounds.
pub(crate) fn after(wait: Duration) -> SystemTime {
    let latest = UNIX_EPOCH + Duration::from_secs(SECONDS_MAX);
    SystemTime::now().checked_add(wait).unwrap_or(latest).min(latest)
}

/// `at` as RFC 3339 in UTC, to the millisecond before it: `2026-01-31T12:00:00.250Z`. Between 1970 and 9999.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().min(SECONDS_MAX);
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let ms = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The date so many days after 1970-01-01. Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`:
/// years begin in March, so that a leap day is the last, in eras of 400 years.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ms: u64, expected: &str) {
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(ms)), expected);
    }

    #[test]
    fn times_as_text() {
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_399_999, "2000-02-28T23:59:59.999Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(951_868_800_000, "2000-03-01T00:00:00.000Z");
        check(1_767_225_599_001, "2025-12-31T23:59:59.001Z");
        check(1_769_860_800_250, "2026-01-31T12:00:00.250Z");
        check(4_107_542_399_000, "2100-02-28T23:59:59.000Z");
        check(4_107_542_400_000, "2100-03-01T00:00:00.000Z");
        check(253_402_300_799_000, "9999-12-31T23:59:59.000Z");
        check(253_402_300_800_000, "9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn the_edges_of_time() {
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
        assert_eq!(unix_ms(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert_eq!(unix_ms(UNIX_EPOCH + Duration::from_micros(1500)), 2);
        assert_eq!(rfc3339(after(Duration::MAX)), "9999-12-31T23:59:59.000Z");
    }
}
