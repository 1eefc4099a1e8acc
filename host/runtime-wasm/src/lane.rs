//! The slow lane: how deliveries that run longer than a tick share the workers, so that endless loops leave some free.
//!
//! A delivery under one or two ticks never comes here. One that does holds a [`Turn`] while it runs guest code, gives it
//! back at every tick and queues for the next: first in, first out within a consumer, round robin between consumers, so
//! that a consumer with a hundred endless loops gets no more than one with a single long computation.
//!
//! Invariants: at most `turns` deliveries hold a turn; a turn is held only while guest code runs (a blocked host call gives
//! it back); at most as many wait as there are slots in the pool; dropping a [`Turn`] gives back whatever it had.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// After how many turns of a delivery the executor's sockets and timers are looked at.
const SLICES_PER_LOOK: u32 = 4;

/// Which consumer a turn is for, so that consumers take turns with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share(pub(crate) u64);

/// Shared by all deliveries of a runtime.
#[derive(Debug)]
pub(crate) struct Lane {
    state: Mutex<LaneState>,
    next_turn: AtomicU64,
}

#[derive(Debug)]
struct LaneState {
    free: usize,
    /// The consumers that wait, whose turn it is first, each with its deliveries in order of arrival. No queue is empty.
    waiting: VecDeque<(Share, VecDeque<u64>)>,
    /// Deliveries that hold or want a turn.
    turns: HashMap<u64, State>,
}

#[derive(Debug)]
enum State {
    Waiting(Waker),
    /// Given, but its delivery does not run with it yet.
    Granted,
    Held,
}

