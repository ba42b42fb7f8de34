//! Items that wait for the account: claimed, recorded, written, each with one outcome.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use sotto_bus::Outcome;
use sotto_core::{
    Timestamp, WorkItem,
    delivery::{Event, EventKind, ExpiryCause, RejectCause},
    restored::Trust,
    work::AttemptEnd,
};
use sotto_crypto::AeadKey;
use sotto_proto::{LogEvent, WorkDelivery};
use sotto_runtime::{failpoint, telemetry::chain};
use sotto_smpp::Link;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    account::{Account, Conclusion, PASSING},
    line::{Admission, Place},
};
use crate::{
    adapters::ledger::{Answer, Ask, Claimed, Fence, Intent, Parts, Recorded},
    domain::{
        claim::{Claim, ClaimState, PartEnd, Standing, judge},
        receipt::About,
        settle::{Settled, cancel, doubt, expire, reject, settle},
    },
    ports::Unwrapped,
};

/// The most items that are handed back at a time.
const HAND_BACK: usize = 100;
/// How long what is stopped is left alone before it is looked at again.
const HELD: Duration = Duration::from_secs(5);
/// How long the first answer waits for others of its batch.
const MOMENT: Duration = Duration::from_millis(3);
/// How often a process that holds claims looks whether a lost Redis is rebuilt.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// An item on its way, with its place in the batch it came in.
pub(super) struct Job {
    pub(super) index: usize,
    pub(super) delivery: WorkDelivery,
    pub(super) place: Option<Place>,
}

/// What an item is claimed for.
enum Purpose {
    /// To be submitted.
    Submit(Arc<AeadKey>),
    /// It is too late.
    Expire(ExpiryCause),
    /// It may have been sent in the time that a restored cell lost.
    Doubt,
    /// It can be submitted by nobody.
    Reject(RejectCause),
    /// It goes back to routing.
    Back(AttemptEnd),
}

impl Purpose {
    /// The state its claims enter. What is not submitted is over at once: a repeated delivery must find that, and
    /// not submit what another copy may do by then.
    fn state(&self) -> ClaimState {
        let end = match self {
            Self::Submit(_) => return ClaimState::Claimed,
            Self::Expire(_) | Self::Doubt | Self::Reject(_) => AttemptEnd::NotAllowed,
            Self::Back(end) => *end,
        };
        ClaimState::Ended(PartEnd::Unsent { end })
    }
}

pub(super) type Done = Vec<(usize, Outcome)>;

impl Account {
    /// Handles a batch: one outcome an item, in their order.
    pub(crate) async fn handle(self: &Arc<Self>, items: Vec<WorkDelivery>) -> Vec<Outcome> {
        let lane = Self::lane(&items);
        self.line.came(items.iter().map(|delivery| delivery.item.wanted_parts().len()).sum());
        let mut outcomes = vec![Outcome::Retry { after: PASSING }; items.len()];
        let mut waiting: Vec<_> = items.into_iter().enumerate().rev().collect();
        let mut running = FuturesUnordered::new();
        let mut note = |done: Done| {
            for (index, outcome) in done {
                if let Some(place) = outcomes.get_mut(index) {
                    *place = outcome;
                }
            }
        };
        while !waiting.is_empty() {
            let sizes = waiting.iter().rev().map(|(_, delivery)| delivery.item.wanted_parts().len());
            let mut admitting = std::pin::pin!(self.line.admit(lane, sizes.collect()));
            let admission = loop {
                tokio::select! {
                    admission = &mut admitting => break admission,
                    Some(done) = running.next(), if !running.is_empty() => note(done),
                }
            };
            let (link, places) = match admission {
                Admission::Send(link, places) => (Some(link), places.into_iter().map(Some).collect()),
                Admission::HandBack => (None, (0..HAND_BACK).map(|_| None).collect::<Vec<_>>()),
                // Whoever runs next takes them.
                Admission::Stop => break,
            };
            let mut jobs = Vec::new();
            for place in places {
                let Some((index, delivery)) = waiting.pop() else { break };
                jobs.push(Job { index, delivery, place });
            }
            let account = Arc::clone(self);
            running.push(async move { account.take(link, jobs).await });
        }
        while let Some(done) = running.next().await {
            note(done);
        }
        outcomes
    }

