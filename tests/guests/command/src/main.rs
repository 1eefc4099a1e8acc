//! A component that is a program: it exports `wasi:cli/run` and no handler. It must be refused when it is loaded.

fn main() {
    println!("a program, not a consumer");
}
