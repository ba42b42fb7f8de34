//! Messages from handsets: sealed, stored, and only then answered.

use std::{collections::HashMap, sync::Arc};

use sotto_core::{
    MessageId, TenantId, Timestamp,
    inbound::{CLASS, Inbound, InboundWrap},
    work::Envelope,
};
use sotto_crypto::{
    envelope::{Binding, SealError, Sealer},
    random::random_array,
};
use sotto_proto::{InboundDelivery, LogEvent};
use sotto_runtime::telemetry::chain;
use sotto_smpp::{CommandStatus, Responder};
use tokio::time::Instant;

use super::account::{Account, PASSING};
use crate::{
    domain::inbound::{SCHEMA, Written},
    ports::{Ended, KeysError, LogError},
};

/// A key that seals for one owner, until its end by both clocks: the wall clock, which privacy gave it by, and the one
/// that nobody sets.
struct Held {
    sealer: Sealer,
    wrap: Arc<InboundWrap>,
    until: Timestamp,
    ends: Instant,
}

impl Held {
    fn seals(&self, now: Timestamp) -> bool {
        now < self.until && Instant::now() < self.ends && self.sealer.remaining() > 0
    }
}

/// The keys of one account that seal messages from handsets, one an owner of its numbers.
#[derive(Default)]
pub(super) struct Seals {
    held: HashMap<TenantId, Held>,
    /// For which privacy is left alone until then.
    rests: HashMap<TenantId, Instant>,
}

impl std::fmt::Debug for Seals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seals").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

/// Why messages from handsets are not stored now. The carrier sends them again.
#[derive(Debug, thiserror::Error)]
enum InboundError {
    #[error("there is no key to seal them with")]
    Keys(#[source] KeysError),
    #[error("privacy is left alone for a moment")]
    Rest,
    #[error("they could not be sealed")]
    Seal(#[source] SealError),
    #[error("the operating system gave no randomness")]
    Random(#[source] sotto_crypto::CryptoError),
    #[error("the broker did not store them")]
    Log(#[source] LogError),
}

impl Account {
    /// Makes messages from handsets durable, then answers them. What is not is left to its responder, which asks the
    /// carrier to send it again.
    pub(super) async fn take_inbound(&self, written: Vec<(Written, Responder)>) {
        let (mut sealed, mut responders) = (Vec::new(), Vec::new());
        let mut failed = None;
        for (written, responder) in written {
            // One owner without a key keeps nobody else waiting.
            match self.seal(&written).await {
                Ok(delivery) => {
                    sealed.push(delivery);
                    responders.push(responder);
                }
                Err(error) => failed = Some(error),
            }
        }
        match self.store_inbound(sealed).await {
            Ok(()) => {
                let count = responders.len();
                if count > 0 {
                    tracing::info!(account = %self.settings.id, count, "messages from handsets are stored");
                }
                for responder in responders {
                    responder.respond(CommandStatus::ESME_ROK);
                }
            }
            Err(error) => failed = Some(error),
        }
        if let Some(error) = failed {
            tracing::warn!(account = %self.settings.id, error = chain(&error),
                "messages from handsets are not stored now");
        }
    }

    async fn store_inbound(&self, sealed: Vec<InboundDelivery>) -> Result<(), InboundError> {
        if sealed.is_empty() {
            return Ok(());
        }
        let asked: Vec<_> = sealed.iter().filter_map(|delivery| opt_out(&delivery.item)).collect();
        let count = sealed.len();
        self.shared.log.inbound(sealed).await.map_err(InboundError::Log)?;
        self.metrics.inbound.add(count);
        if !asked.is_empty() {
            self.shared.log.events(asked).await.map_err(InboundError::Log)?;
        }
        Ok(())
    }

    async fn seal(&self, written: &Written) -> Result<InboundDelivery, InboundError> {
        let tenant = self.owner(written);
        let now = self.now();
        let id = MessageId::new_v7(now, &random_array().map_err(InboundError::Random)?);
        let mut seals = self.seals.lock().await;
        self.refresh(&mut seals, &tenant, now).await?;
        // It is there: it was made just now, or found.
        let held = seals.held.get(&tenant).ok_or(InboundError::Rest)?;
        let binding = Binding {
            cell: self.shared.cell.as_str(),
            tenant: tenant.as_str(),
            class: CLASS,
            message_id: id.as_bytes(),
            schema: SCHEMA,
        };
        let envelope = held.sealer.seal(&binding, &written.content).map_err(InboundError::Seal)?;
        let wrap = Arc::clone(&held.wrap);
        drop(seals);
        let item = Inbound {
            id,
            tenant,
            account: self.settings.id.clone(),
            received_at: now,
            envelope: Envelope(envelope.into()),
            opt_out: written.opt_out,
        };
        Ok(InboundDelivery { item, wrap })
    }

    /// Sees to it that a key is held that still seals.
    async fn refresh(
        &self,
        seals: &mut Seals,
        tenant: &TenantId,
        now: Timestamp,
    ) -> Result<(), InboundError> {
        if seals.held.get(tenant).is_some_and(|held| held.seals(now)) {
            return Ok(());
        }
        if seals.rests.get(tenant).is_some_and(|until| Instant::now() < *until) {
            return Err(InboundError::Rest);
        }
        match self.shared.keys.inbound(&self.settings.id, tenant).await {
            Ok(session) => {
                let ends = Instant::now() + session.seal_until.since(now);
                let held = Held {
                    sealer: session.sealer,
                    wrap: Arc::new(session.wrap),
                    until: session.seal_until,
                    ends,
                };
                seals.held.insert(tenant.clone(), held);
                seals.rests.remove(tenant);
                Ok(())
            }
            Err(error) => {
                seals.rests.insert(tenant.clone(), Instant::now() + PASSING);
                Err(InboundError::Keys(error))
            }
        }
    }

    /// Forgets keys whose time is over: their memory is wiped. What they sealed cannot be opened here any more.
    pub(super) fn wipe_seals(&self) {
        // Whoever uses them at this moment is followed by the next look.
        if let Ok(mut seals) = self.seals.try_lock() {
            let now = self.now();
            seals.held.retain(|_, held| held.seals(now));
        }
    }

    /// Forgets keys whose buckets ended: the next message asks for another.
    pub(super) fn forget_seals(&self, ended: &Ended) {
        if let Ok(mut seals) = self.seals.try_lock() {
            let is_over =
                |bucket: &String| ended.destroyed.contains(bucket) || ended.superseded.contains(bucket);
            seals.held.retain(|_, held| !is_over(&held.wrap.bucket));
        }
    }

    /// Whether any key is held that seals.
    #[cfg(test)]
    pub(super) fn holds_seals(&self) -> bool {
        self.seals.try_lock().is_ok_and(|seals| !seals.held.is_empty())
    }

    /// Whose the number is that was written to.
    fn owner(&self, written: &Written) -> TenantId {
        let owner = self.settings.inbound.get(written.to.as_str());
        owner.cloned().unwrap_or_else(TenantId::unowned)
    }
}

fn opt_out(item: &Inbound) -> Option<LogEvent> {
    item.opt_out.map(|keyword| LogEvent::OptOut {
        message: item.id,
        at: item.received_at,
        tenant: item.tenant.clone(),
        account: item.account.clone(),
        keyword,
    })
}
