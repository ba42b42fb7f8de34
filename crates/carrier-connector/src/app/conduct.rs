//! Heeding what operators say, and what time says.

use std::{sync::Arc, time::Duration};

use sotto_bus::Heard;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::account::Account;
use crate::domain::course::{Course, STALE};

/// How often it is looked whether what was heard has grown old.
const LOOK: Duration = Duration::from_millis(500);

/// Sets the accounts' courses as operators want them, and wipes keys whose time is over, for ever.
pub(crate) async fn conduct(accounts: Vec<Arc<Account>>, mut heard: watch::Receiver<Heard>) {
    loop {
        let now_heard = heard.borrow_and_update().clone();
        let fresh = now_heard.is_fresh(Instant::now(), STALE);
        for account in &accounts {
            account.wipe_seals();
            let course = Course::of(
                &now_heard.controls,
                fresh,
                &account.settings.id,
                account.shared.restored.as_ref(),
            );
            if account.line.set_course(course) {
                tracing::info!(account = %account.settings.id, ?course, "operators' words are heeded");
            }
        }
        if let Ok(Err(_gone)) = timeout(LOOK, heard.changed()).await {
            // Nobody reads them any more: they grow old.
            tokio::time::sleep(LOOK).await;
        }
    }
}
