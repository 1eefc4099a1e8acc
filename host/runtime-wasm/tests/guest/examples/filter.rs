//! A filter, which this version does not run.

wit_bindgen::generate!({ world: "filter", path: "../../../../wit", generate_all });

struct Filter;

impl exports::pelton::broker::message_filter::Guest for Filter {
    fn accepts(_: exports::pelton::broker::message_filter::Message) -> Result<bool, String> {
        Ok(true)
    }
}

export!(Filter);
