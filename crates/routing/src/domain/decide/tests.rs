use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use sotto_core::{Facts, MessageClass, MessageId, carriers::CarriersFile, text::Encoding, work::Envelope};

use super::*;

const CARRIERS: &str = r#"
[[account]]
id = "a"
host = "localhost"
port = 1
system_id = "s"
password_file = "p"
tls = "waived"
tls_waiver_reason = "simulator on this machine"
tps = 10
simulator = true

[[account]]
id = "b"
host = "localhost"
port = 1
system_id = "s"
password_file = "p"
tls = "waived"
tls_waiver_reason = "simulator on this machine"
tps = 10
simulator = true

[[account]]
id = "c"
host = "localhost"
port = 1
system_id = "s"
password_file = "p"
tls = "waived"
tls_waiver_reason = "simulator on this machine"
tps = 10
simulator = true
tenants = ["acme"]

[[account]]
id = "d"
host = "localhost"
port = 1
system_id = "s"
password_file = "p"
tls = "waived"
tls_waiver_reason = "licensed until the end of 2026"
tps = 10
countries = ["VN"]
[account.licence]
type = "agreement"
number = "1"
expires = 2026-12-31

[[route]]
prefix = "84"
accounts = [{ id = "a", weight = 75 }, { id = "b", weight = 25 }]
fallback = ["c"]

[[route]]
prefix = "8498"
classes = ["otp"]
accounts = [{ id = "d", weight = 1 }]

[[route]]
prefix = "8498"
accounts = [{ id = "b", weight = 1 }]
"#;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_000_000);

fn table() -> RouteTable {
    RouteTable::new(CarriersFile::parse(CARRIERS).unwrap(), "v1".to_owned())
}

