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
    insta::assert_snapshot!(check("[queues.inbox\nmax-attempts = 3\n").await, @"");
}

#[tokio::test]
async fn an_unknown_key_with_the_nearest_known_one() {
    insta::assert_snapshot!(check("[queues.inbox]\nmax-atempts = 3\n[brokers]\ndata = \"d\"\n").await, @"");
}

#[tokio::test]
async fn an_unknown_queue_in_a_route() {
    let toml = "[queues.reviews]\n\n[[routes]]\nfrom = \"a.*\"\nto = [\"queue:review\"]\n";
    insta::assert_snapshot!(check(toml).await, @"");
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
    insta::assert_snapshot!(check(toml).await, @"");
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
    insta::assert_snapshot!(check(toml).await, @"");
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
    insta::assert_snapshot!(check(toml).await, @"");
}

#[tokio::test]
async fn other_machines_may_not_come_in_without_a_token() {
    insta::assert_snapshot!(check("[http]\nlisten = \"0.0.0.0:7656\"\n").await, @"");
}

#[tokio::test]
async fn a_missing_component() {
    insta::assert_snapshot!(check_component("nowhere.wasm").await, @"");
}

#[tokio::test]
async fn a_component_that_is_something_else() {
    insta::assert_snapshot!(check_component("text.wasm").await, @"");
}

#[tokio::test]
async fn a_core_module() {
    insta::assert_snapshot!(check_component("module.wasm").await, @"");
}

#[tokio::test]
async fn a_component_for_another_world() {
    insta::assert_snapshot!(check_component("guest:wrong-world").await, @"");
}

#[tokio::test]
async fn a_program() {
    insta::assert_snapshot!(check_component("guest:command").await, @"");
}

#[tokio::test]
async fn a_component_that_needs_what_comes_later() {
    insta::assert_snapshot!(check_component("guest:keyvalue").await, @"");
}

#[tokio::test]
async fn no_configuration_at_all() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = pelton(folder.path(), ["check"]).await;
    insta::assert_snapshot!(masked(&output.to_string(), folder.path()), @"");
    let output = pelton(folder.path(), ["check", "--config", "other.toml"]).await;
    insta::assert_snapshot!(masked(&output.to_string(), folder.path()), @"");
}
