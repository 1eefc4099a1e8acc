//! One `[queues.NAME]`: what it says, and what its keys can't say together.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::section::{Entry, Section};
use super::{defaults, retry};
use crate::engine::{Bounds, Expired, Order, Overflow};
use crate::message::EXTENSION_NAME_BYTES_MAX;
use crate::name::QueueName;
use crate::plan::KEY_DEFAULT;
use crate::retry::RetryPolicy;

/// A queue as it stands there.
pub(super) struct Declared {
    /// Its name.
    pub(super) place: Range<usize>,
    pub(super) settings: Settings,
    pub(super) dead_letter: Option<(QueueName, Range<usize>)>,
    /// Of what stands there, what depends on the other queues: the keys, and where.
    pub(super) places: BTreeMap<&'static str, Range<usize>>,
}

/// What a queue is told about itself.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) retry: RetryPolicy,
    pub(super) order: Order,
    pub(super) key: Arc<str>,
    pub(super) priority: bool,
    pub(super) ttl: Option<std::time::Duration>,
    pub(super) expired: Expired,
    pub(super) bounds: Bounds,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            order: Order::default(),
            key: KEY_DEFAULT.into(),
            priority: false,
            ttl: None,
            expired: Expired::default(),
            bounds: Bounds::default(),
        }
    }
}

const ORDERS: [(&str, Order); 2] = [("arrival", Order::Arrival), ("key", Order::Key)];
const EXPIRIES: [(&str, Expired); 2] = [("dead-letter", Expired::DeadLetter), ("drop", Expired::Drop)];
const OVERFLOWS: [(&str, Overflow); 3] =
    [("refuse", Overflow::Refuse), ("drop-oldest", Overflow::DropOldest), ("dead-letter", Overflow::DeadLetter)];

/// What `section`, the value of `entry`, says.
pub(super) fn read(section: Section<'_, '_>, entry: Entry<'_>) -> Declared {
    let problems = section.problems();
    let default = Settings::default();
    let order = section.choice("order", &ORDERS).map_or(default.order, |order| order.value);
    let settings = Settings {
        retry: retry::policy(&section, &default.retry),
        order,
        key: key(&section, order).unwrap_or(default.key),
        priority: priority(&section, order),
        ttl: section.duration("ttl", &defaults::TTL_RANGE),
        expired: section.choice("expired", &EXPIRIES).map_or(default.expired, |expired| expired.value),
        bounds: bounds(&section),
    };
    let dead_letter = section.text("dead-letter").and_then(|text| match QueueName::new(text.value) {
        Ok(name) => Some((name, text.span)),
        Err(error) => {
            problems.error(text.span, error.to_string(), None);
            None
        }
    });
    let place = |key| section.entries().find(|entry| entry.key == key).map(|entry| (key, entry.span()));
    let places = ["ttl", "expired", "max-messages", "max-bytes", "overflow"].into_iter().filter_map(place).collect();
    section.finish(&["delay", "retain"]);
    Declared { place: entry.key_span(), settings, dead_letter, places }
}

fn key(section: &Section<'_, '_>, order: Order) -> Option<Arc<str>> {
    /// What a message has beside its attributes.
    const NO_ATTRIBUTES: [&str; 2] = ["data", "specversion"];
    let key = section.filled_text("key")?;
    let is_name = |name: &str| {
        name.len() <= EXTENSION_NAME_BYTES_MAX
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && !NO_ATTRIBUTES.contains(&name)
    };
    if !is_name(key.value) {
        let help = "write the name of an attribute, such as \"partitionkey\" or \"subject\": a-z and 0-9";
        section.problems().error(key.span, format!("no message has an attribute '{}'", key.value), help.to_owned());
        return None;
    }
    if order != Order::Key {
        let help = "add order = \"key\", or leave `key` out";
        section.problems().error(key.span, "`key` says nothing without `order = \"key\"`", help.to_owned());
    }
    Some(key.value.into())
}

fn priority(section: &Section<'_, '_>, order: Order) -> bool {
    let Some(priority) = section.truth("priority") else { return false };
    if priority.value && order == Order::Key {
        let help = "a later message of a key can't overtake an earlier one; leave out `priority` or `order`";
        section.problems().error(priority.span, "there are no priorities with `order = \"key\"`", help.to_owned());
    }
    priority.value
}

fn bounds(section: &Section<'_, '_>) -> Bounds {
    let overflow = section.choice("overflow", &OVERFLOWS);
    if let Some(overflow) = &overflow
        && !section.has("max-messages")
        && !section.has("max-bytes")
    {
        let help = "add max-messages or max-bytes, or leave it out";
        let message = "`overflow` says nothing about a queue without bounds";
        section.problems().warning(overflow.span.clone(), message, help.to_owned());
    }
    Bounds {
        messages_max: section.integer("max-messages", &defaults::QUEUE_MESSAGES_RANGE),
        bytes_max: section.size("max-bytes", &defaults::QUEUE_BYTES_RANGE),
        overflow: overflow.map(|overflow| overflow.value).unwrap_or_default(),
    }
}
