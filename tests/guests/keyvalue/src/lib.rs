//! Needs `wasi:keyvalue`, which this version of the host does not run: it must be refused when it is loaded.

use pelton_guest::bindings::wasi::keyvalue::store;
use pelton_guest::{Delivery, Error, Result, consumer};

consumer!(handle);

fn handle(data: &[u8], _: &Delivery) -> Result {
    let bucket = store::open("").map_err(|error| Error::retry(format!("{error:?}")))?;
    bucket.set("last", data).map_err(|error| Error::retry(format!("{error:?}")))
}
