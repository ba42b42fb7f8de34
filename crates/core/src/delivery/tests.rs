use std::str::FromStr;

use proptest::prelude::*;

use super::*;
use crate::{
    MessageClass, MessageId, TenantId,
    number::{Country, OperatorRange},
    text::Encoding,
    work::AttemptEnd,
};

fn facts(parts: u8) -> Facts {
    Facts {
        message: MessageId::from_keyed_hash([1; 16]),
        tenant: TenantId::from_str("acme").unwrap(),
        class: MessageClass::Otp,
        country: Country::from_str("VN").unwrap(),
        operator_range: OperatorRange::from_str("8498").unwrap(),
        encoding: Encoding::Gsm7,
        parts,
        units: 100,
        accepted_at: Timestamp::from_unix_seconds(1_000),
        expires_at: Timestamp::from_unix_seconds(1_300),
        content_mac: None,
        send_at: None,
    }
}

fn account(name: &str) -> AccountId {
    name.parse().unwrap()
}

fn event(kind: EventKind) -> Event {
    Event { message: MessageId::from_keyed_hash([1; 16]), at: Timestamp::from_unix_seconds(1_010), kind }
}

fn routed(attempt: u16) -> Event {
    event(EventKind::Routed { attempt, account: account("a"), table_version: String::new() })
}

fn submitting(attempt: u16, parts: &[u8]) -> Event {
    event(EventKind::Submitting { attempt, account: account("a"), parts: parts.to_vec() })
}

fn submitted(attempt: u16, part: u8) -> Event {
    event(EventKind::Submitted { attempt, account: account("a"), part, carrier_id: "7".to_owned() })
}

fn no_response(attempt: u16, part: u8) -> Event {
    event(EventKind::NoResponse { attempt, account: account("a"), part })
}

fn refused(attempt: u16, part: u8, retried: bool) -> Event {
    event(EventKind::Refused { attempt, account: account("a"), part, status: 0x45, retried })
}

fn receipt(attempt: u16, part: u8, state: ReceiptState) -> Event {
    event(EventKind::Receipt { attempt, account: account("a"), part, state, error: String::new() })
}

fn after(parts: u8, events: &[Event]) -> (Delivery, Vec<Effect>) {
    let mut delivery = Delivery::accepted(facts(parts));
    let mut effects = Vec::new();
    for event in events {
        effects.extend(delivery.step(event).unwrap().effects);
    }
    (delivery, effects)
}

#[test]
fn the_common_way() {
    let (delivery, effects) = after(
        2,
        &[
            routed(1),
            submitting(1, &[1, 2]),
            submitted(1, 1),
            submitted(1, 2),
            receipt(1, 2, ReceiptState::Delivered),
            receipt(1, 1, ReceiptState::Delivered),
        ],
    );
    assert_eq!(delivery.stage(), Stage::Ended(Outcome::Delivered));
    assert_eq!(effects, [Effect::Ended(Outcome::Delivered)]);
}

#[test]
fn a_late_response_lifts_the_doubt() {
    let (delivery, _) = after(1, &[routed(1), submitting(1, &[1]), no_response(1, 1)]);
    assert_eq!(delivery.stage(), Stage::InDoubt);
    let (delivery, _) = after(1, &[routed(1), submitting(1, &[1]), no_response(1, 1), submitted(1, 1)]);
    assert_eq!(delivery.stage(), Stage::Submitted);
}

#[test]
fn doubt_closes_as_unknown_and_evidence_after_that_is_a_correction() {
    let mut events = vec![routed(1), submitting(1, &[1]), no_response(1, 1), event(EventKind::ClosedUnknown)];
    let (delivery, effects) = after(1, &events);
    assert_eq!(effects, [Effect::Ended(Outcome::Unknown)]);
    assert_eq!(delivery.parts(), [PartState::Unknown { attempt: 1, doubt: Doubt::NoResponse }]);
    events.push(receipt(1, 1, ReceiptState::Delivered));
    let (delivery, effects) = after(1, &events);
    assert_eq!(delivery.outcome(), Some(Outcome::Unknown));
    assert_eq!(delivery.correction(), Some(Outcome::Delivered));
    assert_eq!(effects.last(), Some(&Effect::Corrected { from: Outcome::Unknown, to: Outcome::Delivered }));
}

