//! The future around a delivery: it sees every poll, so that a delivery that waits holds no turn and ends at its deadline.
//!
//! Guest code that computes is interrupted by the ticker; guest code that waits in a host call is not running, so only the
//! executor's clock can end it. That clock is asked for at the first poll that leaves something pending: a delivery that
//! never waits, which is most of them, never touches the timer wheel.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use crate::lane::Turn;

/// How a watched future ended.
#[derive(Debug)]
pub(crate) enum Ended<T> {
    /// By itself.
    Returned(T),
    /// Its deadline passed while it waited.
    TimedOut,
    /// Code of the host panicked with this message.
    Panicked(String),
}

/// See the module's head.
pub(crate) struct Watch<'a, F> {
    work: Pin<&'a mut F>,
    turn: &'a Turn,
    deadline: Instant,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<'a, F> Watch<'a, F> {
    /// Runs `work` until `deadline`, which must free what it holds when it is dropped.
    pub(crate) fn new(work: Pin<&'a mut F>, turn: &'a Turn, deadline: Instant) -> Self {
        Self { work, turn, deadline, alarm: None }
    }
}

impl<F: Future> Future for Watch<'_, F> {
    type Output = Ended<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // After a panic the work is dropped, never polled again, and the sandbox it ran in is thrown away.
        match catch_unwind(AssertUnwindSafe(|| this.work.as_mut().poll(cx))) {
            Err(payload) => return Poll::Ready(Ended::Panicked(text_of(payload.as_ref()))),
            Ok(Poll::Ready(value)) => return Poll::Ready(Ended::Returned(value)),
            Ok(Poll::Pending) => {}
        }
        this.turn.pause();
        let deadline = this.deadline;
        let alarm = this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        alarm.as_mut().poll(cx).map(|()| Ended::TimedOut)
    }
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}
