//! What ids stand for, and the receipts that came before them, of one account.

use std::time::Duration;

use futures::future::{try_join, try_join_all};
use sotto_runtime::redis::{cmd, pipe};

use super::{Ended, Ledger, LedgerError, Scope, millis, one};
use crate::domain::{
    carrier_id::CarrierId,
    receipt::{Said, Submitted},
};

/// How long a receipt is parked at most. One that comes before its answer waits for seconds; what stays longer belongs to
/// nobody, and a carrier that sends such must not fill Redis. The log keeps it, and a rebuild looks for its part again.
const PARKED: Duration = Duration::from_secs(3_600);

/// Ties an id, in a pipeline of others.
pub(super) const TIE: &str = include_str!("tie.lua");

/// Early receipts under one id. A carrier that sends more for an id that it never gave us makes no sense.
const MOST_PARKED: usize = 16;

/// A receipt and the part it speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Match {
    /// The part.
    pub(crate) part: Submitted,
    /// What the receipt says.
    pub(crate) said: Said,
    /// The id it came under.
    pub(crate) id: CarrierId,
}

/// Ends that were recorded.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// Receipts that came before their id was known.
    pub(crate) early: Vec<Match>,
    /// The marks of all scopes that were written to; empty where one was not ready.
    marks: Vec<(Scope, String)>,
}

/// The mark of the account, if there was anything to tie, and the receipts that were found.
type Tied = (Option<(Scope, String)>, Vec<Match>);

/// What the log tells of ids.
#[derive(Clone, Debug)]
pub(crate) enum Tie {
    /// The part an id stands for.
    Id(CarrierId, Submitted),
    /// A receipt that was parked.
    Receipt(CarrierId, Said),
}

impl Ledger {
    fn own_key(&self, name: &str) -> String {
        Scope::Account(self.account.clone()).key(name)
    }

    pub(super) fn id_key(&self, id: &CarrierId) -> String {
        self.own_key(&format!("id:{}", id.as_str()))
    }

    fn parked_key(&self, id: &CarrierId) -> String {
        self.own_key(&format!("parked:{}", id.as_str()))
    }

    /// Notes ends before anything follows from them, and ties ids to their parts.
    pub(crate) async fn record(
        &self,
        token: &str,
        lease: Duration,
        ends: &[Ended],
    ) -> Result<Recorded, LedgerError> {
        let (mut marks, (tied, early)) =
            try_join(self.note(token, lease, ends, false), self.tie(ends)).await?;
        marks.extend(tied);
        Ok(Recorded { early, marks })
    }

    /// Notes that all that follows from recorded ends is stored. False if Redis was lost since, or had been lost then: they
    /// are to be [finished](Self::finish).
    pub(crate) async fn done(&self, recorded: &Recorded, ends: &[Ended]) -> Result<bool, LedgerError> {
        let calls = recorded.marks.iter().map(async |(scope, mark)| match scope {
            _ if mark.is_empty() => Ok(false),
            Scope::Account(_) => Ok(self.store.mark(scope).await? == *mark),
            Scope::Shard(shard) => self.note_done(*shard, mark, ends).await,
        });
        let noted = try_join_all(calls).await?;
        Ok(!noted.is_empty() && noted.into_iter().all(|noted| noted))
    }

    /// Notes that all that follows from these ends is stored. Claims and ids are written again, whatever is there:
    /// Redis may have been lost since [`Self::record`], and rebuilt from a log that did not tell of them yet. Returns
    /// the receipts that are parked under their ids.
    pub(crate) async fn finish(&self, token: &str, ends: &[Ended]) -> Result<Vec<Match>, LedgerError> {
        try_join(self.note(token, Duration::ZERO, ends, true), self.tie(ends))
            .await
            .map(|(_, (_, found))| found)
    }

    /// Ties ids to their parts and returns the account's mark and the receipts that are parked under them.
    async fn tie(&self, ends: &[Ended]) -> Result<Tied, LedgerError> {
        let ids: Vec<_> = ends.iter().filter_map(|ended| Some((ended.part, ended.carrier_id()?))).collect();
        // Receipts are looked for at least as long as the message may be at work.
        let wait = ends.iter().map(|ended| ended.keep).fold(self.receipt_wait, Duration::max);
        self.tie_for(wait, &ids).await
    }

    /// Ties ids that are known by their receipts.
    pub(crate) async fn tie_ids(&self, ids: &[(Submitted, CarrierId)]) -> Result<Vec<Match>, LedgerError> {
        self.tie_for(self.receipt_wait, ids).await.map(|(_, found)| found)
    }

