//! Emits each message on to the topic that it came from: a loop that only the bound on hops ends.

use pelton_guest::{Delivery, Event, Result, consumer};

consumer!(handle);

fn handle(data: &[u8], delivery: &Delivery) -> Result {
    Event::bytes(data).emit(&delivery.topic)?;
    Ok(())
}
