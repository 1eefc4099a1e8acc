//! What configurations come to, and what is said about those with mistakes.

use std::path::Path;

use super::check;

#[test]
fn smoke() {
    let text = r#"
[broker]
data = "d"

[queues.reviews]
max-attempts = 7

[[routes]]
from = "github.pull_request.*"
when = 'data.action == "opened"'
transform = '{"id": data.pull_request.id, "title": data.pull_request.title}'
to = ["queue:reviews"]

[consumers.reviewer]
queue = "reviews"
component = "reviewer.wasm"
config = { threshold = 3 }
"#;
    println!("{:#?}", check(text, Path::new("x/broker.toml")));
    let text = r#"
[brocker]
data = "d"

[queues.reviews]
max-attempts = 0
order = "key"
backof = {}
backoff = { factor = 0.5, initial = "20s", max = "5x" }

[queues."a b"]

[[routes]]
from = "github.pull_request.x*"
when = 'dta.action == "opened" && type > 3'
transform = '{"id": data.pull_request.id, "title": data.pull_request.title'
to = ["queue:revews", "stream:x", "reviews", "foo:bar"]

[[routes]]
from = "a"
when = """
  1 + "a" == 3 &&
    data.foo(3) ||
    size() > "héé".bar"""
to = []

[consumers.reviewer]
queue = "reviewers"
component = 3
source = ""
timeout = "3h"
config = { threshold = 3 }
"#;
    println!("{}", check(text, Path::new("x/broker.toml")).unwrap_err());
    println!("{}", check("[a\nx = = 3\n", Path::new("x/broker.toml")).unwrap_err());
}
