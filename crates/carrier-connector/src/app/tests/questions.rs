//! Receipts that do not come are asked for.

use std::{sync::Arc, time::Duration};

use sotto_core::{
    carriers::MessageIdForm,
    delivery::{EventKind, Outcome as End, ReceiptState},
};
use sotto_smpp::{CommandStatus, MessageState};
use sotto_testkit::eventually;
use tokio::task::JoinSet;

use super::{Process, until_outcome};
use crate::{
    app::asking::ask,
    testing::{BOUND, Reply, TestCarrier, World, id, item, settings},
};

/// An account that asks after a minute, and its asking.
async fn asking(world: &World, carrier: &TestCarrier) -> (Process, JoinSet<()>) {
    let mut settings = settings("a", carrier.port);
    settings.query_after = Some(Duration::from_secs(60));
    settings.message_id_in_response = MessageIdForm::Opaque;
    let process = Process::of(world, settings, world.redis.store(), Arc::clone(&world.clock));
    process.until_ready().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(ask(Arc::clone(&process.account)));
    (process, tasks)
}

fn receipts(world: &World, seed: u8) -> Vec<ReceiptState> {
    let mut states = Vec::new();
    for event in world.log.of(id(seed)) {
        if let EventKind::Receipt { state, .. } = event.kind {
            states.push(state);
        }
    }
    states
}

#[tokio::test]
async fn a_receipt_that_does_not_come_is_asked_for_by_id_and_sender_until_the_end_is_known() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let (process, _tasks) = asking(&world, &carrier).await;
    let (one, two) = (item(1, 2, "a"), item(2, 1, "a"));
    process.until_done(&one).await;
    process.until_done(&two).await;
    // The second's receipt comes in time.
    assert!(carrier.receipt("c2", "DELIVRD").await);
    until_outcome(&world, &two, End::Delivered).await;
    assert!(carrier.questions().is_empty(), "nothing is due yet");
    carrier.tell(CommandStatus::ESME_ROK, MessageState::Enroute);
    world.clock.advance(Duration::from_secs(61));
    eventually(BOUND, "two questions", || async { carrier.questions().len() == 2 }).await;
    let mut asked = carrier.questions();
    asked.sort();
    assert_eq!(asked, [("c0".to_owned(), "156".to_owned()), ("c1".to_owned(), "156".to_owned())]);
    assert!(receipts(&world, 1).is_empty(), "on their way");
    // An answer that is not stored is asked for again.
    carrier.tell(CommandStatus::ESME_ROK, MessageState::Delivered);
    world.log.fail(world.log.calls(), false);
    for _ in 0..2 {
        world.clock.advance(Duration::from_secs(61));
        let before = carrier.questions().len();
        eventually(BOUND, "another question", || async { carrier.questions().len() > before }).await;
    }
    until_outcome(&world, &one, End::Delivered).await;
    assert_eq!(receipts(&world, 1), [ReceiptState::Delivered; 2]);
    let before = carrier.questions().len();
    world.clock.advance(Duration::from_secs(61));
    process.until_done(&item(3, 1, "a")).await;
    world.clock.advance(Duration::from_secs(61));
    eventually(BOUND, "the third", || async { carrier.questions().len() > before }).await;
    assert_eq!(carrier.questions().last().unwrap().0, "c3", "what has ended is not asked for again");
}

#[tokio::test]
async fn a_carrier_that_does_not_tell_is_left_alone() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let (process, _tasks) = asking(&world, &carrier).await;
    process.until_done(&item(1, 1, "a")).await;
    carrier.tell(CommandStatus::ESME_RQUERYFAIL, MessageState::Unknown);
    world.clock.advance(Duration::from_secs(61));
    eventually(BOUND, "a question", || async { carrier.questions().len() == 1 }).await;
    process.until_done(&item(2, 1, "a")).await;
    world.clock.advance(Duration::from_secs(61));
    eventually(BOUND, "the other's", || async { carrier.questions().len() == 2 }).await;
    assert_eq!(carrier.questions().last().unwrap().0, "c1");
    assert!(receipts(&world, 1).is_empty());
    // Its receipt may still come.
    assert!(carrier.receipt("c0", "DELIVRD").await);
    assert_eq!(receipts(&world, 1), [ReceiptState::Delivered]);
}
