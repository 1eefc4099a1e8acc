//! Values of flags that are more than a number or a text: durations within bounds, with an example in every error.

use std::time::Duration;

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
        let (min, max) = (humantime::format_duration(min), humantime::format_duration(max));
        Err(format!("{min} to {max} are allowed"))
    }
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
        for bad in ["abc", "", "10", "-1s"] {
            check(bad, Err("this is no duration; write it like 10s, 500ms or 1m30s"));
        }
    }
}
