//! Messages from handsets: stored sealed before they are answered, each for its owner alone.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use prost::Message as _;
use sotto_core::inbound::OptOut;
use sotto_crypto::{
    AeadKey,
    envelope::{Binding, open},
};
use sotto_proto::{InboundDelivery, LogEvent, pipeline::v1::InboundContent};
use sotto_smpp::CommandStatus;
use sotto_testkit::eventually;
use tokio::task::JoinSet;

use super::Process;
use crate::{
    app::conduct::conduct,
    testing::{BOUND, KEY, NOW, Reply, TestCarrier, World, item, settings},
};

/// An account whose number 9029 is of `acme` and 9030 of `globex`.
async fn with_owners(world: &World, carrier: &TestCarrier) -> Process {
    let mut settings = settings("a", carrier.port);
    settings.inbound = [("9029", "acme"), ("9030", "globex")]
        .map(|(number, owner)| (number.to_owned(), owner.parse().unwrap()))
        .into();
    let process = Process::of(world, settings, world.redis.store(), Arc::clone(&world.clock));
    process.until_ready().await;
    process
}

fn opened(delivery: &InboundDelivery, tenant: &str) -> Option<InboundContent> {
    let binding =
        Binding { cell: "vn", tenant, class: "inbound", message_id: delivery.item.id.as_bytes(), schema: 1 };
    let content = open(&AeadKey::from_bytes(KEY), &binding, &delivery.item.envelope.0).ok()?;
    Some(InboundContent::decode(content.as_slice()).unwrap())
}

fn opt_outs(world: &World) -> Vec<(String, OptOut)> {
    let events = world.log.events().into_iter();
    events
        .filter_map(|event| match event {
            LogEvent::OptOut { tenant, keyword, .. } => Some((tenant.to_string(), keyword)),
            LogEvent::Delivery(_) | LogEvent::ParkedReceipt { .. } => None,
        })
        .collect()
}

#[tokio::test]
async fn each_is_stored_for_the_owner_of_the_number_and_then_answered() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let _process = with_owners(&world, &carrier).await;
    // A key of these tests seals three: the later ones need another.
    for (to, text) in [
        ("9029", "hello"),
        ("+9029", "TC ACME"),
        ("9030", "STOP"),
        ("555", "end"),
        ("9029", "a"),
        ("9029", "b"),
    ] {
        assert_eq!(carrier.write("84912345678", to, text).await, Some(CommandStatus::ESME_ROK), "{to}");
    }
    let stored = world.log.inbound();
    let mut of: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for delivery in &stored {
        let tenant = delivery.item.tenant.as_str();
        let content = opened(delivery, tenant).expect("sealed for its owner");
        assert_eq!(content.from, "84912345678");
        assert!(
            ["acme", "globex", "unowned"]
                .iter()
                .all(|other| *other == tenant || opened(delivery, other).is_none())
        );
        assert_eq!((delivery.wrap.tenant.as_str(), delivery.item.account.as_str()), (tenant, "a"));
        assert_eq!(delivery.item.received_at, *NOW);
        of.entry(tenant.to_owned()).or_default().push(content.text);
    }
    let of = |tenant: &str| of[tenant].join(",");
    assert_eq!(
        (of("acme"), of("globex"), of("unowned")),
        ("hello,TC ACME,a,b".into(), "STOP".into(), "end".into())
    );
    let expected = [("acme", OptOut::TuChoi), ("globex", OptOut::Stop), ("unowned", OptOut::End)];
    assert_eq!(opt_outs(&world), expected.map(|(tenant, word)| (tenant.to_owned(), word)));
    let in_clear = format!("{stored:?} {:?}", world.log.events());
    assert!(!in_clear.contains("84912345678") && !in_clear.contains("hello"), "{in_clear}");
}

#[tokio::test]
async fn what_cannot_be_sealed_or_stored_is_asked_for_again() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = with_owners(&world, &carrier).await;
    let again = Some(CommandStatus::ESME_RX_T_APPN);
    world.keys.away.store(true, Ordering::SeqCst);
    assert_eq!(carrier.write("84912345678", "9029", "STOP").await, again, "privacy is away");
    let asked = world.keys.asked.load(Ordering::SeqCst);
    assert_eq!(carrier.write("84912345678", "9029", "STOP").await, again, "and left alone for a moment");
    assert_eq!(world.keys.asked.load(Ordering::SeqCst), asked);
    assert!(world.log.inbound().is_empty());
    world.keys.away.store(false, Ordering::SeqCst);
    eventually(BOUND, "privacy to be asked again", || async {
        carrier.write("84912345678", "9029", "STOP").await == Some(CommandStatus::ESME_ROK)
    })
    .await;
    // The message, and then the event, are not known to be stored.
    for call in [0, 1] {
        world.log.fail(world.log.calls() + call, false);
        let before = opt_outs(&world).len();
        assert_eq!(carrier.write("84912345678", "9029", "STOP").await, again, "call {call}");
        assert_eq!(opt_outs(&world).len(), before);
    }
    // Receipts and messages to handsets go on all the while.
    world.keys.away.store(true, Ordering::SeqCst);
    world.clock.advance(std::time::Duration::from_secs(301));
    assert_eq!(carrier.write("84912345678", "9029", "STOP").await, again, "the key's time is over");
    world.keys.away.store(false, Ordering::SeqCst);
    process.until_done(&item(1, 1, "a")).await;
    assert!(carrier.receipt("c0", "DELIVRD").await);
}

#[tokio::test]
async fn a_key_whose_time_is_over_is_wiped() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = with_owners(&world, &carrier).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(conduct(vec![Arc::clone(&process.account)], world.heard.subscribe()));
    assert_eq!(carrier.write("84912345678", "9029", "hello").await, Some(CommandStatus::ESME_ROK));
    assert!(process.account.holds_seals());
    world.clock.advance(std::time::Duration::from_secs(301));
    eventually(BOUND, "no key", || async { !process.account.holds_seals() }).await;
}

#[tokio::test]
async fn an_owner_without_a_key_keeps_nobody_else_waiting() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let _process = with_owners(&world, &carrier).await;
    *world.keys.refused.lock().unwrap() = Some("globex".parse().unwrap());
    let (refused, taken) = tokio::join!(
        carrier.write("84912345678", "9030", "STOP"),
        carrier.write("84912345678", "9029", "STOP")
    );
    assert_eq!((refused, taken), (Some(CommandStatus::ESME_RX_T_APPN), Some(CommandStatus::ESME_ROK)));
    assert_eq!(opt_outs(&world), [("acme".to_owned(), OptOut::Stop)]);
}
