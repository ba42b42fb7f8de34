//! How fast an account may be written to (CAR-2).

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// The contract counts parts in any second. A little more than a second, because the network may push together what
/// was written apart.
pub(crate) const SECOND: Duration = Duration::from_millis(1_020);
/// A tenth of [`SECOND`]: what is allowed in a second is not spent at once.
const TENTH: Duration = Duration::from_millis(102);
/// The pause after the carrier asked to slow down; it doubles each time that it asks again at once.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Who refuses so soon after a pause, refuses whatever the rate: the pause doubles, and for so long after it the rate is tried
/// out, at a quarter and a half of what is learned.
const TRIAL: Duration = Duration::from_secs(2);
/// Seconds in which the rate doubles, up to the share.
const DOUBLES_IN: usize = 12;

/// A part of an account's rate that this process may use for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Parts a second.
    pub(crate) tps: u16,
    /// It counts from then on.
    pub(crate) from: Instant,
    /// It ends by itself then, whether or not anybody is there to tell.
    pub(crate) until: Instant,
}

impl Slice {
    fn counts(&self, at: Instant) -> bool {
        self.from <= at && at < self.until
    }
}

/// The rate of one account: at most what this process's slices allow in any second and a ninth of that (at least one) in
/// any tenth: what a late timer loses is made up for within the second. Throttled, it pauses, and goes on at three quarters of the rate that was too much, growing slowly: so it settles
/// near what the carrier takes.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The whole rate of the contract.
    tps: usize,
    /// What this process may use of it; nothing at first.
    slices: Vec<Slice>,
    /// When parts were written, oldest first; at most `tps`.
    written: VecDeque<Instant>,
    /// Parts that were let in and are not written yet.
    admitted: usize,
    paused_until: Option<Instant>,
    pauses: u32,
    /// Parts a second that the carrier is thought to take, since it last asked to slow down.
    learned: usize,
}

impl Pace {
    /// No slice yet of a rate of `tps` parts a second.
    pub(crate) fn new(tps: u16) -> Self {
        let tps = usize::from(tps).max(1);
        let written = VecDeque::with_capacity(tps);
        Self { tps, slices: Vec::new(), written, admitted: 0, paused_until: None, pauses: 0, learned: tps }
    }

    /// From now on these slices.
    pub(crate) fn set_slices(&mut self, slices: Vec<Slice>) {
        self.slices = slices;
    }

    /// What the slices allow at a moment.
    fn share(&self, at: Instant) -> usize {
        let counting = self.slices.iter().filter(|slice| slice.counts(at));
        counting.map(|slice| usize::from(slice.tps)).sum::<usize>().min(self.tps)
    }

