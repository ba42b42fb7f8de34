//! Which account takes a message now (RTE-1, RTE-2; first cut: prefix, weights, next account, expiry).

use sotto_core::{
    AccountId, Timestamp, WorkItem,
    carriers::{Route, RouteTable},
    delivery::RejectCause,
    work::{Attempt, AttemptEnd},
};

/// What becomes of a message now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It waits for this account.
    Send {
        /// The account.
        account: AccountId,
        /// The attempt this starts, from 1.
        attempt: u16,
    },
    /// Its time has not come, or every account that could take it asked for patience.
    Hold {
        /// Ask again then.
        until: Timestamp,
    },
    /// Its validity is over.
    Expire,
    /// It goes nowhere any more, and may have been sent in the time that a restored cell lost.
    Doubt,
    /// No carrier may or will take it.
    Reject(RejectCause),
}

impl Decision {
    /// Of what may have been sent in the time that a restored cell lost nobody may say that it was not. Whether it is sent
    /// again the connector decides.
    pub(crate) fn doubted_if(self, may_have_been_sent: bool) -> Self {
        match self {
            Self::Expire | Self::Reject(_) if may_have_been_sent => Self::Doubt,
            Self::Expire | Self::Reject(_) | Self::Send { .. } | Self::Hold { .. } | Self::Doubt => self,
        }
    }
}

/// Decides on facts and history alone.
///
/// The order of accounts: those of the route drawn by weight (the draw depends on the message's id only, so a repeat
/// decides the same), then the fallbacks. An account that refused the message, or may not carry it, is out. One that
/// was throttled or had no link comes again after all others and after the back-off, as often as the message's validity
/// allows: waiting uses up no route. A message of which a part is
/// with a carrier never leaves its account.
pub(crate) fn decide(table: &RouteTable, item: &WorkItem, now: Timestamp) -> Decision {
    if now >= item.facts.expires_at {
        return Decision::Expire;
    }
    let number = item.history.last().map_or(item.attempt, |last| last.number.max(item.attempt));
    let Some(attempt) = number.checked_add(1).filter(|_| !item.is_exhausted()) else {
        return Decision::Reject(RejectCause::RoutesExhausted);
    };
    // What is to be sent later was moved a little early, by another clock.
    if item.history.is_empty()
        && let Some(until) = item.not_before.filter(|until| *until > now)
    {
        return Decision::Hold { until };
    }
    let send = |account: &AccountId| Decision::Send { account: account.clone(), attempt };
    let not_yet = item.not_before.filter(|until| *until > now);
    let patient =
        |account: &AccountId| not_yet.map_or_else(|| send(account), |until| Decision::Hold { until });

    if item.pinned {
        return match item.history.last() {
            Some(last) if last.end != AttemptEnd::NotAllowed => patient(&last.account),
            Some(_) | None => Decision::Reject(RejectCause::RoutesExhausted),
        };
    }
    let Some(route) = table.route(&item.facts) else {
        return Decision::Reject(RejectCause::NoRoute);
    };
    let mut allowed = false;
    let mut again: Option<(&AccountId, usize)> = None;
    for account in in_order(route, draw(item)) {
        if !table.account(account).is_some_and(|account| account.permits(&item.facts, now)) {
            continue;
        }
        allowed = true;
        let tried: Vec<&Attempt> =
            item.history.iter().filter(|attempt| attempt.account == *account).collect();
        if tried.is_empty() {
            return send(account);
        }
        if tried.iter().all(|attempt| attempt.end.is_passing()) {
            // Of those that may be tried again, the one least often tried.
            if again.is_none_or(|(_, times)| tried.len() < times) {
                again = Some((account, tried.len()));
            }
        }
    }
    match again {
        Some((account, _)) => patient(account),
        None if allowed => Decision::Reject(RejectCause::RoutesExhausted),
        None => Decision::Reject(RejectCause::NoRoute),
    }
}

/// A number of the message's own, the same at every repeat and independent of its shard.
fn draw(item: &WorkItem) -> u64 {
    let tail =
        item.facts.message.as_bytes().iter().skip(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    // splitmix64's finaliser: every input bit reaches every output bit.
    let mut mixed = tail.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The route's accounts: the drawn one first, the other weighted ones after it in the file's order, then the fallbacks.
fn in_order(route: &Route, draw: u64) -> impl Iterator<Item = &AccountId> {
    let total: u64 = route.accounts.iter().map(|account| u64::from(account.weight)).sum();
    let mut left = draw % total.max(1);
    let mut first = 0;
    for (index, account) in route.accounts.iter().enumerate() {
        let weight = u64::from(account.weight);
        if left < weight {
            first = index;
            break;
        }
        left -= weight;
    }
    let (before, from) = route.accounts.split_at(first);
    from.iter().chain(before).map(|account| &account.id).chain(&route.fallback)
}

#[cfg(test)]
mod tests;
