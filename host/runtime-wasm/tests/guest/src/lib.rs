//! A consumer that does what its message says: `verb`, or `verb:argument`.

use std::time::Duration;

use exports::pelton::broker::handler::{Delivery, Failure, Guest};
use pelton::broker::types::{Event, Refused, Retry};
use pelton::broker::{context, emit};
use wasi::config::store as config;
use wasi::logging::logging::{Level, log};

wit_bindgen::generate!({ world: "consumer", path: "../../../../wit", generate_all });

struct Consumer;

export!(Consumer);

impl Guest for Consumer {
    fn handle(delivery: Delivery) -> Result<(), Failure> {
        let said = String::from_utf8_lossy(&delivery.message.data).into_owned();
        let (verb, argument) = said.split_once(':').unwrap_or((&said, ""));
        let number = argument.parse::<usize>().unwrap_or(0);
        match verb {
            "describe" => log(Level::Info, "describe", &format!("{delivery:?}")),
            "context" => {
                let what = format!("{} {} {}", context::consumer(), context::source(), context::remaining());
                log(Level::Info, "context", &what);
            }
            "config" => {
                let all = config::get_all().expect("config");
                let what = format!("{:?} {:?}", config::get(argument).expect("config"), all);
                log(Level::Info, "config", &what);
            }
            "world" => log(Level::Info, "world", &world()),
            "mixed" => {
                println!("one");
                eprintln!("two");
                log(Level::Warn, "shop", "three");
                print!("unfinished");
                // Rust's own buffer keeps what is no whole line.
                std::io::Write::flush(&mut std::io::stdout()).expect("flushed");
            }
            "print" => print_bytes(number),
            "log" => log(Level::Error, "big", &"x".repeat(number)),
            "spin" => spin(),
            "sleep" => std::thread::sleep(Duration::from_millis(number as u64)),
            "unreachable" => core::arch::wasm32::unreachable(),
            "panic" => panic!("the message said so: {argument}"),
            "exit" => std::process::exit(number as i32),
            "grow" => grow(),
            "try-grow" => {
                let mut much = Vec::<u8>::new();
                assert!(much.try_reserve(number << 20).is_err(), "there was enough");
            }
            "deep" => assert!(deep(u64::MAX) > 0),
            "deep-locals" => assert!(deep_with_locals(u64::MAX) > 0),
            "wild" => {
                // SAFETY: none: it is what the host has to withstand.
                let byte = unsafe { std::ptr::read_volatile(0x3000_0000 as *const u8) };
                assert!(byte > 0);
            }
            "retry" => {
                let after = argument.parse().ok();
                return Err(Failure::Retry(Retry { reason: "not now".into(), after }));
            }
            "reject" => return Err(Failure::Reject("x".repeat(number.max(1)))),
            "malformed" => {
                // SAFETY: none: it is what the host has to withstand.
                let reason = unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe]) };
                return Err(Failure::Reject(reason));
            }
            "emit" => (0..number).for_each(|at| emit_one("orders.created", at.to_string().into_bytes())),
            "emit-to" => emit_one(argument, Vec::new()),
            "emit-big" => emit_one("orders.created", vec![1; number]),
            "emit-then-reject" => {
                emit_one("orders.created", Vec::new());
                return Err(Failure::Reject("after all".into()));
            }
            "emit-at" => {
                let at = argument.parse().unwrap_or_default();
                match emit::emit_at("orders.created", &event(Vec::new()), at) {
                    Ok(id) => log(Level::Info, "id", &id),
                    Err(refused) => log(Level::Warn, "refused", &format!("{refused:?}")),
                }
            }
            "emit-forever" => loop {
                emit_quietly(vec![1; 1000]);
            },
            "emit-quietly" => emit_quietly(vec![1; 100]),
            "emit-too-many" => (0..number).for_each(|_| emit_quietly(Vec::new())),
            _ => {}
        }
        Ok(())
    }
}

fn event(data: Vec<u8>) -> Event {
    Event {
        type_: Some("com.example.order".into()),
        subject: Some("order/1".into()),
        content_type: Some("text/plain".into()),
        data_schema: None,
        extensions: vec![("partitionkey".into(), "7".into())],
        data,
    }
}

/// Emits and logs the answer.
fn emit_one(topic: &str, data: Vec<u8>) {
    match emit::emit(topic, &event(data)) {
        Ok(id) => log(Level::Info, "id", &id),
        Err(Refused::Invalid(text)) => log(Level::Warn, "invalid", &text),
        Err(Refused::Limit(text)) => log(Level::Warn, "limit", &text),
        Err(Refused::Other(text)) => log(Level::Warn, "other", &text),
    }
}

fn emit_quietly(data: Vec<u8>) {
    let _ = emit::emit("orders.created", &event(data));
}

/// What a guest finds of the world outside.
fn world() -> String {
    let env = std::env::vars().count();
    let arguments = std::env::args().count();
    let file = std::fs::read("/etc/passwd").is_ok();
    let socket = std::net::TcpStream::connect("127.0.0.1:1").map_err(|error| error.kind());
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs() > 0;
    format!("env {env} args {arguments} file {file} socket {socket:?} time {time}")
}

fn print_bytes(bytes: usize) {
    let line = "y".repeat(99);
    println!("begin");
    for _ in 0..bytes / 100 {
        println!("{line}");
    }
    println!("end");
}

fn spin() -> ! {
    let mut number = 0_u64;
    loop {
        number = std::hint::black_box(number.wrapping_add(1));
    }
}

fn grow() {
    let mut all = Vec::new();
    loop {
        all.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

/// Recursion that takes nothing but the stack of WebAssembly itself.
fn deep(number: u64) -> u64 {
    let next = std::hint::black_box(deep as fn(u64) -> u64);
    if number == 0 { 0 } else { next(number - 1).wrapping_add(3) }
}

/// Recursion that takes the stack that Rust keeps in memory.
fn deep_with_locals(number: u64) -> u64 {
    let local = std::hint::black_box([number; 64]);
    if number == 0 { 0 } else { deep_with_locals(number - 1).wrapping_add(local[3]) }
}