#[test]
fn what_may_have_been_sent_in_lost_time_ends_as_unknown() {
    let (delivery, effects) = after(2, &[routed(1), submitting(1, &[1]), event(EventKind::Doubted)]);
    assert_eq!(delivery.parts()[1], PartState::Unknown { attempt: 0, doubt: Doubt::Restored });
    assert!(effects.is_empty(), "the first part has a word of its own to come");
    let events = [routed(1), event(EventKind::Doubted), event(EventKind::Doubted)];
    let (delivery, effects) = after(1, &events);
    assert_eq!((delivery.outcome(), effects.len()), (Some(Outcome::Unknown), 1));
    // An attempt that was under way all the same: the end stands, and the handset's word is a correction.
    let late = [submitting(1, &[1]), submitted(1, 1), receipt(1, 1, ReceiptState::Delivered)];
    let (delivery, _) = after(1, &[&events[..], &late].concat());
    assert_eq!(delivery.correction(), Some(Outcome::Delivered));
}

#[test]
fn a_receipt_before_the_response_counts_once() {
    let (delivery, effects) =
        after(1, &[routed(1), submitting(1, &[1]), receipt(1, 1, ReceiptState::Delivered), submitted(1, 1)]);
    assert_eq!(delivery.outcome(), Some(Outcome::Delivered));
    assert_eq!(effects.len(), 1);
}

#[test]
fn delivered_after_expired_is_a_correction() {
    let (delivery, effects) = after(
        1,
        &[
            routed(1),
            submitting(1, &[1]),
            submitted(1, 1),
            receipt(1, 1, ReceiptState::Expired),
            receipt(1, 1, ReceiptState::Delivered),
        ],
    );
    assert_eq!(delivery.outcome(), Some(Outcome::Expired));
    assert_eq!(effects.last(), Some(&Effect::Corrected { from: Outcome::Expired, to: Outcome::Delivered }));
}

#[test]
fn a_refusal_that_is_retried_goes_back_to_routing() {
    let (delivery, _) = after(1, &[routed(1), submitting(1, &[1]), refused(1, 1, true)]);
    assert_eq!(delivery.stage(), Stage::Accepted);
    let (delivery, _) = after(
        1,
        &[
            routed(1),
            submitting(1, &[1]),
            refused(1, 1, true),
            routed(2),
            submitting(2, &[1]),
            submitted(2, 1),
        ],
    );
    assert_eq!((delivery.stage(), delivery.attempt()), (Stage::Submitted, 2));
}

#[test]
fn evidence_of_an_earlier_attempt_does_not_touch_a_later_one() {
    let (delivery, _) = after(
        1,
        &[
            routed(1),
            submitting(1, &[1]),
            refused(1, 1, true),
            routed(2),
            submitting(2, &[1]),
            no_response(1, 1),
            refused(1, 1, false),
        ],
    );
    assert_eq!(delivery.parts(), [PartState::Submitting { attempt: 2 }]);
}

#[test]
fn a_part_refused_after_another_was_taken_makes_the_message_undelivered() {
    let (delivery, _) = after(
        2,
        &[
            routed(1),
            submitting(1, &[1, 2]),
            submitted(1, 1),
            refused(1, 2, false),
            receipt(1, 1, ReceiptState::Delivered),
        ],
    );
    assert_eq!(delivery.outcome(), Some(Outcome::Undelivered));
}

#[test]
fn a_cancellation_comes_before_the_carriers_answer_or_too_late() {
    let cancelled = || event(EventKind::Cancelled);
    // Of an intent the log does not say whether it was acted on: told is only a cancellation that was first.
    for before in [vec![routed(1)], vec![routed(1), submitting(1, &[1])]] {
        let (delivery, effects) = after(1, &[before, vec![cancelled(), cancelled()]].concat());
        assert_eq!(
            (delivery.outcome(), effects),
            (Some(Outcome::Cancelled), vec![Effect::Ended(Outcome::Cancelled)])
        );
    }
    for (answer, stage) in [(submitted(1, 1), Stage::Submitted), (no_response(1, 1), Stage::InDoubt)] {
        let (delivery, _) = after(1, &[routed(1), submitting(1, &[1]), answer, cancelled()]);
        assert_eq!(delivery.stage(), stage);
    }
    let (delivery, _) = after(2, &[routed(1), submitting(1, &[1, 2]), submitted(1, 1), cancelled()]);
    assert_eq!(delivery.stage(), Stage::Submitted, "a text with a missing part cannot be read");
}

