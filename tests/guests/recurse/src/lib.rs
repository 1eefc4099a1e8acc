//! Calls itself for ever.

use std::hint::black_box;

use pelton_guest::{Delivery, Result, consumer};

consumer!(handle);

fn handle(_: &[u8], _: &Delivery) -> Result {
    black_box(deeper(1));
    Ok(())
}

/// Keeps a value over the call, so that the call can't be turned into a jump, and holds nothing in linear memory, so that
/// it is the host's stack that ends.
#[inline(never)]
#[expect(unconditional_recursion, reason = "on purpose")]
fn deeper(depth: u64) -> u64 {
    deeper(depth.wrapping_mul(3)).wrapping_add(depth)
}