    /// Takes items on: to the carrier, or, without a link, back to routing.
    async fn take(self: Arc<Self>, link: Option<Link<About>>, jobs: Vec<Job>) -> Done {
        let now = self.now();
        let wraps = jobs.iter().map(|job| &job.delivery.wrap);
        let keys = if link.is_none() {
            HashMap::new()
        } else {
            match self.ring.open(&self.settings.id, wraps, now).await {
                Ok(keys) => {
                    self.keys_rest().answered();
                    keys
                }
                Err(error) => {
                    tracing::warn!(account = %self.settings.id, error = chain(&error), "keys cannot be had now");
                    let rest = self.keys_rest().failed(Instant::now());
                    return all(jobs, rest);
                }
            }
        };
        let purposes: Vec<_> =
            jobs.iter().map(|job| self.purpose(&job.delivery, link.is_some(), &keys, now)).collect();
        let mut done = Vec::new();
        let (jobs, purposes) = self.set_aside(jobs, purposes, &mut done);
        if jobs.is_empty() {
            return done;
        }
        let asks: Vec<_> = jobs
            .iter()
            .zip(&purposes)
            .map(|(job, purpose)| Ask { parts: self.parts(&job.delivery.item, now), enter: purpose.state() })
            .collect();
        let token = match sotto_crypto::random::random_array::<8>() {
            Ok(random) => Claim::token(&self.settings.id, random),
            Err(error) => {
                tracing::error!(%error, "no randomness");
                return all(jobs, PASSING);
            }
        };
        let claimed_at = Instant::now();
        let claiming = self.ledger.claim(&token, self.lease(), &asks).await;
        if let Some(error) = &claiming.failed {
            tracing::warn!(account = %self.settings.id, error = chain(error), "not everything is claimed");
        }
        if claiming.not_ready || claiming.failed.is_some() {
            self.shared.reliance.doubt();
        }
        let (mut leaving, mut sending) = (Vec::new(), Vec::new());
        let (mut lost, mut cancelled) = (Vec::new(), Vec::new());
        for ((job, purpose), answer) in jobs.into_iter().zip(purposes).zip(claiming.items) {
            match (answer, purpose) {
                (None, _) => done.push((job.index, Outcome::Retry { after: PASSING })),
                (Some(Answer { claimed: Claimed::Won, mark, .. }), Purpose::Submit(key)) => {
                    sending.push((job, mark, key));
                }
                (Some(Answer { claimed: Claimed::Won, .. }), purpose) => leaving.push((job, purpose)),
                (Some(Answer { claimed: Claimed::Cancelled, .. }), _) => cancelled.push(job),
                (Some(Answer { claimed: Claimed::Lost, before, now, .. }), _) => {
                    lost.push((job, judge(&before, &self.settings.id, now)));
                }
            }
        }
        let (left, dropped, repeated, sent) = tokio::join!(
            self.leave(&token, leaving, now),
            self.drop_cancelled(&token, cancelled),
            self.repeated(&token, lost, now),
            self.submit(&token, claimed_at, link, sending),
        );
        done.extend(left);
        done.extend(dropped);
        done.extend(repeated);
        done.extend(sent);
        done
    }

    /// Takes out what operators stopped: it goes to the end of its queue, unclaimed.
    fn set_aside(&self, jobs: Vec<Job>, purposes: Vec<Purpose>, held: &mut Done) -> (Vec<Job>, Vec<Purpose>) {
        let stays = |job: &Job, purpose: &Purpose| match purpose {
            Purpose::Submit(key) => self.is_held(&job.delivery.item, key),
            Purpose::Expire(_) | Purpose::Doubt | Purpose::Reject(_) | Purpose::Back(_) => false,
        };
        let (kept, goes): (Vec<_>, Vec<_>) =
            jobs.into_iter().zip(purposes).partition(|(job, purpose)| stays(job, purpose));
        held.extend(kept.into_iter().map(|(job, _)| (job.index, Outcome::Retry { after: HELD })));
        goes.into_iter().unzip()
    }

