//! Messages as lines of JSON, and back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use pelton_core::clock::{Clock as _, WallMs};
use pelton_core::engine::{Engine as _, EntryOptions, LeaseRequest, OrderKey, Verdict};
use pelton_core::operator::Backup as _;
use pelton_core::testing::TestClock;
use pelton_engine_redb::{
    DATA_FILE, Exported, ImportError, ImportOptions, Imported, OpenError, Tuning, Work, export, import,
};

use crate::support::{Opened, clean_report, filled_file, message, queue, topic, usual_tuning};

fn lines_of(place: &Path) -> (Vec<String>, Exported) {
    let mut out = Vec::new();
    let exported = export(place, &|_| true, &mut out, &mut |_| {}).expect("it can be read");
    let text = String::from_utf8(out).expect("JSON is text");
    (text.lines().map(str::to_owned).collect(), exported)
}

fn options(dir: &Path) -> ImportOptions {
    ImportOptions { dir: dir.to_owned(), now: WallMs(5), seed: 99 }
}

fn import_lines(dir: &Path, text: &str) -> Result<Imported, ImportError> {
    import(&mut text.as_bytes(), &options(dir), &mut |_| {})
}

#[tokio::test]
async fn everything_that_is_known_moves_to_another_store() {
    let (folder, _) = filled_file().await;
    let (lines, exported) = lines_of(folder.path());
    assert_eq!((exported.messages(), exported.problems.len()), (75, 0), "{:?}", exported.problems);
    let dir = folder.path().join("other");
    let mut work = Vec::new();
    let text = lines.join("\n");
    let imported =
        import(&mut text.as_bytes(), &options(&dir), &mut |done| work.push(done)).expect("they are its own lines");
    assert_eq!(imported.messages, 75);
    assert_eq!(imported.created.len(), 5);
    let by_queue: BTreeMap<_, _> = exported.queues.into_iter().collect();
    assert_eq!(imported.queues, by_queue);
    assert_eq!(work.last(), Some(&Work::Lines { lines: 75, bytes: text.len() as u64 }));
    clean_report(&dir);
    let (again, _) = lines_of(&dir);
    assert_eq!(again, lines);
}

/// What is leased, and in which order, is as it would have been in the old store.
#[tokio::test]
async fn order_and_times_are_kept() {
    let (folder, _) = filled_file().await;
    let dir = folder.path().join("other");
    // The queues exist before, with their settings: a store that was there and is empty.
    Opened::new(&dir).await.close().await;
    import_lines(&dir, &lines_of(folder.path()).0.join("\n")).expect("they are its own lines");
    clean_report(&dir);
    let mut orders = Vec::new();
    for dir in [folder.path(), &dir] {
        let clock = TestClock::new();
        let opened = Opened::at(dir, clock.clone()).await;
        let mut order = vec![opened.drain("ranked").await, opened.drain("keyed").await, opened.drain("plain").await];
        clock.advance(Duration::from_secs(61));
        opened.engine.look_at_the_clock();
        order.push(opened.drain("plain").await);
        clock.advance(Duration::from_secs(30));
        opened.engine.look_at_the_clock();
        order.push(opened.drain("keyed").await);
        clock.advance(Duration::from_secs(3600));
        opened.engine.look_at_the_clock();
        order.push(opened.drain("plain").await);
        opened.close().await;
        clean_report(dir);
        orders.push(order);
    }
    assert_eq!(orders[0][0], ["urgent", "usual", "idle"]);
    assert_eq!(orders[0][1], ["b/1", "b/2", "c/1"], "the others wait behind a/1");
    assert_eq!(orders[0][3], ["p00"], "it was to be tried again");
    assert_eq!(orders[0][4], ["a/1", "a/2", "a/3"]);
    assert_eq!(orders[0][5], ["later"]);
    assert_eq!(orders[0], orders[1]);
}

/// Windows so small that what waits for its key is set aside on disk.
fn small() -> Tuning {
    Tuning { window_entries: 4, ..usual_tuning() }
}

