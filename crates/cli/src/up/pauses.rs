//! When a process that died is started again.

use std::time::Duration;

use tokio::time::Instant;

/// First pause; doubled at each death.
const FIRST: Duration = Duration::from_millis(500);

/// A process that lived longer than this starts with the first pause again.
const STEADY: Duration = Duration::from_secs(60);

/// The pauses of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    next: Duration,
    longest: Duration,
    started: Instant,
}

impl Pauses {
    /// Of a process that was started now, and pauses for `longest` at most.
    pub(super) fn new(longest: Duration, now: Instant) -> Self {
        Self { next: FIRST.min(longest), longest, started: now }
    }

    /// It was started again.
    pub(super) const fn started(&mut self, now: Instant) {
        self.started = now;
    }

    /// It died, or could not be started: how long to wait.
    pub(super) fn died(&mut self, now: Instant) -> Duration {
        let steady = now.duration_since(self.started) > STEADY;
        let pause = if steady { FIRST.min(self.longest) } else { self.next };
        self.next = (pause * 2).min(self.longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_a_steady_process_begins_anew() {
        let mut now = Instant::now();
        let mut nine = |longest| {
            let mut pauses = Pauses::new(Duration::from_secs(longest), now);
            let mut seen = Vec::new();
            for _ in 0..9 {
                let pause = pauses.died(now);
                seen.push(pause.as_millis());
                now += pause;
                pauses.started(now);
            }
            (pauses, seen)
        };
        let (_, short) = nine(2);
        assert_eq!(short, [500, 1_000, 2_000, 2_000, 2_000, 2_000, 2_000, 2_000, 2_000]);
        let (mut pauses, seen) = nine(60);
        assert_eq!(seen, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        now += Duration::from_secs(61);
        assert_eq!(pauses.died(now), FIRST);
    }
}
