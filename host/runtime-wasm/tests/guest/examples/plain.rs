//! A consumer that does as good as nothing: for measuring what is around it.

wit_bindgen::generate!({ world: "consumer", path: "../../../../wit", generate_all });

struct Plain;

impl exports::pelton::broker::handler::Guest for Plain {
    fn handle(
        delivery: exports::pelton::broker::handler::Delivery,
    ) -> Result<(), exports::pelton::broker::handler::Failure> {
        let sum: u64 = delivery.message.data.iter().map(|byte| u64::from(*byte)).sum();
        if sum == 42 {
            wasi::logging::logging::log(wasi::logging::logging::Level::Info, "plain", "42");
        }
        Ok(())
    }
}

export!(Plain);
