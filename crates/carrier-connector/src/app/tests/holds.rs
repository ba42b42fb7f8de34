//! What operators hold back.

use std::sync::Arc;

use futures::FutureExt as _;
use sotto_bus::{Heard, Outcome};
use sotto_core::{
    MessageClass, Restored,
    control::{Control, Controls, SENDER_LABEL, SenderMark, Target},
    delivery::{EventKind, Outcome as End},
    restored::Release,
    work::AttemptEnd,
};
use sotto_crypto::hash::labelled_id;
use sotto_testkit::eventually;
use tokio::{task::JoinSet, time::Instant};

use super::{Process, assert_once, until_outcome};
use crate::{
    app::conduct::conduct,
    domain::course::Course,
    ports::Unwrapped,
    testing::{BOUND, NOW, Reply, TestCarrier, World, id, item, item_of},
};

fn say(world: &World, words: impl IntoIterator<Item = Control>) {
    let controls: Controls = words.into_iter().collect();
    world.heard.send_replace(Heard { controls: Arc::new(controls), at: Some(Instant::now()) });
}

fn stop(target: Target) -> Control {
    Control::Stop { target, stopped: true }
}

fn retried(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(|outcome| matches!(outcome, Outcome::Retry { .. }))
}

#[tokio::test]
async fn what_is_stopped_stays_where_it_is_and_goes_on_afterwards() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    for course in [Course::Stopped, Course::Unheard] {
        process.account.line.set_course(course);
        assert!(process.account.ready(false).now_or_never().is_none(), "nothing is pulled");
        assert!(retried(&process.handle(&[item(1, 2, "a")]).await), "what was pulled comes again");
    }
    // The same for a tenant and a sender, whose messages come among others.
    process.account.line.set_course(Course::Run);
    let sender = SenderMark(labelled_id(SENDER_LABEL, b"156"));
    for target in [Target::Tenant("acme".parse().unwrap()), Target::Sender(sender)] {
        say(&world, [stop(target)]);
        assert!(retried(&process.handle(&[item(1, 2, "a")]).await));
    }
    assert!(carrier.seen().is_empty() && world.log.of(id(1)).is_empty(), "no trace of an attempt");
    // Others are not concerned.
    let other = SenderMark(labelled_id(SENDER_LABEL, b"157"));
    say(&world, [stop(Target::Tenant("globex".parse().unwrap())), stop(Target::Sender(other))]);
    assert_eq!(process.handle(&[item(1, 2, "a")]).await, [Outcome::Done]);
    assert_once(&[&carrier], &[1], 2);
}

#[tokio::test]
async fn a_stop_takes_hold_before_the_next_byte() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    // It is said while the intent is being stored.
    for (number, whole) in [(1, true), (2, false)] {
        let (line, heard) = (Arc::clone(&process.account.line), world.heard.clone());
        world.log.before(world.log.calls(), move || {
            async move {
                if whole {
                    line.set_course(Course::Stopped);
                } else {
                    let controls = [stop(Target::Tenant("acme".parse().unwrap()))].into_iter().collect();
                    heard.send_replace(Heard { controls: Arc::new(controls), at: Some(Instant::now()) });
                }
            }
            .boxed()
        });
        assert_eq!(process.handle(&[item(number, 2, "a")]).await, [Outcome::Done], "it goes back to routing");
        assert!(carrier.seen().is_empty());
        assert_eq!(world.log.names(id(number)), ["submitting", "unsent"]);
        process.account.line.set_course(Course::Run);
    }
    assert_eq!(world.log.given_back().len(), 2);
}

#[tokio::test]
async fn what_waits_for_a_paused_account_goes_to_others_and_receipts_still_come() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    let sent = item(1, 1, "a");
    assert_eq!(process.handle(std::slice::from_ref(&sent)).await, [Outcome::Done]);
    process.account.line.set_course(Course::Paused);
    process.until_ready().await;
    assert_eq!(process.handle(&[item(2, 1, "a")]).await, [Outcome::Done]);
    let unsent = world.log.of(id(2)).pop().unwrap();
    assert!(matches!(unsent.kind, EventKind::Unsent { end: AttemptEnd::LinkDown, .. }));
    assert_eq!(world.log.given_back().len(), 1);
    assert_once(&[&carrier], &[1], 1);
    assert!(carrier.receipt("c0", "DELIVRD").await);
    until_outcome(&world, &sent, End::Delivered).await;
    process.account.line.set_course(Course::Run);
    assert_eq!(process.handle(&[item(3, 1, "a")]).await, [Outcome::Done]);
    assert_once(&[&carrier], &[1, 3], 1);
}

