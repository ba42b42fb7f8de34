//! How fast a tenant may send: the generic cell rate algorithm (ITU-T I.371, GCRA), in microseconds.

use std::{collections::HashMap, time::Duration};

use sotto_core::TenantId;

/// A sustained rate and how much may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Messages a second, at least 1.
    pub rate: u32,
    /// Messages at once, at least 1.
    pub burst: u32,
}

impl Pace {
    /// Time between two messages at the sustained rate, in microseconds, at least 1.
    pub fn interval_us(self) -> u64 {
        (1_000_000 / u64::from(self.rate.max(1))).max(1)
    }

    /// How far the theoretical arrival time may run ahead, in microseconds.
    pub fn tolerance_us(self) -> u64 {
        self.interval_us().saturating_mul(u64::from(self.burst.max(1)))
    }

    /// One more message at `now`, given the theoretical arrival time so far: the next one, or how long to wait.
    pub fn step(self, arrival_us: u64, now_us: u64) -> Result<u64, Duration> {
        let next = arrival_us.max(now_us).saturating_add(self.interval_us());
        let allowed_at = next.saturating_sub(self.tolerance_us());
        if allowed_at <= now_us { Ok(next) } else { Err(Duration::from_micros(allowed_at - now_us)) }
    }

    /// The pace of one process that cannot ask the others: a share of it, rounded up.
    #[must_use]
    pub fn share(self, percent: u8) -> Self {
        let part = |whole: u32| whole.saturating_mul(u32::from(percent)).div_ceil(100).max(1);
        Self { rate: part(self.rate), burst: part(self.burst) }
    }
}

/// Most tenants whose pace one process keeps: those it forgets begin with a full burst.
const MOST_TENANTS: usize = 10_000;

/// The pace of tenants as one process sees it.
#[derive(Debug)]
pub struct LocalPace {
    pace: Pace,
    arrivals: HashMap<TenantId, u64>,
}

impl LocalPace {
    /// Every tenant at its full burst.
    pub fn new(pace: Pace) -> Self {
        Self { pace, arrivals: HashMap::new() }
    }

    /// One more message of this tenant, or how long to wait. `since` counts from any fixed moment by a clock that
    /// nobody sets: a wall clock set back would hold tenants up for as long.
    pub fn take(&mut self, tenant: &TenantId, since: Duration) -> Result<(), Duration> {
        let now_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        if self.arrivals.len() >= MOST_TENANTS && !self.arrivals.contains_key(tenant) {
            // Who has not sent for a while is at its full burst anyway.
            self.arrivals.retain(|_, arrival| *arrival > now_us);
            if self.arrivals.len() >= MOST_TENANTS {
                return Err(Duration::from_secs(1));
            }
        }
        let arrival = self.arrivals.get(tenant).copied().unwrap_or(0);
        let next = self.pace.step(arrival, now_us)?;
        self.arrivals.insert(tenant.clone(), next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut local = LocalPace::new(Pace { rate: 10, burst: 3 });
        let (tenant, now) = ("acme".parse().unwrap(), Duration::from_secs(7));
        for _ in 0..3 {
            local.take(&tenant, now).unwrap();
        }
        assert_eq!(local.take(&tenant, now), Err(Duration::from_millis(100)));
        local.take(&"other".parse().unwrap(), now).unwrap();
        local.take(&tenant, now + Duration::from_millis(100)).unwrap();
        assert!(local.take(&tenant, now + Duration::from_millis(150)).is_err());
    }

    #[test]
    fn a_share_is_never_nothing() {
        let pace = Pace { rate: 1000, burst: 2000 };
        assert_eq!(pace.share(25), Pace { rate: 250, burst: 500 });
        assert_eq!(Pace { rate: 1, burst: 1 }.share(1), Pace { rate: 1, burst: 1 });
    }

    proptest! {
        #[test]
        fn no_more_than_burst_and_rate_pass(
            rate in 1_u32..1000, burst in 1_u32..100, gaps in proptest::collection::vec(0_u64..50_000, 1..300),
        ) {
            let pace = Pace { rate, burst };
            let (mut arrival, mut now, mut passed) = (0, 1_000_000_000, 0_u64);
            let start = now;
            for gap in gaps {
                now += gap;
                if let Ok(next) = pace.step(arrival, now) {
                    arrival = next;
                    passed += 1;
                }
            }
            prop_assert!(passed <= u64::from(burst) + (now - start) / pace.interval_us() + 1);
        }
    }
}
