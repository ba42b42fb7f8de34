//! Time that cannot be set forward: the wall clock, as long as the monotonic clock agrees with it.
//!
//! A wall clock that jumps ahead would destroy every living bucket at one step, and with them messages that nobody can
//! bring back. So what dies is judged by the wall clock only while it goes as fast as a clock that nobody sets; else by
//! that one, until both agree again.

use std::time::Duration;

use sotto_core::Timestamp;

/// How far the wall clock may run ahead of the monotonic one within [`RENEWED`].
const TOLERANCE: Duration = Duration::from_secs(30);

/// The clocks are compared over this time at least, so that many small steps count as one.
const RENEWED: Duration = Duration::from_secs(3600);

/// Remembers when the clocks agreed last.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    wall: Timestamp,
    steady: Duration,
}

/// The time that may be acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// It.
    pub at: Timestamp,
    /// How far the wall clock is ahead of it; nothing while the clocks agree.
    pub ahead: Option<Duration>,
}

impl Steady {
    /// The wall clock is believed at the start: there is nothing to compare it with.
    pub const fn new(wall: Timestamp, steady: Duration) -> Self {
        Self { wall, steady }
    }

    /// Judges the wall clock by the monotonic one.
    pub fn now(&mut self, wall: Timestamp, steady: Duration) -> Now {
        let elapsed = steady.saturating_sub(self.steady);
        let expected = self.wall.plus(elapsed);
        // A clock that is slewed (at most 0.05 %) is not one that jumps.
        let allowed = TOLERANCE + elapsed / 1000;
        let ahead = wall.since(expected);
        if ahead > allowed {
            return Now { at: expected, ahead: Some(ahead) };
        }
        // A clock that was set back may come back to where it was: that is no jump ahead.
        if elapsed >= RENEWED && expected.since(wall) <= allowed {
            *self = Self { wall, steady };
        }
        Now { at: wall, ahead: None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_unix_millis(1_795_493_815_007);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_not_followed_until_it_agrees_again() {
        let mut steady = Steady::new(START, secs(7));
        assert_eq!(steady.now(START.plus(secs(5)), secs(12)), Now { at: START.plus(secs(5)), ahead: None });
        let jumped = steady.now(START.plus(DAY + secs(6)), secs(13));
        assert_eq!(jumped, Now { at: START.plus(secs(6)), ahead: Some(DAY) });
        let later = steady.now(START.plus(DAY + HOUR * 2), secs(7) + HOUR * 2);
        assert_eq!(later, Now { at: START.plus(HOUR * 2), ahead: Some(DAY) });
        let mended = START.plus(HOUR * 2 + secs(1));
        assert_eq!(steady.now(mended, secs(8) + HOUR * 2), Now { at: mended, ahead: None });
    }

    #[test]
    fn a_clock_set_back_and_forth_is_followed() {
        let mut steady = Steady::new(START, secs(0));
        let back = START.minus(DAY);
        assert_eq!(steady.now(back, secs(1)), Now { at: back, ahead: None });
        let again = START.plus(HOUR * 3);
        assert_eq!(steady.now(again, HOUR * 3), Now { at: again, ahead: None });
    }

    #[test]
    fn many_small_steps_are_one_jump() {
        let mut steady = Steady::new(START, secs(0));
        let seen: Vec<Now> =
            (1..=10).map(|step| steady.now(START.plus(secs(step * 20)), secs(step))).collect();
        assert!(seen.last().unwrap().ahead.is_some(), "{seen:?}");
    }

    proptest! {
        #[test]
        fn a_slewed_clock_is_followed_for_ever(parts in proptest::collection::vec(1_u64..60_000, 1..500)) {
            let mut steady = Steady::new(START, Duration::ZERO);
            let mut elapsed = 0;
            for part in parts {
                elapsed += part;
                let wall = START.plus(Duration::from_millis(elapsed + elapsed / 2000));
                let now = steady.now(wall, Duration::from_millis(elapsed));
                prop_assert_eq!(now, Now { at: wall, ahead: None });
            }
        }

        #[test]
        fn time_never_runs_ahead_of_the_steady_clock_by_more_than_is_allowed(
            walls in proptest::collection::vec(0_u64..10_000_000, 1..100),
        ) {
            let mut steady = Steady::new(START, Duration::ZERO);
            for (second, wall) in (1_u64..).zip(walls) {
                let now = steady.now(START.plus(Duration::from_millis(wall)), secs(second));
                prop_assert!(now.at <= START.plus(secs(second) + TOLERANCE + Duration::from_secs(1)));
            }
        }
    }
}