#[test]
fn expiry_takes_what_was_never_sent_and_leaves_the_rest() {
    let (delivery, effects) =
        after(1, &[routed(1), event(EventKind::Expired { cause: ExpiryCause::Validity })]);
    assert_eq!((delivery.outcome(), effects.len()), (Some(Outcome::Expired), 1));
    let (delivery, _) = after(
        1,
        &[routed(1), submitting(1, &[1]), event(EventKind::Expired { cause: ExpiryCause::Validity })],
    );
    assert_eq!(delivery.stage(), Stage::Submitted);
}

#[test]
fn silence_has_a_deadline_until_the_end() {
    let grace = Duration::from_secs(30);
    let wait = Duration::from_secs(3_600);
    let (delivery, _) = after(1, &[routed(1)]);
    assert_eq!(delivery.deadline(grace, wait), Some(Timestamp::from_unix_seconds(1_330)));
    assert_eq!(delivery.closing_event(), EventKind::Expired { cause: ExpiryCause::Silence });
    let (delivery, _) = after(1, &[routed(1), submitting(1, &[1])]);
    assert_eq!(delivery.deadline(grace, wait), Some(Timestamp::from_unix_seconds(4_610)));
    assert_eq!(delivery.closing_event(), EventKind::ClosedUnknown);
    let (delivery, _) = after(1, &[event(EventKind::Expired { cause: ExpiryCause::Validity })]);
    assert_eq!(delivery.deadline(grace, wait), None);
}

#[test]
fn foreign_and_impossible_events_are_refused() {
    let mut delivery = Delivery::accepted(facts(1));
    assert_eq!(delivery.step(&submitted(1, 2)), Err(Illegal::NoSuchPart { part: 2, parts: 1 }));
    assert_eq!(delivery.step(&submitted(1, 0)), Err(Illegal::NoSuchPart { part: 0, parts: 1 }));
    let mut other = routed(1);
    other.message = MessageId::from_keyed_hash([2; 16]);
    assert_eq!(delivery.step(&other), Err(Illegal::OtherMessage));
    let mut foreign = facts(1);
    foreign.tenant = TenantId::from_str("evil").unwrap();
    assert_eq!(delivery.step(&event(EventKind::Accepted(Box::new(foreign)))), Err(Illegal::OtherFacts));
    assert_eq!(Delivery::fold(&[routed(1)]), Err(Illegal::NotAccepted));
}

fn unsent(attempt: u16, parts: &[u8]) -> Event {
    let end = AttemptEnd::LinkDown;
    event(EventKind::Unsent { attempt, account: account("a"), end, parts: parts.to_vec() })
}

#[test]
fn an_intent_recorded_behind_its_end_holds_nothing_up() {
    for end in [refused(1, 1, true), unsent(1, &[1])] {
        let mut events = vec![routed(1), submitting(1, &[1]), end, submitting(1, &[1])];
        let (delivery, _) = after(1, &events);
        assert_eq!((delivery.parts(), delivery.stage()), ([PartState::Pending].as_slice(), Stage::Accepted));
        events.extend([routed(2), submitting(2, &[1]), submitting(1, &[1]), no_response(2, 1)]);
        let (delivery, _) = after(1, &events);
        assert_eq!(delivery.parts(), [PartState::NoResponse { attempt: 2 }]);
    }
    // The end of the first attempt comes behind the intent of the second.
    let (delivery, _) = after(
        1,
        &[
            routed(1),
            submitting(1, &[1]),
            routed(2),
            submitting(2, &[1]),
            refused(1, 1, true),
            no_response(2, 1),
        ],
    );
    assert_eq!(
        (delivery.parts(), delivery.attempt()),
        ([PartState::NoResponse { attempt: 2 }].as_slice(), 2)
    );
}

#[test]
fn what_was_declared_over_too_early_lives_again() {
    let rejected = || event(EventKind::Rejected { cause: RejectCause::NoRoute });
    for over in
        [rejected(), event(EventKind::Expired { cause: ExpiryCause::Validity }), event(EventKind::Cancelled)]
    {
        let (delivery, _) = after(1, &[routed(1), over.clone(), submitting(1, &[1]), submitted(1, 1)]);
        assert_eq!(delivery.parts(), [PartState::Submitted { attempt: 1 }], "{over:?}");
        let (delivery, effects) =
            after(1, &[routed(1), over, submitted(1, 1), receipt(1, 1, ReceiptState::Delivered)]);
        assert_eq!(delivery.correction(), Some(Outcome::Delivered));
        assert_eq!(effects.len(), 2);
    }
}

