//! What filters and transforms do to messages, and what is said about those with mistakes.

use super::*;
use crate::message::Attributes;

const BODY: &str = r#"{
    "action": "opened", "n": 3, "big": 18446744073709551615, "f": 1.5, "no": null, "yes": true, "text": "a\nb",
    "pull": {"id": 7, "title": "Fix \"it\"", "labels": [{"name": "bug"}, {"name": "ui"}]},
    "list": [1, 2, 3], "empty": [], "map": {"b": 1, "a": 2}, "deep": {"er": {"est": "x"}}
}"#;

fn message(content_type: Option<&str>, body: &[u8]) -> Message {
    let attributes = Attributes {
        id: "id-1",
        source: "/shop",
        kind: "order.created",
        time: Some("2026-01-31T12:00:00Z"),
        content_type,
        extensions: &[("tenant", "acme")],
        ..Attributes::default()
    };
    Message::new(&attributes, body).expect("a message")
}

fn json() -> Message {
    message(Some("application/json"), BODY.as_bytes())
}

fn topic() -> Topic {
    Topic::new("orders.created").expect("a topic")
}

fn router(filter: Option<&str>, transform: Option<&str>) -> Router {
    let route = Route {
        pattern: Pattern::new("orders.*").expect("a pattern"),
        filter: filter.map(|source| Filter::new(source).unwrap_or_else(|problems| panic!("{source}: {problems:?}"))),
        transform: transform
            .map(|source| Transform::new(source).unwrap_or_else(|problems| panic!("{source}: {problems:?}"))),
        targets: vec![QueueIndex(4)],
    };
    Router::new(vec![route], 1 << 20)
}

/// What a filter says of a message: `yes`, `no`, or why it failed.
fn filtered(filter: &str, message: &Message) -> String {
    let routed = router(Some(filter), None).route(&topic(), message);
    assert!(routed.matched, "{filter}");
    match routed.entries.as_slice() {
        [] => "no".to_owned(),
        [entry] => {
            assert_eq!((entry.queue, &entry.message), (QueueIndex(4), message), "{filter}");
            entry.failed.clone().unwrap_or_else(|| "yes".to_owned())
        }
        more => panic!("{filter}: {} entries", more.len()),
    }
}

fn check_filter(filter: &str, expected: &str) {
    assert_eq!(filtered(filter, &json()), expected, "{filter}");
}

/// The ids and bodies that a transform makes, or why it failed.
fn transformed(transform: &str, message: &Message) -> String {
    let routed = router(None, Some(transform)).route(&topic(), message);
    let show = |entry: &RoutedEntry| match &entry.failed {
        Some(reason) => {
            assert_eq!(&entry.message, message, "{transform}: a failed entry keeps its message");
            reason.clone()
        }
        None => {
            assert_eq!(entry.message.content_type(), Some("application/json"), "{transform}");
            let kept = |message: &Message| {
                (message.source().to_owned(), message.kind().to_owned(), message.time().map(str::to_owned))
            };
            assert_eq!(kept(&entry.message), kept(message), "{transform}");
            assert_eq!(entry.message.extension("tenant"), Some("acme"), "{transform}");
            format!("{} {}", entry.message.id(), String::from_utf8_lossy(entry.message.data()))
        }
    };
    routed.entries.iter().map(show).collect::<Vec<_>>().join("\n")
}

fn check_transform(transform: &str, expected: &str) {
    assert_eq!(transformed(transform, &json()), expected, "{transform}");
}

