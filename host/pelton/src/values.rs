//! Values of flags that are more than a number or a text: durations within bounds, with an example in every error.

use std::time::Duration;

use pelton_core::engine::PRIORITY_MAX;

/// Reads a duration.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "this is no duration; write it like 10s, 500ms or 1m30s".to_owned())
}

/// Checks that a text is a duration of at least `min` and at most `max`, and returns it as it was written: the broker
/// reads it again.
pub(crate) fn time_within(min: Duration, max: Duration) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |text| {
        if (min..=max).contains(&time(text)?) {
            return Ok(text.to_owned());
        }
        Err(format!("{} to {} are allowed", shown(min), shown(max)))
    }
}

/// A duration as one writes it: humantime would make a year and 18 hours of 366 days.
fn shown(duration: Duration) -> String {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    match duration.as_secs() {
        seconds if seconds >= DAY_SECONDS && seconds.is_multiple_of(DAY_SECONDS) => {
            format!("{}days", seconds / DAY_SECONDS)
        }
        _ => humantime::format_duration(duration).to_string(),
    }
}

/// Checks that a text is a moment in RFC 3339 and returns it as it was written.
pub(crate) fn moment(text: &str) -> Result<String, String> {
    match text.parse::<jiff::Timestamp>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("this is no moment; write it like 2026-01-31T12:00:00Z or 2026-01-31T13:00:00+01:00".to_owned()),
    }
}

/// Reads a moment: RFC 3339, or how long ago it was. Returns RFC 3339.
pub(crate) fn past_moment(text: &str) -> Result<String, String> {
    let ago = |ago: Duration| jiff::Timestamp::now().checked_sub(ago).map(|moment| format!("{moment:.3}"));
    match time(text) {
        Ok(duration) => ago(duration).map_err(|_| "this is too long ago".to_owned()),
        Err(_) => moment(text).map_err(|_| {
            "this is no moment; write it like 2026-01-31T12:00:00Z, or how long ago it was, like 2h".to_owned()
        }),
    }
}

/// Reads a rate: `100/s`, `600/min`, `1/h`. Returns it per second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let wrong = || "this is no rate; write it like 100/s, 600/min or 1/h".to_owned();
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let count: u32 = count.parse().map_err(|_| wrong())?;
    if count == 0 { Err(wrong()) } else { Ok(f64::from(count) / seconds) }
}

/// Reads how urgent a message is.
pub(crate) fn priority(text: &str) -> Result<u8, String> {
    let priority = text.parse().ok().filter(|priority| (0..=PRIORITY_MAX).contains(priority));
    priority.ok_or_else(|| format!("write a number from 0 to {PRIORITY_MAX}, the highest first"))
}

/// Reads `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if name.is_empty() { Err("write NAME=VALUE".to_owned()) } else { Ok((name.to_owned(), value.to_owned())) }
}

/// Checks that a text is a whole number from 1 to `max`.
pub(crate) fn count_up_to(max: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let count = text.parse().ok().filter(|count| (1..=max).contains(count));
        count.ok_or_else(|| format!("write a number from 1 to {max}, like 10"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_bounds() {
        assert_eq!(count_up_to(1000)("1000"), Ok(1000));
        for bad in ["0", "1001", "x", "-1"] {
            assert_eq!(count_up_to(1000)(bad), Err("write a number from 1 to 1000, like 10".into()), "{bad}");
        }
    }

    #[test]
    fn priorities_have_bounds() {
        assert_eq!((priority("0"), priority("9")), (Ok(0), Ok(9)));
        for bad in ["10", "-1", "high", ""] {
            assert_eq!(priority(bad), Err("write a number from 0 to 9, the highest first".into()), "{bad}");
        }
    }

    #[test]
    fn durations_have_bounds_and_errors_an_example() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let found = time_within(Duration::from_secs(1), Duration::from_secs(12 * 3600))(text);
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{text}");
        };
        check("30s", Ok("30s"));
        check("1m 30s", Ok("1m 30s"));
        check("12h", Ok("12h"));
        check("500ms", Err("1s to 12h are allowed"));
        check("13h", Err("1s to 12h are allowed"));
        let year = time_within(Duration::ZERO, Duration::from_secs(366 * 24 * 3600));
        assert_eq!(year("367d"), Err("0s to 366days are allowed".into()));
        for bad in ["abc", "", "10", "-1s"] {
            check(bad, Err("this is no duration; write it like 10s, 500ms or 1m30s"));
        }
    }

    #[test]
    fn moments_are_rfc_3339_and_may_be_past() {
        assert_eq!(moment("2026-01-31T13:00:00+01:00").as_deref(), Ok("2026-01-31T13:00:00+01:00"));
        for bad in ["2026-01-31", "10m", "", "tomorrow"] {
            assert!(moment(bad).expect_err(bad).contains("write it like"), "{bad}");
        }
        assert_eq!(past_moment("2026-01-31T12:00:00Z").as_deref(), Ok("2026-01-31T12:00:00Z"));
        let ago: jiff::Timestamp = past_moment("2h").expect("a duration").parse().expect("RFC 3339");
        let seconds = jiff::Timestamp::now().as_second() - ago.as_second();
        assert!((7_199..7_260).contains(&seconds), "{seconds}");
        assert!(past_moment("yesterday").expect_err("no moment").contains("how long ago"));
    }

    #[test]
    fn rates_are_per_second() {
        assert_eq!(rate("100/s"), Ok(100.0));
        assert_eq!(rate("600/min"), Ok(10.0));
        assert_eq!(rate("36/h"), Ok(0.01));
        for bad in ["100", "0/s", "-1/s", "1/d", "/s", "1.5/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pairs_have_a_name() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("=b").is_err() && pair("a").is_err());
    }
}