    /// What is to become of an item that nobody else holds. Of what may have been sent in the time that a restored cell lost
    /// nobody may say that it was not.
    fn purpose(
        &self,
        delivery: &WorkDelivery,
        linked: bool,
        keys: &HashMap<[u8; 16], Unwrapped>,
        now: Timestamp,
    ) -> Purpose {
        let purpose = self.purpose_if_sure(delivery, linked, keys, now);
        match (self.trust(&delivery.item, now), purpose) {
            (Trust::Doubted, _) | (Trust::Again, Purpose::Expire(_) | Purpose::Reject(_)) => Purpose::Doubt,
            (Trust::Sure | Trust::Held | Trust::Again, purpose) => purpose,
        }
    }

    fn purpose_if_sure(
        &self,
        delivery: &WorkDelivery,
        linked: bool,
        keys: &HashMap<[u8; 16], Unwrapped>,
        now: Timestamp,
    ) -> Purpose {
        let facts = &delivery.item.facts;
        if now >= facts.expires_at {
            return Purpose::Expire(ExpiryCause::Validity);
        }
        // INV-4: asked again, because the item may come from any path.
        if !self.settings.permits(facts, now) {
            return Purpose::Back(AttemptEnd::NotAllowed);
        }
        if !linked {
            return Purpose::Back(AttemptEnd::LinkDown);
        }
        match keys.get(&delivery.wrap.key_id) {
            Some(Unwrapped::Key { key, .. }) => Purpose::Submit(Arc::clone(key)),
            Some(Unwrapped::NotAllowed) => Purpose::Back(AttemptEnd::NotAllowed),
            // Before its time: at it, the message has expired already.
            Some(Unwrapped::Destroyed) => Purpose::Expire(ExpiryCause::KeyDestroyed),
            Some(Unwrapped::Invalid) | None => Purpose::Reject(RejectCause::Unopenable),
        }
    }

    /// Items that leave without a byte written: events, then the way back, then done.
    async fn leave(&self, token: &str, leaving: Vec<(Job, Purpose)>, now: Timestamp) -> Done {
        let (mut indexes, mut conclusions) = (Vec::new(), Vec::new());
        for (Job { index, delivery, .. }, purpose) in leaving {
            let item = &delivery.item;
            let (end, settled) = match purpose {
                // Never the case: what is submitted does not leave.
                Purpose::Submit(_) => continue,
                Purpose::Expire(cause) => {
                    (AttemptEnd::NotAllowed, expire(item, &self.settings.id, cause, now))
                }
                Purpose::Doubt => (AttemptEnd::NotAllowed, doubt(item, &self.settings.id, now)),
                Purpose::Reject(cause) => {
                    (AttemptEnd::NotAllowed, reject(item, &self.settings.id, cause, now))
                }
                Purpose::Back(end) => (end, settle(item, &self.settings.id, &unsent(item, end), now)),
            };
            let ends = self.ended(item, &unsent(item, end), now);
            indexes.push(index);
            conclusions.push(Conclusion::of(delivery, ends, settled));
        }
        if conclusions.is_empty() {
            return Vec::new();
        }
        let outcome = self.outcome(self.conclude(token, conclusions, Recorded::default()).await);
        indexes.into_iter().map(|index| (index, outcome.clone())).collect()
    }

    /// Items whose message was cancelled before a byte was written. Ingress has told so if it came so far; an intent that is
    /// in the log is taken back.
    async fn drop_cancelled(&self, token: &str, jobs: Vec<Job>) -> Done {
        if jobs.is_empty() {
            return Vec::new();
        }
        let now = self.now();
        let conclusions = jobs.iter().map(|job| Conclusion {
            events: cancel(&job.delivery.item, &self.settings.id, now).events,
            ..Conclusion::default()
        });
        let outcome = self.outcome(self.conclude(token, conclusions.collect(), Recorded::default()).await);
        jobs.into_iter().map(|job| (job.index, outcome.clone())).collect()
    }