#[tokio::test]
async fn a_drained_account_unbinds_when_its_answers_are_here_and_binds_when_resumed() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Hold).await);
    let process = Process::start(&world, "a", &carrier).await;
    let account = Arc::clone(&process.account);
    let handling = account.handle(vec![item(1, 1, "a")]);
    let (outcomes, ()) = tokio::join!(handling, async {
        eventually(BOUND, "the submit", || async { carrier.seen().len() == 1 }).await;
        process.account.line.set_course(Course::Draining);
        process.until_ready().await;
        assert_eq!(carrier.links(), 1, "an answer is outstanding");
        carrier.answer_held();
    });
    assert_eq!(outcomes, [Outcome::Done]);
    assert_eq!(world.log.names(id(1)), ["submitting", "submitted"]);
    eventually(BOUND, "the end of the bind", || async { carrier.links() == 0 }).await;
    carrier.reply(Reply::Ok);
    process.account.line.set_course(Course::Run);
    eventually(BOUND, "a bind", || async { carrier.links() == 1 }).await;
    process.until_done(&item(2, 1, "a")).await;
}

#[tokio::test]
async fn words_are_heeded_and_silence_holds() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    let course = || process.account.line.snapshot(Instant::now()).course;
    let until = async |wanted: Course| {
        eventually(BOUND, &format!("{wanted:?}"), || async { course() == wanted }).await;
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(conduct(vec![Arc::clone(&process.account)], world.heard.subscribe()));
    until(Course::Unheard).await;
    say(&world, []);
    until(Course::Run).await;
    say(&world, [stop(Target::All)]);
    until(Course::Stopped).await;
    say(&world, []);
    until(Course::Run).await;
    // Nothing more is heard.
    until(Course::Unheard).await;
}

/// A process of a cell that was put back a moment ago, with this word of an operator.
async fn restored(carrier: &TestCarrier, word: Option<Release>) -> (World, Process) {
    let world = World::start().await;
    let restored = Restored { at: *NOW };
    *world.restored.lock().unwrap() = Some(restored);
    let process = Process::start(&world, "a", carrier).await;
    say(&world, word.map(|how| Control::Release { restored, how }));
    (world, process)
}

#[tokio::test]
async fn what_a_restored_cell_may_have_sent_is_held_and_ends_as_unknown_when_released() {
    let carrier = TestCarrier::start(|_| Reply::Ok).await;
    let (world, process) = restored(&carrier, None).await;
    let all = [item(1, 2, "a"), item_of(MessageClass::Transactional, 2, 1, "a")];
    assert!(retried(&process.handle(&all).await), "held, whatever the course");
    assert!(world.log.of(id(1)).is_empty() && world.log.of(id(2)).is_empty());
    let (world, process) = restored(&carrier, Some(Release::AsUnknown)).await;
    // What was accepted since is not concerned, and neither is what was not due before.
    let mut since = item(3, 1, "a");
    since.item.facts.accepted_at = NOW.plus(std::time::Duration::from_millis(1));
    let mut later = item(4, 1, "a");
    later.item.facts.send_at = Some(NOW.plus(std::time::Duration::from_secs(61)));
    let all = [all[0].clone(), all[1].clone(), since, later];
    assert_eq!(process.handle(&all).await, vec![Outcome::Done; 4]);
    for item in &all[..2] {
        until_outcome(&world, item, End::Unknown).await;
    }
    assert_eq!(world.log.names(id(1)), ["unsent", "doubted"]);
    assert_once(&[&carrier], &[3, 4], 1);
    // They come again, from wherever: nothing more happens.
    assert_eq!(process.handle(&all[..2]).await, vec![Outcome::Done; 2]);
    assert_once(&[&carrier], &[3, 4], 1);
}

#[tokio::test]
async fn what_is_sent_again_on_request_is_no_code_and_does_not_end_as_if_it_had_never_been_sent() {
    let carrier = TestCarrier::start(|_| Reply::Ok).await;
    let (world, process) = restored(&carrier, Some(Release::Resend)).await;
    let notice = |seed| item_of(MessageClass::Transactional, seed, 1, "a");
    let mut over = notice(3);
    over.item.facts.expires_at = *NOW;
    let all = [item(1, 1, "a"), notice(2), over, notice(4)];
    assert_eq!(process.handle(&all[..3]).await, vec![Outcome::Done; 3]);
    *world.keys.answer.lock().unwrap() = Some(Unwrapped::Destroyed);
    assert_eq!(process.handle(&all[3..]).await, [Outcome::Done]);
    assert_once(&[&carrier], &[2], 1);
    for item in [&all[0], &all[2], &all[3]] {
        until_outcome(&world, item, End::Unknown).await;
    }
}