    async fn tie_for(&self, wait: Duration, ids: &[(Submitted, CarrierId)]) -> Result<Tied, LedgerError> {
        if ids.is_empty() {
            return Ok((None, Vec::new()));
        }
        let mut call = self.store.scripts.tie.prepare_invoke();
        call.key(self.own_key("ready")).arg(millis(wait));
        for (part, id) in ids {
            let (of, number) = part.to_halves();
            call.key(self.id_key(id)).key(self.parked_key(id)).arg(of).arg(number);
        }
        let answer: Vec<String> =
            call.invoke_async(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)?;
        let mut answer = answer.into_iter();
        let mark = answer.next().ok_or(LedgerError::Entry("receipts"))?;
        let mut early = Vec::new();
        for (part, id) in ids {
            let count: usize =
                answer.next().and_then(|count| count.parse().ok()).ok_or(LedgerError::Entry("receipts"))?;
            for entry in answer.by_ref().take(count) {
                let said = entry.parse().map_err(|_| LedgerError::Entry("receipts"))?;
                early.push(Match { part: *part, said, id: id.clone() });
            }
        }
        Ok((Some((Scope::Account(self.account.clone()), mark)), early))
    }

    /// Which of these ids stand for parts.
    pub(crate) async fn known(&self, ids: &[CarrierId]) -> Result<Vec<bool>, LedgerError> {
        let mut get = cmd("MGET");
        get.arg(ids.iter().map(|id| self.id_key(id)).collect::<Vec<_>>());
        let found: Vec<Option<String>> =
            get.query_async(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)?;
        Ok(found.iter().map(Option::is_some).collect())
    }

    /// How long a receipt is parked here.
    pub(crate) fn parked_for(&self) -> Duration {
        self.receipt_wait.min(PARKED)
    }

    /// Finds the parts of receipts, and parks those whose id is unknown: these have none. `None` while Redis is not ready.
    pub(crate) async fn receipts(
        &self,
        receipts: &[(CarrierId, Said)],
    ) -> Result<Option<Vec<Vec<Submitted>>>, LedgerError> {
        let mut call = self.store.scripts.receipts.prepare_invoke();
        call.key(self.own_key("ready")).arg(millis(self.parked_for())).arg(MOST_PARKED);
        for (id, said) in receipts {
            call.key(self.id_key(id)).key(self.parked_key(id)).arg(said.to_entry());
        }
        let answer: Vec<String> =
            call.invoke_async(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)?;
        if answer.first().is_none_or(String::is_empty) {
            return Ok(None);
        }
        let found = answer.iter().skip(1).map(|entry| submitted(entry)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some(found))
    }

    /// Puts back what the log tells, in its order, and returns receipts whose part was found.
    pub(crate) async fn restore_ties(&self, ties: &[Tie]) -> Result<Vec<Match>, LedgerError> {
        if ties.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = pipe();
        let wait = millis(self.receipt_wait).to_string();
        let parked_for = millis(self.parked_for()).to_string();
        for tie in ties {
            match tie {
                Tie::Id(id, part) => {
                    let (of, number) = part.to_halves();
                    let mut tie = one("EVAL", TIE);
                    tie.arg(3).arg(self.own_key("ready")).arg(self.id_key(id)).arg(self.parked_key(id));
                    tie.arg(&wait).arg(of).arg(number);
                    pipeline.add_command(tie);
                }
                Tie::Receipt(id, said) => {
                    let parked = self.parked_key(id);
                    let mut add = one("SADD", &parked);
                    add.arg(said.to_entry());
                    let mut expire = one("PEXPIRE", &parked);
                    expire.arg(&parked_for);
                    pipeline.add_command(add).ignore();
                    pipeline.add_command(expire).ignore();
                    // A list of none or one, like the answer above.
                    pipeline.add_command(one("MGET", &self.id_key(id)));
                }
            }
        }
        let answers: Vec<Vec<Option<String>>> =
            pipeline.query_async(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)?;
        let mut matches = Vec::new();
        for (tie, answer) in ties.iter().zip(answers) {
            // The answer to a tie begins with the mark and the number of receipts.
            let skip = if matches!(tie, Tie::Id(..)) { 2 } else { 0 };
            for text in answer.into_iter().skip(skip).flatten() {
                match tie {
                    Tie::Id(id, part) => {
                        let said = text.parse().map_err(|_| LedgerError::Entry("receipts"))?;
                        matches.push(Match { part: *part, said, id: id.clone() });
                    }
                    Tie::Receipt(id, said) => {
                        let parts = submitted(&text)?.into_iter();
                        matches.extend(parts.map(|part| Match { part, said: said.clone(), id: id.clone() }));
                    }
                }
            }
        }
        Ok(matches)
    }

    /// Forgets parked receipts that found their part and are stored.
    pub(crate) async fn unpark(&self, found: &[Match]) -> Result<(), LedgerError> {
        if found.is_empty() {
            return Ok(());
        }
        let mut pipeline = pipe();
        for Match { said, id, .. } in found {
            let mut remove = one("SREM", &self.parked_key(id));
            remove.arg(said.to_entry());
            pipeline.add_command(remove).ignore();
        }
        pipeline.query_async::<()>(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)
    }
}

pub(super) fn submitted(entry: &str) -> Result<Vec<Submitted>, LedgerError> {
    if entry.is_empty() {
        return Ok(Vec::new());
    }
    Submitted::of_entry(entry).map_err(|_| LedgerError::Entry("ids"))
}
