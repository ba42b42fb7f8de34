//! Settings as the broker's JSON API (ADR-31) takes and returns them, and their comparison.

use serde_json::{Map, Value, json};
use sotto_core::Replicas;

use super::expand::{ConsumerSpec, StreamSpec};
use crate::topology::Retention;

/// Nanoseconds in a second: the API counts in them.
const NANOS: u64 = 1_000_000_000;

/// How long the broker remembers publish ids, seconds. Longer than any publisher retries, so a repeat after a lost
/// ack is stored once; an optimisation, never the guarantee.
pub(crate) const DUPLICATE_WINDOW_S: u64 = 120;

/// The settings of a stream, every one of them: what is not named here must be absent or zero when read back.
pub(crate) fn stream(spec: &StreamSpec) -> Value {
    // A full stream refuses; it never drops what was acknowledged. A register drops what is outdated.
    let (retention, discard, each) = match spec.retention {
        Retention::WorkQueue => ("workqueue", "new", spec.max_messages_per_subject),
        Retention::Limits | Retention::Aged => ("limits", "new", spec.max_messages_per_subject),
        Retention::Latest => ("limits", "old", Some(1)),
    };
    json!({
        "name": spec.name,
        "subjects": spec.subjects,
        "retention": retention,
        "storage": "file",
        "num_replicas": spec.replicas,
        "discard": discard,
        "discard_new_per_subject": spec.max_messages_per_subject.is_some(),
        "max_bytes": spec.max_bytes,
        "max_msgs": -1,
        "max_msgs_per_subject": each.unwrap_or(-1),
        "max_msg_size": -1,
        "max_age": spec.max_age_s.unwrap_or(0) * NANOS,
        "max_consumers": spec.max_consumers,
        "duplicate_window": DUPLICATE_WINDOW_S * NANOS,
        "compression": "none",
        "allow_direct": true,
        "deny_delete": spec.deny_delete,
        "deny_purge": spec.deny_purge,
    })
}

/// The settings of a consumer, every one of them.
pub(crate) fn consumer(spec: &ConsumerSpec, replicas: Replicas) -> Value {
    json!({
        "name": spec.name,
        "durable_name": spec.name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "replay_policy": "instant",
        "ack_wait": spec.ack_wait_s * NANOS,
        // A bounded count would strand exhausted messages silently: quarantine is decided by us.
        "max_deliver": -1,
        "max_ack_pending": spec.max_ack_pending,
        "max_waiting": 512,
        "filter_subjects": spec.filters,
        "num_replicas": replicas,
    })
}

/// What a service can work with: fewer messages under way than wanted are slower and never wrong. So a cell is upgraded service by
/// service, and its list of streams after them.
pub(super) fn as_few_as_found(spec: &ConsumerSpec, found: &Value) -> ConsumerSpec {
    let found = found.get("max_ack_pending").and_then(Value::as_i64).filter(|found| *found > 0);
    let max_ack_pending = found.map_or(spec.max_ack_pending, |found| found.min(spec.max_ack_pending));
    ConsumerSpec { max_ack_pending, ..spec.clone() }
}

/// Names of settings that differ, with both values; empty when all agree.
pub(super) fn differences(wanted: &Value, found: &Value) -> Vec<String> {
    let empty = Map::new();
    let wanted = wanted.as_object().unwrap_or(&empty);
    let found = found.as_object().unwrap_or(&empty);
    let mut differences = Vec::new();
    for (name, wanted) in wanted {
        let found = found.get(name).unwrap_or(&Value::Null);
        if !same(wanted, found) {
            // What an operator can have written.
            let field = if name == "num_replicas" { " (cell.replicas)" } else { "" };
            differences.push(format!("{name}{field}: wanted {wanted}, found {found}"));
        }
    }
    for (name, found) in found.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
        if name != "metadata" && !is_nothing(found) && !is_default(name, found) {
            differences.push(format!("{name}: wanted nothing, found {found}"));
        }
    }
    // The server notes its own API level there; anything else is not ours.
    let foreign = found.get("metadata").and_then(Value::as_object).into_iter().flatten();
    for (key, _) in foreign.filter(|(key, _)| !key.starts_with("_nats.")) {
        differences.push(format!("metadata: unexpected key {key}"));
    }
    differences
}

/// The server leaves out what is zero, and returns a single filter in its older field.
fn same(wanted: &Value, found: &Value) -> bool {
    wanted == found || (is_nothing(wanted) && is_nothing(found))
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_nothing),
    }
}

/// Settings that servers report with a value of their own which means "not set".
fn is_default(name: &str, found: &Value) -> bool {
    match name {
        "priority_policy" => found == "none",
        "persist_mode" => found == "default",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_zero_are_the_same() {
        let wanted = json!({"a": false, "b": 0, "c": [], "d": 5});
        assert_eq!(differences(&wanted, &json!({"d": 5, "e": "", "limits": {"x": 0}})), Vec::<String>::new());
    }

    #[test]
    fn a_service_works_with_fewer_under_way_and_not_with_more() {
        let spec = ConsumerSpec {
            stream: "VN_EVENTS".to_owned(),
            name: "projection-1".to_owned(),
            service: crate::Service::Ingress,
            filters: vec!["vn.event.1".to_owned()],
            ack_wait_s: 30,
            max_ack_pending: 64,
        };
        let differ = |found: i64| {
            let found = consumer(&ConsumerSpec { max_ack_pending: found, ..spec.clone() }, Replicas::One);
            differences(&consumer(&as_few_as_found(&spec, &found), Replicas::One), &found).len()
        };
        assert_eq!([1, 64].map(differ), [0, 0]);
        assert_eq!([65, 0, -1].map(differ), [1, 1, 1]);
    }

    #[test]
    fn each_difference_is_named() {
        let wanted = json!({"a": 1, "b": true, "num_replicas": Replicas::One});
        let found = json!({
            "a": 2, "mirror": {"name": "x"}, "metadata": {"_nats.level": "1", "who": "x"}, "num_replicas": 3,
        });
        let all = differences(&wanted, &found);
        assert_eq!(all.len(), 5, "{all:?}");
        assert!(all.iter().any(|line| line == "num_replicas (cell.replicas): wanted 1, found 3"), "{all:?}");
        assert!(all.iter().any(|line| line == "a: wanted 1, found 2"));
        assert!(all.iter().any(|line| line.starts_with("mirror:")));
    }
}