    /// `now` if a part may be written now; else when to ask again.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let resume = self.paused_until.map_or(now, |until| until.max(now));
        let rate = self.rate(resume);
        let at = if rate == 0 {
            resume + SECOND
        } else {
            let room = self.after(rate, SECOND).max(self.after(in_tenth(rate), TENTH));
            room.map_or(resume, |at| at.max(resume))
        };
        // A slice that begins in between may allow more.
        let begins = self.slices.iter().map(|slice| slice.from).filter(|from| *from > resume);
        begins.fold(at, Instant::min)
    }

    /// When there is room for one more part in a window that may hold `count`.
    fn after(&self, count: usize, window: Duration) -> Option<Instant> {
        let index = self.written.len().checked_sub(count)?;
        self.written.get(index).map(|written| *written + window)
    }

    /// Notes that a part is written now. Call it only when [`Self::next`] is not later than `now`.
    pub(crate) fn write(&mut self, now: Instant) {
        if self.written.len() == self.tps {
            self.written.pop_front();
        }
        self.written.push_back(now);
    }

    /// Parts written in the last `window`. They are in the order of their times: nobody counts thousands for every batch.
    fn within(&self, window: Duration, now: Instant) -> usize {
        self.written.len() - self.written.partition_point(|written| *written + window <= now)
    }

    /// How many parts may be let in now, so that they wait for little more than their turn.
    pub(crate) fn room(&self, now: Instant) -> usize {
        self.room_ahead(now).saturating_sub(self.admitted)
    }

    /// The same for parts that are written ahead of all that were let in before.
    pub(crate) fn room_ahead(&self, now: Instant) -> usize {
        if self.paused_until.is_some_and(|until| until > now) {
            return 0;
        }
        let rate = self.rate(now);
        let window = in_tenth(rate);
        let (recent, in_second) = (self.within(TENTH, now), self.within(SECOND, now));
        window.saturating_sub(recent).min(rate.saturating_sub(in_second))
    }

    /// Parts written in the last second.
    pub(crate) fn used(&self, now: Instant) -> usize {
        self.within(Duration::from_secs(1), now)
    }

    /// Parts a second that may be written at this moment.
    pub(crate) fn allowed(&self, now: Instant) -> usize {
        if self.paused_for(now).is_zero() { self.rate(now) } else { 0 }
    }

    /// How long the pause that the carrier asked for still lasts.
    pub(crate) fn paused_for(&self, now: Instant) -> Duration {
        self.paused_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// When [`Self::room`] is worth asking again, if nothing else changes.
    pub(crate) fn room_at(&self, now: Instant) -> Instant {
        self.next(now).max(now + Duration::from_millis(1))
    }

    /// Parts are let in.
    pub(crate) const fn admit(&mut self, parts: usize) {
        self.admitted = self.admitted.saturating_add(parts);
    }

    /// Parts that were let in are written, or will not be.
    pub(crate) const fn leave(&mut self, parts: usize) {
        self.admitted = self.admitted.saturating_sub(parts);
    }

    /// The carrier asked to slow down. Returns the pause that begins by that.
    pub(crate) fn throttled(&mut self, now: Instant) -> Duration {
        // Many parts under way get the same answer: that is one request to slow down.
        if self.paused_until.is_some_and(|until| until > now) {
            return Duration::ZERO;
        }
        let rate = self.rate(now);
        let at_once = self.paused_until.is_some_and(|until| now < until + TRIAL);
        self.pauses = if at_once { self.pauses.saturating_add(1) } else { 0 };
        // A refusal that comes when nothing is ours any more says nothing of the rate.
        if rate > 0 {
            self.learned = (rate.saturating_mul(3) / 4).max(1);
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(5)).min(LONGEST_PAUSE);
        self.paused_until = Some(now + pause);
        pause
    }

    /// The rate at a moment, between the start of the trial and the share.
    fn rate(&self, now: Instant) -> usize {
        let share = self.share(now);
        let Some(resumed) = self.paused_until else { return share };
        let seconds = usize::try_from(now.saturating_duration_since(resumed).as_secs()).unwrap_or(usize::MAX);
        let grown = |seconds: usize| {
            let doubled = self.learned.saturating_mul(1 << (seconds / DOUBLES_IN).min(16));
            doubled.saturating_add(doubled.saturating_mul(seconds % DOUBLES_IN) / DOUBLES_IN)
        };
        let rate = match (self.pauses, seconds) {
            (0, _) => grown(seconds),
            (_, 0) => self.learned / 4,
            (_, 1) => self.learned / 2,
            (_, _) => grown(seconds - 2),
        };
        rate.max(1).min(share)
    }
}

