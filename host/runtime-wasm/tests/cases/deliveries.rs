//! One delivery each: what the guest does, and the outcome, log and emits it comes to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pelton_core::clock::{Clock as _, SystemClock};
use pelton_core::engine::DELAY_MAX;
use pelton_core::name::Topic;
use pelton_core::runtime::{Delivery, EmitGate, FaultKind, Handler, Invoked, Limits, Outcome, Runtime};
use pelton_runtime_wasm::{RuntimeOptions, WasmRuntime};
use tokio::sync::OnceCell;

use crate::support::{delivery, guest, limits, spec};

/// The reason of a fault where one call passes far more than a delivery may emit.
const FAR_TOO_LARGE: &str = "it passed more than 1.3 MiB to the host in one call (an emit, or a log line), and the emits of \
                             a delivery may have 1 MiB in all (max-emit-bytes)";

/// One runtime and one component for all of these tests, since compiling takes longer than they do.
async fn handler_with(limits: Limits) -> Arc<dyn Handler> {
    static RUNTIME: OnceCell<(WasmRuntime, tempfile::TempDir)> = OnceCell::const_new();
    let (runtime, _) = RUNTIME
        .get_or_init(|| async {
            let cache = tempfile::tempdir().expect("a folder");
            let cache_dir = Some(cache.path().to_owned());
            let runtime = WasmRuntime::new(RuntimeOptions { cache_dir, ..RuntimeOptions::default() });
            (runtime.expect("a runtime"), cache)
        })
        .await;
    runtime.load(spec(guest("runtime_guest"), limits)).await.expect("it loads")
}

async fn invoke_with(limits: Limits, data: &str) -> Invoked {
    handler_with(limits).await.invoke(delivery(data.as_bytes())).await
}

async fn invoke(data: &str) -> Invoked {
    invoke_with(limits(), data).await
}

/// Kind and reason of the fault that `invoked` is.
fn fault(invoked: &Invoked) -> (FaultKind, &str) {
    match &invoked.outcome {
        Outcome::Fault { kind, reason } => (*kind, reason),
        other => panic!("{other:?}, log: {}", invoked.log),
    }
}

#[tokio::test]
async fn a_delivery_arrives_whole() {
    let invoked = invoke("describe").await;
    assert_eq!(invoked.outcome, Outcome::Done);
    for part in [
        "id: \"1\"",
        "source: \"/shop\"",
        "type: \"order.created\"",
        "subject: Some(\"order/7\")",
        "time: None",
        "content-type: Some(\"text/plain\")",
        "data-schema: None",
        "extensions: [(\"traceparent\", \"00-x\")]",
        "topic: \"orders.created\"",
        "attempt: 2",
        "idempotency-key: \"store-queue-7\"",
    ] {
        assert!(invoked.log.contains(part), "{part} is missing in {}", invoked.log);
    }
    assert!(invoked.duration > Duration::ZERO);
}

#[tokio::test]
async fn context_and_config_answer() {
    let context = invoke("context").await.log;
    let remaining = context.strip_prefix("INFO context: tester queue:orders ").expect("names").parse::<u64>();
    assert!((1..=20_000).contains(&remaining.expect("milliseconds")), "{context}");
    let config = "INFO config: Some(\"eu\") [(\"threshold\", \"3\"), (\"region\", \"eu\")]";
    assert_eq!(invoke("config:region").await.log, config);
    assert!(invoke("config:other").await.log.starts_with("INFO config: None"));
}

#[tokio::test]
async fn nothing_outside_can_be_reached() {
    let log = invoke("world").await.log;
    assert_eq!(log, "INFO world: env 0 args 0 file false socket Err(PermissionDenied) time true");
}

#[tokio::test]
async fn what_is_said_is_kept_in_order() {
    let invoked = invoke("mixed").await;
    assert_eq!(invoked.log, "stdout: one\nstderr: two\nWARN shop: three\nstdout: unfinished");
    assert_eq!(invoke("").await.log, "");
}

#[tokio::test]
async fn megabytes_of_output_are_cut_and_hurt_nobody() {
    let invoked = invoke("print:3000000").await;
    assert_eq!(invoked.outcome, Outcome::Done);
    let log = invoked.log;
    assert!(log.len() < 65 * 1024, "{} bytes", log.len());
    assert!(log.starts_with("stdout: begin\nstdout: yyy") && log.ends_with("y\nstdout: end"), "{log}");
    assert!(log.contains(" bytes dropped ...\n"));
    let invoked = invoke("log:3000000").await;
    assert_eq!(fault(&invoked), (FaultKind::Emits, FAR_TOO_LARGE));
}

