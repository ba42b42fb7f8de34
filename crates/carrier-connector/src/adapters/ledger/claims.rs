//! The claims, shard by shard. The calls of one question go out together, one a shard.

use std::{collections::BTreeMap, time::Duration};

use futures::future::{join_all, try_join_all};
use sotto_core::{MessageId, ShardId, Timestamp, cancel};
use sotto_runtime::redis::pipe;

use super::{Ledger, LedgerError, Scope, Store, millis, one, set};
use crate::domain::{
    carrier_id::CarrierId,
    claim::{Claim, ClaimState, PartEnd},
    receipt::Submitted,
};

/// How far back claims matter: the longest a message may wait, and a while. An intent whose end is not known is kept so
/// much longer than other claims: whoever finds it late must not take the part for unsent.
pub(crate) const CLAIMS: Duration = Duration::from_secs(73 * 3600);

const RESTORE: &str = include_str!("restore.lua");

/// How far back cancellations matter: the furthest a message may be sent ahead, and the longest it may wait then.
pub(crate) const CANCELLATIONS: Duration = Duration::from_secs((30 * 24 + 73) * 3600);

/// A mark that the log tells.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// The message was handed to a carrier, or was about to be.
    Handed {
        /// In which attempt.
        attempt: u16,
    },
    /// The message was cancelled.
    Cancelled {
        /// How long that is kept yet.
        keep: Duration,
    },
}

/// The parts of one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// The message.
    pub(crate) message: MessageId,
    /// The attempt.
    pub(crate) attempt: u16,
    /// The parts.
    pub(crate) parts: Vec<u8>,
    /// How long their claims are kept.
    pub(crate) keep: Duration,
}

/// What to claim parts for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// The parts.
    pub(crate) parts: Parts,
    /// [`ClaimState::Claimed`] to submit them, or the end of an attempt that is over before it began.
    pub(crate) enter: ClaimState,
}

/// The answers to claims.
#[derive(Debug)]
pub(crate) struct Claiming {
    /// One for each item asked for; none where its shard is not ready or did not answer.
    pub(crate) items: Vec<Option<Answer>>,
    /// A shard is not ready: it was lost and is not rebuilt.
    pub(crate) not_ready: bool,
    /// A shard did not answer: what was claimed there ends by itself.
    pub(crate) failed: Option<LedgerError>,
}

/// What came of one item's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// All its parts are now claimed by us.
    Won,
    /// Somebody has it, or had it.
    Lost,
    /// Nobody had it, and its message is cancelled.
    Cancelled,
}

/// The answer to one item's claim.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Stands for this Redis and its contents; needed to pass to intent.
    pub(crate) mark: String,
    /// The time of Redis.
    pub(crate) now: Timestamp,
    /// What came of it.
    pub(crate) claimed: Claimed,
    /// What its claims were before.
    pub(crate) before: Vec<(u8, Option<Claim>)>,
}

/// A claimed item that is to pass to intent.
#[derive(Clone, Debug)]
pub(crate) struct Intent {
    /// Its parts.
    pub(crate) parts: Parts,
    /// The mark it was claimed at. None: Redis was lost since; what was restored of our own intent from the log, or
    /// nothing, is ours as long as our lease holds.
    pub(crate) mark: Option<String>,
    /// Until when the record of our intent holds, once restored: tells it from those of other processes.
    pub(crate) until: Timestamp,
}

/// Where a claimed item stands at the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// It may be written.
    Passed,
    /// Somebody else has it.
    Taken,
    /// Its message was cancelled since the claim.
    Cancelled,
    /// Redis is not ready, or another one than at the claim.
    NotReady,
    /// Redis did not answer. Asking again with the same token is safe.
    Unknown,
}

/// The answers at the fence.
#[derive(Debug)]
pub(crate) struct Fenced {
    /// One for each item.
    pub(crate) items: Vec<Fence>,
    /// Why some are unknown.
    pub(crate) failed: Option<LedgerError>,
}