/// How many parts a tenth may hold at a rate.
const fn in_tenth(rate: usize) -> usize {
    rate.div_ceil(9)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// The whole rate, from the start.
    fn whole(tps: u16) -> Pace {
        let mut pace = Pace::new(tps);
        pace.set_slices(vec![slice(tps, 0, 10_000_000)]);
        pace
    }

    /// A slice between two times from now, in milliseconds.
    fn slice(tps: u16, from: u64, until: u64) -> Slice {
        let at = |millis| Instant::now() + Duration::from_millis(millis);
        Slice { tps, from: at(from), until: at(until) }
    }

    /// When the next part may be written: asks as often as it is told to.
    fn turn(pace: &Pace, mut now: Instant) -> Instant {
        loop {
            let at = pace.next(now);
            if at <= now {
                return now;
            }
            now = at;
        }
    }

    fn most_in(window: Duration, written: &[Instant]) -> usize {
        written
            .iter()
            .enumerate()
            .map(|(index, start)| written.iter().skip(index).take_while(|at| **at < *start + window).count())
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn a_throttled_account_pauses_and_ramps_up() {
        let mut pace = whole(80);
        let start = Instant::now();
        assert_eq!(pace.throttled(start), FIRST_PAUSE);
        assert_eq!(pace.throttled(start + Duration::from_millis(10)), Duration::ZERO);
        assert_eq!(pace.room(start + Duration::from_millis(999)), 0);
        let resumed = start + FIRST_PAUSE;
        assert_eq!(pace.next(start), resumed);
        // Three quarters of what was too much, then more each second.
        let rates = [0, 1, 2, 3, 6, 7, 100].map(|second| pace.rate(resumed + Duration::from_secs(second)));
        assert_eq!(rates, [60, 65, 70, 75, 80, 80, 80]);
        // Refused at once: twice the pause, and less. After some time: the first pause again.
        assert_eq!(pace.throttled(resumed + Duration::from_secs(1)), 2 * FIRST_PAUSE);
        assert_eq!(pace.next(resumed), resumed + Duration::from_secs(3));
        let rates = [3, 4, 5, 6].map(|second| pace.rate(resumed + Duration::from_secs(second)));
        assert_eq!(rates, [12, 24, 48, 52]);
        let later = resumed + Duration::from_secs(100);
        pace.throttled(later);
        assert_eq!(pace.next(later), later + FIRST_PAUSE);
    }

    /// A carrier that refuses what is above its own limit in any second; the contract was written down too high. Returns how
    /// many parts it took and how many it refused in two minutes, and how much of these it was left alone.
    fn against(limit: usize, tps: u16) -> (usize, usize, Duration) {
        let mut pace = whole(tps);
        let start = Instant::now();
        let end = start + Duration::from_secs(120);
        let (mut now, mut taken, mut refused) = (start, VecDeque::new(), 0);
        let (mut count, mut paused) = (0, Duration::ZERO);
        loop {
            now = turn(&pace, now);
            if now >= end {
                return (count, refused, paused);
            }
            pace.write(now);
            while taken.front().is_some_and(|at| *at + Duration::from_secs(1) <= now) {
                taken.pop_front();
            }
            if taken.len() < limit {
                taken.push_back(now);
                count += 1;
            } else {
                refused += 1;
                paused += pace.throttled(now);
            }
        }
    }

    #[test]
    fn it_settles_near_what_the_carrier_takes() {
        for (limit, tps) in [(50, 100), (10, 100), (95, 100), (5, 50), (1, 20)] {
            let (taken, refused, paused) = against(limit, tps);
            let most = limit * 120;
            assert!(taken * 100 >= most * 65, "{taken} of {most} at a limit of {limit}");
            assert!(refused * 10 <= taken.max(100), "{refused} refused, {taken} taken at a limit of {limit}");
            // More than the twentieth of the time that the alert SottoCarrierThrottles is about.
            let told = paused > Duration::from_secs(6);
            assert!(told || limit > usize::from(tps) / 2, "{paused:?} at a limit of {limit}");
        }
        // One that takes nothing is left alone for half a minute at a time.
        let (_, refused, paused) = against(0, 100);
        assert!((5..=12).contains(&refused) && paused > Duration::from_secs(100), "{refused}, {paused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn slices_count_in_their_time_only() {
        let start = Instant::now();
        let mut pace = Pace::new(10);
        assert_eq!((pace.room(start), pace.next(start) > start), (0, true));
        pace.set_slices(vec![slice(4, 1_000, 5_000), slice(6, 3_000, 4_000)]);
        assert_eq!((pace.room(start), pace.next(start)), (0, start + Duration::from_secs(1)));
        let shares: Vec<_> = (0..6).map(|second| pace.share(start + Duration::from_secs(second))).collect();
        assert_eq!(shares, [0, 4, 4, 10, 4, 0]);
        // More than the contract is never allowed, whatever the slices say.
        pace.set_slices(vec![slice(9, 0, 1_000), slice(9, 0, 1_000)]);
        assert_eq!((pace.share(start), pace.room(start)), (10, 2));
        // Nothing goes once they have ended, throttled or not, although nobody took them away.
        let ended = start + Duration::from_secs(1);
        assert_eq!((pace.room(ended), pace.next(ended) > ended), (0, true));
        pace.throttled(start);
        assert_eq!(pace.room(start + LONGEST_PAUSE), 0);
    }

    proptest! {
        /// Two processes between which the whole rate goes to and fro, a second after the other has let it go.
        #[test]
        fn a_rate_that_changes_hands_is_never_exceeded(tps in 2_u16..60, holds in vec(200_u64..3_000, 2..8)) {
            let mut now = Instant::now();
            let (mut paces, mut written) = ([Pace::new(tps), Pace::new(tps)], Vec::new());
            for (turn, hold) in holds.into_iter().enumerate() {
                let pace = &mut paces[turn % 2];
                let end = now + Duration::from_millis(hold);
                pace.set_slices(vec![Slice { tps, from: now, until: end }]);
                while now < end {
                    let at = pace.next(now);
                    if at <= now {
                        pace.write(now);
                        written.push(now);
                    }
                    now = at.max(now);
                }
                now = end + SECOND;
            }
            prop_assert!(most_in(Duration::from_secs(1), &written) <= usize::from(tps));
        }

        #[test]
        fn never_more_than_the_contract_in_any_second(
            tps in 1_u16..300, waits in vec(0_u64..400, 1..600), throttles in vec(any::<bool>(), 600),
        ) {
            let mut now = Instant::now();
            let mut pace = whole(tps);
            let mut written = Vec::new();
            for (wait, throttle) in waits.iter().zip(throttles) {
                // Mostly in a hurry, now and then idle.
                if *wait > 390 { now += Duration::from_millis(*wait * 5); }
                if throttle && *wait == 7 { pace.throttled(now); }
                now = turn(&pace, now);
                pace.write(now);
                written.push(now);
            }
            prop_assert!(most_in(Duration::from_secs(1), &written) <= usize::from(tps));
            prop_assert!(most_in(Duration::from_millis(100), &written) <= usize::from(tps).div_ceil(9));
        }

        #[test]
        fn what_is_let_in_may_be_written_soon(tps in 1_u16..500, steps in vec(0_usize..40, 1..60)) {
            let mut now = Instant::now();
            let mut pace = whole(tps);
            for step in steps {
                let room = pace.room(now);
                pace.admit(room);
                prop_assert_eq!(pace.room(now), 0);
                for _ in 0..room.min(step) {
                    prop_assert!(pace.next(now) <= now, "room means that it may be written now");
                    pace.leave(1);
                    pace.write(now);
                }
                pace.leave(room - room.min(step));
                now = pace.room_at(now);
            }
        }

        #[test]
        fn the_rate_is_used(tps in 1_u16..200) {
            let start = Instant::now();
            let mut pace = whole(tps);
            let mut now = start;
            for _ in 0..usize::from(tps) * 3 {
                now = turn(&pace, now);
                pace.write(now);
            }
            prop_assert!(now - start <= SECOND * 3);
        }

        /// Timers fire up to 4 ms late, and whatever is due then is written at once.
        #[test]
        fn late_timers_cost_no_more_than_a_twentieth(tps in 20_u16..1_000, late in vec(0_u64..4_000, 400)) {
            let start = Instant::now();
            let mut pace = whole(tps);
            let (mut now, mut written) = (start, 0_usize);
            let mut late = late.into_iter().cycle();
            while now < start + SECOND * 10 {
                now = turn(&pace, now);
                now += Duration::from_micros(late.next().unwrap());
                while pace.next(now) <= now {
                    pace.write(now);
                    written += 1;
                }
            }
            prop_assert!(written * 100 >= usize::from(tps) * 10 * 95, "{} written", written);
        }
    }
}
