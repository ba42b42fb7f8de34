use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use sotto_core::{
    Facts, MessageClass, MessageId,
    delivery::{Delivery, PartState},
    text::Encoding,
    work::Envelope,
};

use super::*;

fn facts(parts: u8) -> Facts {
    Facts {
        message: MessageId::from_keyed_hash([1; 16]),
        tenant: "acme".parse().unwrap(),
        class: MessageClass::Otp,
        country: "VN".parse().unwrap(),
        operator_range: "8498".parse().unwrap(),
        encoding: Encoding::Gsm7,
        parts,
        units: 100,
        accepted_at: Timestamp::from_unix_seconds(1_000),
        expires_at: Timestamp::from_unix_seconds(1_300),
        content_mac: None,
        send_at: None,
    }
}

fn item(parts: u8) -> WorkItem {
    WorkItem {
        attempt: 1,
        account: Some(account()),
        ..WorkItem::accepted(facts(parts), Envelope(Bytes::new()))
    }
}

fn account() -> AccountId {
    "viettel-otp".parse().unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_unix_seconds(1_010)
}

fn submitted() -> PartEnd {
    PartEnd::Submitted { carrier_id: "7".to_owned() }
}

const THROTTLED: PartEnd = PartEnd::Refused { status: 0x58 };
const PASSING: PartEnd = PartEnd::Refused { status: 0x08 };
const ELSEWHERE: PartEnd = PartEnd::Refused { status: 0x45 };
const NO_SUCH_NUMBER: PartEnd = PartEnd::Refused { status: 0x0B };
const NOT_WRITTEN: PartEnd = PartEnd::Unsent { end: AttemptEnd::LinkDown };

fn back(item: &WorkItem, ends: &[(u8, PartEnd)]) -> Option<WorkItem> {
    settle(item, &account(), ends, now()).back
}

#[test]
fn a_refused_message_goes_elsewhere() {
    let back = back(&item(1), &[(1, ELSEWHERE)]).unwrap();
    assert_eq!(
        (back.pinned, back.parts.len(), back.account.clone(), back.not_before),
        (false, 0, None, None)
    );
    let attempt = Attempt { number: 1, account: account(), end: AttemptEnd::Refused, status: 0x45 };
    assert_eq!(back.history, [attempt]);
}

#[test]
fn a_throttled_message_waits() {
    let back = back(&item(2), &[(1, THROTTLED), (2, THROTTLED)]).unwrap();
    assert_eq!(back.history.last().unwrap().end, AttemptEnd::Throttled);
    assert_eq!(back.not_before, Some(Timestamp::from_unix_seconds(1_011)));
}

/// Two hours of a carrier that is away: the message comes back each time, and its refusal elsewhere is not forgotten.
#[test]
fn patience_has_no_end_of_its_own() {
    let mut item = item(1);
    item.facts.expires_at = now().plus(std::time::Duration::from_secs(3 * 3600));
    item.history.push(Attempt {
        number: 1,
        account: "mobi".parse().unwrap(),
        end: AttemptEnd::Refused,
        status: 0x45,
    });
    for attempt in 2..300 {
        item.attempt = attempt;
        let end = if attempt % 2 == 0 { NOT_WRITTEN } else { PASSING };
        item = back(&item, &[(1, end)]).unwrap();
        assert!(item.history.len() <= WorkItem::MAX_HISTORY);
        assert_eq!(item.history.first().unwrap().end, AttemptEnd::Refused);
    }
    assert_eq!(item.not_before, Some(now().plus(std::time::Duration::from_secs(30))));
}

#[test]
fn a_carriers_own_failure_passes() {
    for status in [0x08, 0x64] {
        let back = back(&item(1), &[(1, PartEnd::Refused { status })]).unwrap();
        let attempt = Attempt { number: 1, account: account(), end: AttemptEnd::Throttled, status };
        assert_eq!(
            (back.history, back.not_before),
            (vec![attempt], Some(Timestamp::from_unix_seconds(1_011)))
        );
    }
}

