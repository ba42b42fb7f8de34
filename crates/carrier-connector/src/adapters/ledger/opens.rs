//! Submits that are written, or about to be, and have no answer, by recipient, of one account.

use sotto_core::Timestamp;
use sotto_runtime::redis::pipe;

use super::{Ledger, LedgerError, Scope, millis, one};
use crate::domain::doubt::{Mark, Open, Opens};

/// The most of them to one recipient that are told apart.
const MOST_OPEN: usize = 16;

/// Stands for those beyond.
const MORE: &str = "more";

impl Ledger {
    /// Since when the record is whole, of those who mark with this key.
    fn since_key(&self, of: &Mark) -> String {
        Scope::Account(self.account.clone()).key(&format!("open-since:{of}"))
    }

    fn open_key(&self, mark: &Mark) -> String {
        Scope::Account(self.account.clone()).key(&format!("open:{mark}"))
    }

    /// Notes submits that are about to be written, each to a recipient. `of`: the key that marks them.
    pub(crate) async fn open(
        &self,
        of: &Mark,
        now: Timestamp,
        submits: &[(Mark, Open)],
    ) -> Result<(), LedgerError> {
        let mut call = self.store.scripts.open.prepare_invoke();
        call.key(self.since_key(of)).arg(now.unix_millis()).arg(millis(self.receipt_wait)).arg(MOST_OPEN);
        for (mark, open) in submits {
            call.key(self.open_key(mark)).arg(open.name()).arg(open.rest());
        }
        call.invoke_async::<()>(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)
    }

    /// Forgets submits of which more is known.
    pub(crate) async fn close(&self, submits: &[(Mark, Open)]) -> Result<(), LedgerError> {
        if submits.is_empty() {
            return Ok(());
        }
        let mut pipeline = pipe();
        for (mark, open) in submits {
            let mut remove = one("HDEL", &self.open_key(mark));
            remove.arg(open.name());
            pipeline.add_command(remove).ignore();
        }
        pipeline.query_async::<()>(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)
    }

    /// What is noted of the submits to each of these recipients.
    pub(crate) async fn opened(&self, of: &Mark, to: &[Mark]) -> Result<Vec<Opens>, LedgerError> {
        let mut call = self.store.scripts.opened.prepare_invoke();
        call.key(self.since_key(of));
        for mark in to {
            call.key(self.open_key(mark));
        }
        let answer: Vec<String> =
            call.invoke_async(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)?;
        let wrong = || LedgerError::Entry("submits");
        let mut answer = answer.into_iter();
        let since = answer.next().ok_or_else(wrong)?;
        let whole_since = since.parse().ok().map(Timestamp::from_unix_millis);
        to.iter()
            .map(|_| {
                let count: usize = answer.next().and_then(|count| count.parse().ok()).ok_or_else(wrong)?;
                let fields: Vec<_> = answer.by_ref().take(count).collect();
                let (pairs, _) = fields.as_chunks::<2>();
                let many = pairs.iter().any(|[name, _]| name == MORE);
                let read = |[name, rest]: &[String; 2]| Open::read(name, rest).map_err(|_| wrong());
                let known =
                    pairs.iter().filter(|[name, _]| name != MORE).map(read).collect::<Result<_, _>>()?;
                Ok(Opens { known: (!many).then_some(known), whole_since })
            })
            .collect()
    }
}
