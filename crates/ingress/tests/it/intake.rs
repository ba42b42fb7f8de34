//! One key, one message: whatever is cut, lost, repeated or late (MSG-4, INV-1).

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::join_all};
use proptest::{prelude::*, test_runner::TestCaseError};
use sotto_bus::Heard;
use sotto_core::{
    MessageClass, MessageId, Restored,
    control::{Control, SENDER_LABEL, SenderMark, Target},
    restored::Release,
};
use sotto_crypto::hash::labelled_id;
use sotto_ingress::{
    app::intake::{Accepted, IDEMPOTENCY_RING, Intake, Seen},
    domain::{idempotency::Entry, journal::Journal, request::Asked},
    error::Refusal,
    ports::{KeyError, LogError, StoreError},
};
use sotto_keystore::{KeyKind, Keystore as _};
use sotto_testkit::eventually;

use crate::{
    fakes::{NOW, Plan, World},
    tokens,
};

const BOUND: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn asked(key: &str) -> Asked {
    Asked {
        present: true,
        to: "+84912345678".to_owned().into(),
        from: "ACME".to_owned().into(),
        text: "Ma xac thuc: 482913".to_owned().into(),
        class: Some(MessageClass::Otp),
        key: key.to_owned().into(),
        ..Asked::default()
    }
}

async fn send(world: &World, intake: &Intake, key: &str) -> Result<Accepted, Refusal> {
    intake.send(&world.caller, asked(key), ()).await
}

#[tokio::test]
async fn a_message_is_accepted_when_it_and_its_entry_in_the_index_are_stored() {
    let world = World::new();
    let intake = world.intake();
    world.index.gate.forget_permits(usize::MAX);
    let mut sending = std::pin::pin!(intake.send(&world.caller, asked("k"), ()));
    tokio::select! {
        done = &mut sending => panic!("its entry is not stored yet: {done:?}"),
        () = eventually(BOUND, "the message in the log", async || !world.log.ids().is_empty()) => {}
    }
    world.index.gate.add_permits(1);
    let accepted = sending.await.unwrap();
    // Once, and not for a repeat that changes nothing.
    send(&world, &intake, "k").await.unwrap();
    assert_eq!(*world.index.entered.lock().unwrap(), [(accepted.id, "84912345678".to_owned())]);
}

#[tokio::test]
async fn a_repeat_is_told_what_the_first_was_told_and_sends_nothing() {
    let world = World::new();
    let (one, other) = (world.intake(), world.intake());
    let first = send(&world, &one, "k").await.unwrap();
    world.clock.advance(21 * MINUTE);
    let again = send(&world, &other, "k").await.unwrap();
    assert_eq!(again, Accepted { repeated: true, ..first });
    assert_eq!(world.log.ids(), [first.id]);
    assert_ne!(send(&world, &one, "k2").await.unwrap().id, first.id);
}

#[tokio::test]
async fn what_operators_stopped_is_refused_for_now() {
    let world = World::new();
    let intake = world.intake();
    let mark = |sender: &str| SenderMark(labelled_id(SENDER_LABEL, sender.as_bytes()));
    let say = |target: Target| {
        let controls = [Control::Stop { target, stopped: true }].into_iter().collect();
        world.heard.send_replace(Heard { controls: Arc::new(controls), at: None });
    };
    for target in [Target::All, Target::Tenant("acme".parse().unwrap()), Target::Sender(mark("ACME"))] {
        say(target.clone());
        let refused = send(&world, &intake, "").await.unwrap_err();
        assert!(matches!(refused, Refusal::Unavailable { what, .. } if what.contains("stopped")), "{target}");
        assert!(intake.validate(&world.caller, asked("")).await.is_err());
    }
    assert!(world.log.ids().is_empty());
    for target in [
        Target::Tenant("globex".parse().unwrap()),
        Target::Sender(mark("OTHER")),
        Target::Account("viettel-otp".parse().unwrap()),
    ] {
        say(target);
        send(&world, &intake, "").await.unwrap();
    }
}

#[tokio::test]
async fn a_restored_cell_takes_nothing_until_it_is_released() {
    let world = World::new();
    let restored = Restored { at: NOW };
    *world.restored.lock().unwrap() = Some(restored);
    let intake = world.intake();
    let refused = send(&world, &intake, "").await.unwrap_err();
    assert!(matches!(refused, Refusal::Unavailable { what, .. } if what.contains("backup")));
    let controls = [Control::Release { restored, how: Release::AsUnknown }].into_iter().collect();
    world.heard.send_replace(Heard { controls: Arc::new(controls), at: None });
    send(&world, &intake, "").await.unwrap();
}

