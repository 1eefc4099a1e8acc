//! A program, which no consumer is.

fn main() {}