#[test]
fn filters_see_attributes_and_body() {
    check_filter("data.action == 'opened'", "yes");
    check_filter("data.action == 'closed'", "no");
    check_filter("data['action'] == 'opened' && data.pull.id == 7", "yes");
    check_filter("id == 'id-1' && source == '/shop' && type == 'order.created' && topic == 'orders.created'", "yes");
    check_filter("datacontenttype.startsWith('application/')", "yes");
    check_filter("timestamp(time).getFullYear() == 2026", "yes");
    check_filter("extensions.tenant == 'acme' && 'tenant' in extensions && !('other' in extensions)", "yes");
    check_filter("data.yes", "yes");
    check_filter("data.no == null", "yes");
    check_filter("data.text == 'a\\nb'", "yes");
    check_filter("data.n == 3 && data.n < 3.5 && data.f == 1.5 && data.big > 1u", "yes");
    check_filter("data.list == [1, 2, 3] && [1, 2, 3] == data.list && 2 in data.list && size(data.list) == 3", "yes");
    check_filter("data.list[0] == 1 && data.pull.labels[1].name == 'ui'", "yes");
    check_filter("data.map == {'a': 2, 'b': 1} && {'a': 2, 'b': 1} == data.map", "yes");
    check_filter("data.pull.labels.exists(l, l.name == 'bug') && data.list.all(n, n > 0)", "yes");
    check_filter("data.pull.labels.map(l, l.name) == ['bug', 'ui']", "yes");
    check_filter("data.action.matches('^open')", "yes");
    check_filter("'ref/heads/main'.split('/')[2] == 'main' && data.action.upperAscii() == 'OPENED'", "yes");
    check_filter("has(data.pull.title) && !has(data.pull.body)", "yes");
    check_filter("data.?pull.?draft.orValue(false) == false", "yes");
    check_filter("data.list + [4] == [1, 2, 3, 4] && [0] + data.list == [0, 1, 2, 3]", "yes");
    check_filter("data.action + data.text == 'openeda\\nb' && 'x' + data.text == 'xa\\nb'", "yes");
    check_filter("type(data.f) == double && type(data.n) == int", "yes");
    check_filter("data.map.map(k, k) == ['a', 'b']", "yes");
}

#[test]
fn what_is_missing_does_not_pass() {
    check_filter("data.nope == 1", "no");
    check_filter("!(data.nope == 1)", "no");
    check_filter("data.nope.deeper == 1", "no");
    check_filter("data.pull.nope == 1", "no");
    check_filter("data.no.deeper == 1", "no");
    check_filter("data.list[7] == 1", "no");
    check_filter("data.pull['nope'] == 1", "no");
    check_filter("has(data.nope.deeper)", "no");
    check_filter("subject == 'x'", "no");
    check_filter("subject != 'x'", "no");
    check_filter("extensions.nope == 'x'", "no");
    check_filter("data.nope == 1 || data.action == 'opened'", "yes");
    check_filter("data.nope == 1 || data.action == 'closed'", "no");
    check_filter("data.pull.labels.exists(l, l.nope == 1)", "no");
    let empty = message(None, b"");
    assert_eq!(filtered("data.action == 'opened'", &empty), "no");
    assert_eq!(filtered("type == 'order.created'", &empty), "yes");
}

#[test]
fn what_can_not_be_told_is_kept_as_failed() {
    let filter = |reason: &str| format!("route 1 (orders.*): filter: {reason}");
    check_filter("data.n", &filter("it is of the type int, not a bool"));
    check_filter("data.action > 3", &filter("'>' can't be applied to string and int"));
    check_filter("data.action.deeper == 1", &filter("it looks for a field or element of a string"));
    check_filter("data.list.deeper == 1", &filter("it looks for a field or element of a list"));
    check_filter("data.n + data.f == 1.0", &filter("'+' can't be applied to int and double"));
    check_filter("data.n / 0 == 1", &filter("division by zero"));
    check_filter("int(data.action) == 1", &filter("int() can't be applied to what it was given"));
    check_filter("data.action.startsWith(data.n)", &filter("'startsWith' can't be applied to string and int"));
    check_filter("data.n.exists(x, x == 1)", &filter("iterable was expected, and this is int"));
    let check = |content_type, body: &[u8], reason: &str| {
        assert_eq!(filtered("data.a == 1", &message(content_type, body)), filter(reason));
    };
    let why = |kind: &str, content_type: &str| {
        format!(
            "`data` is {kind}, because the content type is '{content_type}'; publish with content-type: application/json"
        )
    };
    check(None, b"{\"a\": 1", "the body is not JSON: it ends too early");
    check(None, b"{\"a\": 1} x", "the body is not JSON: trailing characters at line 1 column 10");
    check(None, b"hello", "the body is not JSON: expected value at line 1 column 1");
    check(None, &[b'[', 0xff, b']'], "the body is not JSON: expected value at line 1 column 2");
    check(Some("text/plain"), b"{\"a\": 1}", &why("a string", "text/plain"));
    check(Some("image/png"), b"{\"a\": 1}", &why("bytes", "image/png"));
    let form = "application/x-www-form-urlencoded";
    check(Some(form), b"{\"a\": 1}", &why("bytes", form));
}

