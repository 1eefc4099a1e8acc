//! Emits each body on, unchanged, to the topic in its configuration value `topic`; the subject is the message's id.

use pelton_guest::{Delivery, Error, Event, Result, config, consumer};

consumer!(handle);

fn handle(data: &[u8], delivery: &Delivery) -> Result {
    let topic = config("topic").ok_or_else(|| Error::reject("no configuration value 'topic'"))?;
    Event::bytes(data).subject(delivery.message.id.as_str()).emit(&topic)?;
    Ok(())
}
