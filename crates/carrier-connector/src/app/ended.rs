//! Forgetting keys that ended before their time: an operator destroyed them, or others have taken their place.

use std::{sync::Arc, time::Duration};

use sotto_runtime::telemetry::chain;
use tokio::time::{MissedTickBehavior, interval};

use super::account::Account;
use crate::ports::Keys;

/// How often privacy is asked. What it answers is heeded at once: well within five seconds of an operator's word (INV-7).
const LOOK: Duration = Duration::from_secs(1);

/// Has every account forget what ended, for ever. While privacy does not answer, keys are kept as long as they may be anyway
/// (`connector.keys_kept`).
pub(crate) async fn forget_ended(accounts: Vec<Arc<Account>>, keys: Arc<dyn Keys>) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        tick.tick().await;
        match keys.ended().await {
            Ok(ended) => {
                told = false;
                for account in &accounts {
                    account.shared.metrics.revocations.now();
                    account.ring.forget(&ended, account.now());
                    account.forget_seals(&ended);
                }
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(error = chain(&error), "privacy does not say which keys ended");
            }
            Err(_again) => {}
        }
    }
}
