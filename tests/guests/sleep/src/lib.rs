//! Sleeps for an hour, inside a call of the host.

use std::time::Duration;

use pelton_guest::{Delivery, Result, consumer};

consumer!(handle);

fn handle(_: &[u8], _: &Delivery) -> Result {
    std::thread::sleep(Duration::from_secs(3600));
    Ok(())
}
