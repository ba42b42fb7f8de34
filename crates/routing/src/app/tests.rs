use std::sync::Mutex;

use bytes::Bytes;
use sotto_core::{
    Facts, ManualClock, MessageClass, MessageId, Restored,
    carriers::CarriersFile,
    text::Encoding,
    work::{Attempt, AttemptEnd, Envelope, KeyWrap},
};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_000_000);

/// Keeps what it gets; fails where it is told to.
#[derive(Debug, Default)]
struct Notes {
    events: Mutex<Vec<Event>>,
    moved: Mutex<Vec<(AccountId, Lane, usize)>>,
    no_events: bool,
    full: Option<AccountId>,
}

impl Outbox for Arc<Notes> {
    async fn record(&self, events: Vec<Event>) -> Result<(), Later> {
        if self.no_events {
            return Err(Later(Duration::from_secs(3)));
        }
        self.events.lock().unwrap().extend(events);
        Ok(())
    }

    async fn enqueue(
        &self,
        account: &AccountId,
        lane: Lane,
        messages: Vec<WorkDelivery>,
    ) -> Result<(), Later> {
        if self.full.as_ref() == Some(account) {
            return Err(Later(Duration::from_secs(5)));
        }
        assert!(!self.events.lock().unwrap().is_empty(), "a message moved before its event was durable");
        self.moved.lock().unwrap().push((account.clone(), lane, messages.len()));
        Ok(())
    }
}

fn table(tps: u16) -> RouteTable {
    let text = format!(
        r#"
[[account]]
id = "a"
host = "localhost"
port = 1
system_id = "s"
password_file = "p"
tls = "waived"
tls_waiver_reason = "simulator on this machine"
tps = {tps}
simulator = true

[[route]]
prefix = "84"
accounts = [{{ id = "a", weight = 1 }}]
"#
    );
    RouteTable::new(CarriersFile::parse(&text).unwrap(), "v1".to_owned())
}

fn message(seed: u8, range: &str, class: MessageClass) -> WorkDelivery {
    let facts = Facts {
        message: MessageId::from_keyed_hash([seed; 16]),
        tenant: "acme".parse().unwrap(),
        class,
        country: "VN".parse().unwrap(),
        operator_range: range.parse().unwrap(),
        encoding: Encoding::Gsm7,
        parts: 1,
        units: 1,
        accepted_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(300)),
        content_mac: None,
        send_at: None,
    };
    let wrap = KeyWrap {
        key_id: [0; 16],
        tenant: "acme".parse().unwrap(),
        class,
        bucket: "otp/2026-11-24T06".to_owned(),
        wrapped: Bytes::new(),
    };
    WorkDelivery { item: WorkItem::accepted(facts, Envelope(Bytes::new())), wrap: Arc::new(wrap) }
}

fn router(notes: &Arc<Notes>, tps: u16) -> Router<Arc<Notes>> {
    Router::new(
        table(tps),
        Arc::new(ManualClock::new(NOW)),
        Arc::clone(notes),
        None,
        RoutingMetrics::new(&sotto_metrics::Metrics::default(), None),
    )
}

fn kinds(notes: &Notes) -> Vec<&'static str> {
    notes.events.lock().unwrap().iter().map(|event| event.kind.name()).collect()
}

#[tokio::test]
async fn a_fresh_message_is_taken_over_and_moved() {
    let notes = Arc::new(Notes::default());
    let outcomes = router(&notes, 100).route(vec![message(1, "8490", MessageClass::Otp)]).await;
    assert_eq!(outcomes, [Outcome::Done]);
    assert_eq!(kinds(&notes), ["accepted", "routed"]);
    assert_eq!(*notes.moved.lock().unwrap(), [("a".parse().unwrap(), Lane::Otp, 1)]);
}

