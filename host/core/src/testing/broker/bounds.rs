//! Full queues and full disks: who is refused, who makes room, and that consuming goes on.

use super::{Gate, ONE, Rig, queue, refusals};
use crate::broker::{PullOutcome, RefusalCode};
use crate::engine::DeadCode;
use crate::testing::{FakeRuntime, done};

#[tokio::test]
async fn a_full_queue_refuses_the_whole_request() {
    let config =
        format!("{}[queues.other]\n[[routes]]\nfrom = \"#\"\nto = [\"queue:other\"]\n", queue("max-messages = 2"));
    let rig = Rig::start(&config, FakeRuntime::new()).await;
    rig.publish("work.new", &["1"]).await;
    let refused = refusals(rig.try_publish("work.new", &["2", "3"]).await);
    assert_eq!((refused.len(), refused[0].index, refused[0].code), (1, 0, RefusalCode::QueueFull));
    assert_eq!(refused[0].queue.as_ref().map(|queue| queue.as_str()), Some("work"));
    assert_eq!(
        refused[0].detail,
        "queue 'work' is full: it holds at most 2 messages (max-messages); try again when consumers have caught up, or \
         raise the bound in [queues.work]"
    );
    assert_eq!(rig.ids("other").await, ["1"], "nothing of it was stored anywhere");
    rig.publish("work.new", &["4"]).await;
    assert!(rig.broker.queue("work").expect("it exists").counts.full);
    rig.publish("elsewhere", &["5"]).await;
    let token = rig.lease("work", 1).await[0].token;
    assert_eq!(rig.broker.settle(vec![(token, PullOutcome::Ack)]).await, [Ok(())]);
    rig.publish("work.new", &["6"]).await;
}

#[tokio::test]
async fn the_first_message_that_goes_to_the_full_queue_is_named() {
    let config = format!(
        "{}[queues.other]\n[[routes]]\nfrom = \"other\"\nto = [\"queue:other\"]\n",
        queue("max-bytes = \"1KiB\"")
    );
    let rig = Rig::start(&config, FakeRuntime::new()).await;
    let publish = |topic: &str, id| crate::broker::Publish {
        topic: crate::name::Topic::new(topic).expect("a topic"),
        message: super::message(id, &[b'x'; 600]),
    };
    let batch = vec![publish("other", "1"), publish("other", "2"), publish("work.new", "3"), publish("work.new", "4")];
    let refused = refusals(rig.broker.publish(batch, crate::broker::PublishOptions::default()).await);
    assert_eq!((refused[0].index, refused[0].code), (2, RefusalCode::QueueFull));
    assert_eq!(
        refused[0].detail,
        "queue 'work' is full: it holds at most 1.0 KiB (max-bytes); try again when consumers have caught up, or raise the \
         bound in [queues.work]"
    );
}

#[tokio::test]
async fn a_queue_may_drop_its_oldest() {
    let rig = Rig::start(&queue("max-messages = 2\noverflow = \"drop-oldest\""), FakeRuntime::new()).await;
    rig.publish("work.new", &["1", "2"]).await;
    rig.publish("work.new", &["3"]).await;
    assert_eq!(rig.ids("work").await, ["2", "3"]);
    assert_eq!(rig.broker.queue("work").expect("it exists").counts.dropped, 1);
    assert_eq!(rig.lease("work", 2).await.len(), 2);
    let refused = refusals(rig.try_publish("work.new", &["4"]).await);
    assert_eq!(refused[0].code, RefusalCode::QueueFull);
    assert!(refused[0].detail.contains("(max-messages), and dropping its oldest makes no room;"), "{refused:?}");
}

#[tokio::test]
async fn a_queue_may_pass_what_does_not_fit_to_its_dead_letters() {
    let rig = Rig::start(&queue("max-messages = 1\noverflow = \"dead-letter\""), FakeRuntime::new()).await;
    let published = rig.publish("work.new", &["1", "2"]).await;
    assert_eq!(published.iter().map(|published| published.targets).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(rig.ids("work").await, ["1"]);
    let dead = rig.browse("work.dead").await.remove(0);
    assert_eq!(dead.message.id(), "2");
    assert_eq!(dead.dead.map(|dead| dead.reason.code), Some(DeadCode::QueueFull));
}

#[tokio::test]
async fn a_full_disk_takes_nothing_and_consuming_goes_on() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let runtime = FakeRuntime::new().handler_async("worker", move |_| {
        let gate = waiting.clone();
        async move {
            gate.pass().await;
            done()
        }
    });
    let rig = Rig::start(ONE, runtime).await;
    rig.publish("work.new", &["1"]).await;
    rig.until_invoked(1).await;
    rig.engine.fill(true);
    let refused = refusals(rig.try_publish("work.new", &["2"]).await);
    assert_eq!((refused.len(), refused[0].index, refused[0].code), (1, 0, RefusalCode::DiskFull));
    assert_eq!(
        refused[0].detail,
        "the disk has less than 128.0 MiB free ([broker] min-free-disk), so no messages are taken; consuming goes on. Free \
         some space, or let consumers catch up, and try again"
    );
    gate.open(2);
    rig.until("work", (0, 0, 0)).await;
    rig.engine.fill(false);
    rig.publish("work.new", &["3"]).await;
    rig.until_invoked(2).await;
}
