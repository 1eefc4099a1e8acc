//! The interfaces of `wit/` as Rust types, generated, and nothing else.
//!
//! The world lists what this version implements; what comes later is missing here, and so is refused by name in
//! [`crate::world`]. What the host passes is borrowed, so that a body reaches the guest in one copy.

wasmtime::component::bindgen!({
    path: "../../wit",
    inline: "
        package pelton:host;
        world present {
            import pelton:broker/context@0.1.0;
            import pelton:broker/emit@0.1.0;
            import wasi:config/store@0.2.0-rc.1;
            import wasi:logging/logging@0.1.0-draft;
            export pelton:broker/handler@0.1.0;
        }
    ",
    world: "pelton:host/present",
    imports: { default: trappable },
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});
