//! Limits of failed attempts, by the generic cell rate algorithm (ITU-T I.371): a burst, then a steady rate.
//!
//! Attempts are counted by source address, and by client *at* a source address: counted by client alone, anyone who
//! knows a client's id could lock the client out.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use sotto_core::Timestamp;

use super::client::ClientId;

/// How many failures are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of one client at one source, a minute and at once.
    pub client_per_minute: u32,
    /// Of one source, a minute and at once.
    pub source_per_minute: u32,
    /// Sources and clients that are remembered.
    pub remembered: usize,
}

/// Who attempts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Source(IpAddr),
    ClientAt(ClientId, IpAddr),
}

/// Failed attempts so far. For each it keeps the time at which the last one will be forgotten.
#[derive(Debug)]
pub struct Throttle {
    limits: Limits,
    forgotten_at: HashMap<Who, Timestamp>,
}

impl Throttle {
    /// No failures yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, forgotten_at: HashMap::new() }
    }

    /// Whether an attempt may be looked at now; else how long to wait.
    ///
    /// # Errors
    /// How long to wait.
    pub fn check(&self, client: Option<&ClientId>, source: IpAddr, now: Timestamp) -> Result<(), Duration> {
        for (who, per_minute) in self.counted(client, source) {
            // Full when one more would reach further ahead than a minute, in which all of them are forgotten.
            let latest = now.plus(MINUTE.saturating_sub(spacing(per_minute)));
            let forgotten_at = self.forgotten_at.get(&who).copied().unwrap_or(now);
            if forgotten_at > latest {
                return Err(forgotten_at.since(latest));
            }
        }
        Ok(())
    }

    /// Counts a failed attempt. Returns whether the limit is reached by it.
    pub fn failed(&mut self, client: Option<&ClientId>, source: IpAddr, now: Timestamp) -> bool {
        for (who, per_minute) in self.counted(client, source) {
            self.make_room(&who, now);
            let entry = self.forgotten_at.entry(who).or_insert(now);
            *entry = (*entry).max(now).plus(spacing(per_minute));
        }
        self.check(client, source, now).is_err()
    }

    fn counted(&self, client: Option<&ClientId>, source: IpAddr) -> impl Iterator<Item = (Who, u32)> + use<> {
        let source = network(source);
        let at_source = (Who::Source(source), self.limits.source_per_minute);
        let per_client = self.limits.client_per_minute;
        let of_client = client.map(|client| (Who::ClientAt(client.clone(), source), per_client));
        std::iter::once(at_source).chain(of_client)
    }

    fn make_room(&mut self, who: &Who, now: Timestamp) {
        if self.forgotten_at.len() < self.limits.remembered || self.forgotten_at.contains_key(who) {
            return;
        }
        self.forgotten_at.retain(|_, forgotten_at| *forgotten_at > now);
        if self.forgotten_at.len() >= self.limits.remembered {
            // Under a flood from many addresses the mildest case makes room.
            let mildest = self.forgotten_at.iter().min_by_key(|(_, at)| **at).map(|(who, _)| who.clone());
            if let Some(mildest) = mildest {
                self.forgotten_at.remove(&mildest);
            }
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn spacing(per_minute: u32) -> Duration {
    MINUTE / per_minute.max(1)
}

/// One household or host has a whole /64 of IPv6; an IPv4 address in IPv6 form is that IPv4 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { client_per_minute: 3, source_per_minute: 6, remembered: 8 };
    const START: Timestamp = Timestamp::from_unix_seconds(1_795_000_000);

    fn source(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_burst_then_a_rate() {
        let (mut throttle, client) = (Throttle::new(LIMITS), ClientId::from_random(&[1; 16]));
        let at = |seconds| START.plus(Duration::from_secs(seconds));
        let failed = |throttle: &mut Throttle, now| throttle.failed(Some(&client), source(1), now);
        assert_eq!([0, 0, 0].map(|s| failed(&mut throttle, at(s))), [false, false, true]);
        let check = |throttle: &Throttle, now| throttle.check(Some(&client), source(1), now);
        assert_eq!(check(&throttle, at(0)), Err(Duration::from_secs(20)));
        assert_eq!(check(&throttle, at(19)), Err(Duration::from_secs(1)));
        assert_eq!(check(&throttle, at(20)), Ok(()));
        assert!(failed(&mut throttle, at(20)));
        assert_eq!(check(&throttle, at(80)), Ok(()));
    }

    #[test]
    fn nobody_locks_a_client_out_from_elsewhere() {
        let (mut throttle, client) = (Throttle::new(LIMITS), ClientId::from_random(&[1; 16]));
        for _ in 0..10 {
            throttle.failed(Some(&client), source(1), START);
        }
        assert!(throttle.check(Some(&client), source(1), START).is_err());
        assert!(throttle.check(None, source(1), START).is_err());
        assert_eq!(throttle.check(Some(&client), source(2), START), Ok(()));
    }

    #[test]
    fn one_network_counts_as_one() {
        let mut throttle = Throttle::new(LIMITS);
        for host in 1..=6_u128 {
            throttle.failed(None, IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + host)), START);
        }
        let other_host = IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + 99));
        assert!(throttle.check(None, other_host, START).is_err());
        let other_network = IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db9 << 96));
        assert_eq!(throttle.check(None, other_network, START), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_the_worst_are_kept() {
        let mut throttle = Throttle::new(LIMITS);
        for _ in 0..6 {
            throttle.failed(None, source(1), START);
        }
        for last in 2..=100 {
            throttle.failed(None, source(last), START);
        }
        assert!(throttle.forgotten_at.len() <= LIMITS.remembered);
        assert!(throttle.check(None, source(1), START).is_err());
    }
}
