//! `bulk` with a filter: of the messages selected, those that pass are changed, and no others.

use std::time::Duration;

use super::cases;
use super::harness::{Harness, Queues, message, queue, queue_name, rejected, stored_ids};
use super::made::names;
use crate::clock::{Clock as _, WallMs};
use crate::engine::{Bulk, BulkAction, DeadCode, DeadReason, Filter, NewEntry, Progress, QueueId, Select};
use crate::message::{Attributes, Message};
use crate::name::Topic;

cases! {
    an_open_filter_lets_all_pass;
    the_reason_is_looked_at;
    the_origin_is_looked_at;
    the_time_of_death_is_looked_at;
    what_lives_passes_no_filter_of_deaths;
    attributes_are_looked_at;
    all_attributes_must_be_the_same;
    the_topic_is_an_attribute;
    all_parts_must_pass;
    what_does_not_pass_is_not_counted;
    it_is_applied_to_positions;
    it_is_applied_to_what_waits_for_its_time;
    a_redrive_takes_what_passes;
    steps_go_on_over_what_does_not_pass;
}

fn reason(code: DeadCode) -> Filter {
    Filter { reason: Some(code), ..Filter::default() }
}

fn attributes(pairs: &[(&str, &str)]) -> Filter {
    let attributes = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Filter { attributes, ..Filter::default() }
}

/// All steps of a change of up to `max` messages each, added up.
async fn change(
    h: &Harness,
    queue: QueueId,
    select: Select,
    filter: &Filter,
    action: BulkAction,
    max: usize,
) -> Progress {
    let mut sum = Progress::default();
    for _ in 0..1000 {
        let (select, filter, action) = (select.clone(), filter.clone(), action.clone());
        let step = Bulk { queue, select, filter, action, after: sum.next, max };
        let step = h.engine.bulk(step).await.expect("`bulk` works");
        assert!(step.changed <= max as u64, "a step changed {} where {max} were allowed", step.changed);
        sum = Progress { changed: sum.changed + step.changed, skipped: sum.skipped + step.skipped, next: step.next };
        if sum.next.is_none() {
            return sum;
        }
    }
    panic!("a bulk job does not end");
}

/// Discards what passes; the ids that are left.
async fn discard(h: &Harness, queue: QueueId, filter: &Filter) -> Vec<String> {
    let before = h.browse(queue).await.len();
    let progress = change(h, queue, Select::All, filter, BulkAction::Discard, 2).await;
    let left: Vec<_> = stored_ids(&h.browse(queue).await).into_iter().map(str::to_owned).collect();
    assert_eq!((progress.changed, progress.skipped), ((before - left.len()) as u64, 0));
    left
}

fn dead_entry(queue: QueueId, id: &str, code: DeadCode) -> NewEntry {
    let reason = DeadReason { code, detail: "the case says so".to_owned() };
    NewEntry { dead: Some(reason), ..super::harness::entry(queue, id) }
}

/// A message with a subject, a kind and an extension of its own.
fn entry_with(queue: QueueId, id: &str, kind: &str, subject: &str, customer: &str) -> NewEntry {
    let extensions = [("customer", customer), ("zone", "eu")];
    let attributes = Attributes {
        id,
        source: "/cases",
        kind,
        subject: Some(subject),
        extensions: &extensions,
        ..Attributes::default()
    };
    let message = Message::new(&attributes, b"body").expect("the attributes are valid");
    NewEntry { message, ..super::harness::entry(queue, id) }
}

async fn an_open_filter_lets_all_pass(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3"]).await;
    assert_eq!(discard(&h, q.a, &Filter::default()).await, [""; 0]);
}

async fn the_reason_is_looked_at(h: Harness) {
    let q = h.standard().await;
    let codes = [DeadCode::Rejected, DeadCode::MaxAttempts, DeadCode::Expired, DeadCode::MaxAttempts];
    let entries = codes.iter().zip(["1", "2", "3", "4"]).map(|(code, id)| dead_entry(q.a, id, *code));
    h.store(entries.collect()).await;
    assert_eq!(discard(&h, q.a_dead, &reason(DeadCode::TooManyHops)).await, ["1", "2", "3", "4"]);
    assert_eq!(discard(&h, q.a_dead, &reason(DeadCode::MaxAttempts)).await, ["1", "3"]);
    assert_eq!(discard(&h, q.a_dead, &reason(DeadCode::Expired)).await, ["1"]);
}

