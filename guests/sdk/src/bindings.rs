//! What `wit-bindgen` makes of `wit/`, world `consumer`. Alone in its module; nothing else of the crate is generated.
//!
//! Not part of the interface: use what the crate's root exports. It is public because [`consumer!`](crate::consumer) expands
//! to code that names it from within the consumer's own crate.

#![allow(clippy::all, clippy::unwrap_used, unused, unreachable_pub, missing_docs, reason = "generated")]

wit_bindgen::generate!({
    world: "consumer",
    path: "../../wit",
    pub_export_macro: true,
    export_macro_name: "export_consumer",
    default_bindings_module: "pelton_guest::bindings",
    runtime_path: "::pelton_guest::wit_bindgen::rt",
    // A consumer that also generates bindings of its own (for another interface) must not collide with these.
    type_section_suffix: "pelton-guest",
    generate_all,
});
