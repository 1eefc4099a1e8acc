//! Leases on their way to a caller: whoever hangs up before the answer has left gives them back at once.
//!
//! The text of the answer is the owner of its leases. It is let go of either when its last byte was written to the socket, or
//! together with its connection. [`Wire`] tells the two apart: a connection says that it ended before it lets go of anything.
//! What the kernel took and the caller never read can't be told from what it did read: such leases run out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use pelton_core::broker::Broker;
use pelton_core::engine::LeaseToken;

/// The connection of a request, as far as its answers want to know about it. Clones are the same connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wire(Arc<AtomicBool>);

impl Wire {
    /// A witness that says, when it is dropped, that the connection has ended.
    pub(crate) fn ends_with(&self) -> WireEnd {
        WireEnd(self.clone())
    }

    fn has_ended(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// See [`Wire::ends_with`].
pub(crate) struct WireEnd(Wire);

impl Drop for WireEnd {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

/// Leases that nobody has received yet. Dropped, they are given back.
pub(crate) struct Held {
    broker: Broker,
    tokens: Vec<LeaseToken>,
}

impl Held {
    pub(crate) fn new(broker: &Broker) -> Self {
        Self { broker: broker.clone(), tokens: Vec::new() }
    }

    pub(crate) fn add(&mut self, token: LeaseToken) {
        self.tokens.push(token);
    }

    /// The bytes of `text`, which hold the leases until they are written to `wire`. Without a wire they count as received.
    pub(crate) fn hand_over(mut self, text: Vec<u8>, wire: Option<Wire>) -> Bytes {
        match wire {
            Some(wire) if !self.tokens.is_empty() => Bytes::from_owner(Carried { text, held: self, wire }),
            _ => {
                self.tokens.clear();
                text.into()
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let tokens = std::mem::take(&mut self.tokens);
        // Without an executor the process ends, and all leases with it.
        if !tokens.is_empty()
            && let Ok(executor) = tokio::runtime::Handle::try_current()
        {
            let broker = self.broker.clone();
            executor.spawn(async move { broker.release(tokens).await });
        }
    }
}

/// The text of an answer, and the leases in it.
struct Carried {
    text: Vec<u8>,
    held: Held,
    wire: Wire,
}

impl AsRef<[u8]> for Carried {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if !self.wire.has_ended() {
            self.held.tokens.clear();
        }
    }
}
