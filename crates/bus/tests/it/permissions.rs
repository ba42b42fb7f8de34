//! Every service and tool against every subject: allowed exactly as written here, everything else refused.

use std::collections::BTreeSet;

use sotto_bus::{Service, topology};

use crate::cell::{BOUND, Raw, TestCell, vn};

/// Who publishes what, written down once more by hand; besides, each service its own acts.
const MAY_PUBLISH: &[(Service, &[&str])] = &[
    (Service::Ingress, &["accepted", "scheduled", "event", "index", "quarantine"]),
    (Service::Routing, &["retry", "waiting", "event", "quarantine"]),
    (Service::Carrier, &["retry", "waiting", "event", "inbound", "lease", "control", "quarantine"]),
    (Service::Identity, &["quarantine"]),
    (Service::Privacy, &["quarantine"]),
    (Service::Audit, &["carried", "quarantine"]),
    (Service::Operator, &[]),
    (Service::Provisioner, &[]),
];

/// Who reads which streams by direct get, and who pulls from which.
const MAY_READ: &[(Service, &[&str])] = &[
    (Service::Ingress, &["INTAKE", "SCHEDULED", "EVENTS", "CARRIED", "CONTROL"]),
    (Service::Carrier, &["INTAKE", "WAITING", "EVENTS", "CARRIED", "LEASES", "CONTROL"]),
    (Service::Privacy, &["INDEX"]),
    (Service::Audit, &["EVENTS", "CARRIED", "AUDIT"]),
    (
        Service::Operator,
        &[
            "INTAKE",
            "SCHEDULED",
            "WAITING",
            "EVENTS",
            "CARRIED",
            "INBOUND",
            "INDEX",
            "AUDIT",
            "LEASES",
            "CONTROL",
            "QUARANTINE",
        ],
    ),
];
const MAY_PULL: &[(Service, &[(&str, &str)])] = &[
    (Service::Ingress, &[("EVENTS", "projection-0"), ("EVENTS", "projection-1")]),
    (
        Service::Routing,
        &[("INTAKE", "routing-otp"), ("INTAKE", "routing-transactional"), ("INTAKE", "routing-promotional")],
    ),
    (Service::Carrier, &[("WAITING", "carrier-mobi-otp"), ("WAITING", "carrier-other-promotional")]),
    (Service::Audit, &[("AUDIT", "audit-acts")]),
];

const BUSINESS: &[(&str, &str)] = &[
    ("accepted", "accepted.otp.0"),
    ("scheduled", "scheduled.2.7200.promotional.0"),
    ("retry", "retry.promotional.1"),
    ("waiting", "waiting.mobi.otp"),
    ("event", "event.1"),
    ("carried", "carried.1"),
    ("inbound", "inbound.acme"),
    ("index", "index.1"),
    ("lease", "lease.mobi.bind-1"),
    ("control", "control.stop-tenant.acme"),
    ("quarantine", "quarantine.accepted"),
];

const STREAMS: &[&str] = &[
    "INTAKE",
    "SCHEDULED",
    "WAITING",
    "EVENTS",
    "CARRIED",
    "INBOUND",
    "INDEX",
    "AUDIT",
    "LEASES",
    "CONTROL",
    "QUARANTINE",
];

/// Subjects that nobody who asks or answers may publish to, or listen to: the cell's own, and the broker's.
pub(crate) fn inside() -> impl Iterator<Item = String> {
    let business = BUSINESS.iter().map(|(_, subject)| format!("sotto.v1.vn.{subject}"));
    let apis = STREAMS.iter().flat_map(|stream| {
        ["STREAM.INFO", "DIRECT.GET", "STREAM.CREATE", "CONSUMER.CREATE", "STREAM.MSG.GET"]
            .map(|api| format!("$JS.API.{api}.VN_{stream}"))
    });
    business.chain(apis)
}

/// Whether a NATS pattern matches a subject.
pub(crate) fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == "*" || wanted == found => {}
            _ => return false,
        }
    }
}