async fn the_origin_is_looked_at(h: Harness) {
    let shared =
        vec![queue("a", Some("a.dead")), queue("b", Some("a.dead")), queue("a.dead", None), queue("b.dead", None)];
    let q = h.define(shared).await;
    h.append(q.a, &["1", "2"]).await;
    h.append(q.b, &["3"]).await;
    h.bury(q.a, 2).await;
    h.bury(q.b, 1).await;
    let from = |origin| Filter { origin: Some(queue_name(origin)), ..Filter::default() };
    assert_eq!(discard(&h, q.a_dead, &from("nowhere")).await, ["1", "2", "3"]);
    assert_eq!(discard(&h, q.a_dead, &from("a")).await, ["3"]);
    assert_eq!(discard(&h, q.a_dead, &from("b")).await, [""; 0]);
}

async fn the_time_of_death_is_looked_at(h: Harness) {
    let q = h.standard().await;
    h.append(q.a, &["1", "2", "3", "4"]).await;
    let mut died = Vec::new();
    for leased in h.take(q.a, 4).await {
        died.push(h.clock.wall());
        h.dead(&leased).await;
        h.advance(Duration::from_secs(1));
    }
    let between = |from: Option<WallMs>, before: Option<WallMs>| Filter {
        died_from: from,
        died_before: before,
        ..Filter::default()
    };
    assert_eq!(discard(&h, q.a_dead, &between(Some(died[3].plus(Duration::from_millis(1))), None)).await.len(), 4);
    assert_eq!(discard(&h, q.a_dead, &between(Some(died[1]), Some(died[2]))).await, ["1", "3", "4"]);
    assert_eq!(discard(&h, q.a_dead, &between(None, Some(died[0]))).await, ["1", "3", "4"], "before, not at");
    assert_eq!(discard(&h, q.a_dead, &between(None, Some(died[1]))).await, ["3", "4"]);
    assert_eq!(discard(&h, q.a_dead, &between(Some(died[3]), None)).await, ["3"], "from then on");
}

async fn what_lives_passes_no_filter_of_deaths(h: Harness) {
    let q = h.standard().await;
    h.append(q.a_dead, &["1"]).await;
    let filters = [
        reason(DeadCode::Rejected),
        Filter { origin: Some(queue_name("a")), ..Filter::default() },
        Filter { origin: Some(queue_name("a.dead")), ..Filter::default() },
        Filter { died_from: Some(WallMs(0)), ..Filter::default() },
        Filter { died_before: Some(WallMs(u64::MAX)), ..Filter::default() },
    ];
    for filter in filters {
        assert_eq!(discard(&h, q.a_dead, &filter).await, ["1"], "{filter:?}");
    }
}

/// Messages that differ in their attributes, one by one.
async fn attributed(h: &Harness) -> Queues {
    let q = h.standard().await;
    let entries = vec![
        entry_with(q.a, "1", "paid", "orders/1", "ada"),
        entry_with(q.a, "2", "paid", "orders/2", "bob"),
        entry_with(q.a, "3", "sent", "orders/1", "ada"),
        entry_with(q.a, "4", "sent", "orders/2", "bob"),
    ];
    h.store(entries).await;
    q
}

async fn attributes_are_looked_at(h: Harness) {
    for (name, value, left) in [
        ("id", "3", ["1", "2", "4"].as_slice()),
        ("source", "/cases", &[]),
        ("source", "/case", &["1", "2", "3", "4"]),
        ("type", "paid", &["3", "4"]),
        ("subject", "orders/1", &["2", "4"]),
        ("subject", "orders", &["1", "2", "3", "4"]),
        ("customer", "bob", &["1", "3"]),
        ("customer", "BOB", &["1", "2", "3", "4"]),
        ("nothing", "", &["1", "2", "3", "4"]),
        ("zone", "eu", &[]),
    ] {
        let q = attributed(&h).await;
        assert_eq!(discard(&h, q.a, &attributes(&[(name, value)])).await, left, "{name} = {value}");
        h.bulk_by(q.a, BulkAction::Discard, 100).await;
    }
}

async fn all_attributes_must_be_the_same(h: Harness) {
    let q = attributed(&h).await;
    assert_eq!(discard(&h, q.a, &attributes(&[("type", "paid"), ("customer", "bob")])).await, ["1", "3", "4"]);
    assert_eq!(discard(&h, q.a, &attributes(&[("type", "paid"), ("type", "sent")])).await, ["1", "3", "4"]);
}