#[tokio::test]
async fn a_message_without_route_ends_rejected_and_its_peers_go_on() {
    let notes = Arc::new(Notes::default());
    let batch = vec![message(1, "49", MessageClass::Otp), message(2, "8490", MessageClass::Otp)];
    assert_eq!(router(&notes, 100).route(batch).await, [Outcome::Done, Outcome::Done]);
    assert_eq!(kinds(&notes), ["accepted", "rejected", "accepted", "routed"]);
    assert_eq!(notes.moved.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn nothing_moves_while_events_cannot_be_recorded() {
    let notes = Arc::new(Notes { no_events: true, ..Notes::default() });
    let outcomes = router(&notes, 100).route(vec![message(1, "8490", MessageClass::Otp)]).await;
    assert_eq!(outcomes, [Outcome::Later(Duration::from_secs(3))]);
    assert!(notes.moved.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_full_account_keeps_its_messages_in_intake() {
    let notes = Arc::new(Notes { full: Some("a".parse().unwrap()), ..Notes::default() });
    let outcomes = router(&notes, 100).route(vec![message(1, "8490", MessageClass::Otp)]).await;
    assert_eq!(outcomes, [Outcome::Later(Duration::from_secs(5))]);
}

#[tokio::test]
async fn a_batch_holds_no_more_than_a_tenth_of_a_second() {
    let notes = Arc::new(Notes::default());
    let batch = (0..7).map(|seed| message(seed, "8490", MessageClass::Promotional)).collect();
    router(&notes, 30).route(batch).await;
    let sizes: Vec<_> = notes.moved.lock().unwrap().iter().map(|(_, _, size)| *size).collect();
    assert_eq!(sizes, [3, 3, 1]);
}

#[tokio::test]
async fn lanes_do_not_mix() {
    let notes = Arc::new(Notes::default());
    let batch = vec![message(1, "8490", MessageClass::Promotional), message(2, "8490", MessageClass::Otp)];
    router(&notes, 100).route(batch).await;
    let lanes: Vec<_> = notes.moved.lock().unwrap().iter().map(|(_, lane, _)| *lane).collect();
    assert_eq!(lanes, [Lane::Otp, Lane::Promotional]);
}

#[tokio::test]
async fn of_what_a_restored_cell_may_have_sent_nobody_says_that_it_was_not() {
    let notes = Arc::new(Notes::default());
    let clock = Arc::new(ManualClock::new(NOW));
    let restored = Some(Restored { at: NOW });
    let router = Router::new(
        table(100),
        clock,
        Arc::clone(&notes),
        restored,
        RoutingMetrics::new(&sotto_metrics::Metrics::default(), None),
    );
    let mut over = message(1, "8490", MessageClass::Otp);
    over.item.facts.expires_at = NOW;
    let mut since = message(2, "49", MessageClass::Otp);
    since.item.facts.accepted_at = NOW.plus(Duration::from_millis(1));
    let batch = vec![over, message(3, "49", MessageClass::Otp), since, message(4, "8490", MessageClass::Otp)];
    assert_eq!(router.route(batch).await, [Outcome::Done; 4]);
    let told = ["accepted", "doubted", "accepted", "doubted", "accepted", "rejected", "accepted", "routed"];
    assert_eq!(kinds(&notes), told);
}

#[tokio::test]
async fn a_returned_message_is_not_accepted_again() {
    let notes = Arc::new(Notes::default());
    let mut returned = message(1, "8490", MessageClass::Otp);
    returned.item.attempt = 1;
    let end = AttemptEnd::Throttled;
    returned.item.history.push(Attempt { number: 1, account: "a".parse().unwrap(), end, status: 0x58 });
    let mut early = returned.clone();
    early.item.not_before = Some(NOW.plus(Duration::from_secs(2)));
    let outcomes = router(&notes, 100).route(vec![returned, early]).await;
    assert_eq!(outcomes, [Outcome::Done, Outcome::Later(Duration::from_secs(2))]);
    assert_eq!(kinds(&notes), ["routed"]);
}

#[tokio::test]
async fn the_last_refusal_of_a_carrier_is_named() {
    let notes = Arc::new(Notes::default());
    let mut refused = message(1, "8490", MessageClass::Otp);
    refused.item.attempt = 1;
    let end = AttemptEnd::Refused;
    refused.item.history.push(Attempt { number: 1, account: "a".parse().unwrap(), end, status: 0x45 });
    router(&notes, 100).route(vec![refused]).await;
    let events = notes.events.lock().unwrap();
    assert!(matches!(events.first().unwrap().kind, EventKind::Rejected { cause: RejectCause::Carrier }));
}
