//! Prints and logs as many mebibytes as the body says, each a third on stdout, on stderr and in the log, between a line
//! `the first line` and a line `the last line`; then is done.

use pelton_guest::{Delivery, Result, ResultExt, consumer, info};

consumer!(handle);

fn handle(mebibytes: &str, _: &Delivery) -> Result {
    let mebibytes: usize = mebibytes.trim().parse().or_reject()?;
    let line = "x".repeat(1023);
    println!("the first line");
    for number in 0..mebibytes * 1024 {
        match number % 3 {
            0 => println!("{line}"),
            1 => eprintln!("{line}"),
            _ => info!("{line}"),
        }
    }
    println!("the last line");
    Ok(())
}
