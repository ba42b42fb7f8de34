//! What `sotto top` shows: computed from two looks at all services, and written in 80 columns.

use std::collections::BTreeMap;

use super::page::Page;
use crate::{Output, Tone, cell::SERVICES};

/// Columns that a frame needs.
const WIDTH: usize = 80;

/// Lanes, the most urgent first.
const LANES: [&str; 3] = ["otp", "transactional", "promotional"];

/// Ends of parts that are no trouble.
const WELL: [&str; 1] = ["submitted"];

/// The pages of all services that answered, by their names.
pub(super) type Pages = BTreeMap<&'static str, Page>;

/// Two looks.
pub(super) struct Looks<'a> {
    pub(super) before: &'a Pages,
    pub(super) now: &'a Pages,
    /// Seconds between them.
    pub(super) apart: f64,
}

/// An account as it is now.
#[derive(Debug, PartialEq)]
struct Account {
    id: String,
    bound_by: String,
    binds: (f64, f64),
    window: (f64, f64),
    rate: (f64, f64),
    /// Parts and receipts a second since the look before.
    parts: f64,
    receipts: f64,
    /// Parts a second that the carrier did not take.
    failed: f64,
    /// Age of the oldest message of each lane, in seconds.
    oldest: [f64; 3],
}

/// What is to be shown.
#[derive(Debug, PartialEq)]
pub(super) struct View {
    accepted: f64,
    refused: f64,
    under_way: (f64, f64),
    accept_p99: Option<f64>,
    intake_oldest: [f64; 3],
    accounts: Vec<Account>,
    /// Of each service: whether it answered and is ready, and processors and bytes that it uses.
    services: Vec<(&'static str, Option<bool>, f64, f64)>,
    /// Streams by how full they are, the fullest first.
    streams: Vec<(String, f64)>,
    /// What is wrong, or limits, in words.
    binds: Vec<String>,
}

impl Looks<'_> {
    fn page(&self, service: &str) -> Option<&Page> {
        self.now.get(service)
    }

    /// How much something of a service grew a second.
    fn rate(&self, service: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
        let empty = Page::default();
        let before = self.before.get(service).unwrap_or(&empty);
        // What was not seen before has grown since nobody knows when.
        if !self.before.contains_key(service) {
            return 0.0;
        }
        self.page(service).and_then(|page| page.grown(before, name, labels)).unwrap_or(0.0) / self.apart
    }

    fn is(&self, service: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.page(service).and_then(|page| page.sum(name, labels)).unwrap_or(0.0)
    }

    fn account(&self, id: &str) -> Account {
        let of = [("account", id)];
        let is = |name: &str| self.is("carrier", name, &of);
        let rate = |name: &str| self.rate("carrier", name, &of);
        let parts = rate("sotto_carrier_parts_total");
        let well: f64 = WELL
            .iter()
            .map(|end| self.rate("carrier", "sotto_carrier_parts_total", &[of[0], ("end", end)]))
            .sum();
        let bound_by = self
            .page("carrier")
            .map(|page| page.where_set("sotto_carrier_bound_by", &of, "bound"))
            .unwrap_or_default();
        Account {
            bound_by: bound_by.join(" "),
            binds: (is("sotto_carrier_binds_up"), is("sotto_carrier_binds_contracted")),
            window: (is("sotto_carrier_window_used"), is("sotto_carrier_window_places")),
            rate: (is("sotto_carrier_tps_used"), is("sotto_carrier_tps_allowed")),
            parts,
            receipts: rate("sotto_carrier_receipts_total"),
            failed: (parts - well).max(0.0),
            oldest: LANES.map(|lane| {
                self.is("carrier", "sotto_carrier_queue_oldest_seconds", &[("account", id), ("lane", lane)])
            }),
            id: id.to_owned(),
        }
    }
}

