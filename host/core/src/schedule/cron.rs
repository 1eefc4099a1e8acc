//! Cron expressions: what is one, and which of its fields is wrong where one is not.
//!
//! Crate `croner` reads them. Here is checked what it lets pass, and found out where the mistake is, which it does not say.

use std::ops::Range;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;

/// Longest cron expression, in bytes.
pub const CRON_BYTES_MAX: usize = 256;
/// The calendar repeats after 400 years, and searches end with the year 5000: what does not come from here on never does.
const LAST_ROUND: DateTime = DateTime::constant(4599, 1, 1, 0, 0, 0, 0);

/// Why a text is not a cron expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct CronError {
    /// The bytes of the text that are wrong.
    pub span: Range<usize>,
    /// What is wrong with them.
    pub reason: String,
    /// What to write instead.
    pub help: String,
}

/// A cron expression: which times of which days it selects, whatever clock shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    text: Box<str>,
    cron: Cron,
    is_fixed: bool,
}

impl Expression {
    /// What `text` says: five fields, or six with seconds in front, or a nickname.
    pub(super) fn new(text: &str) -> Result<Self, CronError> {
        check(text)?;
        let cron = parser().parse(text).map_err(|_| guilty(text))?;
        let expression = Self { text: text.into(), cron, is_fixed: is_fixed(text) };
        if expression.next(LAST_ROUND, true).is_none() {
            let reason = format!("'{text}' never comes");
            let help = "mend the day of the month, or the month".to_owned();
            return Err(CronError { span: 0..text.len(), reason, help });
        }
        Ok(expression)
    }

    /// The expression as it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it selects fixed times of day, and not every so many hours, minutes or seconds.
    pub(super) fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// The first time after `after`, or at it where it is `inclusive`; none when there is none before the year 5000.
    pub(super) fn next(&self, after: DateTime, inclusive: bool) -> Option<DateTime> {
        self.cron.find_next_occurrence(&after, inclusive).ok()
    }

    /// Whether `shown` is one of its times.
    #[cfg(test)]
    pub(super) fn selects(&self, shown: DateTime) -> bool {
        self.cron.is_time_matching(&shown).expect("it is in bounds")
    }
}

fn is_fixed(text: &str) -> bool {
    if text.trim().starts_with('@') {
        return !text.trim().eq_ignore_ascii_case("@hourly");
    }
    let times = fields(text).into_iter().filter(|(_, field)| ["second", "minute", "hour"].contains(&field.name));
    times.into_iter().all(|(span, _)| !text[span].contains(['*', '/']))
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build()
}

const NICKNAMES: [&str; 6] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly"];
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A field of a cron expression.
struct Field {
    name: &'static str,
    /// What may stand in it.
    values: &'static str,
    /// The words that it knows beside numbers.
    words: &'static [&'static str],
}

const FIELDS: [Field; 6] = [
    Field { name: "second", values: "0 to 59", words: &[] },
    Field { name: "minute", values: "0 to 59", words: &[] },
    Field { name: "hour", values: "0 to 23", words: &[] },
    Field {
        name: "day of the month",
        values: "1 to 31, L (the last), 15W (the weekday nearest to the 15th)",
        words: &["L", "W", "LW"],
    },
    Field { name: "month", values: "1 to 12, JAN to DEC", words: &MONTHS },
    Field {
        name: "day of the week",
        values: "0 to 7 (0 and 7 are Sunday), SUN to SAT, 5#2 (the second Friday), 5L (the last)",
        words: &WEEKDAYS,
    },
];

/// The fields of `cron`, each with where it stands and what it is.
fn fields(cron: &str) -> Vec<(Range<usize>, &'static Field)> {
    let place = |word: &str| {
        let start = word.as_ptr() as usize - cron.as_ptr() as usize;
        start..start + word.len()
    };
    let places: Vec<_> = cron.split_whitespace().map(place).collect();
    let skipped = FIELDS.len().saturating_sub(places.len());
    places.into_iter().zip(FIELDS.iter().skip(skipped)).collect()
}

