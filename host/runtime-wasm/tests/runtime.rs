//! Real components in the real runtime: what they are refused for, what they can do, and what comes of their misbehaviour.

mod support;

mod cases {
    pub(crate) mod deliveries;
    pub(crate) mod fairness;
    pub(crate) mod loading;
}
