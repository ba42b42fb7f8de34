//! Whether each opening of a session key was announced by a connector before: what privacy counts on one side, what connectors
//! tell before they ask on the other. Folded from the log, so that a start forgets nothing.

use std::collections::{BTreeMap, VecDeque};

use super::Act;

/// A connector tells first and asks then: a request, its repeats and a broker that is slow lie in between.
const BEFORE_S: i64 = 60;

/// How far apart the clocks of two services may be.
const SKEW_S: i64 = 30;

/// How long a count waits for announcements that it has overtaken on the way into the log.
const SETTLE_S: i64 = 10;

/// Accounts and tenants that are reckoned with; more than a cell has. What comes above is taken together.
const MOST_BOOKS: usize = 16_384;

/// Announcements of one account and tenant, by the second; older ones open nothing any more.
const MOST_SECONDS: usize = 1_024;

/// Counts of one account and tenant that nothing announced, before they are told as one.
const MOST_OPEN: usize = 64;

const ANNOUNCED: &str = "session_key.asked";
const OPENED: &str = "session_key.opened";
const TOLD: &str = "openings.unjustified";

/// Openings that nobody announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unjustified {
    /// For this account.
    pub account: String,
    /// Messages of this tenant.
    pub tenant: String,
    /// So many keys.
    pub keys: u64,
    /// Opened until then, whole seconds since the Unix epoch.
    pub until_s: i64,
}

impl Unjustified {
    /// The act's name in the log.
    pub const ACTION: &'static str = TOLD;

    /// What the act says.
    #[must_use]
    pub fn object(&self) -> String {
        format!("account={},keys={},until={}", self.account, self.keys, self.until_s)
    }
}

/// One account and tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Book {
    /// Announced and not used: second and keys, oldest first.
    announced: VecDeque<(i64, u64)>,
    /// Opened a moment ago, oldest first.
    waiting: VecDeque<Span>,
    /// Opened, and announced by nobody.
    open: Vec<Span>,
}

/// Keys opened between two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from_s: i64,
    until_s: i64,
    keys: u64,
}

impl Span {
    /// Whether an announcement of this time may be one of its.
    const fn covers(&self, at_s: i64) -> bool {
        self.from_s.saturating_sub(BEFORE_S) <= at_s && at_s <= self.until_s.saturating_add(SKEW_S)
    }
}

/// The reckoning of a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Openings(BTreeMap<(String, String), Book>);

impl Openings {
    /// Takes the next act of the log; most say nothing of openings.
    pub fn fold(&mut self, act: &Act) {
        let service = act.producer.split('/').next().unwrap_or_default();
        match (service, act.action.as_str()) {
            ("carrier", ANNOUNCED) => {
                if let Some((book, said)) = self.book(act) {
                    book.announce(act.at_s, said.keys);
                }
            }
            ("privacy", OPENED) if act.outcome == "ok" => {
                if let Some((book, said)) = self.book(act) {
                    let from_s = act.at_s.saturating_sub(said.seconds.unwrap_or(0));
                    book.opened(Span { from_s, until_s: act.at_s, keys: said.keys });
                }
            }
            ("audit", TOLD) => {
                if let Some((book, Said { until: Some(until_s), .. })) = self.book(act) {
                    book.settle(until_s.saturating_add(SETTLE_S));
                    book.open.retain(|span| span.until_s > until_s);
                }
            }
            _ => {}
        }
    }

    /// What must be told now: opened a while ago, and announced by nobody. It stays due until the act that tells it is folded.
    #[must_use]
    pub fn unjustified(&self, now_s: i64) -> Vec<Unjustified> {
        let unsettled = self.0.iter().filter(|(_, book)| !book.waiting.is_empty() || !book.open.is_empty());
        let due = unsettled.filter_map(|((account, tenant), book)| {
            let mut book = book.clone();
            book.settle(now_s);
            let until_s = book.open.iter().map(|span| span.until_s).max()?;
            let keys = book.open.iter().map(|span| span.keys).fold(0, u64::saturating_add);
            Some(Unjustified { account: account.clone(), tenant: tenant.clone(), keys, until_s })
        });
        due.collect()
    }

    fn book(&mut self, act: &Act) -> Option<(&mut Book, Said)> {
        let said = Said::read(&act.object)?;
        let name = (said.account.clone(), act.tenant.clone());
        let name = if self.0.len() < MOST_BOOKS || self.0.contains_key(&name) {
            name
        } else {
            ("others".to_owned(), String::new())
        };
        Some((self.0.entry(name).or_default(), said))
    }
}

