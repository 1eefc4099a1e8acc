//! Panics on every delivery.

use pelton_guest::{Delivery, Result, consumer};

consumer!(handle);

fn handle(_: &[u8], delivery: &Delivery) -> Result {
    panic!("message {} makes me panic", delivery.message.id);
}