#[test]
fn bad_news_of_an_old_attempt_does_not_end_a_newer_one() {
    let second = [routed(1), submitting(1, &[1]), refused(1, 1, true), routed(2), submitting(2, &[1])];
    for bad in [ReceiptState::Undeliverable, ReceiptState::Expired, ReceiptState::Rejected] {
        for known in [3, 4, 5] {
            let mut events = second[..known].to_vec();
            let (before, _) = after(1, &events);
            events.push(receipt(1, 1, bad));
            assert_eq!(after(1, &events).0, before, "{bad:?} after {known} events");
        }
    }
    // Good news is about the handset, whichever attempt brought it there.
    let mut events = second.to_vec();
    events.push(receipt(1, 1, ReceiptState::Delivered));
    assert_eq!(after(1, &events).0.outcome(), Some(Outcome::Delivered));
}

#[test]
fn accepted_by_the_carrier_is_not_delivered() {
    let (delivery, _) =
        after(1, &[routed(1), submitting(1, &[1]), no_response(1, 1), receipt(1, 1, ReceiptState::Accepted)]);
    assert_eq!(delivery.parts(), [PartState::Submitted { attempt: 1 }]);
}

/// How the last attempt of a message can end, and the message with it or not.
#[derive(Clone, Copy, Debug)]
enum Last {
    Taken,
    Receipted(ReceiptState),
    Silent,
    Refused,
    Expired,
    Rejected,
}

/// The log of a message as the owner of every claim writes it.
fn history(parts: u8, retried: &[bool], last: Last) -> Vec<Event> {
    let all: Vec<u8> = (1..=parts).collect();
    let each = |of: &dyn Fn(u8) -> Event| all.iter().map(|part| of(*part)).collect::<Vec<_>>();
    let mut log = Vec::new();
    for (attempt, refused_by_carrier) in (1..).zip(retried) {
        log.extend([routed(attempt), submitting(attempt, &all)]);
        if *refused_by_carrier {
            log.extend(each(&|part| refused(attempt, part, true)));
        } else {
            log.push(unsent(attempt, &all));
        }
    }
    let attempt = u16::try_from(retried.len()).unwrap() + 1;
    let rejected = event(EventKind::Rejected { cause: RejectCause::RoutesExhausted });
    if matches!(last, Last::Rejected) {
        log.push(rejected);
        return log;
    }
    log.extend([routed(attempt), submitting(attempt, &all)]);
    match last {
        Last::Taken => log.extend(each(&|part| submitted(attempt, part))),
        Last::Receipted(state) => {
            log.extend(each(&|part| submitted(attempt, part)));
            log.extend(each(&|part| receipt(attempt, part, state)));
        }
        Last::Silent => log.extend(each(&|part| no_response(attempt, part))),
        Last::Refused => log.extend(each(&|part| refused(attempt, part, false))),
        Last::Expired => {
            log.extend([unsent(attempt, &all), event(EventKind::Expired { cause: ExpiryCause::Validity })])
        }
        Last::Rejected => {}
    }
    log
}

fn any_history() -> impl Strategy<Value = (u8, Vec<Event>)> {
    let last = prop_oneof![
        Just(Last::Taken),
        proptest::sample::select(ReceiptState::ALL.to_vec()).prop_map(Last::Receipted),
        Just(Last::Silent),
        Just(Last::Refused),
        Just(Last::Expired),
        Just(Last::Rejected),
    ];
    (1_u8..3, proptest::collection::vec(any::<bool>(), 0..4), last)
        .prop_map(|(parts, retried, last)| (parts, history(parts, &retried, last)))
}

/// Puts the intents of a second owner, which never passed its fence, into the log: each anywhere behind the decision
/// that it follows.
fn with_late_intents(parts: u8, log: &[Event], late: &[(u16, usize)]) -> Vec<Event> {
    let all: Vec<u8> = (1..=parts).collect();
    let mut merged = log.to_vec();
    for (attempt, place) in late {
        let decided = merged
            .iter()
            .position(|event| matches!(event.kind, EventKind::Routed { attempt: of, .. } if of == *attempt));
        if let Some(decided) = decided {
            let behind = merged.len() - decided;
            merged.insert(decided + 1 + place % behind, submitting(*attempt, &all));
        }
    }
    merged
}