#[tokio::test]
async fn another_content_under_the_same_key_is_an_error() {
    let world = World::new();
    let intake = world.intake();
    send(&world, &intake, "k").await.unwrap();
    for other in [
        Asked { text: "Ma xac thuc: 482914".to_owned().into(), ..asked("k") },
        Asked { to: "+84912345679".to_owned().into(), ..asked("k") },
        Asked { class: Some(MessageClass::Transactional), ..asked("k") },
        Asked { validity: Some((60, 0)), ..asked("k") },
        Asked { class: Some(MessageClass::Promotional), send_at: Some((1_795_500_000, 0)), ..asked("k") },
    ] {
        assert_eq!(intake.send(&world.caller, other, ()).await, Err(Refusal::KeyReused));
    }
    assert_eq!(world.log.ids().len(), 1);
}

#[tokio::test]
async fn many_at_once_with_one_key_are_one_message() {
    let world = World::new();
    let intake = world.intake();
    world.log.hold();
    let all = join_all((0..50).map(|_| send(&world, &intake, "k")));
    let release = async {
        // All of them have come as far as they can without the log.
        eventually(BOUND, "claims", async || world.redis.lock().entries.len() == 1).await;
        world.log.gate.add_permits(1_000);
    };
    let (all, ()) = tokio::join!(all, release);
    let all: Vec<Accepted> = all.into_iter().map(Result::unwrap).collect();
    assert_eq!(world.log.ids(), [all[0].id]);
    assert!(all.iter().all(|one| one.id == all[0].id && one.accepted_at == all[0].accepted_at));
    assert_eq!(all.iter().filter(|one| !one.repeated).count(), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_cut_what_was_begun() {
    let world = World::new();
    let intake = world.intake();
    world.log.hold();
    let (place, freed) = tokio::sync::oneshot::channel::<()>();
    {
        let cut = intake.send(&world.caller, asked("k"), place);
        tokio::pin!(cut);
        // Polled until it waits for the log, then dropped as tonic drops a call.
        for _ in 0..10 {
            assert!(cut.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(world.redis.lock().entries.values().filter(|entry| entry.stored).count(), 0);
    world.log.gate.add_permits(10);
    // The place is let go only at the end.
    assert!(freed.await.is_err());
    assert_eq!(world.redis.lock().entries.values().filter(|entry| entry.stored).count(), 1);
    world.clock.advance(21 * MINUTE);
    assert!(send(&world, &intake, "k").await.unwrap().repeated);
    assert_eq!(world.log.ids().len(), 1);
}

#[tokio::test]
async fn a_crash_before_the_log_has_it_leaves_the_key_to_the_retry() {
    let world = World::new();
    world.log.plan([Plan::LoseInDoubt]);
    assert_eq!(send(&world, &world.intake(), "k").await, Err(Refusal::InDoubt));
    let entry = world.redis.lock().entries.values().next().cloned().unwrap();
    assert!(!entry.stored);
    world.clock.advance(MINUTE);
    let retried = send(&world, &world.intake(), "k").await.unwrap();
    assert!(!retried.repeated);
    assert_eq!(world.log.ids(), [retried.id]);
}

#[tokio::test]
async fn a_crash_after_the_log_has_it_is_a_repeat_as_soon_as_the_log_was_read() {
    let world = World::new();
    world.redis.lock().forgets = true;
    let first = send(&world, &world.intake(), "k").await.unwrap();
    world.redis.lock().forgets = false;
    assert!(!world.redis.lock().entries[&first.id].stored, "nobody noted it");

    // The projection folds the acceptance that routing published.
    let facts = world.log.stored.lock().unwrap()[0].item.facts.clone();
    world.redis.lock().journals.insert(first.id, Journal::accepted(facts));
    world.clock.advance(21 * MINUTE);
    let again = send(&world, &world.intake(), "k").await.unwrap();
    assert_eq!(again, Accepted { repeated: true, ..first }, "with the times of the log");
    assert_eq!(world.log.ids(), [first.id]);
}

#[tokio::test]
async fn what_was_in_doubt_and_stored_is_a_repeat_too() {
    let world = World::new();
    let intake = world.intake();
    world.log.plan([Plan::StoreInDoubt]);
    assert_eq!(send(&world, &intake, "k").await, Err(Refusal::InDoubt));
    let facts = world.log.stored.lock().unwrap()[0].item.facts.clone();
    world.redis.lock().journals.insert(facts.message, Journal::accepted(facts.clone()));
    let again = send(&world, &intake, "k").await.unwrap();
    assert_eq!((again.id, again.repeated, again.accepted_at), (facts.message, true, facts.accepted_at));
    assert_eq!(world.log.ids().len(), 1);
}

#[tokio::test]
async fn while_the_memory_lacks_something_a_claim_in_doubt_waits() {
    let world = World::new();
    let intake = world.intake();
    world.log.plan([Plan::StoreInDoubt]);
    assert_eq!(send(&world, &intake, "k").await, Err(Refusal::InDoubt));
    world.redis.lock().behind = true;
    assert!(matches!(send(&world, &intake, "k").await, Err(Refusal::Unavailable { .. })));
    assert_eq!(world.log.ids().len(), 1);
}

#[tokio::test]
async fn what_is_certainly_not_stored_is_told_so() {
    let world = World::new();
    let intake = world.intake();
    let after = Duration::from_secs(5);
    world.log.plan([Plan::Refuse(LogError::Unavailable { after }), Plan::Refuse(LogError::Refused)]);
    let away = Refusal::Unavailable { what: "the log takes nothing now", after };
    assert_eq!(send(&world, &intake, "k").await, Err(away));
    assert_eq!(send(&world, &intake, "k").await, Err(Refusal::Internal));
    assert!(!send(&world, &intake, "k").await.unwrap().repeated);
    assert_eq!(world.log.ids().len(), 1);
}

#[tokio::test]
async fn without_redis_keyed_messages_wait_and_the_others_go_on() {
    let world = World::new();
    let intake = world.intake();
    for error in [StoreError::Down, StoreError::Rebuilding] {
        world.redis.lock().failing = Some(error);
        assert!(matches!(send(&world, &intake, "k").await, Err(Refusal::Unavailable { .. })));
        send(&world, &intake, "").await.unwrap();
    }
    assert_eq!(world.log.ids().len(), 2);
    world.redis.lock().failing = None;
    assert!(!send(&world, &intake, "k").await.unwrap().repeated);
}

#[tokio::test]
async fn a_retry_in_the_next_window_finds_itself() {
    let world = World::new();
    let intake = world.intake();
    let first = send(&world, &intake, "k").await.unwrap();
    world.clock.advance(DAY - MINUTE);
    assert_eq!(send(&world, &intake, "k").await.unwrap().id, first.id);
    assert_eq!(world.log.ids(), [first.id]);
    // Two windows later the key is free again.
    world.clock.advance(2 * DAY);
    assert_ne!(intake.send(&tokens_of(&world), asked("k"), ()).await.unwrap().id, first.id);
}

fn tokens_of(world: &World) -> sotto_ingress::domain::token::Caller {
    tokens::caller("acme", sotto_core::Clock::now(&world.clock))
}

#[tokio::test]
async fn a_window_that_was_closed_sends_a_late_claim_to_the_next_one() {
    let world = World::new();
    let (ahead, behind) = (world.intake(), world.intake());
    // Midnight, by the clock of one replica: it closes the key's place in the window before.
    let midnight = sotto_core::Timestamp::from_unix_seconds(1_795_564_800);
    world.clock.set(midnight.plus(Duration::from_secs(1)));
    let first = send(&world, &ahead, "k").await.unwrap();
    // The other's clock is still before midnight: both mean one message.
    world.clock.set(midnight.minus(Duration::from_secs(1)));
    let late = send(&world, &behind, "k").await.unwrap();
    assert_eq!((late.id, late.repeated), (first.id, true));
    assert_eq!(world.log.ids(), [first.id]);
}

#[tokio::test]
async fn a_key_is_found_again_before_during_and_after_a_rotation() {
    let world = World::new();
    let old = world.intake();
    let first = send(&world, &old, "k").await.unwrap();
    world.keystore().generate(IDEMPOTENCY_RING, KeyKind::HmacSha256, 0).unwrap();
    let waiting = world.intake();
    world.keystore().promote(IDEMPOTENCY_RING).unwrap();
    let new = world.intake();
    assert_eq!(send(&world, &new, "k").await.unwrap().id, first.id, "by the previous key");
    // What the new key made is found by a process that knows it only as the next one.
    let second = send(&world, &new, "k2").await.unwrap();
    assert_eq!(send(&world, &waiting, "k2").await.unwrap().id, second.id);
    assert_eq!(world.log.ids(), [first.id, second.id]);
}

#[tokio::test]
async fn a_request_at_fault_uses_up_no_pace() {
    let world = World::new();
    let intake = world.intake();
    world.gate.0.forget_permits(usize::MAX);
    world.gate.0.add_permits(1);
    let wrong = Asked { to: "0912345678".to_owned().into(), ..asked("") };
    for _ in 0..3 {
        let refused = intake.send(&world.caller, Asked { to: "1".to_owned().into(), ..asked("") }, ()).await;
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{refused:?}");
    }
    assert!(matches!(intake.send(&world.caller, wrong, ()).await, Err(Refusal::Invalid(_))));
    send(&world, &intake, "").await.unwrap();
    assert_eq!(send(&world, &intake, "").await, Err(Refusal::TooFast { after: Duration::from_secs(3) }));
}

#[tokio::test]
async fn without_session_keys_nothing_is_accepted_and_a_validity_too_long_is_told() {
    let world = World::new();
    let intake = world.intake();
    *world.keys.0.lock().unwrap() = Some(KeyError::Unavailable);
    assert!(matches!(send(&world, &intake, "k").await, Err(Refusal::Unavailable { .. })));
    *world.keys.0.lock().unwrap() = Some(KeyError::TooFar { max: Some(Duration::from_secs(200)) });
    let Err(Refusal::Invalid(violations)) = send(&world, &intake, "k").await else { panic!("accepted") };
    assert_eq!(violations[0].reason, "VALIDITY_TOO_LONG");
    assert!(violations[0].description.contains("110 seconds"), "{}", violations[0].description);
    *world.keys.0.lock().unwrap() = None;
    // The key is not used up by what was refused: a shorter validity may have it.
    let shorter = Asked { validity: Some((60, 0)), ..asked("k") };
    intake.send(&world.caller, shorter, ()).await.unwrap();
    assert_eq!(world.log.ids().len(), 1);
}

#[tokio::test]
async fn a_repeat_is_told_so_also_while_privacy_is_away() {
    let world = World::new();
    let intake = world.intake();
    let first = send(&world, &intake, "k").await.unwrap();
    for away in [KeyError::Unavailable, KeyError::TooFar { max: Some(MINUTE) }] {
        *world.keys.0.lock().unwrap() = Some(away);
        let again = send(&world, &intake, "k").await.unwrap();
        assert_eq!(again, Accepted { repeated: true, ..first });
        let other = Asked { text: "Ma xac thuc: 482914".to_owned().into(), ..asked("k") };
        assert!(matches!(intake.send(&world.caller, other, ()).await, Err(Refusal::KeyReused)));
        assert!(send(&world, &intake, "new").await.is_err());
    }
    assert_eq!(world.log.ids(), [first.id]);
}

#[tokio::test]
async fn a_stop_that_drops_the_work_tells_that_it_is_not_known() {
    let mut world = World::new();
    let stop = sotto_runtime::Stop::default();
    world.tasks = sotto_runtime::Tasks::new(stop.clone());
    let world = Arc::new(world);
    world.log.plan([Plan::Store]);
    world.log.gate.close();
    // A closed gate panics the fake: as good as a task that is gone.
    assert_eq!(send(&world, &world.intake(), "k").await, Err(Refusal::InDoubt));
}

#[tokio::test]
async fn a_message_is_seen_by_its_tenant_alone() {
    let world = World::new();
    let intake = world.intake();
    let other = tokens::caller("other", NOW);
    let (keyed, plain) =
        (send(&world, &intake, "k").await.unwrap().id, send(&world, &intake, "").await.unwrap().id);
    for id in [keyed, plain] {
        assert!(matches!(intake.find(&world.caller, &id).await.unwrap(), Seen::Known(_)));
        assert_eq!(intake.find(&other, &id).await.unwrap(), Seen::Unknown);
    }

    // A claim whose message nobody has stored: "not yet" to its own tenant, for a minute.
    world.log.plan([Plan::LoseInDoubt]);
    assert_eq!(send(&world, &intake, "lost").await, Err(Refusal::InDoubt));
    let lost = *world.redis.lock().entries.iter().find(|(_, entry)| !entry.stored).unwrap().0;
    assert_eq!(intake.find(&world.caller, &lost).await.unwrap(), Seen::NotYet);
    assert_eq!(intake.find(&other, &lost).await.unwrap(), Seen::Unknown, "it says nothing to others");
    world.clock.advance(MINUTE);
    assert_eq!(intake.find(&world.caller, &lost).await.unwrap(), Seen::Unknown);
}

#[tokio::test]
async fn not_found_is_said_only_by_a_memory_that_is_whole() {
    let world = World::new();
    let intake = world.intake();
    let old = MessageId::new_v7(NOW.minus(DAY), &[7; 10]);
    let young = MessageId::new_v7(NOW.minus(Duration::from_secs(5)), &[7; 10]);
    let find = async |id: &MessageId| intake.find(&world.caller, id).await;
    assert_eq!(find(&old).await.unwrap(), Seen::Unknown);
    assert_eq!(find(&young).await.unwrap(), Seen::NotYet);
    world.redis.lock().behind = true;
    assert_eq!(find(&old).await.unwrap(), Seen::NotYet);
    world.redis.lock().failing = Some(StoreError::Down);
    assert_eq!(find(&old).await, Err(StoreError::Down));
}

/// What may happen between one use of a key and the next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send {
        replica: usize,
        plan: Plan,
        forgets: bool,
    },
    /// Routing and projection read what is stored.
    Fold,
    /// Redis is emptied and rebuilt from what is stored.
    Burn,
    /// The processes start anew.
    Restart,
    Wait {
        minutes: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let plan = prop_oneof![
        4 => Just(Plan::Store),
        2 => Just(Plan::StoreInDoubt),
        2 => Just(Plan::LoseInDoubt),
        1 => Just(Plan::Refuse(LogError::Unavailable { after: Duration::from_secs(1) })),
    ];
    prop_oneof![
        4 => (0..2_usize, plan, any::<bool>())
            .prop_map(|(replica, plan, forgets)| Step::Send { replica, plan, forgets }),
        2 => Just(Step::Fold),
        1 => Just(Step::Burn),
        1 => Just(Step::Restart),
        2 => (1..30_u64).prop_map(|minutes| Step::Wait { minutes }),
    ]
}

/// The log as a rebuild reads it: the first acceptance counts.
fn fold(world: &World) {
    for delivery in world.log.stored.lock().unwrap().iter() {
        let facts = &delivery.item.facts;
        let mut memory = world.redis.lock();
        let journal =
            memory.journals.entry(facts.message).or_insert_with(|| Journal::accepted(facts.clone()));
        let entry = Entry::of(journal.delivery().unwrap().facts()).unwrap();
        memory.entries.insert(facts.message, entry);
    }
}

async fn one_key_one_message(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let world = World::new();
    let mut replicas = [world.intake(), world.intake()];
    let (mut id, mut read) = (None, false);
    for step in steps {
        match step {
            Step::Send { replica, plan, forgets } => {
                let before = world.log.ids().len();
                world.log.plan([plan]);
                world.redis.lock().forgets = forgets;
                let sent = send(&world, &replicas[replica], "k").await;
                world.redis.lock().forgets = false;
                world.log.clear_plans();
                let after = world.log.ids().len();
                if let Ok(accepted) = sent {
                    prop_assert_eq!(*id.get_or_insert(accepted.id), accepted.id);
                    prop_assert!(after > 0, "accepted, and the log has nothing");
                }
                // Once the log was read, nothing makes a second one, however late.
                prop_assert!(!read || after == before, "{} after the log was read", after - before);
            }
            Step::Fold => {
                fold(&world);
                read |= !world.log.ids().is_empty();
            }
            Step::Burn => {
                let mut memory = world.redis.lock();
                memory.entries.clear();
                memory.journals.clear();
                drop(memory);
                fold(&world);
                read |= !world.log.ids().is_empty();
            }
            Step::Restart => replicas = [world.intake(), world.intake()],
            Step::Wait { minutes } => world.clock.advance(Duration::from_secs(60 * minutes)),
        }
    }
    // Every record of it bears the one id.
    let ids = world.log.ids();
    prop_assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{:?}", ids);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_happens_a_key_is_one_message(steps in proptest::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(one_key_one_message(steps))?;
    }
}
