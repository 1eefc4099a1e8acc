//! What a store is asked and what it answers.

use std::time::Duration;

use bytes::Bytes;
use pelton_core::clock::{Monotonic, WallMs};
use pelton_core::engine::{
    Appended, Bulk, Defined, Definitions, EngineError, EntryId, LeaseRequest, LeaseToken, Leased, Lost, Pausable,
    Place, Progress, QueueId, RequestError, SettleError,
};
use pelton_core::message::Message;
use pelton_core::name::Topic;

use crate::browse::Snapshot;
use crate::prepare::{PreparedAppend, PreparedSettlement};
use crate::row::{Row, decode_message};

/// The moment that a batch is applied at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For due times and records.
    pub wall: WallMs,
    /// For leases and waits.
    pub monotonic: Monotonic,
}

/// What an answer is addressed to. The store hands it back with the reply and never looks into it.
pub trait Ticket {
    /// Whether nobody waits for the answer any more, so that a lease need not be given.
    fn abandoned(&self) -> bool;
}

/// A request and where its reply goes.
#[derive(Debug)]
pub struct Command<T> {
    /// Comes back with the reply.
    pub ticket: T,
    /// What is asked.
    pub request: Request,
}

/// What a store can be asked.
#[derive(Debug)]
pub enum Request {
    /// Store all of these or none: [`Reply::Appended`], once durable.
    Append(PreparedAppend),
    /// Lease messages: [`Reply::Leased`].
    Lease(LeaseRequest),
    /// Prolong leases: [`Reply::Extended`].
    Extend(Vec<(LeaseToken, Duration)>),
    /// Give leases back: [`Reply::Released`].
    Release(Vec<LeaseToken>),
    /// Settle leases: [`Reply::Settled`], once durable.
    Settle(Vec<PreparedSettlement>),
    /// Make queues exist: [`Reply::Defined`], once durable.
    Define(Definitions),
    /// One step of a bulk change: [`Reply::Progress`], once durable.
    Bulk(Bulk),
    /// Pause or resume something: [`Reply::Paused`], once durable.
    Pause(Pausable, bool),
    /// Count deliveries that ended with their process: [`Reply::Lost`], once durable.
    Lost(Vec<Lost>),
    /// A view of what is committed, for browsing a queue, or for all of it: [`Reply::Snapshot`].
    Snapshot(Option<QueueId>),
    /// Which of these are leased: [`Reply::Held`].
    Held(Vec<EntryId>),
}

impl Request {
    /// Whether it is one of those that need a commit and come in great numbers.
    pub(crate) fn is_write(&self) -> bool {
        matches!(self, Self::Append(_) | Self::Settle(_))
    }

    /// Roughly how many messages it is about: what bounds a batch.
    pub(crate) fn messages(&self) -> usize {
        match self {
            Self::Append(append) => append.len(),
            Self::Settle(batch) => batch.len(),
            Self::Release(leases) => leases.len(),
            Self::Extend(leases) => leases.len(),
            Self::Bulk(bulk) => bulk.max,
            Self::Lost(lost) => lost.len(),
            Self::Lease(_) | Self::Define(_) | Self::Snapshot(_) | Self::Held(_) | Self::Pause(..) => 1,
        }
    }

    /// The reply that says `error` for all of it.
    pub(crate) fn refuse(&self, error: &EngineError) -> Reply {
        let error = || error.clone();
        match self {
            Self::Append(_) => Reply::Appended(Err(error().into())),
            Self::Lease(_) => Reply::Leased(Err(error().into())),
            Self::Extend(leases) => Reply::Extended(leases.iter().map(|_| Err(error().into())).collect()),
            Self::Release(_) => Reply::Released,
            Self::Settle(batch) => Reply::Settled(batch.iter().map(|_| Err(error().into())).collect()),
            Self::Define(_) => Reply::Defined(Err(error())),
            Self::Bulk(_) => Reply::Progress(Err(error().into())),
            Self::Pause(..) => Reply::Paused(Err(error().into())),
            Self::Lost(_) => Reply::Lost(Err(error())),
            Self::Snapshot(_) => Reply::Snapshot(Err(error().into())),
            Self::Held(entries) => Reply::Held(vec![false; entries.len()]),
        }
    }
}

/// What a store answers; which one is said at each [`Request`].
#[derive(Debug)]
pub enum Reply {
    /// Positions in the order of the entries.
    Appended(Result<Appended, RequestError>),
    /// What was leased; open each with [`Grant::open`].
    Leased(Result<Vec<Grant>, RequestError>),
    /// In the order of the request.
    Extended(Vec<Result<(), SettleError>>),
    /// Lost leases were passed over.
    Released,
    /// In the order of the request.
    Settled(Vec<Result<(), SettleError>>),
    /// The ids of all queues.
    Defined(Result<Defined, EngineError>),
    /// How far the step came.
    Progress(Result<Progress, RequestError>),
    /// Whether it is so now.
    Paused(Result<(), RequestError>),
    /// How many were there.
    Lost(Result<u64, EngineError>),
    /// Drop it before the call returns: it pins pages.
    Snapshot(Result<Snapshot, RequestError>),
    /// In the order of the request.
    Held(Vec<bool>),
}

/// A lease as the store gives it: its message may still be in stored form.
#[derive(Debug)]
pub struct Grant {
    pub(crate) token: LeaseToken,
    pub(crate) hops: u8,
    pub(crate) accepted: WallMs,
    pub(crate) place: Place,
    pub(crate) key: Option<u64>,
    pub(crate) alone: bool,
    pub(crate) content: Content,
}

/// A message on its way through memory.
#[derive(Debug)]
pub(crate) enum Content {
    /// As its producer sent it.
    Live { topic: Topic, message: Message },
    /// As it was read from disk: its row, and its body where the row has none.
    Stored { row: Bytes, body: Option<Bytes> },
}

impl Content {
    /// Bytes that it keeps in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Live { message, .. } => message.as_bytes().len(),
            Self::Stored { row, body } => row.len() + body.as_ref().map_or(0, Bytes::len),
        }
    }

    fn open(self) -> Result<(Topic, Message), EngineError> {
        match self {
            Self::Live { topic, message } => Ok((topic, message)),
            Self::Stored { row, body } => {
                let decoded = Row::parse(&row).and_then(Row::topic);
                let message = decode_message(&row, body.as_ref());
                decoded.and_then(|topic| Ok((topic, message?))).map_err(|failure| failure.undone())
            }
        }
    }
}

impl Grant {
    /// What settles it.
    #[must_use]
    pub fn token(&self) -> LeaseToken {
        self.token
    }

    /// The lease with its message decoded; done on the caller's thread.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when the stored bytes are not a message.
    pub fn open(self) -> Result<Leased, EngineError> {
        let Self { token, hops, accepted, place, key, alone, content } = self;
        let (topic, message) = content.open()?;
        Ok(Leased { token, topic, message, hops, accepted, place, key, alone })
    }
}