fn any_event(parts: u8) -> impl Strategy<Value = Event> {
    let attempt = 1_u16..4;
    let part = 1..=parts;
    prop_oneof![
        2 => attempt.clone().prop_map(routed),
        3 => (attempt.clone(), proptest::collection::vec(part.clone(), 1..4))
            .prop_map(|(attempt, parts)| submitting(attempt, &parts)),
        3 => (attempt.clone(), part.clone()).prop_map(|(attempt, part)| submitted(attempt, part)),
        2 => (attempt.clone(), part.clone()).prop_map(|(attempt, part)| no_response(attempt, part)),
        2 => (attempt.clone(), part.clone(), any::<bool>())
            .prop_map(|(attempt, part, retried)| refused(attempt, part, retried)),
        4 => (attempt.clone(), part.clone(), proptest::sample::select(ReceiptState::ALL.to_vec()))
            .prop_map(|(attempt, part, state)| receipt(attempt, part, state)),
        1 => (attempt, part).prop_map(|(attempt, part)| event(EventKind::Unsent {
            attempt,
            account: account("a"),
            end: AttemptEnd::LinkDown,
            parts: vec![part],
        })),
        1 => Just(event(EventKind::Expired { cause: ExpiryCause::Validity })),
        1 => Just(event(EventKind::Rejected { cause: RejectCause::NoRoute })),
        1 => Just(event(EventKind::Cancelled)),
        1 => Just(event(EventKind::ClosedUnknown)),
        1 => Just(event(EventKind::Doubted)),
    ]
}

proptest! {
    /// Whatever comes, in whatever order: invariants hold after every event, an end is reached once and stays, and
    /// closing the silence always ends a message (INV-2).
    #[test]
    fn every_message_ends_once(events in (1_u8..4).prop_flat_map(|parts| {
        (Just(parts), proptest::collection::vec(any_event(parts), 0..40))
    })) {
        let (parts, events) = events;
        let mut delivery = Delivery::accepted(facts(parts));
        let mut ends = 0;
        let mut first_end = None;
        for event in &events {
            let step = delivery.step(event).unwrap();
            prop_assert_eq!(check(&delivery), None);
            for effect in step.effects {
                if let Effect::Ended(outcome) = effect {
                    ends += 1;
                    first_end = Some(outcome);
                }
            }
            prop_assert_eq!(delivery.outcome(), first_end);
        }
        prop_assert!(ends <= 1);
        if delivery.outcome().is_none() {
            let closing = event(delivery.closing_event());
            delivery.step(&closing).unwrap();
            prop_assert!(delivery.outcome().is_some());
        }
    }

    /// The same event twice in a row has one effect.
    #[test]
    fn repeats_change_nothing(events in proptest::collection::vec(any_event(2), 0..30)) {
        let mut delivery = Delivery::accepted(facts(2));
        for event in &events {
            delivery.step(event).unwrap();
            let before = delivery.clone();
            let again = delivery.step(event).unwrap();
            prop_assert!(again.effects.is_empty(), "{:?}", again);
            prop_assert_eq!(&before, &delivery);
        }
    }

    /// The events that changed something are enough to rebuild the state: the projection records only those.
    #[test]
    fn the_recorded_events_rebuild_the_state(events in proptest::collection::vec(any_event(3), 0..40)) {
        let mut delivery = Delivery::accepted(facts(3));
        let mut recorded = vec![event(EventKind::Accepted(Box::new(facts(3))))];
        for event in events {
            if delivery.step(&event).unwrap().changed {
                recorded.push(event);
            }
        }
        prop_assert_eq!(Delivery::fold(&recorded).unwrap(), delivery);
    }

    /// Two processes held the item, and the loser's intents stand anywhere in the log: the state is the winner's.
    #[test]
    fn late_intents_of_a_second_owner_change_nothing(
        (parts, log) in any_history(),
        late in proptest::collection::vec((1_u16..5, any::<usize>()), 0..5),
    ) {
        let merged = with_late_intents(parts, &log, &late);
        prop_assert_eq!(after(parts, &merged).0, after(parts, &log).0, "{:?}", merged);
    }

    /// Events that come again later, behind others, from the start to anywhere: nothing changes.
    #[test]
    fn the_log_may_come_again_from_its_start(
        (parts, log) in any_history(),
        late in proptest::collection::vec((1_u16..5, any::<usize>()), 0..3),
        at in any::<proptest::sample::Index>(),
        replayed in any::<proptest::sample::Index>(),
    ) {
        let log = with_late_intents(parts, &log, &late);
        let at = at.index(log.len() + 1);
        let replayed = replayed.index(at + 1);
        let mut twice = log[..at].to_vec();
        twice.extend_from_slice(&log[..replayed]);
        twice.extend_from_slice(&log[at..]);
        let (once, effects) = after(parts, &log);
        prop_assert_eq!(after(parts, &twice), (once, effects), "{:?}", twice);
    }
}
