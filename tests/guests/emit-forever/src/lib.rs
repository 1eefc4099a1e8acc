//! Emits for ever, to the topic in its configuration value `topic`, and does not care about refusals.

use pelton_guest::{Delivery, Event, Result, config, consumer};

consumer!(handle);

fn handle(_: &[u8], _: &Delivery) -> Result {
    let topic = config("topic").unwrap_or_default();
    let event = Event::bytes([b'x'; 1024]);
    loop {
        let _ = event.emit(&topic);
    }
}