    /// The same for items that are claimed here.
    async fn release_cancelled(&self, token: &str, jobs: Vec<Job>, now: Timestamp) -> Done {
        let parts: Vec<_> = jobs.iter().map(|job| self.parts(&job.delivery.item, now)).collect();
        self.release(token, &parts).await;
        self.drop_cancelled(token, jobs).await
    }

    /// Lets claims go that were not intended.
    async fn release(&self, token: &str, parts: &[Parts]) {
        if let Err(error) = self.ledger.release(token, parts).await {
            tracing::debug!(%error, "claims are not released; they end by themselves");
        }
    }

    /// Items that somebody else has, or had.
    async fn repeated(&self, token: &str, lost: Vec<(Job, Standing)>, now: Timestamp) -> Done {
        let mut done = Vec::new();
        for (Job { index, delivery, .. }, standing) in lost {
            let outcome = match standing {
                Standing::Finished => Outcome::Done,
                Standing::Held { after } => Outcome::Retry { after },
                Standing::Free => Outcome::Retry { after: PASSING },
                Standing::Abandoned(ends) => {
                    tracing::info!(account = %self.settings.id, message = %delivery.item.facts.message,
                        "an attempt whose process is gone is concluded");
                    let settled = settle(&delivery.item, &self.settings.id, &ends, now);
                    let ends = self.ended(&delivery.item, &ends, now);
                    let conclusion = Conclusion::of(delivery, ends, settled);
                    self.outcome(self.conclude_written(token, vec![conclusion]).await)
                }
            };
            done.push((index, outcome));
        }
        done
    }

    /// Records the intent, passes the fence, and sends.
    async fn submit(
        self: &Arc<Self>,
        token: &str,
        claimed_at: Instant,
        link: Option<Link<About>>,
        jobs: Vec<(Job, String, Arc<AeadKey>)>,
    ) -> Done {
        let Some(link) = link.filter(|_| !jobs.is_empty()) else { return Vec::new() };
        let now = self.now();
        let (mut sending, mut intents) = (Vec::new(), Vec::new());
        for (job, mark, key) in jobs {
            let (parts, until) = (self.parts(&job.delivery.item, now), now.plus(self.lease()));
            intents.push(Intent { parts, mark: Some(mark), until });
            sending.push((job, key));
        }
        let events = sending.iter().map(|(job, _)| self.submitting(&job.delivery.item, now)).collect();
        failpoint("carrier.claimed");
        if let Err(error) = self.shared.log.events(events).await {
            tracing::warn!(account = %self.settings.id, error = chain(&error), "an intent is not recorded: nothing is sent");
            let parts: Vec<_> = intents.into_iter().map(|intent| intent.parts).collect();
            self.release(token, &parts).await;
            return all(sending.into_iter().map(|(job, _)| job), PASSING);
        }
        failpoint("carrier.intended");
        let fences = self.intend(token, claimed_at, intents).await;
        failpoint("carrier.fenced");
        let mut running = FuturesUnordered::new();
        let (mut done, mut cancelled) = (Vec::new(), Vec::new());
        for ((job, key), fence) in sending.into_iter().zip(fences) {
            match fence {
                Fence::Passed => running.push(self.send(&link, job, key)),
                Fence::Cancelled => cancelled.push(job),
                // Somebody took it over meanwhile, and what becomes of it is theirs to say; or Redis did not come
                // back in time.
                Fence::Taken | Fence::NotReady | Fence::Unknown => {
                    done.push((job.index, Outcome::Retry { after: PASSING }));
                }
            }
        }
        done.extend(self.release_cancelled(token, cancelled, now).await);
        // Answers that come within a moment, or while others are being concluded, are concluded together: Redis and the log
        // are asked once for all of them.
        let (mut answered, mut concluding) = (Vec::new(), FuturesUnordered::new());
        let mut since = Instant::now();
        loop {
            let until = if running.is_empty() { since } else { since + MOMENT };
            tokio::select! {
                biased;
                Some(one) = running.next() => {
                    if answered.is_empty() {
                        since = Instant::now();
                    }
                    answered.push(one);
                }
                Some(concluded) = concluding.next() => done.extend(concluded),
                () = sleep_until(until), if concluding.is_empty() && !answered.is_empty() => {
                    concluding.push(self.conclude_answered(token, std::mem::take(&mut answered)));
                }
                else => return done,
            }
        }
    }

