//! Emits to the topic in its configuration value `topic`, if there is one, prints half a line, then rejects the message: the
//! emit must not appear, the half line must.

use pelton_guest::{Delivery, Error, Event, Result, config, consumer};

consumer!(handle);

fn handle(data: &[u8], delivery: &Delivery) -> Result {
    if let Some(topic) = config("topic") {
        Event::bytes(data).emit(&topic)?;
    }
    // Without a newline: Rust's own buffer holds it back until the SDK flushes it.
    print!("never mind");
    Err(Error::reject(format!("message {} is not for me", delivery.message.id)))
}
