//! `[[schedules]]`: what the clock publishes, and when.

use std::collections::BTreeSet;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::DeValue;

use super::defaults;
use super::problems::Problems;
use super::routes;
use super::section::{self, Entry, Placed, Section, integer_value};
use crate::message::InvalidMessage;
use crate::name::{ScheduleName, Topic};
use crate::route::Router;
use crate::runtime::EmitGate;
use crate::schedule::{Missed, SchedulePlan, TickMessage, Times, time_zone};

const MISSED: [(&str, Missed); 3] = [("once", Missed::Once), ("skip", Missed::Skip), ("all", Missed::All)];
const NEEDED: [(&str, &str); 3] =
    [("name", "name = \"nightly\""), ("cron", "cron = \"0 3 * * *\""), ("topic", "topic = \"reports.nightly\"")];

/// What schedules publish to.
pub(super) struct Door<'r> {
    pub(super) router: &'r Router,
    /// Whether the router has all routes of the file.
    pub(super) is_whole: bool,
    pub(super) message_bytes_max: u64,
}

/// Reads all of `[[schedules]]`.
pub(super) fn read(entry: Option<Entry<'_>>, door: &Door<'_>, problems: &Problems<'_>) -> Vec<SchedulePlan> {
    let Some(entry) = entry else { return Vec::new() };
    let mut names = BTreeSet::new();
    let mut schedules = Vec::new();
    for (at, item) in section::list(entry, "schedule", defaults::SCHEDULES_MAX, problems).into_iter().enumerate() {
        let section = Section::of(format!("schedule {}", at + 1), item, problems);
        schedules.extend(schedule(section, item, &mut names, door));
    }
    schedules
}

fn schedule(
    section: Section<'_, '_>,
    entry: Entry<'_>,
    names: &mut BTreeSet<ScheduleName>,
    door: &Door<'_>,
) -> Option<SchedulePlan> {
    let problems = section.problems();
    for (key, help) in NEEDED {
        if entry.value.get_ref().is_table() && !section.has(key) {
            let message = format!("{} has no `{key}`", section.name());
            problems.error(section::header(entry.span(), problems.text()), message, format!("add {help}"));
        }
    }
    let name = section.text("name").and_then(|text| name(&text, names, problems));
    let times = times(&section);
    let topic = section.text("topic").and_then(|text| topic(&text, door, problems));
    let message = message(&section, name.as_ref(), topic.as_ref(), door.message_bytes_max);
    let missed = section.choice("missed", &MISSED).map(|missed| missed.value).unwrap_or_default();
    section.finish(&[]);
    Some(SchedulePlan { name: name?, times: times?, topic: topic?, message: message?, missed })
}

fn name(text: &Placed<&str>, names: &mut BTreeSet<ScheduleName>, problems: &Problems<'_>) -> Option<ScheduleName> {
    let name = match ScheduleName::new(text.value) {
        Ok(name) => name,
        Err(error) => {
            problems.error(text.span.clone(), error.to_string(), None);
            return None;
        }
    };
    if !names.insert(name.clone()) {
        let help = "its last tick is remembered by its name; give each one of its own";
        problems.error(text.span.clone(), format!("there is a schedule '{name}' already"), help.to_owned());
    }
    Some(name)
}

fn times(section: &Section<'_, '_>) -> Option<Times> {
    let problems = section.problems();
    let cron = section.text("cron");
    let zone = section.filled_text("time-zone").map_or(Some(jiff::tz::TimeZone::UTC), |text| {
        let report = |near: Option<String>| {
            let near = near.map(|near| format!("did you mean '{near}'? ")).unwrap_or_default();
            let help = format!("{near}names are those of the IANA, such as \"Europe/Berlin\"");
            problems.error(text.span.clone(), format!("there is no time zone '{}'", text.value), help);
        };
        time_zone(text.value).map_err(report).ok()
    });
    let cron = cron?;
    // Without its zone an expression is checked all the same.
    let times = Times::new(cron.value, zone.clone().unwrap_or(jiff::tz::TimeZone::UTC));
    let report = |error: crate::schedule::CronError| {
        problems.error(routes::place(&cron, &error.span, problems), error.reason, error.help);
    };
    times.map_err(report).ok().filter(|_| zone.is_some())
}