/// Every subject of the matrix, each with whether `service` may publish there.
fn publish_matrix(service: Service) -> Vec<(String, bool)> {
    let mut matrix = Vec::new();
    let of = |table: &[(Service, &'static [&'static str])]| -> BTreeSet<&'static str> {
        table.iter().filter(|(who, _)| *who == service).flat_map(|(_, what)| what.iter().copied()).collect()
    };
    let (publishes, reads) = (of(MAY_PUBLISH), of(MAY_READ));
    let pulls: Vec<_> =
        MAY_PULL.iter().filter(|(who, _)| *who == service).flat_map(|(_, what)| *what).collect();
    for (topic, subject) in BUSINESS {
        matrix.push((format!("sotto.v1.vn.{subject}"), publishes.contains(topic)));
        // Another cell, another version.
        matrix.push((format!("sotto.v1.de.{subject}"), false));
        matrix.push((format!("sotto.v2.vn.{subject}"), false));
    }
    for other in Service::ALL {
        let own = other == service && service.is_service();
        matrix.push((format!("sotto.v1.vn.audit.{other}.keys"), own));
        matrix.push((format!("sotto.v1.de.audit.{other}.keys"), false));
    }
    matrix.push(("sotto.v1.vn.audit.keys".to_owned(), false));
    let provisions = service == Service::Provisioner;
    let operates = service == Service::Operator;
    let topic_of = |stream: &str| match stream {
        "INTAKE" => vec!["accepted", "retry"],
        "SCHEDULED" => vec!["scheduled"],
        "WAITING" => vec!["waiting"],
        "EVENTS" => vec!["event"],
        "CARRIED" => vec!["carried"],
        "INBOUND" => vec!["inbound"],
        "INDEX" => vec!["index"],
        "LEASES" => vec!["lease"],
        "CONTROL" => vec!["control"],
        _ => vec!["quarantine"],
    };
    for stream in STREAMS {
        let tells = *stream == "AUDIT" && service.is_service();
        let touches = tells
            || topic_of(stream).iter().any(|topic| publishes.contains(topic))
            || reads.contains(stream)
            || pulls.iter().any(|(from, _)| from == stream);
        matrix.push((format!("$JS.API.DIRECT.GET.VN_{stream}"), reads.contains(stream)));
        matrix.push((format!("$JS.API.STREAM.INFO.VN_{stream}"), touches || provisions));
        for api in ["STREAM.CREATE", "STREAM.UPDATE"] {
            matrix.push((format!("$JS.API.{api}.VN_{stream}"), provisions));
            matrix.push((format!("$JS.API.{api}.DE_{stream}"), false));
        }
        let trims = ["EVENTS", "CARRIED", "AUDIT"].contains(stream) && service == Service::Audit;
        matrix.push((format!("$JS.API.STREAM.PURGE.VN_{stream}"), trims));
        for api in ["STREAM.DELETE", "STREAM.MSG.GET", "STREAM.SNAPSHOT"] {
            matrix.push((format!("$JS.API.{api}.VN_{stream}"), false));
        }
        let moves = (*stream == "SCHEDULED" && service == Service::Ingress)
            || (*stream == "CARRIED" && service == Service::Audit);
        matrix.push((format!("$JS.API.STREAM.MSG.DELETE.VN_{stream}"), moves));
        matrix.push((format!("$JS.API.CONSUMER.CREATE.VN_{stream}.x"), provisions));
        matrix.push((format!("$JS.API.CONSUMER.DELETE.VN_{stream}.x"), false));
        matrix.push((format!("$JS.API.CONSUMER.DURABLE.CREATE.VN_{stream}.x"), false));
    }
    for (stream, consumer) in MAY_PULL.iter().flat_map(|(_, what)| *what) {
        let mine = pulls.iter().any(|(from, name)| from == stream && name == consumer);
        matrix.push((format!("$JS.API.CONSUMER.MSG.NEXT.VN_{stream}.{consumer}"), mine));
        matrix.push((format!("$JS.ACK.VN_{stream}.{consumer}.1.1.1.1.1"), mine));
        matrix
            .push((format!("$JS.API.CONSUMER.INFO.VN_{stream}.{consumer}"), mine || provisions || operates));
    }
    for subject in
        ["$SYS.REQ.SERVER.PING", "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$KV.x.y", "client.acme.send"]
    {
        matrix.push((subject.to_owned(), false));
    }
    for other in Service::ALL {
        matrix.push((format!("_INBOX.{other}.t.1"), false));
    }
    matrix.push(("sotto.v1.vn.client.acme.submit".to_owned(), false));
    // Inboxes of clients: under names that the broker makes up, never under theirs.
    matrix.push(("_INBOX.shop.x".to_owned(), false));
    matrix.push(("_R_.x.y".to_owned(), service == Service::Ingress));
    matrix
}