/// Moves a store to a new folder and to one that has the queues already, and holds against `expected` in which order the key `a` is
/// leased there, and in the store itself, ten minutes later.
async fn check_order(dir: &Path, expected: &[&str]) {
    let (lines, exported) = lines_of(dir);
    assert_eq!(exported.problems, [""; 0]);
    let (new, known) = (dir.join("new"), dir.join("known"));
    Opened::new(&known).await.close().await;
    for target in [&new, &known] {
        import_lines(target, &lines.join("\n")).expect("they are its own lines");
        clean_report(target);
    }
    for dir in [dir, &new, &known] {
        let clock = TestClock::new();
        let opened = Opened::with(dir, clock.clone(), small()).await;
        clock.advance(Duration::from_secs(600));
        opened.engine.look_at_the_clock();
        let mut order = opened.drain("keyed").await;
        order.retain(|id| id.starts_with("a/"));
        assert_eq!(order, expected, "in {}", dir.display());
        opened.close().await;
        clean_report(dir);
    }
}

/// The first was leased and lies where it lay; the others of its key are set aside, where a search comes to them first.
#[tokio::test]
async fn what_waits_for_its_key_comes_behind_what_it_waits_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::with(folder.path(), TestClock::new(), small()).await;
    opened.keyed(&["a/1", "a/2", "a/3", "a/4", "a/5", "b/1"]).await;
    while !opened.lease("keyed", 10).await.is_empty() {}
    opened.close().await;
    check_order(folder.path(), &["a/1", "a/2", "a/3", "a/4", "a/5"]).await;
}

/// Of two that one lease gave the second waits for its next attempt, and the first was given back.
#[tokio::test]
async fn what_comes_before_a_retry_of_its_key_does_so_still() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::with(folder.path(), TestClock::new(), small()).await;
    opened.keyed(&["b/1", "b/2", "b/3", "b/4", "b/5", "a/1", "a/2", "a/3"]).await;
    for _ in 0..5 {
        let leased = opened.lease("keyed", 1).await;
        opened.settle(&leased[0], Verdict::Done { emits: Vec::new() }).await;
    }
    let want = LeaseRequest { queue: opened.queues["keyed"], max: 2, wait: Duration::ZERO, ttl: None };
    let leased = opened.engine.lease(want).await.expect("the store is up");
    assert_eq!(leased.iter().map(|leased| leased.message.id()).collect::<Vec<_>>(), ["a/1", "a/2"]);
    let at = opened.clock.wall().plus(Duration::from_secs(60));
    opened.settle(&leased[1], Verdict::Again { at, chosen: true }).await;
    opened.engine.release(vec![leased[0].token]).await;
    opened.close().await;
    check_order(folder.path(), &["a/1", "a/2", "a/3"]).await;
}