fn item(seed: u64, range: &str, class: MessageClass) -> WorkItem {
    let mut id = [7; 16];
    id[8..].copy_from_slice(&seed.to_be_bytes());
    let facts = Facts {
        message: MessageId::from_keyed_hash(id),
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
    WorkItem::accepted(facts, Envelope(Bytes::new()))
}

fn tried(mut item: WorkItem, attempts: &[(&str, AttemptEnd)]) -> WorkItem {
    for (number, (account, end)) in (1..).zip(attempts) {
        item.history.push(Attempt { number, account: account.parse().unwrap(), end: *end, status: 0 });
    }
    item
}

fn sent_to(decision: &Decision) -> &str {
    match decision {
        Decision::Send { account, .. } => account.as_str(),
        Decision::Hold { .. } | Decision::Expire | Decision::Doubt | Decision::Reject(_) => {
            panic!("{decision:?}")
        }
    }
}

#[test]
fn the_longest_prefix_that_takes_the_class_wins() {
    let table = table();
    let to = |range: &str, class| sent_to(&decide(&table, &item(1, range, class), NOW)).to_owned();
    assert_eq!(to("8498", MessageClass::Otp), "d");
    assert_eq!(to("8498", MessageClass::Promotional), "b");
    assert!(["a", "b"].contains(&to("8490", MessageClass::Otp).as_str()));
    let foreign = item(1, "49", MessageClass::Otp);
    assert_eq!(decide(&table, &foreign, NOW), Decision::Reject(RejectCause::NoRoute));
}

#[test]
fn weights_share_out_the_messages() {
    let table = table();
    let share = (0..10_000_u64)
        .filter(|seed| sent_to(&decide(&table, &item(*seed, "8490", MessageClass::Otp), NOW)) == "a")
        .count();
    assert!((7_300..7_700).contains(&share), "{share} of 10,000 for weight 75 of 100");
}

#[test]
fn a_refusal_leads_to_the_next_account_and_then_to_the_end() {
    let table = table();
    let fresh = item(1, "8490", MessageClass::Otp);
    let first = sent_to(&decide(&table, &fresh, NOW)).to_owned();
    let second = if first == "a" { "b" } else { "a" };
    let refused = AttemptEnd::Refused;
    let one = tried(fresh.clone(), &[(&first, refused)]);
    assert_eq!(decide(&table, &one, NOW), Decision::Send { account: second.parse().unwrap(), attempt: 2 });
    let two = tried(fresh.clone(), &[(&first, refused), (second, refused)]);
    assert_eq!(sent_to(&decide(&table, &two, NOW)), "c");
    let three = tried(fresh, &[(&first, refused), (second, refused), ("c", refused)]);
    assert_eq!(decide(&table, &three, NOW), Decision::Reject(RejectCause::RoutesExhausted));
}

#[test]
fn nothing_is_sent_before_its_time() {
    let table = table();
    let mut early = item(1, "8490", MessageClass::Transactional);
    let until = NOW.plus(Duration::from_secs(3));
    early.not_before = Some(until);
    assert_eq!(decide(&table, &early, NOW), Decision::Hold { until });
    sent_to(&decide(&table, &early, until));
}

#[test]
fn a_throttled_account_comes_again_after_the_others_and_the_back_off() {
    let table = table();
    let all = [("a", AttemptEnd::Throttled), ("b", AttemptEnd::LinkDown), ("c", AttemptEnd::Refused)];
    let mut held = tried(item(1, "8490", MessageClass::Otp), &all);
    let until = NOW.plus(held.back_off());
    held.not_before = Some(until);
    assert_eq!(held.back_off(), Duration::from_secs(2));
    assert_eq!(decide(&table, &held, NOW), Decision::Hold { until });
    assert!(["a", "b"].contains(&sent_to(&decide(&table, &held, until))));
    // Patience is asked for one account, not for those never tried.
    let mut one = tried(item(1, "8490", MessageClass::Otp), &all[..1]);
    one.not_before = Some(until);
    assert_eq!(sent_to(&decide(&table, &one, NOW)), "b");
}

/// Two hours without any carrier, each account asked again and again: the message is sent when one is back, and ends
/// only with its validity.
#[test]
fn an_outage_uses_up_no_route() {
    let table = table();
    let mut item = item(1, "8490", MessageClass::Transactional);
    item.facts.expires_at = NOW.plus(Duration::from_secs(3 * 3600));
    let mut now = NOW;
    while now < NOW.plus(Duration::from_secs(2 * 3600)) {
        match decide(&table, &item, now) {
            Decision::Send { account, attempt } => {
                assert_eq!(attempt, item.attempt + 1);
                item.attempt = attempt;
                item.note(Attempt { number: attempt, account, end: AttemptEnd::LinkDown, status: 0 });
                item.not_before = Some(now.plus(item.back_off()));
            }
            Decision::Hold { until } => now = until,
            Decision::Expire | Decision::Doubt | Decision::Reject(_) => {
                panic!("it ended after {:?}", now.since(NOW))
            }
        }
    }
    assert!(item.attempt > 200, "{}", item.attempt);
    let tried: std::collections::BTreeSet<_> = item.history.iter().map(|attempt| &attempt.account).collect();
    assert_eq!(tried.len(), 3, "all of them, in turn");
    sent_to(&decide(&table, &item, item.not_before.unwrap()));
    assert_eq!(decide(&table, &item, item.facts.expires_at), Decision::Expire);
}

#[test]
fn a_refusal_before_a_long_outage_still_counts() {
    let table = table();
    let mut item = item(1, "8490", MessageClass::Otp);
    let attempt =
        |number, account: &str, end| Attempt { number, account: account.parse().unwrap(), end, status: 0 };
    item.note(attempt(1, "a", AttemptEnd::Refused));
    for number in 2..500 {
        item.attempt = number;
        item.note(attempt(number, if number % 2 == 0 { "b" } else { "c" }, AttemptEnd::Throttled));
    }
    assert!(["b", "c"].contains(&sent_to(&decide(&table, &item, NOW))));
    item.note(attempt(500, "b", AttemptEnd::Refused));
    item.note(attempt(501, "c", AttemptEnd::NotAllowed));
    assert_eq!(decide(&table, &item, NOW), Decision::Reject(RejectCause::RoutesExhausted));
}

#[test]
fn what_may_not_be_carried_is_not_sent() {
    let table = table();
    let mut stranger =
        tried(item(1, "8490", MessageClass::Otp), &[("a", AttemptEnd::Refused), ("b", AttemptEnd::Refused)]);
    stranger.facts.tenant = "other".parse().unwrap();
    assert_eq!(decide(&table, &stranger, NOW), Decision::Reject(RejectCause::RoutesExhausted));
    let after_licence = Timestamp::from_unix_seconds(1_798_800_000);
    let mut late = item(1, "8498", MessageClass::Otp);
    late.facts.expires_at = after_licence.plus(Duration::from_secs(60));
    assert_eq!(decide(&table, &late, after_licence), Decision::Reject(RejectCause::NoRoute));
}

#[test]
fn a_part_sent_message_stays_with_its_account() {
    let table = table();
    let mut pinned = tried(item(1, "8490", MessageClass::Otp), &[("b", AttemptEnd::Throttled)]);
    pinned.pinned = true;
    assert_eq!(sent_to(&decide(&table, &pinned, NOW)), "b");
    let mut refused = tried(item(1, "8490", MessageClass::Otp), &[("b", AttemptEnd::NotAllowed)]);
    refused.pinned = true;
    assert_eq!(decide(&table, &refused, NOW), Decision::Reject(RejectCause::RoutesExhausted));
}

#[test]
fn validity_ends() {
    let expired = item(1, "8490", MessageClass::Otp);
    assert_eq!(decide(&table(), &expired, expired.facts.expires_at), Decision::Expire);
}

fn any_end() -> impl Strategy<Value = AttemptEnd> {
    proptest::sample::select(vec![
        AttemptEnd::Throttled,
        AttemptEnd::Refused,
        AttemptEnd::LinkDown,
        AttemptEnd::NotAllowed,
    ])
}

proptest! {
    /// Whatever was tried: an account that refused is not asked again, attempts only go up, what is decided is allowed,
    /// and the same question has the same answer.
    #[test]
    fn decisions_are_sound(
        seed: u64,
        history in proptest::collection::vec((proptest::sample::select(vec!["a", "b", "c", "d"]), any_end()), 0..40),
        tenant in proptest::sample::select(vec!["acme", "other"]),
    ) {
        let table = table();
        let mut item = tried(item(seed, "8490", MessageClass::Otp), &history);
        item.facts.tenant = tenant.parse().unwrap();
        let decision = decide(&table, &item, NOW);
        prop_assert_eq!(&decision, &decide(&table, &item, NOW));
        if let Decision::Send { account, attempt } = decision {
            prop_assert_eq!(usize::from(attempt), history.len() + 1);
            prop_assert!(table.account(&account).unwrap().permits(&item.facts, NOW));
            let refused = |(name, end): &(&str, AttemptEnd)| *name == account.as_str() && !end.is_passing();
            prop_assert!(!history.iter().any(refused));
            prop_assert!(account.as_str() != "c" || tenant == "acme");
        }
    }
}