/// Subscriptions: the own inbox and nothing else, not even by a wider pattern.
fn subscribe_matrix(service: Service) -> Vec<(String, bool)> {
    let mut matrix = vec![
        (">".to_owned(), false),
        ("sotto.>".to_owned(), false),
        ("_INBOX.>".to_owned(), false),
        ("_INBOX.*.>".to_owned(), false),
        ("$JS.>".to_owned(), false),
        ("$SYS.>".to_owned(), false),
        ("client.>".to_owned(), false),
        ("sotto.v1.vn.client.*.submit".to_owned(), false),
        ("sotto.v1.vn.client.>".to_owned(), false),
        ("_R_.>".to_owned(), false),
    ];
    matrix.extend(BUSINESS.iter().map(|(_, subject)| (format!("sotto.v1.vn.{subject}"), false)));
    matrix.push((format!("sotto.v1.vn.audit.{service}.keys"), false));
    matrix.extend(Service::ALL.map(|other| (format!("_INBOX.{other}.x.*"), other == service)));
    matrix
}

#[tokio::test]
async fn every_service_against_every_subject() {
    let cell = TestCell::start().await;
    let mut wrong = Vec::new();
    let mut allowed = 0;
    for service in Service::ALL {
        let mut raw = cell.raw(service).await;
        // The broker answers in order, so a subject that is always refused marks the end of a group.
        for group in publish_matrix(service).chunks(20) {
            for (subject, _) in group {
                raw.client.publish_with_reply(subject.clone(), "_INBOX.nobody", "{}".into()).await.unwrap();
            }
            raw.client.publish("fence", "".into()).await.unwrap();
            check(service, "publish", group, &mut raw, &mut wrong, &mut allowed).await;
        }
        let mut open = Vec::new();
        for group in subscribe_matrix(service).chunks(20) {
            for (subject, _) in group {
                open.push(raw.client.subscribe(subject.clone()).await.unwrap());
            }
            raw.client.publish("fence", "".into()).await.unwrap();
            check(service, "subscribe", group, &mut raw, &mut wrong, &mut allowed).await;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(allowed > 100, "the matrix must not be empty: {allowed}");
}

/// Compares what the broker refused before the fence with the table.
pub(crate) async fn check(
    user: impl std::fmt::Display,
    verb: &str,
    group: &[(String, bool)],
    raw: &mut Raw,
    wrong: &mut Vec<String>,
    allowed: &mut usize,
) {
    let mut refused = BTreeSet::new();
    loop {
        let error = tokio::time::timeout(BOUND, raw.refused.recv()).await.unwrap().unwrap();
        let subject = error.split('"').nth(1).unwrap().to_owned();
        if subject == "fence" {
            break;
        }
        refused.insert(subject);
    }
    for (subject, may) in group {
        if *may == refused.contains(subject) {
            let found = if *may { "refused" } else { "allowed" };
            wrong.push(format!("{user} {verb} {subject}: {found}"));
        }
        *allowed += usize::from(*may);
    }
}

/// Nothing is granted that the matrix does not try.
#[test]
fn the_matrix_tries_every_permission() {
    let topology = sotto_bus::Topology::embedded().unwrap();
    for service in Service::ALL {
        let tried = publish_matrix(service);
        for pattern in topology::permissions(&topology, service, &vn()).publish {
            let seen = tried.iter().any(|(subject, may)| *may && matches(&pattern, subject));
            // Names of consumers are listed, not read or written.
            assert!(
                seen || pattern.contains("CONSUMER.NAMES") || pattern.contains("CONSUMER.INFO"),
                "{service}: {pattern}"
            );
        }
    }
}
