//! Claims, ids and early receipts of one account in Redis.
//!
//! All keys of an account share a hash tag, so that each script runs in one place of a cluster:
//! `sotto:carrier:{<account>}:…`
//!
//! | key | holds | kept |
//! |---|---|---|
//! | `claim:<message>:<attempt>:<part>` | a [`Claim`] | to the message's expiry, and a while |
//! | `id:<carrier id>` | the part it stands for | the account's `receipt_wait` |
//! | `parked:<carrier id>` | receipts that came before the id was known | the account's `receipt_wait` |
//! | `ready` | `<run id of this Redis>\|<rebuild>`: without it nothing here can be relied on | |
//! | `rebuild` | who rebuilds | a lease |

use std::time::Duration;

use sotto_core::{AccountId, Classified, ErrorClass, MessageId, Timestamp};
use sotto_runtime::redis::{self, Cmd, Redis, RedisError, Script, cmd, pipe};

use crate::domain::{
    carrier_id::CarrierId,
    claim::{Claim, ClaimState, PartEnd},
    receipt::{Said, Submitted},
};

/// Early receipts under one id. A carrier that sends more for an id that it never gave us makes no sense.
const MOST_PARKED: usize = 16;

/// Why Redis did not do what was asked. What it did is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// It is away, or refused.
    #[error("Redis did not answer")]
    Redis(#[source] RedisError),
    /// It holds something else than we write there.
    #[error("Redis holds an entry of {0} that cannot be read")]
    Entry(&'static str),
}

impl Classified for LedgerError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Redis(error) => redis::class(error),
            Self::Entry(_) => ErrorClass::Bug,
        }
    }
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

/// The answer to a claim.
#[derive(Clone, Debug)]
pub(crate) struct Claimed {
    /// Stands for this Redis and its contents; needed to pass to intent.
    pub(crate) mark: String,
    /// The time of Redis.
    pub(crate) now: Timestamp,
    /// One for each item asked for.
    pub(crate) items: Vec<Answer>,
}

/// The answer to one item's claim.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Whether all its parts are now claimed by us.
    pub(crate) won: bool,
    /// What its claims were before.
    pub(crate) before: Vec<(u8, Option<Claim>)>,
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

/// What is restored from the log.
#[derive(Clone, Debug)]
pub(crate) enum Restored {
    /// A part's claim. An intent gives way to what is known since.
    Claim(Submitted, Claim),
    /// The part an id stands for.
    Id(CarrierId, Submitted),
    /// A receipt that was parked.
    Receipt(CarrierId, Said),
}

/// A receipt and its part, found while restoring.
pub(crate) type Match = (CarrierId, Submitted, Said);

/// The account's part of Redis.
#[derive(Debug)]
pub(crate) struct Ledger {
    redis: Redis,
    prefix: String,
    receipt_wait: Duration,
    claim: Script,
    intend: Script,
    record: Script,
    release: Script,
    receipts: Script,
    ready: Script,
    lock: Script,
    complete: Script,
}

