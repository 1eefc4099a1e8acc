//! Emits each body on, unchanged, to `bench.done`: one message in, one out, in one transaction.

use pelton_guest::{Delivery, Event, Result, consumer};

consumer!(handle);

fn handle(data: &[u8], _: &Delivery) -> Result {
    Event::bytes(data).emit("bench.done")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use pelton_guest::testing;

    #[test]
    fn the_body_is_emitted_unchanged() {
        testing::handle(super::handle, &testing::delivery("bench.echo", b"\xff\0")).expect("done");
        let emitted = testing::emitted();
        assert_eq!(emitted.len(), 1);
        assert_eq!((emitted[0].0.as_str(), emitted[0].1.data.as_slice()), ("bench.done", &b"\xff\0"[..]));
    }
}