/// The end of one part.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// Which part.
    pub(crate) part: Submitted,
    /// How.
    pub(crate) end: PartEnd,
    /// How long its claim is kept.
    pub(crate) keep: Duration,
}

impl Ended {
    /// The carrier's id, if the end brings one.
    pub(crate) fn carrier_id(&self) -> Option<CarrierId> {
        match &self.end {
            PartEnd::Submitted { carrier_id } => CarrierId::canonical(carrier_id),
            PartEnd::Refused { .. } | PartEnd::NoResponse | PartEnd::Unsent { .. } => None,
        }
    }
}

impl Store {
    fn claim_key(&self, message: &MessageId, attempt: u16, part: u8) -> String {
        Scope::Shard(self.shards.of(message)).key(&format!("claim:{message}:{attempt}:{part}"))
    }

    pub(super) fn mark_key(&self, message: &MessageId) -> String {
        cancel::mark_key(self.shards.of(message), message)
    }

    pub(super) fn claim_keys(&self, of: &Parts) -> Vec<String> {
        of.parts.iter().map(|part| self.claim_key(&of.message, of.attempt, *part)).collect()
    }

    /// Puts claims back that the log tells, in its order. An intent gives way to what is known since, and takes the
    /// place of the claim that it came from.
    pub(crate) async fn restore_claims(
        &self,
        keep: Duration,
        claims: &[(Submitted, Claim)],
    ) -> Result<(), LedgerError> {
        if claims.is_empty() {
            return Ok(());
        }
        let mut pipeline = pipe();
        let keep = millis(keep).to_string();
        for (part, claim) in claims {
            let key = self.claim_key(&part.message, part.attempt, part.part);
            let value = claim.to_string();
            let put = if claim.state == ClaimState::Intent {
                let mut restore = one("EVAL", RESTORE);
                restore.arg(1).arg(key).arg(value).arg(&keep);
                restore
            } else {
                set(&key, &value, &["PX", &keep])
            };
            pipeline.add_command(put).ignore();
        }
        pipeline.query_async::<()>(&mut self.redis.connection()).await.map_err(LedgerError::Redis)
    }
}

impl Store {
    /// Puts marks back that the log tells. A cancellation stands, whatever was attempted after it.
    pub(crate) async fn restore_marks(&self, marks: &[(MessageId, Mark)]) -> Result<(), LedgerError> {
        if marks.is_empty() {
            return Ok(());
        }
        let mut pipeline = pipe();
        for (message, mark) in marks {
            let key = self.mark_key(message);
            let put = match mark {
                Mark::Handed { attempt } => {
                    set(&key, &attempt.to_string(), &["NX", "PX", &millis(CLAIMS).to_string()])
                }
                Mark::Cancelled { keep } => set(&key, cancel::CANCELLED, &["PX", &millis(*keep).to_string()]),
            };
            pipeline.add_command(put).ignore();
        }
        pipeline.query_async::<()>(&mut self.redis.connection()).await.map_err(LedgerError::Redis)
    }
}

/// The places of items, by shard and whatever else a call must have in common.
fn by_shard<T, K: Ord>(
    store: &Store,
    items: &[T],
    of: impl Fn(&T) -> (MessageId, K),
) -> BTreeMap<(ShardId, K), Vec<usize>> {
    let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (place, item) in items.iter().enumerate() {
        let (message, key) = of(item);
        groups.entry((store.shards.of(&message), key)).or_default().push(place);
    }
    groups
}

