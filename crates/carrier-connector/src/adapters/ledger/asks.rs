//! Parts whose final receipt is waited for, and when to ask for it, of one account.

use std::time::Duration;

use sotto_core::Timestamp;
use sotto_runtime::redis::pipe;

use super::{Ledger, LedgerError, Scope, ids::submitted, millis, one, set};
use crate::domain::{carrier_id::CarrierId, receipt::Submitted};

/// A part to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The carrier's id in canonical form.
    pub(crate) id: CarrierId,
    /// What it stands for.
    pub(crate) parts: Vec<Submitted>,
    /// What the question needs, sealed.
    pub(crate) sealed: Vec<u8>,
}

impl Ledger {
    fn asks_key(&self) -> String {
        Scope::Account(self.account.clone()).key("asks")
    }

    fn ask_key(&self, id: &CarrierId) -> String {
        Scope::Account(self.account.clone()).key(&format!("ask:{}", id.as_str()))
    }

    /// Notes parts to be asked for at a time, unless their final receipt comes before.
    pub(crate) async fn ask_at(
        &self,
        at: Timestamp,
        asks: &[(CarrierId, Vec<u8>)],
    ) -> Result<(), LedgerError> {
        let mut pipeline = pipe();
        let keep = millis(self.receipt_wait).to_string();
        for (id, sealed) in asks {
            let mut add = one("ZADD", &self.asks_key());
            add.arg(at.unix_millis()).arg(id.as_str());
            pipeline.add_command(set(&self.ask_key(id), &hex(sealed), &["PX", &keep])).ignore();
            pipeline.add_command(add).ignore();
        }
        pipeline.query_async::<()>(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)
    }

    /// The parts to be asked for now, at most so many, the longest due first. Each is put off by `again`: another replica
    /// asks for others.
    pub(crate) async fn due(
        &self,
        now: Timestamp,
        again: Duration,
        most: usize,
    ) -> Result<Vec<Question>, LedgerError> {
        let mut call = self.store.scripts.due.prepare_invoke();
        call.key(self.asks_key()).arg(now.unix_millis()).arg(now.plus(again).unix_millis()).arg(most);
        let ids: Vec<String> =
            call.invoke_async(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)?;
        let ids: Vec<_> = ids.iter().filter_map(|id| CarrierId::canonical(id)).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = pipe();
        for id in &ids {
            pipeline.add_command(one("GET", &self.id_key(id)));
            pipeline.add_command(one("GET", &self.ask_key(id)));
        }
        let found: Vec<Option<String>> =
            pipeline.query_async(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)?;
        let (mut questions, mut over) = (Vec::new(), Vec::new());
        for (id, found) in ids.into_iter().zip(found.chunks(2)) {
            match found {
                [Some(parts), Some(sealed)] => {
                    let parts = submitted(parts)?;
                    let sealed = unhex(sealed).ok_or(LedgerError::Entry("questions"))?;
                    questions.push(Question { id, parts, sealed });
                }
                // The time for its receipt is over.
                _ => over.push(id),
            }
        }
        self.do_not_ask(&over).await?;
        Ok(questions)
    }

    /// Forgets parts whose end is known.
    pub(crate) async fn do_not_ask(&self, ids: &[CarrierId]) -> Result<(), LedgerError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut pipeline = pipe();
        for id in ids {
            let mut remove = one("ZREM", &self.asks_key());
            remove.arg(id.as_str());
            pipeline.add_command(remove).ignore();
            pipeline.add_command(one("DEL", &self.ask_key(id))).ignore();
        }
        pipeline.query_async::<()>(&mut self.store.redis.connection()).await.map_err(LedgerError::Redis)
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    let octet = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if odd.is_empty() { pairs.iter().map(octet).collect() } else { None }
}
