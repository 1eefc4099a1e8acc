//! Signals: the first SIGINT or SIGTERM asks for an orderly stop, the second ends the process; SIGHUP asks for a reload.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a shell reports for a process that SIGINT ended.
const KILLED_BY_INTERRUPT: i32 = 130;

/// The signals of this process, caught from the moment this is made.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Stop,
    Reload,
}

impl Signals {
    pub(crate) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next thing asked. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Ends the process at the next request to stop: somebody asks for the second time.
    pub(crate) async fn end_at_next_stop(mut self) {
        while self.next().await != Asked::Stop {}
        crate::output::note("Stopped at once, as asked twice; deliveries that were running count as lost.");
        std::process::exit(KILLED_BY_INTERRUPT);
    }
}
