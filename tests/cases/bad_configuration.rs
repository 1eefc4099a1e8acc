//! Bad broker.toml and bad components: `pelton check` says what, where and what to do, and exits as its table says.

use crate::support::{masked, pelton, with_guests};

/// What `pelton check` says of this broker.toml.
async fn check(toml: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("broker.toml"), with_guests(toml)).expect("the folder is writable");
    std::fs::write(folder.path().join("text.wasm"), "this is no component").expect("the folder is writable");
    // The least core module: the magic number and version 1.
    std::fs::write(folder.path().join("module.wasm"), b"\0asm\x01\0\0\0").expect("the folder is writable");
    let output = pelton(folder.path(), ["check"]).await;
    masked(&output.to_string(), folder.path())
}

/// What `pelton check` says where this one component is wrong.
async fn check_component(component: &str) -> String {
    check(&format!(
        "[queues.inbox]\n[[routes]]\nfrom = \"a\"\nto = [\"queue:inbox\"]\n[consumers.bad]\nqueue = \"inbox\"\ncomponent = \"{component}\"\n"
    ))
    .await
}

#[tokio::test]
async fn malformed_toml() {
    insta::assert_snapshot!(check("[queues.inbox\nmax-attempts = 3\n").await, @r"
    exit 3
    --- stderr
    error: this is not TOML: unclosed table, expected `]`
     --> broker.toml:1:14
      |
    1 | [queues.inbox
      |              ^
    ");
}

#[tokio::test]
async fn an_unknown_key_with_the_nearest_known_one() {
    insta::assert_snapshot!(check("[queues.inbox]\nmax-atempts = 3\n[brokers]\ndata = \"d\"\n").await, @r"
    exit 3
    --- stderr
    error: unknown key `max-atempts` in [queues.inbox]
     --> broker.toml:2:1
      |
    2 | max-atempts = 3
      | ^^^^^^^^^^^
      |
      = help: did you mean `max-attempts`? known keys are backoff, dead-letter, expired, key, max-age, max-attempts, max-bytes, max-messages, order, overflow, priority, ttl

    error: unknown key `brokers` in this file
     --> broker.toml:3:2
      |
    3 | [brokers]
      |  ^^^^^^^
      |
      = help: did you mean `broker`? known keys are broker, consumers, dev, http, queues, routes, sandbox, schedules, topics
    ");
}

#[tokio::test]
async fn an_unknown_queue_in_a_route() {
    let toml = "[queues.reviews]\n\n[[routes]]\nfrom = \"a.*\"\nto = [\"queue:review\"]\n";
    insta::assert_snapshot!(check(toml).await, @r#"
    exit 3
    --- stderr
    error: the queue 'review' does not exist
     --> broker.toml:5:7
      |
    5 | to = ["queue:review"]
      |       ^^^^^^^^^^^^^^
      |
      = help: did you mean 'reviews'? Otherwise declare it with [queues.review]
    "#);
}

#[tokio::test]
async fn filters_with_a_typo_or_a_wrong_type() {
    let toml = r#"
[queues.inbox]

[[routes]]
from = "a"
when = 'dat.total > 1'
to = ["queue:inbox"]

[[routes]]
from = "b"
when = 'data.total >'
to = ["queue:inbox"]

[[routes]]
from = "c"
when = '1 + 2'
to = ["queue:inbox"]

[[routes]]
from = "d"
when = 'data.tags.contans("x")'
to = ["queue:inbox"]
"#;
    insta::assert_snapshot!(check(toml).await, @r#"
    exit 3
    --- stderr
    error: unknown name 'dat'
     --> broker.toml:6:9
      |
    6 | when = 'dat.total > 1'
      |         ^^^
      |
      = help: did you mean 'data'?

    error: this is not CEL: it ends too early
      --> broker.toml:11:21
       |
    11 | when = 'data.total >'
       |                     ^

    error: a filter is a condition, and this is an int
      --> broker.toml:16:9
       |
    16 | when = '1 + 2'
       |         ^^^^^
       |
       = help: compare it with something: ... == ...

    error: unknown function .contans()
      --> broker.toml:21:19
       |
    21 | when = 'data.tags.contans("x")'
       |                   ^^^^^^^
       |
       = help: did you mean .contains()?
    "#);
}

#[tokio::test]
async fn transforms_with_a_typo_or_a_wrong_type() {
    let toml = r#"
[queues.inbox]

[[routes]]
from = "a"
transform = '{"id": dta.id}'
to = ["queue:inbox"]

[[routes]]
from = "b"
transform = '{"id": data.id'
to = ["queue:inbox"]

[[routes]]
from = "c"
transform = '"text"'
to = ["queue:inbox"]
"#;
    insta::assert_snapshot!(check(toml).await, @r#"
    exit 3
    --- stderr
    error: unknown name 'dta'
     --> broker.toml:6:21
      |
    6 | transform = '{"id": dta.id}'
      |                     ^^^
      |
      = help: did you mean 'data'?

    error: this is not CEL: it ends too early
      --> broker.toml:11:28
       |
    11 | transform = '{"id": data.id'
       |                            ^

    error: a transform is a map, a list of maps or null, and this is a string
      --> broker.toml:16:14
       |
    16 | transform = '"text"'
       |              ^^^^^^
       |
       = help: write the new body: {"field": ...}
    "#);
}

#[tokio::test]
async fn values_of_the_wrong_kind_or_out_of_bounds() {
    let toml = r#"
[broker]
max-hops = 300

[queues.inbox]
max-attempts = "three"
backoff = { initial = "1 parsec" }

[[routes]]
from = "a..b"
to = "queue:inbox"
"#;
    insta::assert_snapshot!(check(toml).await, @r#"
    exit 3
    --- stderr
    error: `max-hops` is 300; it may be 1 to 255
     --> broker.toml:3:12
      |
    3 | max-hops = 300
      |            ^^^

    error: `max-attempts` is a string; a whole number was expected
     --> broker.toml:6:16
      |
    6 | max-attempts = "three"
      |                ^^^^^^^

    error: '1 parsec' is not a duration
     --> broker.toml:7:23
      |
    7 | backoff = { initial = "1 parsec" }
      |                       ^^^^^^^^^^
      |
      = help: write it like "250ms", "30s", "5m" or "1h30m"

    error: the topic pattern 'a..b' has an empty word
      --> broker.toml:10:11
       |
    10 | from = "a..b"
       |           ^
       |
       = help: leave out the dot, or write '*' for any one word

    error: `to` is a string; a list of strings was expected
      --> broker.toml:11:6
       |
    11 | to = "queue:inbox"
       |      ^^^^^^^^^^^^^
       |
       = help: write a list: to = ["queue:inbox"]
    "#);
}

#[tokio::test]
async fn other_machines_may_not_come_in_without_a_token() {
    insta::assert_snapshot!(check("[http]\nlisten = \"0.0.0.0:7656\"\n").await, @r#"
    exit 3
    --- stderr
    error: 0.0.0.0:7656 can be reached from other machines, and there is no token
     --> broker.toml:2:10
      |
    2 | listen = "0.0.0.0:7656"
      |          ^^^^^^^^^^^^^^
      |
      = help: add `token = { env = "PELTON_TOKEN" }` to [http], or listen on 127.0.0.1
    "#);
}

#[tokio::test]
async fn a_missing_component() {
    insta::assert_snapshot!(check_component("nowhere.wasm").await, @r"
    exit 4
    --- stderr
    error: consumer 'bad': nowhere.wasm: there is no such file; build the consumer, or correct its path
     --> broker.toml:7:1
    ");
}

#[tokio::test]
async fn a_component_that_is_something_else() {
    insta::assert_snapshot!(check_component("text.wasm").await, @r"
    exit 4
    --- stderr
    error: consumer 'bad': text.wasm: not WebAssembly: build the consumer for wasm32-wasip2 and give its .wasm file
     --> broker.toml:7:1
    ");
}

#[tokio::test]
async fn a_core_module() {
    insta::assert_snapshot!(check_component("module.wasm").await, @r"
    exit 4
    --- stderr
    error: consumer 'bad': module.wasm: a core WebAssembly module, not a component: build for wasm32-wasip2
     --> broker.toml:7:1
    ");
}

#[tokio::test]
async fn a_component_for_another_world() {
    insta::assert_snapshot!(check_component("guest:wrong-world").await, @r"
    exit 4
    --- stderr
    error: consumer 'bad': [root]/target/guests/wasm32-wasip2/release/wrong_world.wasm: it was built for another world: a consumer exports pelton:broker/handler@0.1.0, and it exports greet
     --> broker.toml:7:1
    ");
}

#[tokio::test]
async fn a_program() {
    insta::assert_snapshot!(check_component("guest:command").await, @r#"
    exit 4
    --- stderr
    error: consumer 'bad': [root]/target/guests/wasm32-wasip2/release/command.wasm: it is a program (it exports wasi:cli/run), not a consumer: build a library (crate-type = ["cdylib"]) that exports pelton:broker/handler@0.1.0, in Rust with pelton-guest's consumer! macro
     --> broker.toml:7:1
    "#);
}

#[tokio::test]
async fn a_component_that_needs_what_comes_later() {
    insta::assert_snapshot!(check_component("guest:keyvalue").await, @r"
    exit 4
    --- stderr
    error: consumer 'bad': [root]/target/guests/wasm32-wasip2/release/keyvalue.wasm: it imports what this Pelton does not provide: wasi:keyvalue/store@0.2.0-draft2 (state (wasi:keyvalue@0.2.0-draft2) comes with a later version of Pelton)
     --> broker.toml:7:1
    ");
}

#[tokio::test]
async fn no_configuration_at_all() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = pelton(folder.path(), ["check"]).await;
    insta::assert_snapshot!(masked(&output.to_string(), folder.path()), @r##"
    exit 3
    --- stderr
    error: there is no broker.toml in [folder] or in a folder above it
    help: go to the folder that has one, name it with --config FILE, or write one; the smallest is

        [queues.inbox]

        [[routes]]
        from = "#"
        to = ["queue:inbox"]
    "##);
    let output = pelton(folder.path(), ["check", "--config", "other.toml"]).await;
    insta::assert_snapshot!(masked(&output.to_string(), folder.path()), @r"
    exit 3
    --- stderr
    error: other.toml does not exist
    help: --config names the file; without it, broker.toml is taken
    ");
}