async fn the_topic_is_an_attribute(h: Harness) {
    let q = h.standard().await;
    let on = |topic: &str, id: &str| NewEntry::new(q.a, Topic::new(topic).expect("it is a topic"), message(id));
    h.store(vec![on("orders.paid", "1"), on("orders.sent", "2")]).await;
    assert_eq!(discard(&h, q.a, &attributes(&[("topic", "orders")])).await, ["1", "2"]);
    assert_eq!(discard(&h, q.a, &attributes(&[("topic", "orders.paid")])).await, ["2"]);
}

async fn all_parts_must_pass(h: Harness) {
    let q = h.standard().await;
    h.store(vec![dead_entry(q.a, "1", DeadCode::Rejected), dead_entry(q.a, "2", DeadCode::MaxAge)]).await;
    h.store(vec![dead_entry(q.a, "3", DeadCode::Rejected)]).await;
    let both = Filter { reason: Some(DeadCode::Rejected), ..attributes(&[("id", "3")]) };
    assert_eq!(discard(&h, q.a_dead, &both).await, ["1", "2"]);
    let neither = Filter { origin: Some(queue_name("b")), ..reason(DeadCode::Rejected) };
    assert_eq!(discard(&h, q.a_dead, &neither).await, ["1", "2"]);
}

async fn what_does_not_pass_is_not_counted(h: Harness) {
    let q = attributed(&h).await;
    let leased = h.take(q.a, 2).await;
    let filter = attributes(&[("type", "paid")]);
    let progress = change(&h, q.a, Select::All, &filter, BulkAction::Discard, 100).await;
    assert_eq!((progress.changed, progress.skipped), (0, 2), "those that pass are leased");
    h.engine.release(leased[..1].iter().map(|leased| leased.token).collect()).await;
    let progress = change(&h, q.a, Select::All, &filter, BulkAction::Discard, 100).await;
    assert_eq!((progress.changed, progress.skipped), (1, 1));
}

async fn it_is_applied_to_positions(h: Harness) {
    let q = attributed(&h).await;
    let positions = h.browse(q.a).await[..3].iter().map(|stored| stored.position).collect();
    let filter = attributes(&[("customer", "ada")]);
    let progress = change(&h, q.a, Select::Positions(positions), &filter, BulkAction::Discard, 100).await;
    assert_eq!((progress.changed, progress.skipped), (2, 0));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2", "4"]);
}

async fn it_is_applied_to_what_waits_for_its_time(h: Harness) {
    let q = attributed(&h).await;
    for leased in h.take(q.a, 3).await {
        h.again(&leased).await;
    }
    assert_eq!(discard(&h, q.a, &attributes(&[("type", "paid")])).await, ["4", "3"]);
}

async fn a_redrive_takes_what_passes(h: Harness) {
    let q = h.standard().await;
    let entries = ["1", "2", "3"].map(|id| NewEntry { dead: Some(rejected()), ..super::harness::entry(q.a, id) });
    h.store(entries.to_vec()).await;
    let filter = attributes(&[("id", "2")]);
    let progress = change(&h, q.a_dead, Select::All, &filter, BulkAction::Redrive(None), 100).await;
    assert_eq!((progress.changed, progress.skipped), (1, 0));
    assert_eq!(stored_ids(&h.browse(q.a).await), ["2"]);
    assert_eq!(stored_ids(&h.browse(q.a_dead).await), ["1", "3"]);
}

async fn steps_go_on_over_what_does_not_pass(h: Harness) {
    const COUNT: usize = 300;
    let q = h.standard().await;
    let all = names("", COUNT);
    let kind = |number: usize| if number % 100 == 99 { "rare" } else { "common" };
    let entries = all.iter().enumerate().map(|(number, id)| entry_with(q.a, id, kind(number), "s", "c"));
    h.store(entries.collect()).await;
    let filter = attributes(&[("type", "rare")]);
    for max in [1, 2, 1000] {
        let progress = change(&h, q.a, Select::All, &filter, BulkAction::Redrive(Some(q.b)), max).await;
        assert_eq!((progress.changed, progress.skipped), (3, 0), "in steps of {max}");
        assert_eq!(stored_ids(&h.browse(q.b).await), ["00099", "00199", "00299"], "in order");
        assert_eq!(h.bulk_by(q.b, BulkAction::Redrive(Some(q.a)), 1).await.changed, 3);
    }
    assert_eq!(h.browse(q.a).await.len(), COUNT);
}