    /// Concludes items together.
    async fn conclude_answered(&self, token: &str, answered: Vec<(usize, Conclusion)>) -> Done {
        let (indexes, conclusions): (Vec<_>, Vec<_>) = answered.into_iter().unzip();
        failpoint("carrier.answered");
        let concluded = self.conclude_answers(token, conclusions).await;
        failpoint("carrier.concluded");
        let outcome = self.outcome(concluded);
        indexes.into_iter().map(|index| (index, outcome.clone())).collect()
    }

    /// The fence before the first byte (INV-5): the claims still stand, in the Redis in which they were made. If that
    /// was lost meanwhile, waits for its rebuilding as long as our lease runs. Says for each item where it stands.
    async fn intend(&self, token: &str, claimed_at: Instant, mut intents: Vec<Intent>) -> Vec<Fence> {
        let mut fences = vec![Fence::Unknown; intents.len()];
        let mut open: Vec<usize> = (0..intents.len()).collect();
        while claimed_at.elapsed() < self.settings.response_timeout {
            let asked: Vec<_> = open.iter().filter_map(|place| intents.get(*place)).cloned().collect();
            let fenced = self.ledger.intend(token, self.lease(), &asked).await;
            if let Some(error) = &fenced.failed {
                tracing::warn!(account = %self.settings.id, error = chain(error), "Redis does not confirm an intent");
            }
            let mut still = Vec::new();
            for (place, fence) in open.into_iter().zip(fenced.items) {
                if let Some(stands) = fences.get_mut(place) {
                    *stands = fence;
                }
                match fence {
                    Fence::Passed | Fence::Taken | Fence::Cancelled => {}
                    Fence::NotReady => {
                        if let Some(intent) = intents.get_mut(place) {
                            intent.mark = None;
                        }
                        still.push(place);
                    }
                    // Perhaps it was done and only the answer is lost: our own intent is known by its token.
                    Fence::Unknown => still.push(place),
                }
            }
            open = still;
            if open.is_empty() {
                break;
            }
            self.shared.reliance.doubt();
            sleep(LOOK_AGAIN).await;
        }
        fences
    }

    fn submitting(&self, item: &WorkItem, now: Timestamp) -> LogEvent {
        let kind = EventKind::Submitting {
            attempt: item.attempt,
            account: self.settings.id.clone(),
            parts: item.wanted_parts(),
        };
        LogEvent::Delivery(Event { message: item.facts.message, at: now, kind })
    }

    pub(super) fn outcome<E: std::error::Error>(&self, result: Result<(), E>) -> Outcome {
        match result {
            Ok(()) => Outcome::Done,
            Err(error) => {
                tracing::warn!(account = %self.settings.id, error = chain(&error), "an end is not concluded; again later");
                Outcome::Retry { after: PASSING }
            }
        }
    }

    /// What follows when content cannot be submitted although its intent is recorded.
    pub(super) fn rejected(&self, item: &WorkItem, cause: RejectCause) -> (Vec<(u8, PartEnd)>, Settled) {
        let settled = reject(item, &self.settings.id, cause, self.now());
        (unsent(item, AttemptEnd::NotAllowed), settled)
    }
}

pub(super) fn unsent(item: &WorkItem, end: AttemptEnd) -> Vec<(u8, PartEnd)> {
    item.wanted_parts().into_iter().map(|part| (part, PartEnd::Unsent { end })).collect()
}

fn all(jobs: impl IntoIterator<Item = Job>, after: Duration) -> Done {
    jobs.into_iter().map(|job| (job.index, Outcome::Retry { after })).collect()
}