impl Book {
    fn announce(&mut self, at_s: i64, mut keys: u64) {
        self.settle(at_s);
        // Later than any count waits for.
        for span in self.open.iter_mut().filter(|span| span.covers(at_s)) {
            let used = keys.min(span.keys);
            (keys, span.keys) = (keys - used, span.keys - used);
        }
        self.open.retain(|span| span.keys > 0);
        if keys == 0 {
            return;
        }
        let place = self.announced.partition_point(|(second, _)| *second < at_s);
        match self.announced.get_mut(place) {
            Some((second, there)) if *second == at_s => *there = there.saturating_add(keys),
            Some(_) | None => self.announced.insert(place, (at_s, keys)),
        }
        if self.announced.len() > MOST_SECONDS {
            self.announced.pop_front();
        }
    }

    fn opened(&mut self, span: Span) {
        self.settle(span.until_s);
        let place = self.waiting.partition_point(|other| other.until_s <= span.until_s);
        self.waiting.insert(place, span);
        if self.waiting.len() > MOST_OPEN {
            self.settle_first();
        }
    }

    /// Reckons with every count that has waited long enough at this time.
    fn settle(&mut self, now_s: i64) {
        while self.waiting.front().is_some_and(|span| span.until_s.saturating_add(SETTLE_S) <= now_s) {
            self.settle_first();
        }
    }

    /// Oldest counts take the oldest announcements: no other choice leaves less unjustified.
    fn settle_first(&mut self) {
        let Some(counted) = self.waiting.pop_front() else { return };
        let mut span = counted;
        for (_, keys) in self.announced.iter_mut().filter(|(second, _)| counted.covers(*second)) {
            let used = span.keys.min(*keys);
            (span.keys, *keys) = (span.keys - used, *keys - used);
        }
        // What is older than this count covers belongs to no later one.
        let oldest = span.from_s.saturating_sub(BEFORE_S);
        self.announced.retain(|(second, keys)| *keys > 0 && *second >= oldest);
        if span.keys == 0 {
            return;
        }
        let full = self.open.len() >= MOST_OPEN;
        match self.open.last_mut().filter(|_| full) {
            Some(last) => {
                last.from_s = last.from_s.min(span.from_s);
                last.until_s = last.until_s.max(span.until_s);
                last.keys = last.keys.saturating_add(span.keys);
            }
            None => self.open.push(span),
        }
    }
}

/// What an act says of keys: `account=<account>,keys=<n>`, with `seconds=<n>` or `until=<time>` behind.
struct Said {
    account: String,
    keys: u64,
    seconds: Option<i64>,
    until: Option<i64>,
}

