//! The whole product, from outside: the real binary, real components, real files.
//!
//! [`support`] starts brokers and speaks to them; [`cases`] has one module per subject. One test binary, so that everything is
//! linked once. Nothing here names a crate of the host: what is not visible from outside is tested where it lives.

mod cases;
mod support;
