//! A consumer that needs state.

wit_bindgen::generate!({ world: "consumer", path: "../../../../wit", generate_all });

struct Stateful;

impl exports::pelton::broker::handler::Guest for Stateful {
    fn handle(_: exports::pelton::broker::handler::Delivery) -> Result<(), exports::pelton::broker::handler::Failure> {
        let bucket = wasi::keyvalue::store::open("").expect("a bucket");
        bucket.set("seen", b"1").expect("set");
        Ok(())
    }
}

export!(Stateful);