impl Said {
    fn read(object: &str) -> Option<Self> {
        let value =
            |name: &str| object.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        Some(Self {
            account: value("account")?.to_owned(),
            keys: value("keys")?.parse().ok()?,
            seconds: value("seconds")
                .and_then(|seconds| seconds.parse().ok())
                .filter(|seconds| *seconds >= 0),
            until: value("until").and_then(|until| until.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Category;

    fn act(producer: &str, action: &str, at_s: i64, object: String) -> Act {
        Act {
            producer: format!("{producer}/1"),
            sequence: 1,
            at_s,
            category: Category::Keys,
            action: action.to_owned(),
            actor: "x".to_owned(),
            tenant: "acme".to_owned(),
            object,
            outcome: "ok".to_owned(),
        }
    }

    fn announced(account: u8, at_s: i64, keys: u64) -> Act {
        act("carrier", ANNOUNCED, at_s, format!("account=a{account},keys={keys}"))
    }

    fn opened(account: u8, at_s: i64, seconds: i64, keys: u64) -> Act {
        act("privacy", OPENED, at_s, format!("account=a{account},keys={keys},seconds={seconds}"))
    }

    fn folded(acts: &[Act]) -> Openings {
        let mut openings = Openings::default();
        acts.iter().for_each(|act| openings.fold(act));
        openings
    }

    fn keys(openings: &Openings, now_s: i64) -> Vec<(String, u64)> {
        openings.unjustified(now_s).into_iter().map(|one| (one.account, one.keys)).collect()
    }

    #[test]
    fn what_nobody_announced_is_told_once_with_its_account() {
        let mut openings =
            folded(&[announced(1, 1_000, 2), opened(1, 1_030, 60, 5), opened(2, 1_030, 60, 1)]);
        assert_eq!(keys(&openings, 1_039), [], "what was announced may still be on its way");
        let due = openings.unjustified(1_040);
        assert_eq!(keys(&openings, 1_040), [("a1".to_owned(), 3), ("a2".to_owned(), 1)]);
        for one in &due {
            openings.fold(&act("audit", Unjustified::ACTION, 1_040, one.object()));
        }
        assert_eq!(keys(&openings, 9_999), []);
        openings.fold(&opened(1, 1_090, 60, 1));
        assert_eq!(keys(&openings, 9_999), [("a1".to_owned(), 1)], "another one");
    }

    #[test]
    fn announcements_count_once_for_their_account_and_their_time() {
        for (acts, left) in [
            (vec![announced(1, 1_000, 3), opened(1, 1_030, 60, 3)], 0),
            (vec![announced(1, 1_000, 3), opened(1, 1_030, 60, 3), opened(1, 1_031, 60, 1)], 1),
            (vec![announced(2, 1_000, 3), opened(1, 1_030, 60, 3)], 3),
            // Told before the minute began, for a request of its beginning; and long before.
            (vec![announced(1, 911, 3), opened(1, 1_030, 60, 3)], 0),
            (vec![announced(1, 909, 3), opened(1, 1_030, 60, 3)], 3),
            // By a clock that is ahead; and for what comes later.
            (vec![announced(1, 1_060, 3), opened(1, 1_030, 60, 3)], 0),
            (vec![announced(1, 1_061, 3), opened(1, 1_030, 60, 3)], 3),
            // Overtaken on its way into the log.
            (vec![opened(1, 1_030, 60, 3), announced(1, 1_000, 2)], 1),
            // Refused keys open nothing; nor does anybody else announce any.
            (vec![Act { outcome: "destroyed".to_owned(), ..opened(1, 1_030, 60, 3) }], 0),
            (
                vec![
                    act("ingress", ANNOUNCED, 1_000, "account=a1,keys=9".to_owned()),
                    opened(1, 1_030, 60, 3),
                ],
                3,
            ),
            (vec![act("privacy", OPENED, 1_030, "keys=3".to_owned())], 0),
        ] {
            let told = folded(&acts).unjustified(9_999).iter().map(|one| one.keys).sum::<u64>();
            assert_eq!(told, left, "{acts:?}");
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let mut openings = Openings::default();
        for second in 0..5_000 {
            openings.fold(&announced(1, second, 1));
        }
        for second in 20_000..21_000 {
            openings.fold(&opened(1, second, 0, 1));
        }
        let book = openings.0.values().next().unwrap();
        assert_eq!((book.announced.len(), book.open.len()), (0, MOST_OPEN));
        assert_eq!(keys(&openings, 99_999), [("a1".to_owned(), 1_000)], "all of them");
    }

    proptest! {
        /// Connectors that announce before they ask, whatever dies in between, whatever is told late.
        #[test]
        fn honest_connectors_are_never_told_of(
            asked in proptest::collection::vec((0_u8..3, 0_i64..600, 1_u64..20, 0_i64..60, any::<bool>(), 0_i64..10), 0..60),
        ) {
            // Each is announced, and opened unless its connector died; the announcement comes into the log so late.
            let mut acts = Vec::new();
            let mut counts: BTreeMap<(u8, i64), u64> = BTreeMap::new();
            for (account, at, keys, wait, died, late) in asked {
                acts.push((at + late, announced(account, at, keys)));
                if !died {
                    *counts.entry((account, (at + wait) / 60)).or_default() += keys;
                }
            }
            for ((account, minute), keys) in counts {
                let end = (minute + 1) * 60;
                acts.push((end, opened(account, end, 60, keys)));
            }
            acts.sort_by_key(|(order, _)| *order);
            let acts: Vec<_> = acts.into_iter().map(|(_, act)| act).collect();
            prop_assert_eq!(folded(&acts).unjustified(99_999), []);
        }

        /// However many keys honest connectors open besides, each that a stranger opens is told.
        #[test]
        fn each_key_of_a_stranger_is_told(
            honest in proptest::collection::vec((0_i64..600, 1_u64..20), 0..40),
            stolen in proptest::collection::vec((0_i64..600, 1_u64..20), 1..10),
        ) {
            let mut acts = Vec::new();
            let mut counts: BTreeMap<i64, u64> = BTreeMap::new();
            for (at, keys) in &honest {
                acts.push((*at, announced(1, *at, *keys)));
                *counts.entry(at / 60).or_default() += keys;
            }
            for (at, keys) in &stolen {
                *counts.entry(at / 60).or_default() += keys;
            }
            for (minute, keys) in counts {
                let end = (minute + 1) * 60;
                acts.push((end, opened(1, end, 60, keys)));
            }
            acts.sort_by_key(|(order, _)| *order);
            let acts: Vec<_> = acts.into_iter().map(|(_, act)| act).collect();
            let told: u64 = folded(&acts).unjustified(99_999).iter().map(|one| one.keys).sum();
            prop_assert_eq!(told, stolen.iter().map(|(_, keys)| keys).sum::<u64>());
        }
    }
}