impl Ledger {
    /// Claims items for `lease`.
    pub(crate) async fn claim(&self, token: &str, lease: Duration, asks: &[Ask]) -> Claiming {
        let groups = by_shard(&self.store, asks, |ask| (ask.parts.message, ()));
        let calls = groups.into_iter().map(async |((shard, ()), places)| {
            let asks: Vec<_> = places.iter().filter_map(|place| asks.get(*place)).collect();
            (places, self.claim_in(shard, token, lease, &asks).await)
        });
        let mut claiming = Claiming { items: vec![None; asks.len()], not_ready: false, failed: None };
        for (places, answer) in join_all(calls).await {
            match answer {
                Ok(Some(answers)) => {
                    for (place, answer) in places.into_iter().zip(answers) {
                        if let Some(item) = claiming.items.get_mut(place) {
                            *item = Some(answer);
                        }
                    }
                }
                Ok(None) => claiming.not_ready = true,
                Err(error) => claiming.failed = Some(error),
            }
        }
        claiming
    }

    async fn claim_in(
        &self,
        shard: ShardId,
        token: &str,
        lease: Duration,
        asks: &[&Ask],
    ) -> Result<Option<Vec<Answer>>, LedgerError> {
        let mut call = self.store.scripts.claim.prepare_invoke();
        call.key(Scope::Shard(shard).key("ready")).arg(token).arg(millis(lease)).arg(asks.len());
        for Ask { parts, enter } in asks {
            call.key(self.store.mark_key(&parts.message));
            for key in self.store.claim_keys(parts) {
                call.key(key);
            }
            let (letter, detail) = enter.words();
            call.arg(parts.parts.len()).arg(millis(parts.keep)).arg(letter.to_string()).arg(detail);
        }
        let answer: Vec<String> =
            call.invoke_async(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)?;
        let mut answer = answer.into_iter();
        let mark = answer.next().unwrap_or_default();
        if mark.is_empty() {
            return Ok(None);
        }
        let mut next = || answer.next().ok_or(LedgerError::Entry("claims"));
        let now = next()?.parse().map(Timestamp::from_unix_millis).map_err(|_| LedgerError::Entry("time"))?;
        let mut items = Vec::with_capacity(asks.len());
        for Ask { parts, .. } in asks {
            let claimed = match next()?.as_str() {
                "1" => Claimed::Won,
                "x" => Claimed::Cancelled,
                _ => Claimed::Lost,
            };
            let before = parts
                .parts
                .iter()
                .map(|part| {
                    let value = next()?;
                    if value.is_empty() {
                        return Ok((*part, None));
                    }
                    value.parse().map(|claim| (*part, Some(claim))).map_err(|_| LedgerError::Entry("claims"))
                })
                .collect::<Result<_, _>>()?;
            items.push(Answer { mark: mark.clone(), now, claimed, before });
        }
        Ok(Some(items))
    }

    /// Passes claimed items to intent, if Redis is still what it was at their marks.
    pub(crate) async fn intend(&self, token: &str, lease: Duration, items: &[Intent]) -> Fenced {
        let groups = by_shard(&self.store, items, |item| (item.parts.message, item.mark.clone()));
        let calls = groups.into_iter().map(async |((shard, mark), places)| {
            let items: Vec<_> = places.iter().filter_map(|place| items.get(*place)).collect();
            (places, self.intend_in(shard, mark.as_deref(), token, lease, &items).await)
        });
        let mut fenced = Fenced { items: vec![Fence::Unknown; items.len()], failed: None };
        for (places, answer) in join_all(calls).await {
            let answers = match answer {
                Ok(Some(ours)) => ours,
                Ok(None) => vec![Fence::NotReady; places.len()],
                Err(error) => {
                    fenced.failed = Some(error);
                    continue;
                }
            };
            for (place, answer) in places.into_iter().zip(answers) {
                if let Some(item) = fenced.items.get_mut(place) {
                    *item = answer;
                }
            }
        }
        fenced
    }

