//! The least that a consumer can do: it looks at the body's length and is done. What a benchmark sees is the broker.

use std::hint::black_box;

use pelton_guest::{Delivery, Result, consumer};

consumer!(handle);

fn handle(data: &[u8], _: &Delivery) -> Result {
    black_box(data.len());
    Ok(())
}
