//! `[broker]`, `[http]`, `[sandbox]` and `[dev]`.

use std::net::SocketAddr;
use std::path::Path;

use super::defaults;
use super::section::{Entry, Section};
use crate::name::Topic;
use crate::plan::{BrokerPlan, DevPlan, HttpPlan, SamplePlan, SandboxPlan, SecretSource};

pub(super) fn broker(section: Section<'_, '_>, folder: &Path) -> BrokerPlan {
    let plan = BrokerPlan {
        data: folder.join(section.filled_text("data").map_or(defaults::DATA, |data| data.value)),
        message_bytes_max: section
            .size("max-message", &defaults::MESSAGE_BYTES_RANGE)
            .unwrap_or(defaults::MESSAGE_BYTES),
        free_disk_min: section
            .size("min-free-disk", &defaults::FREE_DISK_BYTES_RANGE)
            .unwrap_or(defaults::FREE_DISK_BYTES),
        hops_max: section
            .integer("max-hops", &defaults::HOPS_RANGE)
            .and_then(|hops| u8::try_from(hops).ok())
            .unwrap_or(defaults::HOPS),
    };
    section.finish(&["quick-repair"]);
    plan
}

pub(super) fn http(section: Section<'_, '_>, folder: &Path, message_bytes_max: u64) -> HttpPlan {
    let token = section.get("token").and_then(|entry| secret(&section, entry, folder));
    let has_token = section.entries().any(|entry| entry.key == "token");
    let mut listen = defaults::LISTEN;
    if let Some(text) = section.filled_text("listen") {
        match text.value.parse::<SocketAddr>() {
            Ok(address) if !address.ip().is_loopback() && !has_token => {
                let message = format!("{address} can be reached from other machines, and there is no token");
                let help = "add `token = { env = \"PELTON_TOKEN\" }` to [http], or listen on 127.0.0.1";
                section.problems().error(text.span, message, help.to_owned());
            }
            Ok(address) => listen = address,
            Err(_) => {
                let help = "write an IP address and a port: \"127.0.0.1:7656\" or \"[::1]:7656\"";
                section.problems().error(text.span, format!("'{}' is not an address", text.value), help.to_owned());
            }
        }
    }
    let given = section.size("max-request", &defaults::REQUEST_BYTES_RANGE);
    if let (Some(bytes), Some(entry)) = (given, section.get("max-request"))
        && bytes < message_bytes_max
    {
        let message = "`max-request` is smaller than a message may be".to_owned();
        let help =
            "messages that don't fit into a request can't be published; lower [broker] max-message, or raise this";
        section.problems().warning(entry.span(), message, help.to_owned());
    }
    let request_bytes_max = given.unwrap_or(defaults::REQUEST_BYTES.max(message_bytes_max));
    section.finish(&["cors", "max-connections", "tls", "tokens"]);
    HttpPlan { listen, token, request_bytes_max }
}

fn secret(parent: &Section<'_, '_>, entry: Entry<'_>, folder: &Path) -> Option<SecretSource> {
    const HELP: &str = "write { env = \"NAME\" } or { file = \"path\" }";
    let problems = parent.problems();
    let Some(table) = entry.value.get_ref().as_table() else {
        let message = format!("`{}` is read when the broker starts; a secret can't stand in this file", entry.key);
        problems.error(entry.span(), message, HELP.to_owned());
        return None;
    };
    let get = |key: &str| table.iter().find(|(known, _)| known.get_ref() == key).map(|(_, value)| value);
    let text = |value: &toml::Spanned<toml::de::DeValue<'_>>| {
        value.get_ref().as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    match (get("env").and_then(text), get("file").and_then(text), table.len()) {
        (Some(name), None, 1) => Some(SecretSource::Env(name)),
        (None, Some(path), 1) => Some(SecretSource::File(folder.join(path))),
        _ => {
            let message = format!("`{}` needs either `env` or `file`, and nothing else", entry.key);
            problems.error(entry.span(), message, HELP.to_owned());
            None
        }
    }
}

pub(super) fn sandbox(section: Section<'_, '_>) -> SandboxPlan {
    let slots = section.integer("slots", &defaults::SLOTS_RANGE).and_then(|slots| usize::try_from(slots).ok());
    section.finish(&["memory", "cache"]);
    SandboxPlan { slots: slots.unwrap_or(defaults::SLOTS) }
}

pub(super) fn dev(section: Section<'_, '_>, folder: &Path) -> DevPlan {
    let sample = section
        .get("sample")
        .and_then(|entry| sample(Section::of("[dev] sample", entry, section.problems()), entry, folder));
    section.finish(&[]);
    DevPlan { sample }
}

fn sample(section: Section<'_, '_>, entry: Entry<'_>, folder: &Path) -> Option<SamplePlan> {
    let file = section.filled_text("file");
    let topic = section.filled_text("topic");
    let body = section.filled_text("body").map(|text| text.value.to_owned());
    let problems = section.problems();
    for (key, value) in [("file", &file), ("topic", &topic)] {
        if value.is_none() && entry.value.get_ref().is_table() && !section.entries().any(|entry| entry.key == key) {
            problems.error(entry.span(), format!("`sample` needs `{key}`"), SAMPLE_HELP.to_owned());
        }
    }
    if let Some(topic) = &topic
        && let Err(reason) = check_template(topic.value)
    {
        problems.error(topic.span.clone(), reason, "write a topic, with {field} for fields of a line".to_owned());
    }
    section.finish(&[]);
    Some(SamplePlan { file: folder.join(file?.value), topic: topic?.value.to_owned(), body })
}

const SAMPLE_HELP: &str = "write { file = \"events.jsonl\", topic = \"github.{event}\", body = \"payload\" }";

/// A topic with `{field}` in it.
fn check_template(template: &str) -> Result<(), String> {
    let mut topic = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (field, tail) = after.split_once('}').ok_or_else(|| format!("'{template}' has a '{{' without '}}'"))?;
        if field.is_empty() {
            return Err(format!("'{template}' has '{{}}' without the name of a field"));
        }
        topic.push_str(before);
        topic.push('x');
        rest = tail;
    }
    topic.push_str(rest);
    Topic::new(&topic).map(|_| ()).map_err(|error| format!("'{template}' makes no topic: {}", error.reason))
}
