//! Asks for another try until the attempt that the body names, then is done.

use pelton_guest::{Delivery, Error, Result, ResultExt, consumer};

consumer!(handle);

fn handle(succeeds_at: &str, delivery: &Delivery) -> Result {
    let succeeds_at: u32 = succeeds_at.trim().parse().or_reject()?;
    if delivery.attempt < succeeds_at {
        return Err(Error::retry(format!("attempt {} of {succeeds_at}", delivery.attempt)));
    }
    Ok(())
}