impl View {
    pub(super) fn of(looks: &Looks<'_>) -> Self {
        let empty = Page::default();
        let before = looks.before.get("ingress").unwrap_or(&empty);
        let accounts =
            looks.page("carrier").map(|page| page.labels("sotto_carrier_binds_contracted", "account"));
        let mut streams: Vec<(String, f64)> = Vec::new();
        for page in looks.now.values() {
            for stream in page.labels("sotto_stream_fill_ratio", "stream") {
                let fill = page.sum("sotto_stream_fill_ratio", &[("stream", stream)]).unwrap_or(0.0);
                match streams.iter_mut().find(|(name, _)| name == stream) {
                    Some((_, known)) => *known = fill.max(*known),
                    None => streams.push((stream.to_owned(), fill)),
                }
            }
        }
        streams.sort_by(|one, other| other.1.total_cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        let services = SERVICES.into_iter().map(|service| {
            let ready = looks.page(service).map(|page| page.sum("sotto_ready", &[]) == Some(1.0));
            let cpu = looks.rate(service, "process_cpu_seconds_total", &[]);
            (service, ready, cpu, looks.is(service, "process_resident_memory_bytes", &[]))
        });
        let mut view = Self {
            accepted: looks.rate("ingress", "sotto_ingress_accepted_total", &[]),
            refused: looks.rate("ingress", "sotto_ingress_refused_total", &[]),
            under_way: (
                looks.is("ingress", "sotto_ingress_under_way", &[]),
                looks.is("ingress", "sotto_ingress_under_way_max", &[]),
            ),
            accept_p99: looks
                .page("ingress")
                .filter(|_| looks.before.contains_key("ingress"))
                .and_then(|page| page.quantile(before, "sotto_ingress_accept_seconds", 0.99)),
            intake_oldest: LANES
                .map(|lane| looks.is("ingress", "sotto_ingress_intake_oldest_seconds", &[("lane", lane)])),
            accounts: accounts.unwrap_or_default().into_iter().map(|id| looks.account(id)).collect(),
            services: services.collect(),
            streams,
            binds: Vec::new(),
        };
        view.binds = view.bounds(looks);
        view
    }

    /// What bounds the cell now, and what is wrong, the worst first.
    fn bounds(&self, looks: &Looks<'_>) -> Vec<String> {
        let mut bounds = Vec::new();
        for (service, ready, _, _) in &self.services {
            match ready {
                None => bounds.push(format!("{service} does not answer")),
                Some(false) => {
                    let page = looks.page(service);
                    let unmet = page.map(|page| {
                        let all = page.labels("sotto_condition", "condition");
                        let met = page.where_set("sotto_condition", &[], "condition");
                        all.into_iter().filter(|name| !met.contains(name)).collect::<Vec<_>>().join(", ")
                    });
                    bounds.push(format!("{service} is not ready: {}", unmet.unwrap_or_default()));
                }
                Some(true) => {}
            }
        }
        for (stream, fill) in self.streams.iter().filter(|(_, fill)| *fill >= 0.7) {
            bounds.push(format!("stream {stream} is full to {:.0} %", fill * 100.0));
        }
        for account in &self.accounts {
            match account.bound_by.as_str() {
                "" | "nothing" | "elsewhere" => {}
                bound => bounds.push(format!("{}: {bound}", account.id)),
            }
        }
        let (used, most) = self.under_way;
        if most > 0.0 && used >= 0.9 * most {
            bounds.push(format!("ingress has {used:.0} of {most:.0} messages under way"));
        }
        let held: f64 = looks
            .now
            .keys()
            .map(|service| looks.is(service, "sotto_stream_messages", &[("stream", "QUARANTINE")]))
            .fold(0.0, f64::max);
        if held > 0.0 {
            bounds.push(format!("{held:.0} record(s) in quarantine"));
        }
        bounds
    }

    /// As JSON: what is shown, and nothing else.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let lanes = |ages: &[f64; 3]| -> serde_json::Value {
            LANES
                .iter()
                .zip(ages)
                .map(|(lane, age)| ((*lane).to_owned(), (*age).into()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        serde_json::json!({
            "accepted_per_s": self.accepted, "refused_per_s": self.refused,
            "under_way": self.under_way.0, "under_way_max": self.under_way.1,
            "accept_p99_seconds": self.accept_p99.filter(|bound| bound.is_finite()),
            "intake_oldest_seconds": lanes(&self.intake_oldest),
            "accounts": self.accounts.iter().map(|account| serde_json::json!({
                "account": account.id, "bound_by": account.bound_by,
                "binds": account.binds.0, "binds_contracted": account.binds.1,
                "window_used": account.window.0, "window_places": account.window.1,
                "tps_used": account.rate.0, "tps_allowed": account.rate.1,
                "parts_per_s": account.parts, "receipts_per_s": account.receipts, "not_taken_per_s": account.failed,
                "oldest_seconds": lanes(&account.oldest),
            })).collect::<Vec<_>>(),
            "services": self.services.iter().map(|(name, ready, cpu, bytes)| serde_json::json!({
                "service": name, "answers": ready.is_some(), "ready": ready.unwrap_or(false), "processors": cpu, "bytes": bytes,
            })).collect::<Vec<_>>(),
            "streams": self.streams.iter().map(|(name, fill)| (name.clone(), (*fill).into())).collect::<serde_json::Map<_, _>>(),
            "bound_by": self.binds,
        })
    }

    /// The lines of a frame, each of at most 80 columns; not more than `rows` of them.
    pub(super) fn lines(&self, title: &str, rows: usize, output: &Output) -> Vec<String> {
        let strong = |text: String| output.tone(Tone::Strong, &cut(&text));
        let ready = self.services.iter().filter(|(_, ready, _, _)| *ready == Some(true)).count();
        let mut lines = vec![strong(format!("{title}   {ready} of {} services ready", self.services.len()))];
        let p99 = self.accept_p99.map_or("-".to_owned(), |bound| {
            if bound.is_finite() { format!("<= {}", seconds(bound)) } else { "beyond all buckets".to_owned() }
        });
        let all: (f64, f64, f64) =
            self.accounts.iter().fold((0.0, 0.0, 0.0), |(parts, receipts, failed), account| {
                (parts + account.parts, receipts + account.receipts, failed + account.failed)
            });
        lines.push(cut(&format!(
            "in   {:>8.0}/s accepted  {:>6.0}/s refused   {:.0} of {:.0} under way   p99 {p99}",
            self.accepted, self.refused, self.under_way.0, self.under_way.1
        )));
        lines.push(cut(&format!(
            "out  {:>8.0}/s parts     {:>6.0}/s not taken {:>6.0}/s receipts",
            all.0, all.2, all.1
        )));
        lines.push(cut(&format!("wait for routing: {}", ages(&self.intake_oldest))));
        lines.push(String::new());
        lines.push(strong(format!(
            "{:<16} {:<11} {:>5} {:>9} {:>11}  {}",
            "ACCOUNT", "BOUND BY", "BINDS", "WINDOW", "PARTS/S", "OLDEST otp/trans/promo"
        )));
        for account in &self.accounts {
            let tone = match account.bound_by.as_str() {
                "rate" | "window" | "nothing" | "elsewhere" | "" => Tone::Plain,
                _ => Tone::Bad,
            };
            let line = cut(&format!(
                "{:<16} {:<11} {:>5} {:>9} {:>11}  {}",
                shortened(&account.id, 16),
                shortened(&account.bound_by, 11),
                format!("{:.0}/{:.0}", account.binds.0, account.binds.1),
                format!("{:.0}/{:.0}", account.window.0, account.window.1),
                format!("{:.0}/{:.0}", account.rate.0, account.rate.1),
                account.oldest.map(seconds).join("/"),
            ));
            lines.push(output.tone(tone, &line));
        }
        lines.push(String::new());
        for pair in self.services.chunks(2) {
            let cell = |(name, ready, cpu, bytes): &(&str, Option<bool>, f64, f64)| {
                let word = match ready {
                    Some(true) => "ready",
                    Some(false) => "NOT READY",
                    None => "NO ANSWER",
                };
                format!("{name:<9} {word:<9} {:>4.0} % {:>6.0} MB", cpu * 100.0, bytes / 1e6)
            };
            lines.push(cut(&pair.iter().map(cell).collect::<Vec<_>>().join("    ")));
        }
        let full = self.streams.iter().take(4).map(|(name, fill)| format!("{name} {:.1} %", fill * 100.0));
        lines.push(cut(&format!("streams full to: {}", full.collect::<Vec<_>>().join("  "))));
        lines.push(String::new());
        if self.binds.is_empty() {
            lines.push(output.tone(Tone::Good, "nothing bounds the cell"));
        }
        lines.extend(self.binds.iter().map(|bound| output.tone(Tone::Bad, &cut(bound))));
        if lines.len() > rows {
            let more = lines.len() + 1 - rows;
            lines.truncate(rows.saturating_sub(1));
            lines.push(format!("… {more} more lines"));
        }
        lines
    }
}

fn ages(ages: &[f64; 3]) -> String {
    let each = LANES.iter().zip(ages).map(|(lane, age)| format!("{lane} {}", seconds(*age)));
    each.collect::<Vec<_>>().join("   ")
}

/// A span of time in at most five characters.
fn seconds(span: f64) -> String {
    match span {
        ..0.0005 => "0 s".to_owned(),
        ..1.0 => format!("{:.0} ms", span * 1_000.0),
        ..120.0 => format!("{span:.0} s"),
        ..7_200.0 => format!("{:.0} m", span / 60.0),
        ..172_800.0 => format!("{:.0} h", span / 3_600.0),
        _ => format!("{:.0} d", span / 86_400.0),
    }
}

fn cut(line: &str) -> String {
    shortened(line, WIDTH)
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(accepted: u32, parts: u32) -> Pages {
        let ingress = format!(
            "sotto_ready 1\nsotto_ingress_accepted_total{{class=\"otp\"}} {accepted}\nsotto_ingress_refused_total{{reason=\"rate\"}} 0\n\
             sotto_ingress_under_way 12\nsotto_ingress_under_way_max 4096\n\
             sotto_ingress_accept_seconds_bucket{{class=\"otp\",le=\"0.01\"}} {accepted}\n\
             sotto_ingress_accept_seconds_bucket{{class=\"otp\",le=\"+Inf\"}} {accepted}\n\
             sotto_stream_fill_ratio{{stream=\"INTAKE\"}} 0.75\nprocess_cpu_seconds_total 1\nprocess_resident_memory_bytes 80000000\n"
        );
        let carrier = format!(
            "sotto_ready 0\nsotto_condition{{condition=\"redis\"}} 0\nsotto_condition{{condition=\"work\"}} 1\n\
             sotto_carrier_binds_contracted{{account=\"viettel-otp\"}} 2\nsotto_carrier_binds_up{{account=\"viettel-otp\"}} 1\n\
             sotto_carrier_bound_by{{account=\"viettel-otp\",bound=\"rate\"}} 1\nsotto_carrier_bound_by{{account=\"viettel-otp\",bound=\"window\"}} 0\n\
             sotto_carrier_parts_total{{account=\"viettel-otp\",end=\"submitted\"}} {parts}\n\
             sotto_carrier_parts_total{{account=\"viettel-otp\",end=\"final\"}} {}\n\
             sotto_carrier_window_used{{account=\"viettel-otp\"}} 34\nsotto_carrier_window_places{{account=\"viettel-otp\"}} 200\n\
             sotto_carrier_tps_used{{account=\"viettel-otp\"}} 98\nsotto_carrier_tps_allowed{{account=\"viettel-otp\"}} 100\n\
             sotto_carrier_queue_oldest_seconds{{account=\"viettel-otp\",lane=\"promotional\"}} 400\n",
            parts / 10,
        );
        let quiet = |name| (name, Page::parse("sotto_ready 1\n"));
        Pages::from([
            ("ingress", Page::parse(&ingress)),
            ("carrier", Page::parse(&carrier)),
            quiet("routing"),
            quiet("identity"),
            quiet("privacy"),
        ])
    }

    fn view() -> View {
        let (before, now) = (pages(100, 50), pages(300, 150));
        View::of(&Looks { before: &before, now: &now, apart: 2.0 })
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let view = view();
        assert_eq!((view.accepted, view.refused, view.accept_p99), (100.0, 0.0, Some(0.01)));
        let account = view.accounts.first().unwrap();
        assert_eq!((account.parts, account.failed), (55.0, 5.0));
        assert_eq!((account.bound_by.as_str(), account.oldest), ("rate", [0.0, 0.0, 400.0]));
    }

    #[test]
    fn what_is_wrong_is_said_before_what_bounds() {
        assert_eq!(
            view().binds,
            [
                "audit does not answer",
                "carrier is not ready: redis",
                "stream INTAKE is full to 75 %",
                "viettel-otp: rate",
            ]
        );
    }

    #[test]
    fn a_first_look_shows_no_rates() {
        let now = pages(300, 150);
        let view = View::of(&Looks { before: &Pages::new(), now: &now, apart: 2.0 });
        assert_eq!((view.accepted, view.accept_p99, view.accounts.first().unwrap().parts), (0.0, None, 0.0));
    }

    #[test]
    fn a_frame_is_80_columns_wide_and_as_high_as_the_terminal() {
        let (view, output) = (view(), Output::new(false, true));
        let lines = view.lines("sotto vn", 24, &output);
        assert!(lines.len() <= 24 && lines.iter().all(|line| line.chars().count() <= WIDTH), "{lines:#?}");
        for text in [
            "100/s accepted",
            "p99 <= 10 ms",
            "viettel-otp",
            "1/2",
            "34/200",
            "98/100",
            "7 m",
            "NO ANSWER",
            "INTAKE 75.0 %",
        ] {
            assert!(lines.iter().any(|line| line.contains(text)), "{text}: {lines:#?}");
        }
        let few = view.lines("sotto vn", 8, &output);
        assert_eq!(few.len(), 8);
        assert!(few.last().unwrap().contains("more lines"));
    }
}
