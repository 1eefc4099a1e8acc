//! Routing: topic pattern, then filter, then transform, to entries for queues. Pure.
//!
//! Everything is compiled and checked when the configuration is loaded. On the hot path a topic costs one hash look-up
//! ([`table`]); a message's body is parsed only if an expression of a matching route looks at it, once for all of them,
//! and only as far as they look ([`body`]). Expressions are bounded in work and memory whatever the message holds
//! ([`expression`]). What an expression can't be evaluated on is not lost: it becomes an entry that says so.

mod analysis;
mod body;
mod expression;
mod facts;
mod filter;
mod instrument;
mod json;
mod pattern;
mod regular;
mod shared;
mod syntax;
mod table;
mod transform;
mod tree;
mod types;

#[cfg(test)]
mod tests;

pub use analysis::{COMPREHENSIONS_CHAINED_MAX, COMPREHENSIONS_NESTED_MAX, Problem};
pub use expression::{EXPRESSION_BYTES_MAX, EXPRESSION_DEPTH_MAX};
pub use filter::Filter;
pub use pattern::{Pattern, PatternError};
pub use transform::{RESULTS_BYTES_MAX, RESULTS_MAX, Transform};

use crate::message::Message;
use crate::name::Topic;
use crate::plan::QueueIndex;
use crate::runtime::EmitGate;
use facts::Facts;
use table::Table;

/// Longest text of [`RoutedEntry::failed`], in bytes.
pub const FAILED_BYTES_MAX: usize = 512;

/// Most routes that are looked at for the one that a topic was probably meant for.
const NEAREST_ROUTES_MAX: usize = 200;

/// All routes of a plan, compiled.
#[derive(Debug, Default)]
pub struct Router {
    routes: Vec<Route>,
    table: Table,
    message_bytes_max: u64,
}

/// One `[[routes]]`, compiled.
#[derive(Debug)]
pub struct Route {
    /// `from`: the topics it is for.
    pub pattern: Pattern,
    /// `when`: which messages of those topics take it; all if there is none.
    pub filter: Option<Filter>,
    /// `transform`: what becomes of them on the way.
    pub transform: Option<Transform>,
    /// `to`: where they go.
    pub targets: Vec<QueueIndex>,
}

/// What routing made of one message.
#[derive(Debug, Default)]
pub struct Routed {
    /// Whether the pattern of any route matched. If not, the message is unroutable.
    pub matched: bool,
    /// One per message and queue, in the order of routes and targets. May be empty though matched: filtered out.
    pub entries: Vec<RoutedEntry>,
}

/// A message and one queue that it goes to.
#[derive(Debug, Clone)]
pub struct RoutedEntry {
    /// The queue.
    pub queue: QueueIndex,
    /// The message; a transform's result where the route has one.
    pub message: Message,
    /// Set when the route's filter or transform failed on it: where and why, in up to [`FAILED_BYTES_MAX`] bytes that
    /// never quote the body. Then the message is the original one.
    pub failed: Option<String>,
}

impl Router {
    /// The router of `routes`, in their order. Transforms make messages with bodies of at most `message_bytes_max`.
    #[must_use]
    pub fn new(routes: Vec<Route>, message_bytes_max: u64) -> Self {
        let patterns: Vec<_> = routes.iter().map(|route| &route.pattern).collect();
        let table = Table::new(&patterns, routes.iter().map(Route::want).collect());
        Self { routes, table, message_bytes_max }
    }

    /// The routes, in the order of the configuration.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The pattern that a topic which no route matches was probably meant for, if one is near enough.
    #[must_use]
    pub fn nearest(&self, topic: &Topic) -> Option<&Pattern> {
        let topic = topic.as_str();
        let patterns = self.routes.iter().take(NEAREST_ROUTES_MAX).map(|route| &route.pattern);
        patterns
            .filter_map(|pattern| pattern.slips(topic).map(|slips| (slips, pattern)))
            .min_by_key(|(slips, _)| *slips)
            .map(|(_, pattern)| pattern)
    }

    /// Where `message`, published to `topic`, goes.
    #[must_use]
    pub fn route(&self, topic: &Topic, message: &Message) -> Routed {
        let matching = self.table.matching(topic);
        let mut entries = Vec::with_capacity(matching.routes.len());
        let mut facts = None;
        for &at in matching.routes.iter() {
            let route = &self.routes[at as usize];
            if route.is_plain() {
                entries.extend(route.to_all(message, None));
                continue;
            }
            let facts =
                facts.get_or_insert_with(|| Facts::new(topic, message, matching.want.as_ref(), self.message_bytes_max));
            match route.apply(facts) {
                Ok(Applied::Unchanged) => entries.extend(route.to_all(message, None)),
                Ok(Applied::Made(messages)) => {
                    entries.extend(messages.iter().flat_map(|made| route.to_all(made, None)))
                }
                Err(reason) => {
                    let failed = bounded(format!("route {} ({}): {reason}", at + 1, route.pattern));
                    entries.extend(route.to_all(message, Some(failed)));
                }
            }
        }
        Routed { matched: !matching.routes.is_empty(), entries }
    }
}

impl EmitGate for Router {
    fn routes(&self, topic: &Topic) -> bool {
        !self.table.matching(topic).routes.is_empty()
    }
}

enum Applied {
    /// The message as it is.
    Unchanged,
    /// These instead; none if it was filtered out.
    Made(Vec<Message>),
}

impl Route {
    fn is_plain(&self) -> bool {
        self.filter.is_none() && self.transform.is_none()
    }

    fn want(&self) -> Option<body::Want> {
        let wants = [self.filter.as_ref().and_then(Filter::want), self.transform.as_ref().and_then(Transform::want)];
        wants.into_iter().flatten().cloned().reduce(body::Want::and)
    }

    fn to_all(&self, message: &Message, failed: Option<String>) -> impl Iterator<Item = RoutedEntry> {
        self.targets.iter().map(move |queue| RoutedEntry {
            queue: *queue,
            message: message.clone(),
            failed: failed.clone(),
        })
    }

    fn apply(&self, facts: &Facts<'_>) -> Result<Applied, String> {
        if let Some(filter) = &self.filter
            && !filter.passes(facts).map_err(|reason| format!("filter: {reason}"))?
        {
            return Ok(Applied::Made(Vec::new()));
        }
        let Some(transform) = &self.transform else { return Ok(Applied::Unchanged) };
        let made = transform.apply(facts).map_err(|reason| format!("transform: {reason}"))?;
        Ok(Applied::Made(made))
    }
}

/// `text`, cut to [`FAILED_BYTES_MAX`] bytes.
fn bounded(mut text: String) -> String {
    const CUT: &str = " ...";
    if text.len() > FAILED_BYTES_MAX {
        text.truncate(text.floor_char_boundary(FAILED_BYTES_MAX - CUT.len()));
        text.push_str(CUT);
    }
    text
}
