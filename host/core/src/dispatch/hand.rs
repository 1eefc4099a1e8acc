//! What is done with the messages that a lease call returned, before any of them runs: pure rules.
//!
//! Where messages are kept in order by key, all of one key go into one run, in their order: runs are handled side by side, the
//! messages of a run one after another. What is to be handled alone is set aside.

use std::collections::{BTreeSet, VecDeque};

use crate::engine::{LeaseToken, Leased};

/// The messages of one lease call, sorted.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// To be handled side by side with others.
    pub(super) messages: Vec<Leased>,
    /// How many of them go into each run, in turn; empty where they may be cut anyhow.
    pub(super) runs: VecDeque<usize>,
    /// To be handled alone.
    pub(super) alone: Vec<Leased>,
    /// To be given back at once.
    pub(super) back: Vec<LeaseToken>,
}

/// Sorts what a lease call returned. `ordered`: by key, into runs of about so many.
pub(super) fn sort(leased: Vec<Leased>, ordered: Option<usize>) -> Sorted {
    let mut sorted = if leased.iter().any(|leased| leased.alone) {
        set_aside(leased)
    } else {
        Sorted { messages: leased, ..Sorted::default() }
    };
    if let Some(run) = ordered {
        let (messages, runs) = cut(std::mem::take(&mut sorted.messages), run);
        sorted.messages = messages;
        sorted.runs = runs;
    }
    sorted
}

/// Sets aside what is to be handled alone. Of a key with such a message only the first one is kept, whichever it is: what comes
/// after it must not run before it, and not with it either.
fn set_aside(leased: Vec<Leased>) -> Sorted {
    let lonely: BTreeSet<u64> = leased.iter().filter(|leased| leased.alone).filter_map(|leased| leased.key).collect();
    let mut met = BTreeSet::new();
    let mut sorted = Sorted::default();
    for leased in leased {
        match leased.key.filter(|key| lonely.contains(key)) {
            Some(key) if !met.insert(key) => sorted.back.push(leased.token),
            _ if leased.alone => sorted.alone.push(leased),
            _ => sorted.messages.push(leased),
        }
    }
    sorted
}

/// Puts the messages of each key into one run of about `run` messages, and those without a key wherever.
fn cut(leased: Vec<Leased>, run: usize) -> (Vec<Leased>, VecDeque<usize>) {
    let count = leased.len().div_ceil(run.max(1));
    if count <= 1 {
        let runs = if leased.is_empty() { VecDeque::new() } else { VecDeque::from([leased.len()]) };
        return (leased, runs);
    }
    let mut runs: Vec<Vec<Leased>> = (0..count).map(|_| Vec::with_capacity(run)).collect();
    let mut messages = Vec::with_capacity(leased.len());
    for (place, leased) in (0_u64..).zip(leased) {
        let spread = leased.key.map_or(place, |key| key ^ (key >> 32));
        let at = usize::try_from(spread % count as u64).expect("it is below a length");
        runs[at].push(leased);
    }
    let lengths = runs.iter().map(Vec::len).filter(|length| *length > 0).collect();
    messages.extend(runs.into_iter().flatten());
    (messages, lengths)
}

/// The message to try when the one at `wanted` is asked for: the first of its key.
pub(super) fn first_of_key(hand: &VecDeque<Leased>, wanted: usize) -> usize {
    let Some(key) = hand.get(wanted).and_then(|leased| leased.key) else { return wanted };
    hand.iter().position(|leased| leased.key == Some(key)).unwrap_or(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallMs;
    use crate::engine::{EntryId, Place, Position, QueueId};
    use crate::message::{Attributes, Message};
    use crate::name::Topic;

    /// Messages as `entry`, `entry:key`, and `!` at the end of one that is to be handled alone.
    fn leased(text: &str) -> Vec<Leased> {
        let attributes = Attributes { id: "1", source: "/s", kind: "t", ..Attributes::default() };
        let message = Message::new(&attributes, b"").expect("a message");
        let parse = |text: &str| {
            let alone = text.ends_with('!');
            let mut numbers = text.trim_end_matches('!').split(':').map(|part| part.parse::<u64>().expect("a number"));
            let entry = EntryId(numbers.next().expect("an entry"));
            let accepted = WallMs(0);
            Leased {
                token: LeaseToken { queue: QueueId(1), entry, epoch: 1, attempt: 1, accepted, nonce: 1 },
                topic: Topic::new("t").expect("a topic"),
                message: message.clone(),
                hops: 0,
                accepted,
                place: Place { position: Position(entry.0), detail: 0, kind: 0 },
                key: numbers.next(),
                alone,
            }
        };
        text.split_whitespace().map(parse).collect()
    }

    fn entries(tokens: impl Iterator<Item = LeaseToken>) -> String {
        tokens.map(|token| token.entry.0.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// `runs; alone; back`, each as entries.
    fn check(text: &str, ordered: Option<usize>, expected: &str) {
        let Sorted { messages, runs, alone, back } = sort(leased(text), ordered);
        let mut rest = messages.iter().map(|leased| leased.token);
        let mut shown: Vec<String> = runs.iter().map(|count| entries(rest.by_ref().take(*count))).collect();
        if ordered.is_none() {
            shown.push(entries(rest.by_ref()));
        }
        assert_eq!(rest.next(), None, "{text}: all are in runs");
        let alone = entries(alone.iter().map(|leased| leased.token));
        let back = entries(back.into_iter());
        assert_eq!(format!("{}; {alone}; {back}", shown.join(" | ")), expected, "{text}");
    }

    #[test]
    fn without_order_everything_stays_as_it_is() {
        check("1 2 3", None, "1 2 3; ; ");
        check("", None, "; ; ");
        check("1 2! 3 4!", None, "1 3; 2 4; ");
    }

    #[test]
    fn the_messages_of_a_key_are_in_one_run_in_order() {
        check("1:7 2:8 3:7 4:8 5:7 6:9", Some(3), "2 4 | 1 3 5 6; ; ");
        check("1:7 2:7 3:7 4:7", Some(1), "1 2 3 4; ; ");
        check("1:7 2:8 3:7", Some(8), "1 2 3; ; ");
        check("1 2 3 4", Some(2), "1 3 | 2 4; ; ");
        check("", Some(2), "; ; ");
    }

    #[test]
    fn of_a_key_with_a_message_to_be_alone_only_the_first_is_kept() {
        check("1:7! 2:7 3:8 4:7", Some(8), "3; 1; 2 4");
        check("1:7 2:7! 3:8 4:7", Some(8), "1 3; ; 2 4");
        check("1! 2 3!", Some(8), "2; 1 3; ");
    }

    #[test]
    fn a_probe_keeps_the_order_of_its_key() {
        let hand: VecDeque<Leased> = leased("1:7 2 3:8 4:7").into();
        let chosen: Vec<usize> = (0..4).map(|wanted| first_of_key(&hand, wanted)).collect();
        assert_eq!(chosen, [0, 1, 2, 0]);
    }
}