fn topic(text: &Placed<&str>, door: &Door<'_>, problems: &Problems<'_>) -> Option<Topic> {
    let topic = match Topic::new(text.value) {
        Ok(topic) => topic,
        Err(error) => {
            problems.error(text.span.clone(), error.to_string(), None);
            return None;
        }
    };
    if door.is_whole && !EmitGate::routes(door.router, &topic) {
        let near = door.router.nearest(&topic).map(|pattern| format!("the nearest is '{pattern}'; "));
        let help = format!("{}add one to [[routes]] or mend the topic", near.unwrap_or_default());
        problems.error(text.span.clone(), format!("no route matches the topic '{topic}'"), help);
    }
    Some(topic)
}

fn message(
    section: &Section<'_, '_>,
    name: Option<&ScheduleName>,
    topic: Option<&Topic>,
    bytes_max: u64,
) -> Option<TickMessage> {
    let source = section.filled_text("source");
    let kind = section.filled_text("type");
    let content_type = section.filled_text("content-type");
    let (body, default_type) = body(section, bytes_max);
    let (name, topic) = (name?, topic?);
    let default_source = format!("/pelton/schedules/{name}");
    let given = [("source", &source), ("type", &kind), ("datacontenttype", &content_type)];
    let report = |error: InvalidMessage| {
        let InvalidMessage::Attribute { attribute, .. } = &error else { return };
        let place = given.iter().find(|(known, _)| known == attribute).and_then(|(_, text)| text.as_ref());
        section.problems().error(place.map_or(0..0, |text| text.span.clone()), error.to_string(), None);
    };
    let source = source.as_ref().map_or(default_source.as_str(), |text| text.value);
    let kind = kind.as_ref().map_or(topic.as_str(), |text| text.value);
    let content_type = content_type.as_ref().map(|text| text.value).or(default_type);
    TickMessage::new(name.clone(), source, kind, content_type, body).map_err(report).ok()
}

/// `body` or `data`, and what type it is of if nothing else is said. Empty where there is neither, and after an error.
fn body(section: &Section<'_, '_>, bytes_max: u64) -> (String, Option<&'static str>) {
    let problems = section.problems();
    let text = section.text("body");
    let data = section.get("data");
    if section.has("body")
        && let Some(data) = data
    {
        let message = format!("{} has both `body` and `data`", section.name());
        let help = "`body` is a text, `data` a value that becomes JSON; leave one out";
        problems.error(data.key_span(), message, help.to_owned());
    }
    let (span, body, default_type) = match (text, data) {
        (Some(text), _) => (text.span, text.value.to_owned(), "text/plain; charset=utf-8"),
        (None, Some(data)) => {
            let written = json(data.value, problems).map(|value| value.to_string());
            (data.span(), written.unwrap_or_default(), "application/json")
        }
        (None, None) => return (String::new(), None),
    };
    if body.len() as u64 > bytes_max {
        let message = format!("the body has {} bytes; at most {bytes_max} are allowed", body.len());
        problems.error(span, message, "shorten it, or raise [broker] max-message".to_owned());
    }
    (body, Some(default_type))
}

/// `value` as JSON; dates become texts.
fn json(value: &Spanned<DeValue<'_>>, problems: &Problems<'_>) -> Option<Value> {
    Some(match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(date) => Value::String(date.to_string()),
        DeValue::Integer(number) => {
            Value::Number(number_of(integer_value(number).and_then(Number::from_i128), value, problems)?)
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse().ok().and_then(Number::from_f64);
            Value::Number(number_of(parsed, value, problems)?)
        }
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| json(item, problems)).collect::<Option<Vec<_>>>()?)
        }
        DeValue::Table(fields) => {
            let field = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
                Some((key.get_ref().to_string(), json(value, problems)?))
            };
            Value::Object(fields.iter().map(field).collect::<Option<Map<_, _>>>()?)
        }
    })
}

fn number_of(number: Option<Number>, value: &Spanned<DeValue<'_>>, problems: &Problems<'_>) -> Option<Number> {
    if number.is_none() {
        let shown = &problems.text()[value.span()];
        problems.error(value.span(), format!("{shown} can't be written in JSON"), "write it as a text".to_owned());
    }
    number
}