#[test]
fn bodies_that_are_not_json_are_text_or_bytes() {
    let text = message(Some("text/plain; charset=utf-8"), "h\u{e9}llo".as_bytes());
    assert_eq!(filtered("data == 'h\u{e9}llo' && size(data) == 5", &text), "yes");
    let binary = message(Some("application/octet-stream"), &[1, 2, 255]);
    assert_eq!(filtered("size(data) == 3 && data == b'\\x01\\x02\\xff'", &binary), "yes");
    assert_eq!(filtered("size(data) == 2", &message(Some("text/plain"), &[0xff, 0xfe])), "yes");
}

#[test]
fn transforms_make_bodies() {
    check_transform("{'id': data.pull.id, 'title': data.pull.title}", r#"id-1 {"id":7,"title":"Fix \"it\""}"#);
    check_transform("data.map", r#"id-1 {"a":2,"b":1}"#);
    check_transform("{}", "id-1 {}");
    check_transform(
        "{'i': data.n, 'u': data.big, 'f': data.f, 'n': null, 'b': true, 's': data.text, 'l': data.empty, 'k': 2u}",
        r#"id-1 {"b":true,"f":1.5,"i":3,"k":2,"l":[],"n":null,"s":"a\nb","u":18446744073709551615}"#,
    );
    check_transform("{1: 'a', true: 'b', 'c': 1.0}", r#"id-1 {"1":"a","c":1.0,"true":"b"}"#);
    check_transform("{'t': timestamp(time), 'd': duration('90s')}", r#"id-1 {"d":"90s","t":"2026-01-31T12:00:00Z"}"#);
    check_transform("[{'n': 1}, {'n': 2}]", "id-1-0 {\"n\":1}\nid-1-1 {\"n\":2}");
    check_transform("[{'n': 1}]", "id-1-0 {\"n\":1}");
    check_transform(
        "data.pull.labels.map(l, {'label': l.name})",
        "id-1-0 {\"label\":\"bug\"}\nid-1-1 {\"label\":\"ui\"}",
    );
    check_transform("data.pull.labels.filter(l, l.name == 'ui')", "id-1-0 {\"name\":\"ui\"}");
    check_transform(
        "data.list.map(n, n > 1, {'n': n, 'all': data.map})",
        "id-1-0 {\"all\":{\"a\":2,\"b\":1},\"n\":2}\nid-1-1 {\"all\":{\"a\":2,\"b\":1},\"n\":3}",
    );
    check_transform("[]", "");
    check_transform("null", "");
    check_transform("data.n > 5 ? {'n': data.n} : null", "");
}

#[test]
fn numbers_are_read_to_their_last_digit() {
    for number in ["243.78484999999998", "0.30000000000000004", "4.524734787229902e257", "-5e-324"] {
        let message = message(Some("application/json"), format!("{{\"n\":{number}}}").as_bytes());
        assert_eq!(filtered(&format!("data.n == {number}"), &message), "yes", "{number}");
        let made: serde_json::Value = serde_json::from_slice(message.data()).expect("it is JSON");
        assert_eq!(transformed("{'n': data.n}", &message), format!("id-1 {made}"));
        assert_eq!(made["n"].as_f64(), number.parse().ok(), "{number}");
    }
}

#[test]
fn failed_transforms_keep_their_message() {
    let failed = |reason: &str| format!("route 1 (orders.*): transform: {reason}");
    check_transform("{'x': data.nope}", &failed("there is no 'nope'"));
    check_transform("{'x': data.map[data.action]}", &failed("there is no field of the name that it computes"));
    check_transform("{'x': subject}", &failed("the message has no 'subject'"));
    check_transform("{'x': data.list[9]}", &failed("the index is out of bounds"));
    check_transform("data.n", &failed("it is of the type int, not a map, a list of maps or null"));
    check_transform("data.list", &failed("element 0 of its list is of the type int, not a map"));
    check_transform("{'x': b'abc'}", &failed("bytes have no form in JSON; convert them with string()"));
    check_transform("{'x': double('inf')}", &failed("the number inf has no form in JSON"));
    check_transform("{'x': data.?nope}", &failed("an optional_type has no form in JSON; end it with .orValue(...)"));
    check_transform("{'x': type(data.n)}", &failed("a type has no form in JSON"));
    check_transform("{1: 'a', '1': 'b'}", &failed("a map has a key twice, as different types"));
    let long = message(None, format!("{{\"x\": \"{}\"}}", "y".repeat(600_000)).as_bytes());
    assert_eq!(
        transformed("{'x': data.x, 'y': data.x}", &long),
        failed("the message that it makes has more than 1048576 bytes")
    );
}

#[test]
fn the_reason_of_a_failure_is_short() {
    let transform = format!("{{'x': data.{}}}", "y".repeat(2_000));
    let reason = transformed(&transform, &json());
    assert_eq!(reason.len(), FAILED_BYTES_MAX);
    assert!(reason.ends_with("yyy ..."), "{reason}");
}

#[test]
fn every_target_of_a_failed_route_gets_an_entry() {
    let route = |filter: Option<&str>, targets: &[usize]| Route {
        pattern: Pattern::new("#").expect("a pattern"),
        filter: filter.map(|source| Filter::new(source).expect("a filter")),
        transform: None,
        targets: targets.iter().map(|at| QueueIndex(*at)).collect(),
    };
    let routes = vec![
        route(None, &[0]),
        route(Some("data.n"), &[1, 2]),
        route(Some("data.yes"), &[3]),
        route(Some("!data.yes"), &[4]),
    ];
    let routed = Router::new(routes, 1 << 20).route(&topic(), &json());
    let entries: Vec<_> = routed.entries.iter().map(|entry| (entry.queue.0, entry.failed.is_some())).collect();
    assert_eq!(entries, [(0, false), (1, true), (2, true), (3, false)]);
}

#[test]
fn topics_without_a_route_are_unroutable() {
    let router = router(Some("false"), None);
    let elsewhere = Topic::new("other").expect("a topic");
    assert!(!router.route(&elsewhere, &json()).matched);
    assert!(!EmitGate::routes(&router, &elsewhere));
    assert!(EmitGate::routes(&router, &topic()));
    let routed = router.route(&topic(), &json());
    assert!(routed.matched && routed.entries.is_empty(), "filtered out is not unroutable");
}

#[test]
fn hostile_bodies_are_refused_in_bounded_time() {
    let failed = |reason: &str| format!("route 1 (orders.*): filter: {reason}");
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let check = |filter: &str, body: &str, reason: &str| {
        assert_eq!(filtered(filter, &message(None, body.as_bytes())), failed(reason), "{filter}");
    };
    check("data.a == 1", &deep, "the body is not JSON: recursion limit exceeded at line 1 column 133");
    let wide = format!("{{\"a\": [{}0]}}", "0,".repeat(400_000));
    check("data.a == 1", &wide, "the body has more than 250000 JSON values");
    let list = format!("{{\"a\": [{}0], \"s\": \"{}\"}}", "0,".repeat(5_000), "x".repeat(400_000));
    let exhausted = "it takes more than 100000 steps on this message";
    check("data.a.all(x, data.a.all(y, x == y))", &list, exhausted);
    check("data.a.map(x, data.a.map(y, y)) == []", &list, exhausted);
    check("data.a.filter(x, data.a.exists_one(y, y == 1)) == []", &list, exhausted);
    check("data.a.exists(x, data.a.exists(y, y == 1) || data.nope == 1)", &list, exhausted);
    check("data.a.map(x, data.s + data.s).size() == 3", &list, exhausted);
    assert_eq!(filtered("data.a.map(x, {'all': data}).size() == 5001", &message(None, list.as_bytes())), "yes");
    assert_eq!(filtered("data.a.all(x, x == 0)", &message(None, list.as_bytes())), "yes");
}

#[test]
fn heavy_steps_count_for_more() {
    let numbers = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let body =
        format!("{{\"a\": [{}], \"b\": [{}], \"s\": \"{}\"}}", numbers(9_000), numbers(60_000), "x".repeat(200_000));
    let body = message(None, body.as_bytes());
    let check = |filter: &str, expected: &str| {
        let exhausted = "route 1 (orders.*): filter: it takes more than 100000 steps on this message";
        assert_eq!(filtered(filter, &body), if expected == "exhausted" { exhausted } else { expected }, "{filter}");
    };
    check("data.a.all(x, x in data.b)", "exhausted");
    check("data.a.all(x, data.b == data.b)", "exhausted");
    check("data.a.exists(x, data.s.matches('y$'))", "exhausted");
    check("data.a.exists(x, data.s.contains('y'))", "exhausted");
    check("data.a.exists(x, data.s > data.s)", "exhausted");
    check("data.b.all(x, x < 60000 && x != -1 && [x][0] == 1 ? true : x >= 0)", "yes");
    check("data.a.all(x, x in data.a)", "exhausted");
    check("[1, 2, 3].all(x, x in data.b)", "yes");
}

#[test]
fn every_function_of_the_table_works() {
    let uses = [
        "bool('true')",
        "bytes('a') == b'a'",
        "double('1.5') == 1.5",
        "duration('90s') > duration('1m')",
        "dyn(1) == 1",
        "int('3') == 3",
        "matches('abc', '^a.c$')",
        "size([1]) == 1",
        "string(1) == '1'",
        "timestamp('2026-01-31T12:00:00Z') < timestamp('2027-01-31T12:00:00Z')",
        "type(1) == int",
        "uint(1) == 1u",
        "!optional.none().hasValue()",
        "optional.of(1).value() == 1",
        "optional.ofNonZeroValue(1).or(optional.none()).orValue(2) == 1",
        "'abc'.charAt(1) == 'b'",
        "'abc'.contains('b')",
        "'abc'.endsWith('c')",
        "'abcb'.indexOf('b') == 1",
        "'abcb'.indexOf('b', 2) == 3",
        "'abcb'.lastIndexOf('b') == 3",
        "'aBc'.lowerAscii() == 'abc'",
        "'abc'.matches('b')",
        "'abc'.reverse() == 'cba'",
        "'abc'.size() == 3",
        "'a,b'.split(',') == ['a', 'b']",
        "'a,b,c'.split(',', 2) == ['a', 'b,c']",
        "'abc'.startsWith('a')",
        "'abc'.substring(1) == 'bc'",
        "'abc'.substring(1, 2) == 'b'",
        "' a '.trim() == 'a'",
        "'aBc'.upperAscii() == 'ABC'",
        "timestamp(time).getDate() == 31",
        "timestamp(time).getDayOfMonth() == 30",
        "timestamp(time).getDayOfWeek() == 6",
        "timestamp(time).getDayOfYear() == 30",
        "timestamp(time).getFullYear() == 2026",
        "timestamp(time).getHours() == 12",
        "timestamp(time).getHours('Europe/Berlin') == 13",
        "duration('90s').getMilliseconds() == 90000",
        "timestamp(time).getMinutes() == 0",
        "timestamp(time).getMonth() == 0",
        "timestamp(time).getSeconds() == 0",
        "has(data.action)",
        "[1].all(x, x == 1)",
        "[1].exists(x, x == 1)",
        "[1].exists_one(x, x == 1)",
        "[1].existsOne(x, x == 1)",
        "[1].filter(x, x == 1) == [1]",
        "[1].map(x, x + 1) == [2]",
    ];
    for filter in uses {
        check_filter(filter, "yes");
    }
    let all = uses.join("\n");
    for name in types::names(true).chain(types::names(false)) {
        assert!(all.contains(&format!("{name}(")), "{name}() is in the table and not tested");
    }
}

#[test]
fn bodies_are_read_only_as_far_as_expressions_look() {
    let want = |source: &str| Filter::new(source).map(|filter| filter.want().cloned()).expect("a filter");
    let fields = |paths: &[&[&str]]| {
        let mut want = body::Want::default();
        paths.iter().for_each(|path| want.add(path));
        Some(want)
    };
    assert_eq!(want("type == 'x'"), None);
    assert_eq!(want("data.a.b == 1 && data.c == 2"), fields(&[&["a", "b"], &["c"]]));
    assert_eq!(want("data['a'].b == 1 && has(data.a.c)"), fields(&[&["a", "b"], &["a", "c"]]));
    assert_eq!(want("data.a[0].b == 1"), fields(&[&["a"]]));
    assert_eq!(want("data.a.b == 1 && data.a == 1"), fields(&[&["a"]]));
    assert_eq!(want("data.?a.b.orValue(1) == 1"), fields(&[&["a", "b"]]));
    assert_eq!(want("data[type] == 1"), Some(body::Want::All));
    assert_eq!(want("[1].exists(data, data.a == 1)"), None);
    assert_eq!(want("data.list.exists(x, x == data.n)"), fields(&[&["list"], &["n"]]));
    // What nobody looks at is skipped, whatever it is, as long as it is JSON.
    let body = format!("{{\"a\": 1, \"b\": [{}0]}}", "0,".repeat(400_000));
    assert_eq!(filtered("data.a == 1", &message(None, body.as_bytes())), "yes");
}

/// All mistakes in an expression as `place: message (help)`.
fn mistakes(compiled: Result<(), Vec<Problem>>, source: &str) -> String {
    let problems = compiled.expect_err(source);
    let show = |problem: &Problem| {
        let help = problem.help.as_deref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("`{}`: {}{help}", &source[problem.span.clone()], problem.message)
    };
    problems.iter().map(show).collect::<Vec<_>>().join("\n")
}

fn check_bad_filter(source: &str, expected: &str) {
    assert_eq!(mistakes(Filter::new(source).map(|_| ()), source), expected, "{source}");
}

fn check_bad_transform(source: &str, expected: &str) {
    assert_eq!(mistakes(Transform::new(source).map(|_| ()), source), expected, "{source}");
}

#[test]
fn mistakes_are_found_when_expressions_are_loaded() {
    check_bad_filter("", "``: the expression is empty (leave the key out)");
    check_bad_filter("dta.action == 1", "`dta`: unknown name 'dta' (did you mean 'data'?)");
    check_bad_filter("data.x.exists(item, itm == 1)", "`itm`: unknown name 'itm' (did you mean 'item'?)");
    check_bad_filter(
        "data.x.starstWith('a')",
        "`starstWith`: unknown function .starstWith() (did you mean .startsWith()?)",
    );
    check_bad_filter("siez(data) == 1", "`siez`: unknown function siez() (did you mean size()?)");
    check_bad_filter(
        "startsWith(data.x, 'a')",
        "`startsWith`: unknown function startsWith() (write text.startsWith(part))",
    );
    check_bad_filter("data.x.has()", "`has`: unknown function .has() (write has(data.field))");
    check_bad_filter(
        "data.x.exists(1)",
        "`exists`: exists() is not called like that (write list.exists(item, condition))",
    );
    check_bad_filter(
        "type.startsWith(1)",
        "`startsWith`: startsWith() can't be called with an int (write text.startsWith(part))",
    );
    check_bad_filter(
        "(1).startsWith('a')",
        "`startsWith`: an int has no function startsWith() (write text.startsWith(part))",
    );
    check_bad_filter(
        "data.x + 1",
        "`data.x + 1`: a filter is a condition, and this is an int (compare it with something: ... == ...)",
    );
    check_bad_filter(
        "'abc'",
        "`'abc'`: a filter is a condition, and this is a string (compare it with something: ... == ...)",
    );
    check_bad_filter(
        "1 + 'a' == 2",
        "`+`: '+' can't be applied to an int and a string (convert the other one: string(x))",
    );
    check_bad_filter(
        "1 + 1.0 == 2.0",
        "`+`: '+' can't be applied to an int and a double (convert one of them: int(x), uint(x) or double(x))",
    );
    check_bad_filter("type > 3", "`>`: '>' can't be applied to a string and an int");
    check_bad_filter("type == 3", "`==`: a string is never equal to an int");
    check_bad_filter("type && true", "`type`: '&&' takes bools, and this is a string");
    check_bad_filter("!size(data.x)", "`(`: '!' takes bools, and this is an int");
    check_bad_filter(
        "type.x == 1",
        "`.`: a string has no field 'x' (only maps have fields; the body of the message is 'data')",
    );
    check_bad_filter("type[0] == 'x'", "`[`: a string can't be indexed with an int");
    check_bad_filter(
        "type.exists(c, c == 'x')",
        "`type`: a string has no elements to go over (comprehensions go over lists, and over the keys of maps)",
    );
    check_bad_filter(
        "data.x.matches(data.y)",
        "`.`: matches() takes a pattern that is known beforehand (write the regular expression itself, in quotes)",
    );
    check_bad_filter("data.x.matches('a(')", "`'a('`: this is not a regular expression (unclosed group)");
    check_bad_filter("has(data)", "`data`: this is not CEL: invalid argument to has() macro");
    check_bad_filter(
        "data.a.all(x, data.b.all(y, data.c.all(z, x == z)))",
        "`(`: comprehensions can't be nested more than 2 deep (do this in a component)",
    );
    check_bad_filter(
        "[data].map(x, [x, x]).map(x, [x, x]).map(x, [x, x]).map(x, [x, x]).map(x, [x, x]) == []",
        "`(`: more than 4 comprehensions can't work on each other's results (do this in a component)",
    );
    check_bad_filter("A{b: 1} == 1", "`{`: there is no message type 'A' (write a map: {\"field\": value})");
    check_bad_filter(
        "dta == 1 || tpye == 2",
        "`dta`: unknown name 'dta' (did you mean 'data'?)\n`tpye`: unknown name 'tpye' (did you mean 'type'?)",
    );
    check_bad_transform("{'a': 1, 'a': 2}", "`'a'`: the key \"a\" stands twice in this map");
    check_bad_transform("{1.5: 1}", "`1.5`: a double can't be the key of a map (keys are strings)");
    check_bad_transform(
        "data.x == 1",
        "`data.x == 1`: a transform is a map, a list of maps or null, and this is a bool (a condition belongs into 'when')",
    );
    check_bad_transform(
        "[{'a': 1}, 3]",
        "`3`: a message's body is a map, and this is an int (write a map: {\"field\": value})",
    );
    check_bad_transform(
        "data.text.replace('a', 'b')",
        "`replace`: unknown function .replace() (it could make far too long texts; do this in a component)",
    );
    check_bad_filter(
        &"x".repeat(9_000),
        &format!(
            "`{}`: the expression has 9000 bytes; at most 8192 are allowed (do this in a component)",
            "x".repeat(9_000)
        ),
    );
}

#[test]
fn mistakes_in_the_syntax_are_pointed_at() {
    check_bad_filter("data.x ==", "``: this is not CEL: it ends too early");
    check_bad_filter("data.x == 'abc", "`'`: this is not CEL: the quote is not closed");
    check_bad_filter("data.x = 1", "`=`: this is not CEL: '=' does not belong here (compare with '==')");
    check_bad_filter("data.x && & 1", "`&`: this is not CEL: '&' does not belong here (combine conditions with '&&')");
    check_bad_filter("'h\u{e9}' == 'h\u{e9}' 1", "`1`: this is not CEL: '1' does not belong here");
    check_bad_filter(
        "data.x == 1\n  and data.y",
        "`and`: this is not CEL: 'and' does not belong here (combine conditions with '&&')",
    );
    check_bad_filter(
        "data.x == \"\\q\"",
        "`\"`: this is not CEL: the string has an escape that there is not (write \\\\ for a backslash)",
    );
}

#[test]
fn deep_expressions_are_refused_before_they_harm() {
    let deep = "the expression is nested more than 100 deep";
    for source in [
        format!("{}1{} == 1", "(".repeat(4_000), ")".repeat(4_000)),
        format!("{}1{} == 1", "[".repeat(4_000), "]".repeat(4_000)),
        format!("1{} == 1", "+1".repeat(4_000)),
        format!("data{} == 1", ".a".repeat(4_000)),
        format!("{}true", "!".repeat(8_000)),
        format!("{}1 == 1", "-".repeat(8_000)),
        format!("true{}", "?true:true".repeat(800)),
        format!("true{}", "&&true".repeat(1_300)),
        format!("data{} == 1", "[0]".repeat(2_700)),
        format!("data{}", ".map(x,x)".repeat(900)),
    ] {
        let result = Filter::new(&source);
        match result {
            Ok(_) => assert!(
                source.contains("!!") || source.contains("--") || source.contains("&&"),
                "{} passed",
                &source[..40]
            ),
            Err(problems) => {
                let message = &problems[0].message;
                let known = message == deep
                    || message.starts_with("this is not CEL")
                    || message.contains("be nested more than 2 deep");
                assert!(known, "{}: {message}", &source[..40]);
            }
        }
    }
}

#[test]
fn the_deepest_allowed_expression_runs_on_a_small_stack() {
    let depth = EXPRESSION_DEPTH_MAX - 4;
    let nested = |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(depth), close.repeat(depth));
    for filter in [
        nested("", "data.n", " + 1") + " > 0",
        nested("[", "data.n", "]") + " != []",
        nested("", "data.text", ".trim()") + " != ''",
        nested("", "data.list", ".map(x, x)") + " != []",
        nested("true ? (", "true", ") : false"),
    ] {
        let Ok(filter) = Filter::new(&filter) else { continue };
        let transform = Transform::new("{'deep': data.deepest}").expect("a transform");
        let pattern = Pattern::new("#").expect("a pattern");
        let route = Route { pattern, filter: Some(filter), transform: Some(transform), targets: vec![QueueIndex(0)] };
        let router = Router::new(vec![route], 1 << 20);
        let body = format!(
            "{{\"n\": 1, \"text\": \"x\", \"list\": [1], \"deepest\": {}{}}}",
            "[".repeat(120),
            "]".repeat(120)
        );
        let run = move || {
            let routed = router.route(&topic(), &message(None, body.as_bytes()));
            assert_eq!(routed.entries.iter().map(|entry| entry.failed.as_deref()).collect::<Vec<_>>(), [None]);
        };
        let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(run).expect("a thread");
        thread.join().expect("no overflow");
    }
}

#[test]
fn expressions_never_panic() {
    let mut random = fastrand::Rng::with_seed(7);
    let tokens = [
        "data", ".a", "[0]", "['b']", " + ", " == ", "1", "'x'", "(", ")", "{", "}", "[", "]", ":", ",", "?", "!", "-",
        "&&", "||", "has", "type", "size", ".map(x, ", ".exists(", " in ", "null", "1.5", "2u", "b'x'", "@", "\\",
        "\"", "\u{e9}", ".?c", "#",
    ];
    for _ in 0..2_000 {
        let length = random.usize(1..14);
        let source: String = (0..length).map(|_| tokens[random.usize(..tokens.len())]).collect();
        match Filter::new(&source) {
            Ok(_) => drop(filtered(&source, &json())),
            Err(problems) => {
                assert!(!problems.is_empty(), "{source}");
                for problem in problems {
                    assert!(source.get(problem.span.clone()).is_some(), "{source}: {:?}", problem.span);
                }
            }
        }
    }
}

#[test]
fn the_nearest_route_is_the_one_that_a_slip_or_two_makes_match() {
    let check = |patterns: &[&str], topic: &str, expected: Option<&str>| {
        let route = |text: &&str| Route {
            pattern: Pattern::new(text).expect("a pattern"),
            filter: None,
            transform: None,
            targets: vec![QueueIndex(0)],
        };
        let router = Router::new(patterns.iter().map(route).collect(), 1 << 20);
        let nearest = router.nearest(&Topic::new(topic).expect("a topic"));
        assert_eq!(nearest.map(Pattern::as_str), expected, "{topic} among {patterns:?}");
    };
    let patterns = ["orders.created", "github.pull_request.*", "logs.#", "*.alert"];
    check(&patterns, "order.created", Some("orders.created"));
    check(&patterns, "githb.pull_request.opened", Some("github.pull_request.*"));
    check(&patterns, "log.host-1.kernel.oops", Some("logs.#"));
    check(&patterns, "disk.alerts", Some("*.alert"));
    check(&patterns, "orders", None);
    check(&patterns, "something.else", None);
    check(&[], "orders", None);
}
