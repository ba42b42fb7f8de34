//! Keys that ingress holds, and when it forgets them.

use std::collections::HashSet;

use sotto_metrics::Age;
use sotto_runtime::telemetry::chain;

use crate::adapters::{
    index::NumberIndex,
    keys::{SessionKeys, WIPE_EVERY},
    recipients::RecipientCount,
};

/// All who hold keys of privacy's.
#[derive(Clone)]
pub(super) struct HeldKeys {
    pub(super) sessions: SessionKeys,
    pub(super) index: NumberIndex,
    pub(super) recipients: Option<RecipientCount>,
}

impl HeldKeys {
    /// Forgets keys whose time is over, until it is dropped.
    pub(super) async fn wipe(self) {
        let mut tick = tokio::time::interval(WIPE_EVERY);
        loop {
            tick.tick().await;
            self.sessions.wipe();
            self.forget(&HashSet::new());
        }
    }

    /// Forgets keys of buckets that ended before their time, until it is dropped.
    pub(super) async fn forget_ended(self, heard: Age) {
        let mut tick = tokio::time::interval(WIPE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match self.sessions.forget_ended().await {
                Ok(ended) => {
                    heard.now();
                    self.forget(&ended);
                }
                Err(error) => {
                    tracing::debug!(error = chain(&error), "privacy does not say which keys ended");
                }
            }
        }
    }

    fn forget(&self, ended: &HashSet<String>) {
        self.index.forget(ended);
        if let Some(recipients) = &self.recipients {
            recipients.forget(ended);
        }
    }
}
