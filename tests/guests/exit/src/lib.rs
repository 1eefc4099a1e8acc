//! Ends its process with status 3.

use pelton_guest::{Delivery, Result, consumer};

consumer!(handle);

fn handle(_: &[u8], _: &Delivery) -> Result {
    std::process::exit(3);
}