    async fn intend_in(
        &self,
        shard: ShardId,
        mark: Option<&str>,
        token: &str,
        lease: Duration,
        items: &[&Intent],
    ) -> Result<Option<Vec<Fence>>, LedgerError> {
        let mut call = self.store.scripts.intend.prepare_invoke();
        call.key(Scope::Shard(shard).key("ready"))
            .arg(mark.unwrap_or_default())
            .arg(token)
            .arg(millis(lease))
            .arg(items.len());
        for Intent { parts, until, .. } in items {
            call.key(self.store.mark_key(&parts.message));
            for key in self.store.claim_keys(parts) {
                call.key(key);
            }
            let restored =
                Claim { token: Claim::restored_by(&self.account), until: *until, state: ClaimState::Intent };
            call.arg(parts.parts.len()).arg(millis(parts.keep + CLAIMS)).arg(millis(parts.keep));
            call.arg(parts.attempt).arg(restored.to_string());
        }
        let answer: Vec<String> =
            call.invoke_async(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)?;
        let ready = answer.first().is_some_and(|mark| !mark.is_empty());
        let fence = |word: &String| match word.as_str() {
            "1" => Fence::Passed,
            "x" => Fence::Cancelled,
            _ => Fence::Taken,
        };
        Ok(ready.then(|| answer.iter().skip(1).map(fence).collect()))
    }

    /// Takes the mark of this attempt off its message: it may be cancelled again.
    pub(crate) async fn unmark(&self, message: &MessageId, attempt: u16) -> Result<(), LedgerError> {
        let mut call = self.store.scripts.unmark.prepare_invoke();
        call.key(self.store.mark_key(message)).arg(attempt);
        call.invoke_async::<()>(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)
    }

    /// Lets claims go that were not intended.
    pub(crate) async fn release(&self, token: &str, items: &[Parts]) -> Result<(), LedgerError> {
        let groups = by_shard(&self.store, items, |parts| (parts.message, ()));
        let calls = groups.into_values().map(async |places| {
            let mut call = self.store.scripts.release.prepare_invoke();
            for parts in places.iter().filter_map(|place| items.get(*place)) {
                for key in self.store.claim_keys(parts) {
                    call.key(key);
                }
            }
            let mut connection = self.store.redis.connection();
            call.arg(token).invoke_async::<()>(&mut connection).await.map_err(LedgerError::Redis)
        });
        try_join_all(calls).await.map(drop)
    }

    /// Writes the ends of parts into their claims, whatever stands there; `done`: all that follows is stored. Returns the marks
    /// of their shards, empty where one is not ready.
    pub(super) async fn note(
        &self,
        token: &str,
        lease: Duration,
        ends: &[Ended],
        done: bool,
    ) -> Result<Vec<(Scope, String)>, LedgerError> {
        let groups = by_shard(&self.store, ends, |ended| (ended.part.message, ()));
        let calls = groups.into_iter().map(async |((shard, ()), places)| {
            let scope = Scope::Shard(shard);
            let mut call = self.store.scripts.note.prepare_invoke();
            call.key(scope.key("ready")).arg(token).arg(millis(lease));
            for Ended { part, end, keep } in places.iter().filter_map(|place| ends.get(*place)) {
                let end = end.clone();
                let state = if done { ClaimState::Done(end) } else { ClaimState::Ended(end) };
                let (letter, detail) = state.words();
                call.key(self.store.claim_key(&part.message, part.attempt, part.part))
                    .arg(letter.to_string())
                    .arg(detail)
                    .arg(millis(*keep));
            }
            let mut connection = self.store.redis.connection();
            let mark = call.invoke_async(&mut connection).await.map_err(LedgerError::Redis)?;
            Ok((scope, mark))
        });
        try_join_all(calls).await
    }

    /// Notes those ends of a shard as done, if its mark is still this one.
    pub(super) async fn note_done(
        &self,
        shard: ShardId,
        mark: &str,
        ends: &[Ended],
    ) -> Result<bool, LedgerError> {
        let mut call = self.store.scripts.done.prepare_invoke();
        call.key(Scope::Shard(shard).key("ready")).arg(mark);
        for Ended { part, .. } in ends {
            if self.store.shards.of(&part.message) == shard {
                call.key(self.store.claim_key(&part.message, part.attempt, part.part));
            }
        }
        let noted: i64 =
            call.invoke_async(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)?;
        Ok(noted == 1)
    }
}
