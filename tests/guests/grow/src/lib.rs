//! Takes memory, a mebibyte at a time, and touches all of it, until it gets no more.

use std::hint::black_box;

use pelton_guest::{Delivery, Result, consumer};

consumer!(handle);

fn handle(_: &[u8], _: &Delivery) -> Result {
    let mut held = Vec::new();
    loop {
        held.push(vec![held.len() as u8; 1 << 20]);
        black_box(&held);
    }
}
