//! Calls itself for ever.

use std::hint::black_box;

use pelton_guest::{Delivery, Result, consumer};

consumer!(handle);

fn handle(_: &[u8], _: &Delivery) -> Result {
    black_box(deeper(1));
    Ok(())
}

/// Does with the call's result what no loop could do instead, so that the call can't be turned into a jump, and holds nothing
/// in linear memory, so that it is the host's stack that ends.
#[inline(never)]
#[expect(unconditional_recursion, reason = "on purpose")]
fn deeper(depth: u64) -> u64 {
    deeper(depth.wrapping_mul(3)).rotate_left(7) ^ depth
}
