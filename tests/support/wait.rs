//! Waiting for something to become true, with a bound and the last thing seen in the message.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Long enough for anything that this suite waits for, on a machine that does other things too.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls `probe` until it returns `Ok`; its error says how things stand.
///
/// # Panics
/// After `bound`, with `what` and how things stood last.
pub(crate) async fn eventually<T, E: Display>(
    what: &str,
    bound: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(now) if start.elapsed() > bound => panic!("not within {bound:?}: {what}; last seen: {now}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