impl Ledger {
    pub(crate) fn new(redis: Redis, account: &AccountId, receipt_wait: Duration) -> Self {
        Self {
            redis,
            prefix: format!("sotto:carrier:{{{account}}}:"),
            receipt_wait,
            claim: Script::new(include_str!("ledger/claim.lua")),
            intend: Script::new(include_str!("ledger/intend.lua")),
            record: Script::new(include_str!("ledger/record.lua")),
            release: Script::new(include_str!("ledger/release.lua")),
            receipts: Script::new(include_str!("ledger/receipts.lua")),
            ready: Script::new(include_str!("ledger/ready.lua")),
            lock: Script::new(include_str!("ledger/lock.lua")),
            complete: Script::new(include_str!("ledger/complete.lua")),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn claim_key(&self, message: &MessageId, attempt: u16, part: u8) -> String {
        format!("{}claim:{message}:{attempt}:{part}", self.prefix)
    }

    fn id_key(&self, id: &str) -> String {
        format!("{}id:{id}", self.prefix)
    }

    fn parked_key(&self, id: &str) -> String {
        format!("{}parked:{id}", self.prefix)
    }

    fn keys<'a>(&'a self, of: &'a Parts) -> impl Iterator<Item = String> + 'a {
        of.parts.iter().map(|part| self.claim_key(&of.message, of.attempt, *part))
    }

    /// Claims items for `lease`. `None` while Redis is not ready: it was lost and is not rebuilt.
    pub(crate) async fn claim(
        &self,
        token: &str,
        lease: Duration,
        asks: &[Ask],
    ) -> Result<Option<Claimed>, LedgerError> {
        let mut call = self.claim.prepare_invoke();
        call.key(self.key("ready")).arg(token).arg(millis(lease)).arg(asks.len());
        for Ask { parts, enter } in asks {
            for key in self.keys(parts) {
                call.key(key);
            }
            let (letter, detail) = enter.words();
            call.arg(parts.parts.len()).arg(millis(parts.keep)).arg(letter.to_string()).arg(detail);
        }
        let answer: Vec<String> =
            call.invoke_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)?;
        let mut answer = answer.into_iter();
        let mark = answer.next().unwrap_or_default();
        if mark.is_empty() {
            return Ok(None);
        }
        let mut next = || answer.next().ok_or(LedgerError::Entry("claims"));
        let now = next()?.parse().map(Timestamp::from_unix_millis).map_err(|_| LedgerError::Entry("time"))?;
        let mut items = Vec::with_capacity(asks.len());
        for Ask { parts, .. } in asks {
            let won = next()? == "1";
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
            items.push(Answer { won, before });
        }
        Ok(Some(Claimed { mark, now, items }))
    }

    /// Passes claimed items to intent, if Redis is still what it was at `mark`. Without a mark: Redis was lost since
    /// they were claimed; what was restored of them from the log, or nothing, is ours as long as our lease holds.
    ///
    /// `None` when Redis is not ready or another one; else whether each item may be written.
    pub(crate) async fn intend(
        &self,
        mark: Option<&str>,
        token: &str,
        lease: Duration,
        items: &[Parts],
    ) -> Result<Option<Vec<bool>>, LedgerError> {
        let mut call = self.intend.prepare_invoke();
        call.key(self.key("ready"))
            .arg(mark.unwrap_or_default())
            .arg(token)
            .arg(millis(lease))
            .arg(items.len());
        for parts in items {
            for key in self.keys(parts) {
                call.key(key);
            }
            call.arg(parts.parts.len()).arg(millis(parts.keep));
        }
        let answer: Vec<String> =
            call.invoke_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)?;
        let ready = answer.first().is_some_and(|mark| !mark.is_empty());
        Ok(ready.then(|| answer.iter().skip(1).map(|won| won == "1").collect()))
    }

    /// Lets claims go that were not intended.
    pub(crate) async fn release(&self, token: &str, items: &[Parts]) -> Result<(), LedgerError> {
        let mut call = self.release.prepare_invoke();
        for key in items.iter().flat_map(|parts| self.keys(parts)) {
            call.key(key);
        }
        call.arg(token).invoke_async::<()>(&mut self.redis.connection()).await.map_err(LedgerError::Redis)
    }

