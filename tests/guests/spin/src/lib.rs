//! Never returns, and never calls the host either: nothing but an interrupt ends it.

use std::hint::black_box;

use pelton_guest::{Delivery, Result, consumer};

consumer!(handle);

fn handle(_: &[u8], _: &Delivery) -> Result {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}
