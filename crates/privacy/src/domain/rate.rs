//! A bound on how many keys an account opens: a stolen connector cannot empty the store in a breath.

use std::{collections::HashMap, time::Duration};

use sotto_core::AccountId;

/// More accounts at a time than any cell has; names beyond are refused until others have calmed down.
const MAX_ACCOUNTS: usize = 4096;

/// Keys a second and at once.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Keys a second in the long run, at least 1.
    pub per_second: u32,
    /// Keys at once, at least the largest request.
    pub burst: u32,
}

impl Bound {
    fn time_of(self, keys: u32) -> Duration {
        Duration::from_secs(1) * keys / self.per_second.max(1)
    }
}

/// The accounts' use, by the generic cell rate algorithm (ITU-T I.371): one instant an account.
#[derive(Debug)]
pub struct Rates {
    bound: Bound,
    /// When the account's use will be forgotten entirely, since the start of the process.
    calm_at: HashMap<AccountId, Duration>,
}

impl Rates {
    /// No use yet.
    pub fn new(bound: Bound) -> Self {
        Self { bound, calm_at: HashMap::new() }
    }

    /// Takes `keys` at `now` (time since the start, monotonic), or tells how long to wait; nothing is taken then.
    ///
    /// # Errors
    /// The time after which the same request will pass.
    pub fn take(&mut self, account: &AccountId, keys: u32, now: Duration) -> Result<(), Duration> {
        if self.calm_at.len() >= MAX_ACCOUNTS && !self.calm_at.contains_key(account) {
            self.calm_at.retain(|_, calm_at| *calm_at > now);
            if self.calm_at.len() >= MAX_ACCOUNTS {
                return Err(self.bound.time_of(self.bound.burst));
            }
        }
        let calm_at = self.calm_at.get(account).copied().unwrap_or_default().max(now);
        let next = calm_at.saturating_add(self.bound.time_of(keys));
        let latest = now.saturating_add(self.bound.time_of(self.bound.burst));
        if next > latest {
            return Err(next.saturating_sub(latest));
        }
        self.calm_at.insert(account.clone(), next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account(name: &str) -> AccountId {
        name.parse().unwrap()
    }

    #[test]
    fn a_burst_passes_then_the_rate() {
        let mut rates = Rates::new(Bound { per_second: 10, burst: 20 });
        let one = account("one");
        assert_eq!(rates.take(&one, 20, Duration::ZERO), Ok(()));
        assert_eq!(rates.take(&one, 1, Duration::ZERO), Err(Duration::from_millis(100)));
        assert_eq!(rates.take(&account("two"), 20, Duration::ZERO), Ok(()), "each account has its own");
        assert_eq!(rates.take(&one, 5, Duration::from_millis(500)), Ok(()));
        assert_eq!(rates.take(&one, 1, Duration::from_millis(500)), Err(Duration::from_millis(100)));
    }

    #[test]
    fn a_flood_of_names_is_bounded_and_passes() {
        let mut rates = Rates::new(Bound { per_second: 1, burst: 1 });
        for number in 0..MAX_ACCOUNTS {
            assert_eq!(rates.take(&account(&format!("a{number}")), 1, Duration::ZERO), Ok(()));
        }
        assert!(rates.take(&account("late"), 1, Duration::ZERO).is_err());
        assert_eq!(rates.take(&account("late"), 1, Duration::from_secs(1)), Ok(()));
        assert_eq!(rates.calm_at.len(), 1);
    }

    proptest! {
        #[test]
        fn no_second_sees_more_than_a_burst_and_its_rate(
            steps in proptest::collection::vec((0_u64..400, 1_u32..64), 1..200),
        ) {
            let bound = Bound { per_second: 50, burst: 64 };
            let mut rates = Rates::new(bound);
            let one = account("one");
            let (mut now, mut taken) = (0_u64, 0_u64);
            for (pause, keys) in steps {
                now += pause;
                match rates.take(&one, keys, Duration::from_millis(now)) {
                    Ok(()) => taken += u64::from(keys),
                    Err(wait) => {
                        // The promise of the error: after the wait the same request passes.
                        now += u64::try_from(wait.as_millis()).unwrap() + 1;
                        prop_assert_eq!(rates.take(&one, keys, Duration::from_millis(now)), Ok(()));
                        taken += u64::from(keys);
                    }
                }
                prop_assert!(taken <= 64 + now * 50 / 1000 + 1);
            }
        }
    }
}