    /// Notes ends before anything follows from them, ties ids to their parts, and returns early receipts.
    pub(crate) async fn record(
        &self,
        token: &str,
        lease: Duration,
        ends: &[Ended],
    ) -> Result<Vec<(Submitted, Said)>, LedgerError> {
        let mut call = self.record.prepare_invoke();
        call.arg(token).arg(millis(lease));
        for Ended { part, end, keep } in ends {
            let id = carrier_id(end);
            let entry = if id.is_empty() { String::new() } else { part.to_entry() };
            let (letter, detail) = ClaimState::Ended(end.clone()).words();
            call.key(self.claim_key(&part.message, part.attempt, part.part))
                .key(self.id_key(id))
                .key(self.parked_key(id))
                .arg(letter.to_string())
                .arg(detail)
                .arg(millis(*keep))
                .arg(entry)
                .arg(millis(self.receipt_wait));
        }
        let answer: Vec<String> =
            call.invoke_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)?;
        let mut answer = answer.into_iter();
        let mut early = Vec::new();
        for Ended { part, .. } in ends {
            let count: usize =
                answer.next().and_then(|count| count.parse().ok()).ok_or(LedgerError::Entry("receipts"))?;
            for entry in answer.by_ref().take(count) {
                early.push((*part, entry.parse().map_err(|_| LedgerError::Entry("receipts"))?));
            }
        }
        Ok(early)
    }

    /// Notes that all that follows from these ends is stored.
    pub(crate) async fn finish(&self, token: &str, ends: &[Ended]) -> Result<(), LedgerError> {
        let mut pipeline = pipe();
        for Ended { part, end, .. } in ends {
            let state = ClaimState::Done(end.clone());
            let claim = Claim { token: token.to_owned(), until: Timestamp::default(), state };
            let key = self.claim_key(&part.message, part.attempt, part.part);
            pipeline.add_command(set(&key, &claim.to_string(), &["XX", "KEEPTTL"])).ignore();
            let id = carrier_id(end);
            if !id.is_empty() {
                pipeline.add_command(one("DEL", &self.parked_key(id))).ignore();
            }
        }
        pipeline.query_async::<()>(&mut self.redis.connection()).await.map_err(LedgerError::Redis)
    }

    /// Finds the parts of receipts, and parks those whose id is unknown. `None` while Redis is not ready.
    pub(crate) async fn receipts(
        &self,
        receipts: &[(CarrierId, Said)],
    ) -> Result<Option<Vec<Option<Submitted>>>, LedgerError> {
        let mut call = self.receipts.prepare_invoke();
        call.key(self.key("ready")).arg(millis(self.receipt_wait)).arg(MOST_PARKED);
        for (id, said) in receipts {
            call.key(self.id_key(id.as_str())).key(self.parked_key(id.as_str())).arg(said.to_entry());
        }
        let answer: Vec<String> =
            call.invoke_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)?;
        if answer.first().is_none_or(String::is_empty) {
            return Ok(None);
        }
        let found = answer.iter().skip(1).map(|entry| submitted(entry)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(found))
    }

    /// Whether what is in Redis can be relied on.
    pub(crate) async fn is_ready(&self) -> Result<bool, LedgerError> {
        let mut call = self.ready.prepare_invoke();
        call.key(self.key("ready"));
        let ready: i64 = call.invoke_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)?;
        Ok(ready == 1)
    }

    /// Takes the right to rebuild.
    pub(crate) async fn lock(&self, token: &str, lease: Duration) -> Result<bool, LedgerError> {
        let lease = millis(lease).to_string();
        let taken: Option<String> = set(&self.key("rebuild"), token, &["NX", "PX", &lease])
            .query_async(&mut self.redis.connection())
            .await
            .map_err(LedgerError::Redis)?;
        Ok(taken.is_some())
    }

    /// Says that nothing here can be relied on: it will be rebuilt from the log.
    pub(crate) async fn distrust(&self) -> Result<(), LedgerError> {
        one("DEL", &self.key("ready"))
            .query_async(&mut self.redis.connection())
            .await
            .map_err(LedgerError::Redis)
    }

    /// Keeps the right to rebuild. False if it was lost, and perhaps Redis with it.
    pub(crate) async fn keep_lock(&self, token: &str, lease: Duration) -> Result<bool, LedgerError> {
        let mut call = self.lock.prepare_invoke();
        call.key(self.key("rebuild")).arg(token).arg(millis(lease));
        let kept: i64 = call.invoke_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)?;
        Ok(kept == 1)
    }

    /// Puts back what the log tells, in its order, and returns receipts whose part was found.
    pub(crate) async fn restore(
        &self,
        keep: Duration,
        entries: &[Restored],
    ) -> Result<Vec<Match>, LedgerError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = pipe();
        let wait = millis(self.receipt_wait).to_string();
        let keep = millis(keep).to_string();
        for entry in entries {
            match entry {
                Restored::Claim(part, claim) => {
                    let key = self.claim_key(&part.message, part.attempt, part.part);
                    let intent = claim.state == ClaimState::Intent;
                    let options: &[&str] = if intent { &["PX", &keep, "NX"] } else { &["PX", &keep] };
                    pipeline.add_command(set(&key, &claim.to_string(), options)).ignore();
                }
                Restored::Id(id, part) => {
                    let key = self.id_key(id.as_str());
                    pipeline.add_command(set(&key, &part.to_entry(), &["PX", &wait])).ignore();
                    pipeline.add_command(one("SMEMBERS", &self.parked_key(id.as_str())));
                }
                Restored::Receipt(id, said) => {
                    let parked = self.parked_key(id.as_str());
                    let mut add = one("SADD", &parked);
                    add.arg(said.to_entry());
                    let mut expire = one("PEXPIRE", &parked);
                    expire.arg(&wait);
                    pipeline.add_command(add).ignore();
                    pipeline.add_command(expire).ignore();
                    // A list of none or one, like the answer above.
                    pipeline.add_command(one("MGET", &self.id_key(id.as_str())));
                }
            }
        }
        let answers: Vec<Vec<Option<String>>> =
            pipeline.query_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)?;
        let mut matches = Vec::new();
        let asked = entries.iter().filter(|entry| !matches!(entry, Restored::Claim(..)));
        for (entry, answer) in asked.zip(answers) {
            for text in answer.into_iter().flatten() {
                match entry {
                    Restored::Id(id, part) => {
                        let said = text.parse().map_err(|_| LedgerError::Entry("receipts"))?;
                        matches.push((id.clone(), *part, said));
                    }
                    Restored::Receipt(id, said) => {
                        matches.extend(submitted(&text)?.map(|part| (id.clone(), part, said.clone())));
                    }
                    Restored::Claim(..) => {}
                }
            }
        }
        Ok(matches)
    }

    /// Forgets parked receipts that found their part.
    pub(crate) async fn unpark(&self, ids: &[CarrierId]) -> Result<(), LedgerError> {
        let mut pipeline = pipe();
        for id in ids {
            pipeline.add_command(one("DEL", &self.parked_key(id.as_str()))).ignore();
        }
        pipeline.query_async::<()>(&mut self.redis.connection()).await.map_err(LedgerError::Redis)
    }

    /// Declares the rebuilding complete. False if Redis was lost again meanwhile.
    pub(crate) async fn complete(&self, token: &str) -> Result<bool, LedgerError> {
        let mut call = self.complete.prepare_invoke();
        call.key(self.key("ready")).key(self.key("rebuild")).arg(token);
        let done: i64 = call.invoke_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)?;
        Ok(done == 1)
    }
}

fn carrier_id(end: &PartEnd) -> &str {
    match end {
        PartEnd::Submitted { carrier_id } => carrier_id,
        PartEnd::Refused { .. } | PartEnd::NoResponse | PartEnd::Unsent { .. } => "",
    }
}

fn submitted(entry: &str) -> Result<Option<Submitted>, LedgerError> {
    if entry.is_empty() {
        return Ok(None);
    }
    entry.parse().map(Some).map_err(|_| LedgerError::Entry("ids"))
}

fn one(name: &str, key: &str) -> Cmd {
    let mut command = cmd(name);
    command.arg(key);
    command
}

fn set(key: &str, value: &str, options: &[&str]) -> Cmd {
    let mut command = one("SET", key);
    command.arg(value).arg(options);
    command
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
