//! The sequencer on a model disk: what is answered, when, and what it does when parts fail.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sotto_audit::{
    adapters::wire,
    domain::{Act, Entry, EventRange, Gap},
    error::LogError,
    metrics::AuditMetrics,
    ports::Signer as _,
    sequencer::{Parts, Sequencer, Told},
    view::{EventPlace, View},
};
use sotto_core::SystemClock;
use sotto_metrics::Metrics;
use sotto_runtime::{Readiness, Stop};
use sotto_tlog::{Frontier, Hash, fsck};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use crate::model::{ModelDisk, TestEvents, TestSigner, act};

const BOUND: Duration = Duration::from_secs(20);

struct Running {
    disk: Arc<ModelDisk>,
    events: Arc<TestEvents>,
    view: Arc<View>,
    ready: Readiness,
    acts: mpsc::Sender<Told>,
    stop: Stop,
    over: Stop,
    task: JoinSet<Result<(), LogError>>,
}

impl Running {
    async fn start(disk: Arc<ModelDisk>, events: Arc<TestEvents>) -> Self {
        let (sender, receiver) = mpsc::channel(64);
        let (view, ready, stop) = (Arc::new(View::default()), Readiness::default(), Stop::default());
        let parts = Parts {
            disk: Arc::<ModelDisk>::clone(&disk),
            signer: TestSigner::new(1),
            events: Arc::clone(&events),
            acts: receiver,
            view: Arc::clone(&view),
            growing: ready.condition("log"),
            committing: ready.condition("events"),
            interval: Duration::from_millis(20),
            producers: 64,
            producer: "audit/1".to_owned(),
            clock: Arc::new(SystemClock),
            metrics: AuditMetrics::new(&Metrics::default()),
        };
        let sequencer = Sequencer::open(parts).await.unwrap();
        let mut task = JoinSet::new();
        let over = Stop::default();
        task.spawn(sequencer.run(stop.clone(), over.clone()));
        Self { disk, events, view, ready, acts: sender, stop, over, task }
    }

    async fn tell(&self, acts: Vec<Act>) -> oneshot::Receiver<()> {
        let (done, answer) = oneshot::channel();
        self.acts.send(Told { at: 0, acts, balance: None, done }).await.unwrap();
        answer
    }

    async fn logged(&self, acts: Vec<Act>) {
        timeout(BOUND, self.tell(acts).await).await.unwrap().unwrap();
    }

    /// Stops as the process does: whoever tells acts goes first.
    async fn stop(mut self) -> Vec<Entry> {
        self.stop.request();
        drop(self.acts);
        timeout(BOUND, self.task.join_next()).await.unwrap().unwrap().unwrap().unwrap();
        let mut entries = Vec::new();
        let key = TestSigner::new(1).current().unwrap();
        fsck(&*self.disk, &key, None, |_, bytes| entries.push(wire::decode(bytes).unwrap())).unwrap();
        entries
    }
}

