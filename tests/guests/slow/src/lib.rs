//! Sleeps for as many milliseconds as the body says, then is done.

use std::time::Duration;

use pelton_guest::{Delivery, Result, ResultExt, consumer};

consumer!(handle);

fn handle(milliseconds: &str, _: &Delivery) -> Result {
    std::thread::sleep(Duration::from_millis(milliseconds.trim().parse().or_reject()?));
    Ok(())
}
