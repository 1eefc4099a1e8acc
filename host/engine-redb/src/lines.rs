//! Which of the commands that wait for the writer come next.
//!
//! Two lines, each first in, first out. Appends stand in one, with everything whose answer depends on what was appended
//! before it: bulk changes, definitions, leases that do not wait. Settlements and all else stand in the other, which goes
//! first: otherwise producers that send more than the disk takes would let consumers wait behind their backlog. A batch of
//! both has few appends, so that it is short, but always some, so that neither line starves the other.
//!
//! To who submits a settlement behind an append without waiting for its answer, the two are independent: only the order
//! of the settlement's emits among the appended messages differs.

use std::collections::VecDeque;

use crate::command::{Command, Request};
use crate::tuning::Tuning;

/// The commands that wait.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    appends: VecDeque<Command<T>>,
    others: VecDeque<Command<T>>,
    /// Messages that the others are about.
    others_messages: usize,
    /// How many of all need a commit, as far as that can be told.
    writes: usize,
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self { appends: VecDeque::new(), others: VecDeque::new(), others_messages: 0, writes: 0 }
    }
}

/// How much more may come into a batch.
struct Room {
    messages: usize,
    commands: usize,
}

impl Room {
    /// Moves commands from the front of `line` to the end of `batch`, until it is empty or there is no room. The last one
    /// may be larger than what is left.
    fn fill<T>(&mut self, line: &mut VecDeque<Command<T>>, batch: &mut Vec<Command<T>>) {
        while self.messages > 0
            && self.commands > 0
            && let Some(command) = line.pop_front()
        {
            self.messages = self.messages.saturating_sub(command.request.messages());
            self.commands -= 1;
            batch.push(command);
        }
    }
}

impl<T> Lines<T> {
    /// Puts a command at the end of its line.
    pub(crate) fn push(&mut self, command: Command<T>) {
        self.writes += usize::from(command.request.is_write());
        let with_appends = match &command.request {
            Request::Append(_) | Request::Bulk(_) | Request::Define(_) | Request::Pause(..) | Request::Lost(_) => true,
            Request::Lease(want) => want.wait.is_zero(),
            Request::Settle(_) | Request::Release(_) | Request::Extend(_) | Request::Snapshot(_) | Request::Held(_) => {
                false
            }
        };
        if with_appends {
            self.appends.push_back(command);
        } else {
            self.others_messages += command.request.messages();
            self.others.push_back(command);
        }
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.others.is_empty()
    }

    /// How many of those that wait need a commit.
    pub(crate) fn writes(&self) -> usize {
        self.writes
    }

    /// Whether there are enough of those that go first. Appends never are: others may have come behind them.
    pub(crate) fn is_full(&self, tuning: &Tuning) -> bool {
        self.others_messages >= tuning.batch_messages || self.others.len() >= tuning.batch_commands
    }

    /// The next batch, in the order in which it is to be applied.
    pub(crate) fn take(&mut self, tuning: &Tuning) -> Vec<Command<T>> {
        let mut batch = Vec::new();
        let commands = tuning.batch_commands.max(1);
        Room { messages: tuning.batch_messages.max(1), commands }.fill(&mut self.others, &mut batch);
        let appends_max = if batch.is_empty() { tuning.batch_messages } else { tuning.batch_appends };
        self.others_messages -= batch.iter().map(|command| command.request.messages()).sum::<usize>();
        Room { messages: appends_max.max(1), commands }.fill(&mut self.appends, &mut batch);
        self.writes -= batch.iter().filter(|command| command.request.is_write()).count();
        batch
    }

    /// Everything, for the last batch.
    pub(crate) fn take_all(&mut self) -> Vec<Command<T>> {
        (self.others_messages, self.writes) = (0, 0);
        self.others.drain(..).chain(self.appends.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pelton_core::engine::{EntryId, LeaseRequest, LeaseToken, QueueId};

    use super::*;
    use crate::prepare::PreparedAppend;

    fn lease(wait_ms: u64) -> Request {
        let wait = Duration::from_millis(wait_ms);
        Request::Lease(LeaseRequest { queue: QueueId(0), max: 1, wait, ttl: None })
    }

    fn release(count: usize) -> Request {
        let token = LeaseToken {
            queue: QueueId(0),
            entry: EntryId(1),
            epoch: 1,
            attempt: 1,
            accepted: pelton_core::clock::WallMs(0),
            nonce: 1,
        };
        Request::Release(vec![token; count])
    }

    fn append() -> Request {
        Request::Append(PreparedAppend::default())
    }

    fn small(batch_messages: usize, batch_commands: usize) -> Tuning {
        Tuning { batch_messages, batch_appends: 2, batch_commands, ..Tuning::default() }
    }

    /// The batches that come of `requests`, by their numbers from 0.
    fn check(tuning: &Tuning, requests: Vec<Request>, expected: &[&[usize]]) {
        let mut lines = Lines::default();
        for (ticket, request) in requests.into_iter().enumerate() {
            lines.push(Command { ticket, request });
        }
        let mut batches = Vec::new();
        while !lines.is_empty() {
            batches.push(lines.take(tuning).into_iter().map(|command| command.ticket).collect::<Vec<_>>());
        }
        assert_eq!(batches, expected);
        assert_eq!((lines.others_messages, lines.writes), (0, 0));
    }

    #[test]
    fn settlements_go_first_and_each_line_keeps_its_order() {
        let tuning = small(100, 100);
        check(&tuning, vec![append(), release(1), append(), release(1)], &[&[1, 3, 0, 2]]);
        check(&tuning, vec![append(), lease(5), lease(0)], &[&[1, 0, 2]]);
    }

    #[test]
    fn a_batch_ends_when_it_is_full() {
        let requests = || vec![lease(0), lease(0), lease(0), lease(0), lease(0)];
        check(&small(3, 100), requests(), &[&[0, 1, 2], &[3, 4]]);
        check(&small(100, 2), requests(), &[&[0, 1], &[2, 3], &[4]]);
        check(&small(0, 0), vec![release(9), release(9)], &[&[0], &[1]]);
    }

    #[test]
    fn neither_line_starves_the_other() {
        let mut requests = vec![release(8), release(8)];
        requests.extend((0..7).map(|_| lease(0)));
        check(&small(4, 100), requests, &[&[0, 2, 3], &[1, 4, 5], &[6, 7, 8]]);
    }

    #[test]
    fn the_last_batch_has_everything() {
        let mut lines = Lines::default();
        for (ticket, request) in [lease(0), release(50), lease(0)].into_iter().enumerate() {
            lines.push(Command { ticket, request });
        }
        assert!(lines.is_full(&small(50, 100)) && !lines.is_full(&small(51, 100)) && lines.is_full(&small(51, 1)));
        let all: Vec<usize> = lines.take_all().into_iter().map(|command| command.ticket).collect();
        assert_eq!((all, lines.is_empty()), (vec![1, 0, 2], true));
    }
}
