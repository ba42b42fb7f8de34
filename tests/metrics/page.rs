//! docs/METRICS.md, made of what is measured.

use std::fmt::Write as _;

use sotto_metrics::{Described, Kind};

/// A section of the page.
pub(crate) struct Part {
    pub(crate) title: &'static str,
    pub(crate) text: &'static str,
    pub(crate) metrics: Vec<Described>,
}

/// Every label, and what it may be.
pub(crate) const LABELS: &[(&str, &str)] = &[
    ("account", "an account of the carriers file; at most 200"),
    ("act", "`make`, `open`, `other`"),
    ("action", "`token.denied`, `submission.refused`"),
    ("bound", "the words of `sotto carriers`: `nothing`, `rate`, `window`, `throttled`, `no_bind`, …"),
    (
        "cause",
        "why no carrier takes a message: `no_route`, `routes_exhausted`, `carrier`, `unopenable`, `content`",
    ),
    ("class", "`otp`, `transactional`, `promotional`, `ad-invite`"),
    (
        "condition",
        "a condition of `/ready`; at ingress also `redis` and `privacy`, at privacy and identity `keystore_file`, at privacy `keys_ahead`, at audit `events_trimmed`",
    ),
    ("consumer", "a consumer of deploy/streams.toml, with its lane, shard or account"),
    ("decision", "`first`, `again`, `hold`, `expired`, `doubted`, `rejected`"),
    ("end", "`submitted`, `throttled`, `passing`, `elsewhere`, `final`, `no_response`, `unsent`"),
    ("lane", "`otp`, `transactional`, `promotional`"),
    ("outcome", "of items: `done`, `retry`, `quarantine`, `failed`; of keys: as in the audit log"),
    ("reason", "a name from the code, never a text from outside"),
    ("result", "of keys: `held` and how a miss was answered; of receipts: `matched`, `parked`, `refused`"),
    ("service", "`ingress`, `routing`, `carrier`, `identity`, `privacy`, `audit`"),
    ("state", "the state of a receipt: `delivered`, `undeliverable`, …"),
    ("stream", "a stream of deploy/streams.toml"),
    ("topic", "the first word of a subject: `accepted`, `waiting`, `event`, …"),
    ("version", "the version of the programs"),
    ("why", "`full`, `unavailable`, `in_doubt`, `refused`, `closed`"),
];

pub(crate) const BUS: &str = "\
What is told of a stream is told by one service: INTAKE, SCHEDULED, EVENTS and CONTROL by ingress, INTAKE with its consumers by routing, WAITING and INBOUND \
by carrier, AUDIT and QUARANTINE by audit; looked at every 15 seconds.";

pub(crate) const CARRIER: &str = "\
Each replica tells of its own binds, windows and rate: sum over replicas. Queues and the contract are the same at each: take the greatest.";

const HEAD: &str = "\
# Metrics

Every service serves `/metrics` in the text format of Prometheus (0.0.4) on its admin address, beside `/live`, `/ready` and `/info` \
([services](services/README.md#health)). How to scrape, and how to look without Prometheus: [OPERATIONS.md](OPERATIONS.md#metrics). Why so: [ADR 0023](adr/0023-metrics.md).

Nothing personal is in a name, a label or a number: no message, number, sender, tenant, client or key. Labels are closed: their values stand in the \
code or in the configuration. Counters begin at 0 with the process, and every series of a closed label is there from the start.

Alerts: [sotto.rules.yml](../deploy/prometheus/sotto.rules.yml), each with its runbook and its test. Dashboard: [sotto.json](../deploy/grafana/sotto.json).

";

/// Is it me, the broker, Redis or the carrier?
const WHO: &str = "\
## Whose fault is it?

| look at | it is |
|---|---|
| `sotto_bus_connected` 0, `sotto_stream_seen` 0, or `sotto_bus_publish_seconds` slow at every service | the broker, or its disk |
| `sotto_condition{condition=\"redis\"}` 0; `sotto_carrier_bound_by{bound=\"redis\"}` 1 | Redis |
| `sotto_carrier_answer_seconds` slow, `sotto_carrier_window_used` at its places, `throttled` or `no_response` among `sotto_carrier_parts_total` | the carrier |
| `sotto_carrier_bound_by{bound=\"rate\"}` 1 while the queue grows | the contract |
| `unavailable` among `sotto_ingress_session_keys_total` or `sotto_carrier_keys_total`, `sotto_carrier_revocation_age_seconds` grows | privacy |
| `sotto_bus_handle_seconds` slow of `accepted` or `event` while `sotto_bus_publish_seconds` is not; `process_cpu_seconds_total` at a processor | us |
| `sotto_carrier_bound_by` `stopped`, `paused`, `draining`, `restored` | an operator: `sotto stop --list` |

";

pub(crate) fn render(parts: &[Part]) -> String {
    let mut page = format!("{HEAD}<!-- The rest is made by: {} -->\n\n{WHO}", crate::REMAKE);
    page.push_str("## Labels\n\n| label | values |\n|---|---|\n");
    for (label, values) in LABELS {
        writeln!(page, "| `{label}` | {values} |").unwrap();
    }
    for Part { title, text, metrics } in parts {
        write!(page, "\n## {title}\n\n").unwrap();
        if !text.is_empty() {
            write!(page, "{text}\n\n").unwrap();
        }
        page.push_str("| metric | type, unit | labels | tells | worry |\n|---|---|---|---|---|\n");
        for Described { about, kind, labels } in metrics {
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let (kind, unit) = (kind_of(*kind), unit_of(about.name));
            writeln!(
                page,
                "| `{}` | {kind}{unit} | {} | {} | {} |",
                about.name,
                labels.join(", "),
                about.what,
                about.worry
            )
            .unwrap();
        }
    }
    page
}

const fn kind_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

/// The unit that the name ends with.
fn unit_of(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => ", seconds",
        Some("bytes") => ", bytes",
        Some("ratio") => ", 0 to 1",
        _ => "",
    }
}
