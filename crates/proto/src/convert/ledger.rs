//! Sums of messages whose events were trimmed.

use sotto_core::{delivery::Outcome, ledger::Sums};

use crate::audit::v1 as wire;

impl From<&wire::ClosingBalance> for Sums {
    fn from(balance: &wire::ClosingBalance) -> Self {
        let ended = [
            (Outcome::Delivered, balance.delivered),
            (Outcome::Undelivered, balance.undelivered),
            (Outcome::Rejected, balance.rejected),
            (Outcome::Expired, balance.expired),
            (Outcome::Cancelled, balance.cancelled),
            (Outcome::Unknown, balance.unknown),
        ];
        Self {
            ended: ended.into_iter().filter(|(_, count)| *count > 0).collect(),
            corrected: balance.corrected,
            strange: balance.strange_events,
        }
    }
}