impl Lane {
    /// A lane with `turns` turns.
    pub(crate) fn new(turns: usize) -> Arc<Self> {
        let state = LaneState { free: turns, waiting: VecDeque::new(), turns: HashMap::new() };
        Arc::new(Self { state: Mutex::new(state), next_turn: AtomicU64::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneState {
    /// Gives a free turn to whoever is next. Wake what it returns once the lock is released.
    fn grant(&mut self) -> Option<Waker> {
        if self.free == 0 {
            return None;
        }
        let (share, mut queue) = self.waiting.pop_front()?;
        let id = queue.pop_front()?;
        if !queue.is_empty() {
            self.waiting.push_back((share, queue));
        }
        self.free -= 1;
        match self.turns.insert(id, State::Granted) {
            Some(State::Waiting(waker)) => Some(waker),
            _ => unreachable!("whoever is queued is waiting"),
        }
    }

    fn enqueue(&mut self, share: Share, id: u64, waker: Waker) {
        self.turns.insert(id, State::Waiting(waker));
        match self.waiting.iter_mut().find(|(known, _)| *known == share) {
            Some((_, queue)) => queue.push_back(id),
            None => self.waiting.push_back((share, VecDeque::from([id]))),
        }
    }

    /// Takes `id` out of everything; what it held is free again.
    fn remove(&mut self, share: Share, id: u64) {
        match self.turns.remove(&id) {
            None => {}
            Some(State::Granted | State::Held) => self.free += 1,
            Some(State::Waiting(_)) => {
                let Some(at) = self.waiting.iter().position(|(known, _)| *known == share) else { return };
                self.waiting[at].1.retain(|other| *other != id);
                if self.waiting[at].1.is_empty() {
                    self.waiting.remove(at);
                }
            }
        }
    }
}

/// One delivery's place in the lane.
#[derive(Debug)]
pub(crate) struct Turn {
    lane: Arc<Lane>,
    share: Share,
    id: u64,
    /// Whether it ever asked for a turn: most never do, and then no lock is taken for them.
    asked: AtomicBool,
    /// How many turns it has had.
    slices: AtomicU32,
}

impl Turn {
    pub(crate) fn new(lane: &Arc<Lane>, share: Share) -> Self {
        let id = lane.next_turn.fetch_add(1, Ordering::Relaxed);
        Self { lane: Arc::clone(lane), share, id, asked: AtomicBool::new(false), slices: AtomicU32::new(0) }
    }

    /// Gives back the turn, or the place in the queue, if there is one.
    pub(crate) fn release(&self) {
        if self.asked.load(Ordering::Relaxed) {
            self.give_back(|_| true);
        }
    }

    /// Gives back the turn if guest code was running with it; keeps a place in the queue and a turn just granted.
    /// For when the delivery waits for something.
    pub(crate) fn pause(&self) {
        if self.asked.load(Ordering::Relaxed) {
            self.give_back(|state| matches!(state, State::Held));
        }
    }

    fn give_back(&self, applies: impl Fn(&State) -> bool) {
        let woken = {
            let mut lane = self.lane.state();
            if !lane.turns.get(&self.id).is_some_and(applies) {
                return;
            }
            lane.remove(self.share, self.id);
            lane.grant()
        };
        if let Some(waker) = woken {
            waker.wake();
        }
    }

    /// Ready when a turn is granted, which [`hold`](Self::hold) then takes.
    fn poll_granted(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.asked.store(true, Ordering::Relaxed);
        let mut lane = self.lane.state();
        match lane.turns.get_mut(&self.id) {
            Some(State::Granted | State::Held) => Poll::Ready(()),
            Some(State::Waiting(waker)) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            None => {
                lane.enqueue(self.share, self.id, cx.waker().clone());
                // A turn is free only where nobody waits, so what is granted here is granted to this delivery.
                if lane.grant().is_some() { Poll::Ready(()) } else { Poll::Pending }
            }
        }
    }

    fn hold(&self) {
        if let Some(state @ State::Granted) = self.lane.state().turns.get_mut(&self.id) {
            *state = State::Held;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.release();
    }
}

/// Waits for `shared`'s turn, and lets the executor see to others first, also where a turn is free.
///
/// Mostly that means whoever is ready to run. Now and then it means the executor's sockets and timers, which it would hardly
/// look at as long as endless loops keep it busy; always would be too often, since that wait grows with the number of tasks.
pub(crate) async fn acquire<T: AsRef<Turn>>(shared: Arc<T>) {
    let turn = (*shared).as_ref();
    poll_fn(|cx| turn.poll_granted(cx)).await;
    if turn.slices.fetch_add(1, Ordering::Relaxed).is_multiple_of(SLICES_PER_LOOK) {
        tokio::task::yield_now().await;
    } else {
        queue_again().await;
    }
    turn.hold();
}

/// Pending once, and ready to be polled again after everything that is ready now.
async fn queue_again() {
    let mut queued = false;
    poll_fn(|cx| {
        if mem::replace(&mut queued, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Only(Turn);

    impl AsRef<Turn> for Only {
        fn as_ref(&self) -> &Turn {
            &self.0
        }
    }

    struct Waiter {
        turn: Turn,
        wakes: Arc<Count>,
    }

    impl Waiter {
        fn new(lane: &Arc<Lane>, share: u64) -> Self {
            Self { turn: Turn::new(lane, Share(share)), wakes: Arc::default() }
        }

        /// Whether it has its turn.
        fn poll(&self) -> bool {
            let waker = Waker::from(Arc::clone(&self.wakes));
            let ready = self.turn.poll_granted(&mut Context::from_waker(&waker)).is_ready();
            if ready {
                self.turn.hold();
            }
            ready
        }

        fn wakes(&self) -> usize {
            self.wakes.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_free_turn_still_costs_one_trip_through_the_executor() {
        let lane = Lane::new(1);
        let waiter = Waiter::new(&lane, 1);
        let turn = Arc::new(Only(waiter.turn));
        let mut acquiring = pin!(acquire(Arc::clone(&turn)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(acquiring.as_mut().poll(&mut cx).is_pending());
        turn.0.pause();
        assert_eq!(lane.state().free, 0, "a turn just granted survives the pause after the poll that asked for it");
        assert!(acquiring.as_mut().poll(&mut cx).is_ready());
        turn.0.pause();
        assert_eq!(lane.state().free, 1);
    }

    #[test]
    fn consumers_take_turns_however_many_wait() {
        let lane = Lane::new(1);
        let holder = Waiter::new(&lane, 9);
        assert!(holder.poll());
        let shares = [1, 1, 1, 2, 2, 3];
        let waiters: Vec<Waiter> = shares.iter().map(|share| Waiter::new(&lane, *share)).collect();
        waiters.iter().for_each(|waiter| assert!(!waiter.poll()));
        holder.turn.release();
        let mut order = Vec::new();
        for _ in &waiters {
            let granted: Vec<usize> = (0..waiters.len()).filter(|at| waiters[*at].wakes() > 0).collect();
            let next = *granted.iter().find(|at| !order.contains(*at)).expect("one is granted");
            assert_eq!(granted.len(), order.len() + 1, "one at a time");
            order.push(next);
            assert!(waiters[next].poll());
            waiters[next].turn.release();
        }
        assert_eq!(order, [0, 3, 5, 1, 4, 2]);
    }

    #[test]
    fn what_is_dropped_while_waiting_granted_or_held_goes_to_the_next() {
        let lane = Lane::new(1);
        let (held, granted, waiting, last) =
            (Waiter::new(&lane, 1), Waiter::new(&lane, 2), Waiter::new(&lane, 3), Waiter::new(&lane, 4));
        assert!(held.poll());
        for waiter in [&granted, &waiting, &last] {
            assert!(!waiter.poll());
        }
        drop(waiting);
        drop(held);
        assert_eq!(granted.wakes(), 1);
        assert_eq!(last.wakes(), 0);
        drop(granted);
        assert_eq!(last.wakes(), 1);
        assert!(last.poll());
        drop(last);
        let state = lane.state();
        assert_eq!((state.free, state.waiting.len(), state.turns.len()), (1, 0, 0), "nothing is left behind");
    }

    #[test]
    fn a_pause_passes_a_held_turn_on_and_keeps_a_place_in_the_queue() {
        let lane = Lane::new(1);
        let (first, second) = (Waiter::new(&lane, 1), Waiter::new(&lane, 2));
        assert!(first.poll());
        assert!(!second.poll());
        second.turn.pause();
        first.turn.pause();
        assert_eq!(second.wakes(), 1);
        assert!(second.poll());
    }
}