async fn until(condition: impl Fn() -> bool) {
    timeout(BOUND, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
}

fn events(through: u64) -> Arc<TestEvents> {
    let events = TestEvents::default();
    events.batches.lock().unwrap().extend((1..=through).map(|n| (n, n.to_be_bytes().to_vec())));
    Arc::new(events)
}

#[tokio::test]
async fn an_act_is_answered_when_its_checkpoint_stands() {
    let running = Running::start(Arc::default(), events(0)).await;
    running.logged(vec![act("identity/1", 1), act("identity/1", 2)]).await;
    assert_eq!(running.view.published().unwrap().checkpoint.size, 2);
    // Redelivered, and with a hole: answered too, logged once, the hole shown.
    running.logged(vec![act("identity/1", 2), act("identity/1", 5)]).await;
    let entries = running.stop().await;
    let gap = Entry::Gap(Gap { producer: "identity/1".to_owned(), first: 3, last: 4 });
    let acts = [1, 2, 5].map(|sequence| Entry::Act(act("identity/1", sequence)));
    let [one, two, five] = acts;
    assert_eq!(entries, [one, two, gap, five]);
}

#[tokio::test]
async fn what_was_told_is_logged_although_who_told_it_never_goes() {
    let mut running = Running::start(Arc::default(), events(0)).await;
    let answer = running.tell(vec![act("identity/1", 1)]).await;
    // Whoever waits for a broker keeps the way open.
    let _kept = running.acts.clone();
    running.stop.request();
    running.over.request();
    timeout(BOUND, running.task.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    answer.await.unwrap();
    assert_eq!(running.view.published().unwrap().checkpoint.size, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_broker_that_is_gone() {
    let running = Running::start(Arc::default(), events(3)).await;
    running.logged(vec![act("identity/1", 1)]).await;
    running.events.silent.store(true, Ordering::SeqCst);
    let events = Arc::clone(&running.events);
    until(|| events.unanswered.load(Ordering::SeqCst) > 0).await;
    let answer = running.tell(vec![act("identity/1", 2)]).await;
    let begun = tokio::time::Instant::now();
    let entries = running.stop().await;
    // Less than one read waits for otherwise, on a clock that only moves while nobody does anything; and the act is logged.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    answer.await.unwrap();
    assert!(entries.contains(&Entry::Act(act("identity/1", 2))));
}

#[tokio::test]
async fn openings_that_nobody_announced_are_told_once_over_a_start() {
    let keys = |producer, sequence, action: &str, object: &str| Act {
        action: action.to_owned(),
        object: object.to_owned(),
        ..act(producer, sequence)
    };
    let asked = keys("carrier/1", 1, "session_key.asked", "account=one,keys=2");
    let opened = keys("privacy/1", 1, "session_key.opened", "account=one,keys=5,seconds=60");
    let running = Running::start(Arc::default(), events(0)).await;
    running.logged(vec![act("audit/1", 1), asked.clone(), opened.clone()]).await;
    let disk = Arc::clone(&running.disk);
    running.stop().await;
    // Everything is read again, and delivered again.
    let running = Running::start(disk, events(0)).await;
    running.logged(vec![opened.clone(), act("identity/1", 1)]).await;
    let entries = running.stop().await;
    let [Entry::Act(_), first, second, Entry::Act(alarm), last] = entries.as_slice() else {
        panic!("{entries:?}")
    };
    let told = [asked, opened, act("identity/1", 1)].map(Entry::Act);
    assert_eq!([first, second, last], told.each_ref());
    assert_eq!((alarm.action.as_str(), alarm.tenant.as_str()), ("openings.unjustified", "acme"));
    assert_eq!(alarm.object, format!("account=one,keys=3,until={}", act("x/1", 1).at_s));
    assert_eq!((alarm.producer.as_str(), alarm.sequence), ("audit/1", 2));
}

#[tokio::test]
async fn events_are_committed_in_ranges_without_holes_between() {
    let stream = events(600);
    stream.batches.lock().unwrap().remove(&257);
    let running = Running::start(Arc::default(), stream).await;
    let view = Arc::clone(&running.view);
    until(|| matches!(view.event(600), Some((_, EventPlace::Bundle(0))))).await;
    assert!(matches!(view.event(601), Some((_, EventPlace::Beyond(600)))));
    running.events.batches.lock().unwrap().insert(601, b"late".to_vec());
    until(|| matches!(view.event(601), Some((_, EventPlace::Bundle(0))))).await;
    let entries = running.stop().await;
    let range = |first, last, sequences: Vec<u64>| {
        let tree: Frontier = sequences.iter().map(|n| Hash::leaf(&n.to_be_bytes())).collect();
        Entry::EventRange(EventRange { first, last, root: tree.root(), batches: tree.size() })
    };
    let late: Frontier = [Hash::leaf(b"late")].into_iter().collect();
    let expected = [
        range(1, 256, (1..=256).collect()),
        range(257, 513, (258..=513).collect()),
        range(514, 600, (514..=600).collect()),
        Entry::EventRange(EventRange { first: 601, last: 601, root: late.root(), batches: 1 }),
    ];
    assert_eq!(entries, expected);
}

#[tokio::test]
async fn a_long_stream_is_caught_up_with_and_acts_are_not_starved() {
    let running = Running::start(Arc::default(), events(10_000)).await;
    running.logged((1..=700).map(|n| act("privacy/1", n)).collect()).await;
    let view = Arc::clone(&running.view);
    until(|| matches!(view.event(10_000), Some((_, EventPlace::Bundle(_))))).await;
    let entries = running.stop().await;
    assert_eq!(entries.len(), 700 + 10_000_usize.div_ceil(256));
}

#[tokio::test]
async fn acts_are_logged_while_events_cannot_be_read() {
    let stream = events(3);
    stream.away.store(true, Ordering::SeqCst);
    let running = Running::start(Arc::default(), stream).await;
    running.logged(vec![act("identity/1", 1)]).await;
    assert!(!running.ready.is_ready());
    running.events.away.store(false, Ordering::SeqCst);
    let ready = running.ready.clone();
    until(|| ready.is_ready()).await;
    assert_eq!(running.stop().await.len(), 2);
}

#[tokio::test]
async fn a_disk_that_fails_and_heals_loses_nothing() {
    for operations in 0..5 {
        let running = Running::start(Arc::default(), events(2)).await;
        let view = Arc::clone(&running.view);
        until(|| matches!(view.event(2), Some((_, EventPlace::Bundle(0))))).await;
        running.disk.fail_after(operations);
        let mut answers = Vec::new();
        for sequence in 1..=4 {
            running.events.batches.lock().unwrap().insert(sequence + 2, b"batch".to_vec());
            answers.push(running.tell(vec![act("identity/1", sequence)]).await);
        }
        let ready = running.ready.clone();
        until(|| !ready.is_ready()).await;
        running.disk.heal();
        for answer in answers {
            timeout(BOUND, answer).await.unwrap().unwrap();
        }
        let entries = running.stop().await;
        let acts = entries.iter().filter(|entry| matches!(entry, Entry::Act(_))).count();
        assert_eq!(acts, 4, "once each, failing after {operations}");
    }
}

#[tokio::test]
async fn a_stop_answers_what_was_told() {
    let running = Running::start(Arc::default(), events(0)).await;
    let answers = [
        running.tell(vec![act("identity/1", 1)]).await,
        running.tell((2..=600).map(|n| act("identity/1", n)).collect()).await,
    ];
    let entries = running.stop().await;
    assert_eq!(entries.len(), 600);
    for answer in answers {
        answer.await.unwrap();
    }
}
