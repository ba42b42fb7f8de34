use proptest::prelude::*;
use sotto_core::{
    MessageClass,
    delivery::{ExpiryCause, ReceiptState, RejectCause},
    text::Encoding,
    work::AttemptEnd,
};

use super::*;

fn id() -> MessageId {
    MessageId::from_keyed_hash([7; 16])
}

fn facts(parts: u8, accepted: i64) -> Facts {
    Facts {
        message: id(),
        tenant: "acme".parse().unwrap(),
        class: MessageClass::Otp,
        country: "VN".parse().unwrap(),
        operator_range: "8491".parse().unwrap(),
        encoding: Encoding::Gsm7,
        parts,
        units: 10,
        accepted_at: Timestamp::from_unix_millis(accepted),
        expires_at: Timestamp::from_unix_millis(accepted + 300_000),
        content_mac: Some([1; 32]),
        send_at: None,
    }
}

fn event(at: i64, kind: EventKind) -> Event {
    Event { message: id(), at: Timestamp::from_unix_millis(at), kind }
}

fn accepted(parts: u8, at: i64) -> Event {
    event(at, EventKind::Accepted(Box::new(facts(parts, at))))
}

fn routed(attempt: u16) -> Event {
    let account = "one".parse().unwrap();
    event(2, EventKind::Routed { attempt, account, table_version: "t".to_owned() })
}

fn submitting(attempt: u16, parts: u8) -> Event {
    event(3, EventKind::Submitting { attempt, account: "one".parse().unwrap(), parts: (1..=parts).collect() })
}

fn receipt(part: u8, state: ReceiptState) -> Event {
    let account = "one".parse().unwrap();
    event(9, EventKind::Receipt { attempt: 1, account, part, state, error: String::new() })
}

#[test]
fn the_logs_acceptance_replaces_intakes() {
    let mut journal = Journal::accepted(facts(1, 1));
    assert!(journal.is_intakes_word());
    assert_eq!(journal.take(accepted(1, 5), 40), Ok(true));
    assert!(!journal.is_intakes_word());
    assert_eq!(journal.delivery().unwrap().facts().accepted_at.unix_millis(), 5);
    assert_eq!(journal.take(accepted(1, 6), 41), Ok(false), "the first of the log counts");
    let mut other = facts(1, 5);
    other.content_mac = None;
    let other = event(5, EventKind::Accepted(Box::new(other)));
    assert_eq!(journal.take(other, 42), Err(Illegal::OtherFacts));
    assert_eq!(journal.events().len(), 1);
}

#[test]
fn early_events_wait_for_the_acceptance() {
    let mut journal = Journal::empty(id());
    assert_eq!(journal.take(submitting(1, 1), 3), Ok(true));
    assert_eq!(journal.take(submitting(1, 1), 3), Ok(false));
    assert!(journal.delivery().is_none());
    assert_eq!(journal.take(accepted(1, 1), 4), Ok(true));
    let sequences: Vec<_> = journal.events().iter().map(|recorded| recorded.sequence).collect();
    assert_eq!(sequences, [4, 3]);
    assert_eq!(journal.take(receipt(1, ReceiptState::Delivered), 5), Ok(true));
    assert_eq!(journal.delivery().unwrap().outcome(), Some(Outcome::Delivered));
    assert_eq!(journal.ended_at(), Some(Timestamp::from_unix_millis(9)));
}

#[test]
fn a_correction_shows_and_does_not_move_the_end() {
    let mut journal = Journal::accepted(facts(1, 1));
    for (sequence, event) in [
        (1, routed(1)),
        (2, submitting(1, 1)),
        (3, event(4, EventKind::ClosedUnknown)),
        (4, receipt(1, ReceiptState::Delivered)),
    ] {
        journal.take(event, sequence).unwrap();
    }
    let delivery = journal.delivery().unwrap();
    assert_eq!(
        (delivery.outcome(), delivery.correction()),
        (Some(Outcome::Unknown), Some(Outcome::Delivered))
    );
    assert_eq!(journal.ended_at(), Some(Timestamp::from_unix_millis(4)));
    let corrections = journal.corrections();
    assert_eq!(corrections.len(), journal.events().len());
    assert_eq!(corrections.last(), Some(&Some((Outcome::Unknown, Outcome::Delivered))));
    assert_eq!(corrections.iter().flatten().count(), 1);
}

#[test]
fn a_journal_is_bounded_and_keeps_its_state() {
    let mut journal = Journal::accepted(facts(1, 1));
    for attempt in 1..200 {
        let account: sotto_core::AccountId = "one".parse().unwrap();
        let end = AttemptEnd::Throttled;
        journal.take(routed(attempt), u64::from(attempt)).unwrap();
        let unsent = EventKind::Unsent { attempt, account, end, parts: vec![1] };
        journal.take(event(4, unsent), u64::from(attempt)).unwrap();
    }
    assert!(journal.events().len() <= MAX_EVENTS);
    assert_eq!(journal, Journal::read(id(), journal.events().to_vec()));
    assert_eq!(journal.delivery().unwrap().attempt(), 199);
}

#[test]
fn an_event_for_a_part_that_is_not_there_is_illegal() {
    let mut journal = Journal::accepted(facts(1, 1));
    let before = journal.clone();
    let illegal = journal.take(receipt(2, ReceiptState::Delivered), 5);
    assert_eq!(illegal, Err(Illegal::NoSuchPart { part: 2, parts: 1 }));
    assert_eq!(journal, before);
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1_u16..4).prop_map(routed),
        (1_u16..4).prop_map(|attempt| submitting(attempt, 2)),
        (1_u8..=2, prop::sample::select(ReceiptState::ALL.to_vec()))
            .prop_map(|(part, said)| receipt(part, said)),
        Just(event(5, EventKind::Expired { cause: ExpiryCause::Silence })),
        Just(event(6, EventKind::ClosedUnknown)),
        Just(event(6, EventKind::Doubted)),
        Just(event(6, EventKind::Rejected { cause: RejectCause::NoRoute })),
        Just(accepted(2, 1)),
    ]
}

proptest! {
    #[test]
    fn reading_back_gives_the_same(events in proptest::collection::vec(any_event(), 0..40), first: bool) {
        let mut journal = if first { Journal::accepted(facts(2, 1)) } else { Journal::empty(id()) };
        for (sequence, event) in (1..).zip(&events) {
            journal.take(event.clone(), sequence).unwrap();
        }
        prop_assert_eq!(&Journal::read(id(), journal.events().to_vec()), &journal);
        // Everything once more changes nothing, once the acceptance is known from the log.
        if journal.delivery().is_some() && !journal.is_intakes_word() {
            let before = journal.delivery().unwrap().outcome();
            for (sequence, event) in (1..).zip(&events) {
                journal.take(event.clone(), sequence).unwrap();
            }
            if before.is_some() {
                prop_assert_eq!(journal.delivery().unwrap().outcome(), before);
            }
        }
    }
}