#[test]
fn an_invalid_number_ends_the_message_everywhere() {
    assert_eq!(back(&item(1), &[(1, NO_SUCH_NUMBER)]), None);
    let settled =
        settle(&item(3), &account(), &[(1, NO_SUCH_NUMBER), (2, THROTTLED), (3, NOT_WRITTEN)], now());
    assert_eq!(settled.back, None);
    assert_eq!(settled.events.last().unwrap().kind, EventKind::Rejected { cause: RejectCause::Carrier });
}

#[test]
fn a_part_sent_message_stays_with_its_account() {
    for held in [submitted(), PartEnd::NoResponse] {
        let back = back(&item(3), &[(1, held), (2, THROTTLED), (3, NOT_WRITTEN)]).unwrap();
        assert_eq!((back.pinned, back.parts), (true, vec![2, 3]));
    }
}

#[test]
fn a_part_that_only_this_account_may_take_is_not_tried_for_ever() {
    let mut pinned = WorkItem { pinned: true, parts: vec![2], ..item(2) };
    for number in 1..=2 {
        pinned.attempt = number;
        pinned = back(&pinned, &[(2, ELSEWHERE)]).unwrap();
        assert_eq!((pinned.pinned, pinned.parts.clone()), (true, vec![2]));
        assert!(pinned.not_before.is_some());
    }
    pinned.attempt = 3;
    assert_eq!(back(&pinned, &[(2, ELSEWHERE)]), None);
}

#[test]
fn doubt_is_never_sent_again() {
    assert_eq!(back(&item(2), &[(1, PartEnd::NoResponse), (2, PartEnd::NoResponse)]), None);
}

fn end() -> impl Strategy<Value = PartEnd> {
    prop_oneof![
        Just(submitted()),
        Just(PartEnd::NoResponse),
        Just(THROTTLED),
        Just(PASSING),
        Just(ELSEWHERE),
        Just(NO_SUCH_NUMBER),
        Just(NOT_WRITTEN)
    ]
}

proptest! {
    /// By the state machine that everybody else folds: a part is pending if and only if it goes back to routing.
    #[test]
    fn nothing_is_stranded_and_nothing_is_sent_twice(ends in vec(end(), 1..=10)) {
        let parts = u8::try_from(ends.len()).unwrap();
        let ends: Vec<_> = (1..=parts).zip(ends).collect();
        let item = item(parts);
        let mut delivery = Delivery::accepted(item.facts.clone());
        let tell = |kind| Event { message: item.facts.message, at: now(), kind };
        let routed = EventKind::Routed { attempt: 1, account: account(), table_version: String::new() };
        delivery.step(&tell(routed)).unwrap();
        let submitting = EventKind::Submitting { attempt: 1, account: account(), parts: item.wanted_parts() };
        delivery.step(&tell(submitting)).unwrap();
        let settled = settle(&item, &account(), &ends, now());
        for event in settled.events.iter().chain(&settled.events) {
            delivery.step(event).unwrap();
        }
        let again = settled.back.as_ref().map(WorkItem::wanted_parts).unwrap_or_default();
        for ((part, end), state) in ends.iter().zip(delivery.parts()) {
            prop_assert_eq!(*state == PartState::Pending, again.contains(part), "{:?} {:?}", end, state);
            if matches!(end, PartEnd::Submitted { .. } | PartEnd::NoResponse) {
                prop_assert!(!again.contains(part));
            }
        }
        if let Some(back) = &settled.back {
            prop_assert_eq!(back.pinned, delivery.parts().iter().any(PartState::is_with_carrier));
        }
    }

    /// Also when an intent is in the log that was never acted on.
    #[test]
    fn an_expired_or_rejected_item_ends(parts in 1_u8..=10, intended: bool) {
        let item = item(parts);
        let tell = |kind| Event { message: item.facts.message, at: now(), kind };
        for settled in [
            expire(&item, &account(), ExpiryCause::Validity, now()),
            expire(&item, &account(), ExpiryCause::KeyDestroyed, now()),
            reject(&item, &account(), RejectCause::Content, now()),
        ] {
            let mut delivery = Delivery::accepted(item.facts.clone());
            let (attempt, parts) = (1, item.wanted_parts());
            if intended {
                delivery.step(&tell(EventKind::Submitting { attempt, account: account(), parts })).unwrap();
            }
            for event in &settled.events {
                delivery.step(event).unwrap();
            }
            prop_assert!(delivery.outcome().is_some());
        }
    }
}
