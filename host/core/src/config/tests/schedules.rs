//! What is said about schedules.

use insta::assert_snapshot;

use super::{FULL, errors, plan};
use crate::clock::WallMs;
use crate::schedule::Missed;

#[test]
fn windows_and_schedules_are_read_in_the_order_of_the_file() {
    let plan = plan(FULL);
    let dedup: Vec<_> = plan.dedup.iter().map(|dedup| (dedup.topics.as_str(), dedup.window.as_secs())).collect();
    assert_eq!(dedup, [("github.#", 600), ("#", 604_800)]);

    let [nightly, hourly] = plan.schedules.as_slice() else { panic!("{:?}", plan.schedules) };
    assert_eq!((nightly.name.as_str(), nightly.topic.as_str()), ("nightly", "github.pull_request.nightly"));
    assert_eq!((nightly.missed, hourly.missed), (Missed::All, Missed::Once));
    // 2026-01-01T00:00:00Z, when it is 1:00 in Berlin.
    let new_year = WallMs(1_767_225_600_000);
    assert_eq!(nightly.times.next(new_year), Some(WallMs(new_year.0 + 90 * 60_000)));
    assert_eq!(hourly.times.next(new_year), Some(WallMs(new_year.0 + 60 * 60_000)), "in UTC");

    let message = nightly.message.at(new_year);
    assert_eq!((message.id(), message.kind()), ("nightly/2026-01-01T00:00:00Z", "report.due"));
    assert_eq!(message.source(), "https://example.com/reports");
    assert_eq!(message.content_type(), Some("application/vnd.example+json"));
    assert_eq!(
        std::str::from_utf8(message.data()),
        Ok(r#"{"day":"2026-01-31","deep":{"text":"x"},"parts":[1,16,2.5,true]}"#)
    );
    let message = hourly.message.at(new_year);
    assert_eq!((message.source(), message.kind()), ("/pelton/schedules/hourly", "github.pull_request.hourly"));
    assert_eq!((message.content_type(), message.data()), (Some("text/plain; charset=utf-8"), b"go".as_slice()));
}

#[test]
fn what_is_wrong_with_schedules() {
    let text = r#"
[broker]
max-message = "1KiB"
[queues.a]
[[routes]]
from = "reports.*"
to = ["queue:a"]
[[schedules]]
[[schedules]]
name = "a b"
cron = "0 3 * *"
topic = "reports..x"
[[schedules]]
name = "one"
cron = "0 25 * * MON"
time-zone = "Europe/Berln"
topic = "report.nightly"
missed = "never"
[[schedules]]
name = "one"
cron = "0 0 31 2 *"
topic = "reports.x"
time-zone = "Mars"
body = "x"
data = 1
[[schedules]]
name = "two"
cron = "0 3 * * *"
topic = "reports.x"
source = "a b"
data = { ratio = nan }
[[schedules]]
name = "three"
cron = "0 3 * * *"
topic = "reports.x"
type = "x\ty"
content-type = "json"
timezone = "UTC"
"#;
    assert_snapshot!(errors(text), @r#"
    error: schedule 1 has no `name`
     --> broker.toml:8:1
      |
    8 | [[schedules]]
      | ^^^^^^^^^^^^^
      |
      = help: add name = "nightly"

    error: schedule 1 has no `cron`
     --> broker.toml:8:1
      |
    8 | [[schedules]]
      | ^^^^^^^^^^^^^
      |
      = help: add cron = "0 3 * * *"

    error: schedule 1 has no `topic`
     --> broker.toml:8:1
      |
    8 | [[schedules]]
      | ^^^^^^^^^^^^^
      |
      = help: add topic = "reports.nightly"

    error: 'a b' is not a schedule name: it contains ' '; letters a-z and A-Z, digits, '.', '_' and '-' are allowed
      --> broker.toml:10:8
       |
    10 | name = "a b"
       |        ^^^^^

    error: a cron expression has five fields, or six with seconds in front; this has 4
      --> broker.toml:11:9
       |
    11 | cron = "0 3 * *"
       |         ^^^^^^^
       |
       = help: write minute, hour, day of the month, month and day of the week: "0 3 * * MON" is 3:00 on Mondays

    error: 'reports..x' is not a topic: a word between the dots is empty
      --> broker.toml:12:9
       |
    12 | topic = "reports..x"
       |         ^^^^^^^^^^^^

    error: '25' can't be the hour of a cron expression
      --> broker.toml:15:11
       |
    15 | cron = "0 25 * * MON"
       |           ^^
       |
       = help: write 0 to 23; a list 1,2, a range 1-5, a step */2 or 1-5/2 of them, or * for each

    error: there is no time zone 'Europe/Berln'
      --> broker.toml:16:13
       |
    16 | time-zone = "Europe/Berln"
       |             ^^^^^^^^^^^^^^
       |
       = help: did you mean 'Europe/Berlin'? names are those of the IANA, such as "Europe/Berlin"

    error: no route matches the topic 'report.nightly'
      --> broker.toml:17:9
       |
    17 | topic = "report.nightly"
       |         ^^^^^^^^^^^^^^^^
       |
       = help: the nearest is 'reports.*'; add one to [[routes]] or mend the topic

    error: `missed` is "never"; it may be "once", "skip" or "all"
      --> broker.toml:18:10
       |
    18 | missed = "never"
       |          ^^^^^^^

    error: there is a schedule 'one' already
      --> broker.toml:20:8
       |
    20 | name = "one"
       |        ^^^^^
       |
       = help: its last tick is remembered by its name; give each one of its own

    error: '0 0 31 2 *' never comes
      --> broker.toml:21:9
       |
    21 | cron = "0 0 31 2 *"
       |         ^^^^^^^^^^
       |
       = help: mend the day of the month, or the month

    error: there is no time zone 'Mars'
      --> broker.toml:23:13
       |
    23 | time-zone = "Mars"
       |             ^^^^^^
       |
       = help: names are those of the IANA, such as "Europe/Berlin"

    error: schedule 4 has both `body` and `data`
      --> broker.toml:25:1
       |
    25 | data = 1
       | ^^^^
       |
       = help: `body` is a text, `data` a value that becomes JSON; leave one out

    error: attribute 'source' is 'a b', which is no URI reference such as /shop/1: ' ' is not allowed in one
      --> broker.toml:30:10
       |
    30 | source = "a b"
       |          ^^^^^

    error: nan can't be written in JSON
      --> broker.toml:31:18
       |
    31 | data = { ratio = nan }
       |                  ^^^
       |
       = help: write it as a text

    error: attribute 'type' contains the control character '\t'
      --> broker.toml:36:8
       |
    36 | type = "x\ty"
       |        ^^^^^^

    error: unknown key `timezone` in schedule 6
      --> broker.toml:38:1
       |
    38 | timezone = "UTC"
       | ^^^^^^^^
       |
       = help: did you mean `time-zone`? known keys are body, content-type, cron, data, missed, name, source, time-zone, topic, type
    "#);
    let long = format!("body = \"{}\"", "x".repeat(1025));
    let text = "[broker]\nmax-message = \"1KiB\"\n[queues.a]\n[[routes]]\nfrom = \"a\"\nto = [\"queue:a\"]\n";
    assert_snapshot!(errors(&format!("schedules = 3\n{text}")), @r#"
    error: `schedules` is a whole number; a list of tables was expected
     --> broker.toml:1:13
      |
    1 | schedules = 3
      |             ^
      |
      = help: start every schedule with [[schedules]]
    "#);
    let text = format!("{text}[[schedules]]\nname = \"x\"\ncron = \"@daily\"\ntopic = \"a\"\n{long}\n");
    let error = errors(&text);
    assert!(error.starts_with("error: the body has 1025 bytes; at most 1024 are allowed\n"), "{error}");
}

#[test]
fn topics_of_schedules_are_not_doubted_where_routes_are_wrong() {
    let text = r#"
[queues.a]
[[routes]]
from = "reports.*"
to = ["queue:b"]
[[schedules]]
name = "one"
cron = "@daily"
topic = "reports.x"
"#;
    let error = errors(text);
    assert_eq!(error.matches("error: ").count(), 1, "{error}");
}