/// Checks what the parser lets pass: it replaces names of months and days wherever they stand, and overlooks empty items.
fn check(cron: &str) -> Result<(), CronError> {
    const SHAPE: &str =
        "write minute, hour, day of the month, month and day of the week: \"0 3 * * MON\" is 3:00 on Mondays";
    let whole = |reason: String, help: String| CronError { span: 0..cron.len(), reason, help };
    if cron.len() > CRON_BYTES_MAX {
        let reason = format!("the cron expression has {} bytes; at most {CRON_BYTES_MAX} are allowed", cron.len());
        return Err(whole(reason, SHAPE.to_owned()));
    }
    if cron.trim().starts_with('@') {
        if NICKNAMES.iter().any(|name| cron.trim().eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        return Err(whole(format!("'{cron}' is no cron expression"), format!("there are {}", NICKNAMES.join(", "))));
    }
    let count = cron.split_whitespace().count();
    if !(5..=6).contains(&count) {
        let reason = format!("a cron expression has five fields, or six with seconds in front; this has {count}");
        return Err(whole(reason, SHAPE.to_owned()));
    }
    for (span, field) in fields(cron) {
        let text = &cron[span.clone()];
        let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
        let is_known = |word: &str| {
            field.words.iter().any(|known| known.eq_ignore_ascii_case(word))
                || field.words == WEEKDAYS && word.eq_ignore_ascii_case("L")
        };
        if text.split(',').any(str::is_empty) || !words.into_iter().all(is_known) {
            return Err(field.error(cron, span));
        }
    }
    Ok(())
}

/// The field that makes `cron` no cron expression.
fn guilty(cron: &str) -> CronError {
    let fields = fields(cron);
    let alone = |at: usize| {
        let parts: Vec<_> =
            fields.iter().enumerate().map(|(n, (span, _))| if n == at { &cron[span.clone()] } else { "*" }).collect();
        parser().parse(&parts.join(" ")).is_err()
    };
    match fields.iter().enumerate().find(|(at, _)| alone(*at)) {
        Some((_, (span, field))) => field.error(cron, span.clone()),
        None => CronError {
            span: 0..cron.len(),
            reason: format!("'{cron}' is no cron expression"),
            help: "such as \"0 3 * * MON\": 3:00 on Mondays".to_owned(),
        },
    }
}

impl Field {
    fn error(&self, cron: &str, span: Range<usize>) -> CronError {
        let Self { name, values, .. } = self;
        let reason = format!("'{}' can't be the {name} of a cron expression", &cron[span.clone()]);
        let help = format!("write {values}; a list 1,2, a range 1-5, a step */2 or 1-5/2 of them, or * for each");
        CronError { span, reason, help }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said about `text`, and the part of it that is meant.
    #[track_caller]
    fn refused(text: &str, place: &str, reason: &str) {
        let error = Expression::new(text).expect_err(text);
        assert_eq!((&text[error.span.clone()], error.reason.as_str()), (place, reason), "{text}");
        assert!(!error.help.is_empty(), "{text}");
    }

    #[test]
    fn what_is_an_expression() {
        let good = [
            "* * * * *",
            " 0  3 * * * ",
            "*/5 8-18/2 1,15 JAN-mar,6 mon-FRI",
            "0 0 LW * *",
            "0 0 15W * ?",
            "0 0 1 * +MON",
            "0 12 * * FRI#L",
            "0 12 * * 5L",
            "59 59 23 31 12 7",
            "@Daily",
        ];
        for text in good {
            assert!(Expression::new(text).is_ok(), "{text} was refused");
        }
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        refused("60 * * * *", "60", "'60' can't be the minute of a cron expression");
        refused("0 24 * * *", "24", "'24' can't be the hour of a cron expression");
        refused("0 3 0 * *", "0", "'0' can't be the day of the month of a cron expression");
        refused("0 3 * 13 *", "13", "'13' can't be the month of a cron expression");
        refused("0 3 * * 8", "8", "'8' can't be the day of the week of a cron expression");
        refused("60 0 3 * * *", "60", "'60' can't be the second of a cron expression");
        refused("0 MON * * *", "MON", "'MON' can't be the hour of a cron expression");
        refused("0 3 * FEBRUARY *", "FEBRUARY", "'FEBRUARY' can't be the month of a cron expression");
        refused("0 3 * * MONTUE", "MONTUE", "'MONTUE' can't be the day of the week of a cron expression");
        refused("0 3,,4 * * *", "3,,4", "'3,,4' can't be the hour of a cron expression");
        refused("0 5-3 * * *", "5-3", "'5-3' can't be the hour of a cron expression");
        refused("*/0 3 * * *", "*/0", "'*/0' can't be the minute of a cron expression");
        refused("0/10 3 * * *", "0/10", "'0/10' can't be the minute of a cron expression");
        refused("0 99999999999 * * *", "99999999999", "'99999999999' can't be the hour of a cron expression");
        refused("0 3 * * 5#6", "5#6", "'5#6' can't be the day of the week of a cron expression");
        refused("0 \u{e9} * * *", "\u{e9}", "'\u{e9}' can't be the hour of a cron expression");
    }

    #[test]
    fn the_shape_is_told() {
        let shape = "a cron expression has five fields, or six with seconds in front; this has";
        refused("", "", &format!("{shape} 0"));
        refused("every day", "every day", &format!("{shape} 2"));
        refused("0 0 0 1 1 * 2026", "0 0 0 1 1 * 2026", &format!("{shape} 7"));
        refused("@reboot", "@reboot", "'@reboot' is no cron expression");
        for never in ["0 0 31 2 *", "0 0 30 2 *", "* * * 31 4,6,9,11 *"] {
            refused(never, never, &format!("'{never}' never comes"));
        }
        let long = format!("{} * * * *", "1,".repeat(CRON_BYTES_MAX));
        refused(&long, &long, "the cron expression has 520 bytes; at most 256 are allowed");
    }

    #[test]
    fn no_text_of_its_characters_panics() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..random.usize(5..40) {
                text.push(char::from(
                    random.choice(b"0123456789*/-,#LW?+@ MONJAN  ").copied().expect("there are some"),
                ));
            }
            if let Err(error) = Expression::new(&text) {
                assert!(text.get(error.span).is_some(), "{text}");
            }
        }
    }
}
