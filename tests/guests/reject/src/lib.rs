//! Emits to the topic in its configuration value `topic`, if there is one, then rejects the message: the emit must not appear.

use pelton_guest::{Delivery, Error, Event, Result, config, consumer};

consumer!(handle);

fn handle(data: &[u8], delivery: &Delivery) -> Result {
    if let Some(topic) = config("topic") {
        Event::bytes(data).emit(&topic)?;
    }
    Err(Error::reject(format!("message {} is not for me", delivery.message.id)))
}
