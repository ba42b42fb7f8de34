//! What a running cell counts: after messages passed, the counters that should have moved have moved, and nothing is on a page that
//! docs/METRICS.md does not tell.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::{Command, Stdio},
};

use sotto_testkit::{eventually, process::http_get, tools, workspace};

use crate::{
    canary::admin,
    cell::{BOUND, Cell, SERVICES},
};

/// The series of one page, as they are written, and their numbers.
pub(crate) struct Page {
    text: String,
    series: BTreeMap<String, f64>,
}

impl Page {
    pub(crate) async fn of(cell: &Cell, service: &str) -> Self {
        let (status, text) = http_get(admin(cell, service), "/metrics").await.unwrap();
        assert_eq!(status, 200, "{service}");
        let read = |line: &str| {
            let (series, number) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), number.parse().unwrap())
        };
        let series = text.lines().filter(|line| !line.starts_with('#')).map(read).collect();
        Self { text, series }
    }

    pub(crate) fn number(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series} in\n{}", self.text))
    }

    /// What Prometheus' own tool says of the page.
    fn lint(&self) {
        let mut promtool = Command::new(tools::promtool())
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(self.text.as_bytes()).unwrap();
        let told = promtool.wait_with_output().unwrap();
        assert!(told.status.success(), "{}\n{}", String::from_utf8_lossy(&told.stderr), self.text);
    }
}

/// A cell in which somebody sent these numbers of one-time codes and of service notices, whose parts all came to an end.
pub(crate) struct Sent {
    pub(crate) otp: u32,
    pub(crate) transactional: u32,
    pub(crate) parts_taken: u32,
    pub(crate) parts_refused: u32,
}

pub(crate) async fn are_what_happened(cell: &Cell, sent: Sent) {
    let manual = std::fs::read_to_string(workspace().join("docs/METRICS.md")).unwrap();
    let mut pages = BTreeMap::new();
    for service in SERVICES {
        let page = Page::of(cell, service).await;
        page.lint();
        let names = page.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        for name in names {
            assert!(
                manual.contains(&format!("| `{name}` |")),
                "{name} of {service} is not in docs/METRICS.md"
            );
        }
        for series in ["sotto_ready", "sotto_bus_connected"] {
            assert!(page.number(series) > 0.5, "{service}: {series}");
        }
        for series in ["process_resident_memory_bytes", "process_open_fds", "process_threads", "sotto_tasks"]
        {
            assert!(page.number(series) > 1.0, "{service}: {series}");
        }
        assert!(page.text.contains(&format!("sotto_build_info{{service=\"{service}\",version=")));
        pages.insert(service, page);
    }
    let exactly = |service: &str, series: &str, expected: u32| {
        let page = &pages[service];
        assert!(
            (page.number(series) - f64::from(expected)).abs() < 0.5,
            "{series} is not {expected}:\n{}",
            page.text
        );
    };
    let some = |service: &str, series: &str| {
        let page = &pages[service];
        assert!(page.number(series) > 0.0, "{series} did not move:\n{}", page.text);
    };
    let Sent { otp, transactional, parts_taken, parts_refused } = sent;
    exactly("ingress", "sotto_ingress_accepted_total{class=\"otp\"}", otp);
    exactly("ingress", "sotto_ingress_accepted_total{class=\"transactional\"}", transactional);
    exactly("ingress", "sotto_ingress_accept_seconds_count{class=\"otp\"}", otp);
    exactly("ingress", "sotto_ingress_refused_total{reason=\"internal\"}", 0);
    exactly("ingress", "sotto_condition{condition=\"redis\"}", 1);
    exactly("routing", "sotto_routing_decisions_total{lane=\"otp\",decision=\"first\"}", otp);
    exactly("routing", "sotto_routing_wait_seconds_count{lane=\"transactional\"}", transactional);
    exactly("carrier", "sotto_carrier_parts_total{account=\"simulator\",end=\"submitted\"}", parts_taken);
    exactly("carrier", "sotto_carrier_parts_total{account=\"simulator\",end=\"final\"}", parts_refused);
    exactly(
        "carrier",
        "sotto_carrier_answer_seconds_count{account=\"simulator\"}",
        parts_taken + parts_refused,
    );
    exactly("carrier", "sotto_carrier_binds_contracted{account=\"simulator\"}", 1);
    exactly("carrier", "sotto_carrier_binds_up{account=\"simulator\"}", 1);
    exactly("carrier", "sotto_carrier_bound_by{account=\"simulator\",bound=\"nothing\"}", 1);
    exactly("carrier", "sotto_carrier_bound_by{account=\"simulator\",bound=\"no_bind\"}", 0);
    for series in [
        "sotto_ingress_session_keys_total{result=\"fetched\"}",
        "sotto_ingress_session_keys_total{result=\"held\"}",
        "sotto_ingress_events_folded_total",
        "sotto_bus_publish_seconds_count{topic=\"accepted\"}",
        "sotto_bus_publish_items_sum{topic=\"accepted\"}",
        "sotto_stream_seen{stream=\"EVENTS\"}",
        "sotto_bus_items_total{topic=\"event\",outcome=\"done\"}",
    ] {
        some("ingress", series);
    }
    some("routing", "sotto_routing_sent_total{account=\"simulator\"}");
    for series in [
        "sotto_carrier_keys_total{account=\"simulator\",result=\"opened\"}",
        "sotto_carrier_receipts_total{account=\"simulator\",result=\"matched\"}",
        "sotto_carrier_receipt_states_total{account=\"simulator\",state=\"delivered\"}",
        "sotto_carrier_window_places{account=\"simulator\"}",
        "sotto_carrier_tps_allowed{account=\"simulator\"}",
        "sotto_bus_deliveries_total{topic=\"waiting\"}",
        "sotto_bus_handle_seconds_count{topic=\"waiting\"}",
    ] {
        some("carrier", series);
    }
    some("identity", "sotto_identity_tokens_total");
    some("privacy", "sotto_privacy_keys_total{act=\"make\",outcome=\"ok\"}");
    some("privacy", "sotto_privacy_keys_total{act=\"open\",outcome=\"ok\"}");
    some("audit", "sotto_audit_acts_total");
    some("audit", "sotto_audit_entries");
    for (service, heartbeat) in [
        ("ingress", "sotto_ingress_revocation_age_seconds"),
        ("carrier", "sotto_carrier_revocation_age_seconds"),
        ("audit", "sotto_audit_checkpoint_age_seconds"),
        ("identity", "sotto_identity_keys_age_seconds"),
    ] {
        eventually(BOUND, heartbeat, async || Page::of(cell, service).await.number(heartbeat) < 5.0).await;
    }
}
