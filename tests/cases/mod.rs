//! One module per subject.

mod arrows;
mod bad_configuration;
mod bad_requests;
mod bad_surroundings;
mod crash;
mod dead_letters;
mod examples;
mod misbehaving;
mod path;
mod pull;
mod reload;
mod shutdown;
mod webhooks;