/// With `key = "topic"` the key stands in no attribute.
#[tokio::test]
async fn a_key_that_is_the_topic_is_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::new(folder.path()).await;
    let key = Some(OrderKey(topic().as_str().into()));
    let entry = |id: &str| opened.entry("keyed", id, 10, EntryOptions { key: key.clone(), ..EntryOptions::default() });
    opened.append(vec![entry("1"), entry("2")]).await;
    opened.close().await;
    let (lines, exported) = lines_of(folder.path());
    assert_eq!(exported.problems, [""; 0]);
    assert!(lines.iter().all(|line| line.contains(r#""key":"orders.created""#)), "{lines:#?}");
    let dir = folder.path().join("other");
    import_lines(&dir, &lines.join("\n")).expect("they are its own lines");
    let opened = Opened::new(&dir).await;
    assert_eq!(opened.lease("keyed", 10).await.len(), 1, "the other waits for its key");
    opened.close().await;
}

#[tokio::test]
async fn dead_letters_keep_their_history() {
    let (folder, _) = filled_file().await;
    let dir = folder.path().join("other");
    import_lines(&dir, &lines_of(folder.path()).0.join("\n")).expect("they are its own lines");
    let mut letters = Vec::new();
    for dir in [folder.path(), &dir] {
        let opened = Opened::new(dir).await;
        let known = |stored: &pelton_core::engine::Stored| {
            (stored.message.clone(), stored.due, stored.dead.clone(), stored.history.clone(), stored.attempts)
        };
        letters.push(opened.stored("plain.dead").await.iter().map(known).collect::<Vec<_>>());
        opened.close().await;
    }
    assert_eq!(letters[0], letters[1]);
    let held = letters[0].iter().find(|letter| letter.1 == Some(WallMs(u64::MAX))).expect("one is held");
    assert_eq!(held.3.len(), 2, "it failed in both queues");
    assert_eq!(held.2.as_ref().expect("it is dead").origin, queue("plain"));
}

#[tokio::test]
async fn a_copy_can_be_exported_while_its_store_is_in_use() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::new(folder.path()).await;
    opened.fill().await;
    let error = export(folder.path(), &|_| true, &mut Vec::new(), &mut |_| {}).expect_err("it is in use");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    let copy = opened.engine.backup().await.expect("there is room");
    let (lines, _) = lines_of(copy.path());
    drop(copy);
    opened.close().await;
    assert_eq!(lines, lines_of(folder.path()).0);
}

#[tokio::test]
async fn only_what_is_wanted_is_written() {
    let (folder, _) = filled_file().await;
    let mut out = Vec::new();
    let mut work = Vec::new();
    let wanted = |name: &pelton_core::name::QueueName| name.as_str() == "ranked";
    let exported = export(folder.path(), &wanted, &mut out, &mut |done| work.push(done)).expect("it can be read");
    assert_eq!(exported.queues, [(queue("ranked"), 3)]);
    assert_eq!(String::from_utf8(out).expect("JSON is text").lines().count(), 3);
    assert_eq!(work.last(), Some(&Work::Rows { done: 3, of: 3 }));
}

#[tokio::test]
async fn imported_messages_stand_behind_those_that_are_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::new(folder.path()).await;
    opened.plain("plain", &["first"]).await;
    opened.close().await;
    let line = |id: &str| {
        let event = format!(r#"{{"specversion":"1.0","id":"{id}","source":"/hand","type":"t"}}"#);
        format!(r#"{{"queue":"plain","topic":"a.b","message":{event}}}"#)
    };
    let text = format!("{}\r\n\n  \n{}\n", line("second"), line("third"));
    let imported = import_lines(folder.path(), &text).expect("they are lines");
    assert_eq!((imported.messages, imported.created), (2, vec![]));
    let opened = Opened::new(folder.path()).await;
    let stored = opened.stored("plain").await;
    let accepted: Vec<_> = stored.iter().map(|stored| stored.accepted).collect();
    assert_eq!(accepted, [opened.clock.wall(), WallMs(5), WallMs(5)]);
    opened.plain("plain", &["fourth"]).await;
    assert_eq!(opened.drain("plain").await, ["first", "second", "third", "fourth"]);
    opened.close().await;
    clean_report(folder.path());
}

#[tokio::test]
async fn a_bad_line_is_named_and_those_before_it_are_in() {
    let (folder, _) = filled_file().await;
    let (lines, _) = lines_of(folder.path());
    let dir = folder.path().join("other");
    let bad = [lines[0].as_str(), "", lines[1].as_str(), r#"{"queue":"plain"}"#, lines[2].as_str()].join("\n");
    let error = import_lines(&dir, &bad).expect_err("the fourth line is no message");
    let text = error.to_string();
    assert!(
        text.starts_with("line 4: missing field `topic` at column 17; the lines before it are imported (2 messages)"),
        "{text}"
    );
    assert_eq!(error.in_store().expect("the folder is fine").messages, 2);
    clean_report(&dir);
    let (there, _) = lines_of(&dir);
    assert_eq!(there, lines[..2]);
    // What is left goes in after the line is mended.
    import_lines(&dir, &lines[2..].join("\n")).expect("they are lines");
    assert_eq!(lines_of(&dir).0, lines);
}

#[tokio::test]
async fn a_store_in_use_takes_no_lines() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Opened::new(folder.path()).await;
    let error = import_lines(folder.path(), "").expect_err("it is in use");
    assert!(matches!(error, ImportError::Open(OpenError::InUse { .. })), "{error:?}");
    opened.close().await;
}

/// An export is also what is left to do with a damaged file: whatever can be read comes out.
#[tokio::test]
async fn a_damaged_message_is_left_out_and_told() {
    let (folder, mut bytes) = filled_file().await;
    let body = message("p30", crate::support::BODY_BYTES).data().to_vec();
    let at = bytes.windows(body.len()).rposition(|window| window == body).expect("it is stored");
    // It may lie in the file more than once: pages are never overwritten in place.
    for at in (0..=at).filter(|at| bytes[*at..].starts_with(&body)).collect::<Vec<_>>() {
        bytes[at + 100] ^= 1;
    }
    fs::write(folder.path().join(DATA_FILE), &bytes).expect("written");
    let (lines, exported) = lines_of(folder.path());
    assert_eq!((lines.len(), exported.messages()), (74, 74));
    assert_eq!(exported.problems.len(), 1);
    let problem = &exported.problems[0];
    assert!(problem.contains("of queue 'plain' is left out") && problem.contains("checksum"), "{problem}");
}