#[tokio::test]
async fn verdicts_are_passed_on() {
    let retry = |after| Outcome::Retry { reason: "not now".into(), after };
    assert_eq!(invoke("retry").await.outcome, retry(None));
    assert_eq!(invoke("retry:1500").await.outcome, retry(Some(Duration::from_millis(1500))));
    assert_eq!(invoke("reject:3").await.outcome, Outcome::Reject { reason: "xxx".into() });
    match invoke("reject:100000").await.outcome {
        Outcome::Reject { reason } => assert!(reason.len() <= 2048 && reason.ends_with("x ..."), "{}", reason.len()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_panic_is_a_trap_with_its_message() {
    let invoked = invoke("panic:yes").await;
    let (kind, reason) = fault(&invoked);
    assert_eq!(kind, FaultKind::Trap);
    assert!(reason.starts_with("panicked at src/lib.rs:"), "{reason}");
    assert!(reason.ends_with("the message said so: yes"), "{reason}");
    let backtrace = invoked.log.split_once("\nBACKTRACE: ").expect("a backtrace").1;
    assert!(backtrace.contains("handler@0.1.0#handle") && !backtrace.contains("panic"), "{backtrace}");
}

#[tokio::test]
async fn other_ends_are_traps_too() {
    let invoked = invoke("unreachable").await;
    assert_eq!(fault(&invoked), (FaultKind::Trap, "it reached an `unreachable` instruction"));
    assert!(invoked.log.starts_with("BACKTRACE: ") && invoked.log.contains("handle"), "{}", invoked.log);
    let invoked = invoke("wild").await;
    assert_eq!(fault(&invoked), (FaultKind::Trap, "out of bounds memory access"));
    let invoked = invoke("exit:7").await;
    assert_eq!(fault(&invoked), (FaultKind::Trap, "it exited with status 1 instead of returning"));
}

#[tokio::test]
async fn too_much_memory_is_a_memory_fault_unless_the_guest_copes() {
    let invoked = invoke("grow").await;
    let (kind, reason) = fault(&invoked);
    assert_eq!(kind, FaultKind::Memory);
    assert!(reason.starts_with("it needed more memory than 64 MiB"), "{reason}");
    assert_eq!(invoke("try-grow:100").await.outcome, Outcome::Done);
}

#[tokio::test]
async fn recursion_without_end_is_a_stack_fault() {
    for data in ["deep", "deep-locals"] {
        let invoked = invoke(data).await;
        assert_eq!(fault(&invoked), (FaultKind::Stack, "it called too deep: the stack is used up"), "{data}");
        assert_eq!(invoked.log.lines().count(), 1, "{}", invoked.log);
        assert!(invoked.log.contains("::deep") && invoked.log.ends_with("and 31 more of it"), "{}", invoked.log);
    }
}

#[tokio::test]
async fn what_is_no_text_is_malformed() {
    let invoked = invoke("malformed").await;
    let (kind, reason) = fault(&invoked);
    assert_eq!(kind, FaultKind::Malformed);
    assert!(reason.starts_with("it passed what its interface does not allow: "), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spinning_and_a_sleeping_guest_end_at_their_deadline() {
    for data in ["spin", "sleep:60000"] {
        let timeout = Duration::from_millis(200);
        let started = Instant::now();
        let invoked = invoke_with(Limits { timeout, ..limits() }, data).await;
        let took = started.elapsed();
        assert_eq!(fault(&invoked), (FaultKind::Timeout, "it did not end within 200ms"), "{data}");
        assert!(invoked.duration >= timeout, "{data} ended early, after {:?}", invoked.duration);
        assert!(took < Duration::from_secs(15), "{data} took {took:?}");
    }
    assert_eq!(invoke("sleep:20").await.outcome, Outcome::Done, "waiting a while is fine");
}

#[tokio::test]
async fn a_dropped_delivery_gives_back_its_slot() {
    let runtime = WasmRuntime::new(RuntimeOptions { slots: 1, ..RuntimeOptions::default() }).expect("a runtime");
    let handler = runtime.load(spec(guest("runtime_guest"), limits())).await.expect("it loads");
    assert_eq!(runtime.slots(), 1);
    for data in ["spin", "sleep:60000"] {
        let cut_short = tokio::time::timeout(Duration::from_millis(20), handler.invoke(delivery(data.as_bytes())));
        assert!(cut_short.await.is_err(), "{data} goes on");
    }
    assert_eq!(handler.invoke(delivery(b"")).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn emits_are_collected_in_order_with_the_same_ids_every_time() {
    let first = invoke("emit:3").await;
    let again = invoke("emit:3").await;
    assert_eq!(first.outcome, Outcome::Done);
    assert_eq!(first.emits, again.emits);
    let ids: Vec<String> = first.log.lines().map(|line| line.trim_start_matches("INFO id: ").to_owned()).collect();
    assert_eq!(first.emits.iter().map(|emit| emit.id.clone()).collect::<Vec<_>>(), ids, "the ids that it was told");
    let bodies: Vec<&[u8]> = first.emits.iter().map(|emit| &emit.data[..]).collect();
    assert_eq!(bodies, [b"0", b"1", b"2"]);
    let emit = &first.emits[0];
    assert_eq!((emit.topic.as_str(), emit.kind.as_deref()), ("orders.created", Some("com.example.order")));
    assert_eq!((emit.subject.as_deref(), emit.content_type.as_deref()), (Some("order/1"), Some("text/plain")));
    assert_eq!(emit.extensions, [("partitionkey".to_owned(), "7".to_owned())]);
}

struct Panics;

impl EmitGate for Panics {
    fn routes(&self, _: &Topic) -> bool {
        panic!("meant to: this test is about it");
    }
}

#[tokio::test]
async fn a_panic_of_the_host_is_the_hosts_fault_and_ends_nothing_else() {
    let handler = handler_with(limits()).await;
    let unlucky = Delivery { gate: Arc::new(Panics), ..delivery(b"emit:1") };
    let invoked = handler.invoke(unlucky).await;
    assert_eq!(fault(&invoked), (FaultKind::Host, "the host panicked: meant to: this test is about it"));
    assert_eq!(handler.invoke(delivery(b"emit:1")).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn what_is_not_done_emits_nothing() {
    let invoked = invoke("emit-then-reject").await;
    assert_eq!(invoked.outcome, Outcome::Reject { reason: "after all".into() });
    assert!(invoked.emits.is_empty());
}

#[tokio::test]
async fn refused_emits_are_answered_and_harmless() {
    let unroutable = invoke("emit-to:invoices.sent").await;
    assert_eq!(unroutable.outcome, Outcome::Done);
    assert_eq!(unroutable.log, "WARN invalid: unroutable: no route matches topic 'invoices.sent'");
    assert!(unroutable.emits.is_empty());
}

#[tokio::test]
async fn an_emit_may_be_for_later() {
    let later = SystemClock::new().wall().plus(Duration::from_secs(3600));
    let invoked = invoke(&format!("emit-at:{}", later.0)).await;
    assert_eq!((&invoked.outcome, invoked.emits[0].due), (&Outcome::Done, Some(later)));
    assert_eq!(invoked.log, format!("INFO id: {}", invoked.emits[0].id));
    assert_eq!(invoke("emit:1").await.emits[0].due, None);
    let too_far = SystemClock::new().wall().plus(DELAY_MAX + Duration::from_secs(3600));
    let refused = invoke(&format!("emit-at:{}", too_far.0)).await;
    assert_eq!(refused.outcome, Outcome::Done, "unlike the other limits");
    assert!(refused.emits.is_empty());
    assert_eq!(refused.log, r#"WARN refused: Refused::Limit("an emit may be put off by 366 days at most")"#);
}

#[tokio::test]
async fn emitting_beyond_a_limit_is_a_fault() {
    let many = invoke("emit-too-many:101").await;
    let reason = "a delivery may emit 100 messages, it tried more, and was done all the same";
    assert_eq!(fault(&many), (FaultKind::Emits, reason));
    assert!(many.emits.is_empty());
    let big = invoke("emit-big:1048576").await;
    assert_eq!(fault(&big).0, FaultKind::Emits, "{big:?}");
    assert_eq!(big.log, "WARN limit: the emits of a delivery may have 1048576 bytes in all");
    let huge = invoke("emit-big:30000000").await;
    assert_eq!(fault(&huge), (FaultKind::Emits, FAR_TOO_LARGE));
    let endless = invoke_with(Limits { timeout: Duration::from_millis(300), ..limits() }, "emit-forever").await;
    assert_eq!(fault(&endless).0, FaultKind::Timeout);
}
