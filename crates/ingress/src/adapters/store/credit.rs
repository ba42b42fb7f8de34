//! Passes asked of Redis ahead: a tenant that sends hundreds of messages a second asks for some at a time, not for each.
//!
//! What is asked ahead counts against the tenant's pace in the whole cell at once. Who does not use it in time has sent a
//! little less than it might have, never more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sotto_core::TenantId;
use tokio::time::Instant;

use crate::domain::pace::Pace;

/// How long passes hold.
const HOLDS: Duration = Duration::from_millis(100);

/// Most passes at a time.
const MOST: u32 = 256;

/// Tenants remembered; those that have not sent for [`HOLDS`] are forgotten first.
const MOST_TENANTS: usize = 10_000;

/// The passes of one tenant.
#[derive(Debug, Default)]
pub(super) struct Credit {
    left: u32,
    asked: u32,
    until: Option<Instant>,
}

impl Credit {
    fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Takes a pass, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let taken = self.left > 0 && self.holds(now);
        if taken {
            self.left -= 1;
        }
        taken
    }

    /// How many to ask for: twice as many as the last time if these were used up in time, else one.
    pub(super) fn wanted(&self, now: Instant, most: u32) -> u32 {
        if self.holds(now) && self.left == 0 { self.asked.saturating_mul(2).clamp(1, most) } else { 1 }
    }

    /// So many were granted, of which one is used at once.
    pub(super) fn granted(&mut self, passes: u32, now: Instant) {
        *self = Self { left: passes.saturating_sub(1), asked: passes, until: Some(now + HOLDS) };
    }
}

/// The passes of all tenants.
#[derive(Debug)]
pub(super) struct Credits {
    tenants: Mutex<HashMap<TenantId, Arc<tokio::sync::Mutex<Credit>>>>,
    most: u32,
}

impl Credits {
    /// For a pace: at most a fiftieth of a second's messages, and an eighth of a burst, are asked for ahead.
    pub(super) fn new(pace: Pace) -> Self {
        Self { tenants: Mutex::default(), most: MOST.min(pace.rate / 50).min(pace.burst / 8).max(1) }
    }

    /// The most to ask for at a time.
    pub(super) const fn most(&self) -> u32 {
        self.most
    }

    /// The passes of one tenant, one caller at a time; none when there are too many tenants to remember.
    pub(super) fn of(&self, tenant: &TenantId) -> Option<Arc<tokio::sync::Mutex<Credit>>> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tenants.get(tenant) {
            return Some(Arc::clone(known));
        }
        if tenants.len() >= MOST_TENANTS {
            let now = Instant::now();
            // Who cannot be looked at is in use.
            tenants.retain(|_, credit| credit.try_lock().map_or(true, |credit| credit.holds(now)));
            if tenants.len() >= MOST_TENANTS {
                return None;
            }
        }
        let new = Arc::new(tokio::sync::Mutex::default());
        tenants.insert(tenant.clone(), Arc::clone(&new));
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow_asks_for_one_and_who_is_fast_for_more() {
        let (mut credit, now) = (Credit::default(), Instant::now());
        assert!(!credit.take(now));
        let mut asked = Vec::new();
        for _ in 0..6 {
            let wanted = credit.wanted(now, 16);
            asked.push(wanted);
            credit.granted(wanted, now);
            while credit.take(now) {}
        }
        assert_eq!(asked, [1, 2, 4, 8, 16, 16]);
        // What is left lapses, and who was slow begins with one again.
        credit.granted(16, now);
        assert!(credit.take(now));
        assert!(!credit.take(now + HOLDS));
        assert_eq!(credit.wanted(now + HOLDS, 16), 1);
    }

    #[test]
    fn no_more_is_asked_ahead_than_a_little_of_the_pace() {
        let most = |rate, burst| Credits::new(Pace { rate, burst }).most();
        assert_eq!((most(1, 1), most(1000, 2000), most(1_000_000, 1_000_000)), (1, 20, 256));
        assert_eq!(most(1000, 16), 2);
    }

    #[test]
    fn tenants_that_are_quiet_are_forgotten_first() {
        let credits = Credits::new(Pace { rate: 1, burst: 1 });
        let tenant = |n: usize| format!("t{n}").parse::<TenantId>().unwrap();
        let busy = credits.of(&tenant(0)).unwrap();
        busy.try_lock().unwrap().granted(5, Instant::now());
        for n in 1..=MOST_TENANTS {
            assert!(credits.of(&tenant(n)).is_some());
        }
        assert!(credits.tenants.lock().unwrap().len() < 10);
        assert!(Arc::ptr_eq(&busy, &credits.of(&tenant(0)).unwrap()));
    }
}
